"""Networks as graphs: what is refused when they are declared, names, sharing, nesting, freezing, equality, text, parts cut out of them."""

import copy
import pickle
import re

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nnkit
from nnkit import (
    Activation,
    Add,
    BatchNormalization,
    Concatenate,
    Dense,
    Flatten,
    Input,
    LayerNormalization,
    Multiply,
    Network,
    Sequential,
    Subtract,
    from_json,
    to_json,
)
from nnkit.spec import CLASSES
from parity_draw import draw_graph

X, Z = Input((3,)), Input((4,), name="z")
H = Dense(3)(X)
FIELDS = {"layers": (Input((3,)), Dense(3)), "calls": ((0, ()), (1, ((0, 0),))), "outputs": ((1, 0),), "output_names": None}


def two_outputs():
    """A network of two inputs and two outputs."""
    a, b = Input((3,), name="a"), Input((4,), name="b")
    h = Dense(5, "tanh", name="latent")(Concatenate()([a, b]))
    return Network([a, b], {"score": Dense(1)(h), "code": h})


# What is refused: the whole message, with the path of names.

@pytest.mark.parametrize(("declare", "message"), [
    (lambda: Network([X, Z], H), "Network: no output depends on the input 'z' (number 1) of shape (4,)"),
    (lambda: Network(X, X), "Network: outputs must depend on a layer, received the input 'input' itself"),
    (lambda: Network(X, [H, X]), "Network: outputs must depend on a layer, received the input 'input' itself"),
    (lambda: Network(X, Concatenate()([H, Dense(2)(Z)])),
     "Network: the output input -> dense -> concatenate depends on Input((4,), name='z'), which is not among the inputs"),
    (lambda: Network([], H), "Network: the output input -> dense depends on Input((3,)), which is not among the inputs"),
    (lambda: Network(X, []), "Network: no output depends on the input 'input' (number 0) of shape (3,)"),
    (lambda: Network([X, X], H), "Network: inputs must differ, received 'input' twice"),
    (lambda: Network(H, Dense(2)(H)), "Network: inputs must be Inputs, received <Tensor input -> dense of shape (3,)>"),
    (lambda: Network(X, {"a/b": H}), "Network: names of outputs must be strings without '/', received 'a/b'"),
    (lambda: Network(X, {"": H}), "Network: names of outputs must be strings without '/', received ''"),
    (lambda: Network(X, {3: H}), "Network: names of outputs must be strings without '/', received 3"),
    (lambda: Network(X, [H, H, Dense(2, name="dense_1")(X)]), "Network: two outputs have one name, received ('dense', 'dense_1', 'dense_1')"),
    (lambda: Network(X, Dense(2, name="twin")(Dense(3, name="twin")(X))), "two layers have the name 'twin'; names must differ"),
    (lambda: Network(Z, Dense(2, name="z")(Z)), "two layers have the name 'z'; names must differ"),
    (lambda: Add()([Dense(2, name="a")(H), Dense(3, name="b")(Z)]),
     "layer 'add' cannot take input -> dense -> a and z -> b: Add: the shapes of its inputs' samples must broadcast against each other: "
     "aligned at the last axis, sizes must be equal or 1, received (2,) and (3,)"),
    (lambda: Concatenate(axis=2)(X, Z), "layer 'concatenate' cannot take input and z: Concatenate: axis must name an axis of the input other than "
                                        "the batch (axis 0), received axis 2 for samples of shape (3,)"),
    (lambda: Add()(X), "layer 'add' cannot take input: it needs at least 2 inputs, received 1"),
    (lambda: Add()([]), "layer 'add' cannot take nothing: it needs at least 2 inputs, received 0"),
    (lambda: Subtract(name="less")(X, H, X), "layer 'less' cannot take input and input -> dense and input: it needs 2 inputs, received 3"),
    (lambda: Dense(3)(X, Z), "layer 'dense' cannot take input and z: it needs 1 input, received 2"),
    (lambda: Input((3,))(X), "layer 'input' cannot take input: it needs 0 inputs, received 1"),
    (lambda: Flatten()(*two_outputs()(X, Z)), "layer 'flatten' cannot take input -> network and input -> network: it needs 1 input, received 2"),
    (lambda: two_outputs()(Z, X), "layer 'network' cannot take z and input: its inputs have shapes ((3,), (4,)), received ((4,), (3,))"),
    (lambda: two_outputs()(X), "layer 'network' cannot take input: its inputs have shapes ((3,), (4,)), received ((3,),)"),
    (lambda: Sequential([Input((3,)), two_outputs()]),
     "layer 'network' cannot take input: its inputs have shapes ((3,), (4,)), received ((3,),)"),
])
def test_what_is_no_network_is_refused(declare, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        declare()


def test_a_long_path_is_shortened():
    h = X
    for _ in range(9):
        h = Dense(3)(h)
    message = "layer 'add' cannot take input -> ... -> dense -> dense -> dense and z: "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Add()([h, Z])


def test_calls_that_do_not_fit_one_kernel_are_refused():
    twin = Dense(2)
    both = Concatenate()([twin(X), twin(Z)])
    with pytest.raises(ValueError, match=re.escape("layer 'dense' is called twice with inputs that do not fit together: its kernel would have shape "
                                                   "(3, 2) for one and (4, 2) for the other")):
        Network([X, Z], both)


def test_several_outputs_within_a_chain_are_refused():
    x = Input((3,))
    pair = Network(x, [Dense(2)(x), Dense(4)(x)], name="pair")
    with pytest.raises(ValueError, match=re.escape("Sequential: layer 'pair' has 2 outputs, but the layer behind it takes one")):
        Sequential([Input((3,)), pair, Dense(2)])
    assert Sequential([Input((3,)), pair]).graph().output_names == ("pair", "pair_1")


@pytest.mark.parametrize(("value", "shown"), [(np.zeros(3), "array([0., 0., 0.])"), (None, "None"), ("dense", "'dense'"), (Dense(2), "Dense(2)"),
                                              ([[X]], "[Input((3,))]"), ((3,), "3")])
def test_what_is_no_tensor_is_refused(value, shown):
    rule = "must be Inputs or what layers return when they are called on them, received"
    with pytest.raises(TypeError, match=f"^{re.escape(f'the inputs of Dense {rule} {shown}')}$"):
        Dense(3)(value)
    with pytest.raises(TypeError, match=f"^{re.escape(f'Network: inputs {rule} {shown}')}$"):
        Network(value, H)
    with pytest.raises(TypeError, match=f"^{re.escape(f'Network: outputs {rule} {shown}')}$"):
        Network(X, value)


def test_a_tensor_is_not_unpacked():
    with pytest.raises(TypeError, match=re.escape("a <Tensor input -> dense of shape (3,)> cannot be unpacked: it is one output of a layer")):
        _, _ = H


@pytest.mark.parametrize(("fields", "message"), [
    ({"calls": ((0, ()), (1, ((2, 0),)), (1, ((1, 0),)))},
     "Network: calls[1], of layer 'dense', must take the output of a call before it: a cycle?, received (2, 0)"),
    ({"calls": ((0, ()), (1, ((1, 0),)))},
     "Network: calls[1], of layer 'dense', must take the output of a call before it: a cycle?, received (1, 0)"),
    ({"calls": ((0, ()), (1, ((0, 1),)))},
     "Network: calls[1], of layer 'dense', must take the output of a call before it: a cycle?, received (0, 1)"),
    ({"calls": ((0, ()), (7, ((0, 0),)))}, "Network: calls[1] must be (number of a layer, what it takes), received (7, ((0, 0),))"),
    ({"calls": ((0, ()), 1)}, "Network: calls[1] must be (number of a layer, what it takes), received 1"),
    ({"calls": ()}, "Network: calls must be a tuple that is not empty, received ()"),
    ({"calls": ((0, ()), (1, ()), (1, ((0, 0),))), "outputs": ((1, 0), (2, 0))}, "layer 'dense' cannot take nothing: it needs 1 input, received 0"),
    ({"calls": ((0, ()), (0, ((0, 0),)), (1, ((1, 0),)))}, "Network: the input 'input' must be called once, received 2 calls"),
    ({"calls": ((0, ()), (1, ((0, 0),)), (1, ((0, 0),)))}, "Network: no output depends on calls[2], of layer 'dense'"),
    ({"layers": (Input((3,)), Dense(3), Input((9,))), "calls": ((0, ()), (2, ()), (1, ((0, 0),))), "outputs": ((2, 0),)},
     "Network: no output depends on calls[1], of layer 'input'"),
    ({"layers": (Input((3,)), Dense(3), Dense(4))}, "Network: every layer must be called, received 'dense', which is not"),
    ({"layers": (Input((3,)), "dense")}, "Network: layers must hold layers, received 'dense'"),
    ({"layers": [Input((3,)), Dense(3)]}, "Network: layers must be a tuple that is not empty, received [Input((3,)), Dense(3)]"),
    ({"outputs": ((5, 0),)}, "Network: outputs must take the output of a call that is there, received (5, 0)"),
    ({"outputs": ((1, 1),)}, "Network: outputs must take the output of a call that is there, received (1, 1)"),
    ({"outputs": ((-1, 0),)}, "Network: outputs must take the output of a call that is there, received (-1, 0)"),
    ({"outputs": ((1, 0), (0, 0))}, "Network: outputs must depend on a layer, received the input 'input' itself"),
    ({"output_names": ("a", "b")}, "Network: output_names must be 1 names or None, received ('a', 'b')"),
    ({"outputs": ((1, 0), (1, 0)), "output_names": ("a", "a")}, "Network: two outputs have one name, received ('a', 'a')"),
])
def test_fields_that_are_no_network_are_refused(fields, message):
    assert Network.from_fields(**FIELDS)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Network.from_fields(**{**FIELDS, **fields})


# Names.

def test_names_of_nested_layers_begin_with_their_network():
    encoder = Sequential([Input((4,)), Dense(3), Dense(2, name="latent")], name="encoder")
    x = Input((4,), name="data")
    inner = Network(Y := Input((2,)), Add()([Dense(2)(Y), Y]))
    network = Network(x, Dense(4)(inner(inner(encoder(x)))))
    graph = network.graph()
    assert [node.name for node in graph.nodes] == ["data", "encoder/dense", "encoder/latent", "network/dense", "network/add", "network/dense",
                                                   "network/add", "dense"]
    assert list(graph.parameters()) == [f"{name}/{part}" for name in ("encoder/dense", "encoder/latent", "network/dense", "dense")
                                        for part in ("kernel", "bias")]
    assert graph.input_names == ("data",)
    assert graph.output_names == ("dense",)


def test_layers_are_numbered_in_their_order():
    a, b = Input((2,)), Input((2,))
    network = Network([a, b], [Dense(1)(Multiply()([Dense(2)(a), b])), Dense(3, name="dense_1")(b)])
    assert [node.name for node in network.graph().nodes] == ["input", "input_1", "dense", "multiply", "dense_2", "dense_1"]


# Sharing.

def test_a_layer_is_shared_by_identity():
    """Equal specs that are different objects are different layers; one object called twice is one."""
    assert Dense(3) == Dense(3)
    x = Input((3,))
    apart = Network(x, Dense(3)(Dense(3)(x)))
    layer = Dense(3)
    shared = Network(x, layer(layer(x)))
    assert list(apart.graph().parameters()) == ["dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"]
    assert list(shared.graph().parameters()) == ["dense/kernel", "dense/bias"]
    assert [node.name for node in shared.graph().nodes] == ["input", "dense", "dense"]
    assert apart != shared


def test_inputs_are_told_apart_by_identity():
    a, b = Input((3,)), Input((3,))
    assert a == b
    network = Network([b, a], [Dense(1)(a), Dense(2)(b)])
    assert network.calls == ((0, ()), (1, ()), (2, ((1, 0),)), (3, ((0, 0),)))


def test_shared_layers_stay_shared_in_text():
    x = Input((3,))
    layer = Dense(3)
    for network in (Network(x, layer(layer(x))), Network(x, Dense(3)(Dense(3)(x)))):
        assert from_json(to_json(network)).graph().parameters().keys() == network.graph().parameters().keys()


# Equality and text.

def test_equal_declarations_are_equal_networks():
    assert two_outputs() == two_outputs()
    assert hash(two_outputs()) == hash(two_outputs())
    others = [attrs_changed(two_outputs(), name="other"), attrs_changed(two_outputs(), trainable=False), two_outputs().layers[0]]
    a, b = Input((3,), name="a"), Input((4,), name="b")
    h = Dense(5, "tanh", name="latent")(Concatenate()([a, b]))
    others += [Network([a, b], {"score": Dense(1)(h), "codes": h}), Network([a, b], {"score": Dense(2)(h), "code": h})]
    g = Dense(5, "tanh", name="latent")(Concatenate()([b, a]))
    others.append(Network([a, b], {"score": Dense(1)(g), "code": g}))
    for other in others:
        assert two_outputs() != other
    assert len({two_outputs(), *others, *others}) == 1 + len(others)


def attrs_changed(network, **changes):
    """The network with other fields."""
    return Network.from_fields(**{**{field.alias: getattr(network, field.name) for field in attrs.fields(Network)}, **changes})


def assert_survives_text(network):
    names = {name: cls for name, cls in CLASSES.items() if "." not in name}
    for again in (from_json(to_json(network)), eval(repr(network), names), copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert again == network
        assert hash(again) == hash(network)
        assert again.graph() == network.graph()
        assert again.graph().places == network.graph().places


def test_text_of_a_network():
    x = Input((3,))
    layer = Dense(3, name="twin")
    network = Network(x, {"y": Add()([layer(x), layer(layer(x))])}, name="all", trainable=False)
    assert repr(network) == (
        "Network.from_fields(layers=(Input((3,)), Dense(3, name='twin'), Add()), "
        "calls=((0, ()), (1, ((0, 0),)), (1, ((0, 0),)), (1, ((2, 0),)), (2, ((1, 0), (3, 0)))), outputs=((4, 0),), output_names=('y',), "
        "name='all', trainable=False)")
    assert_survives_text(network)
    assert_survives_text(Sequential([Input((3,)), network, Sequential([Input((3,)), two_outputs_of_three()])]))


def two_outputs_of_three():
    x = Input((3,))
    return Network(x, [Dense(2)(x), x_plus(x)])


def x_plus(x):
    return Add()([x, x])


@settings(max_examples=50, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(drawn=st.composite(lambda draw: draw_graph(lambda options: draw(st.sampled_from(options))))())
def test_drawn_networks_survive_text_and_come_in_order(drawn):
    network = drawn.declared.network
    assert_survives_text(network)
    graph = network.graph()
    for position, node in enumerate(graph.nodes):
        assert all(source < position for source, _ in node.inputs)
        assert node.input_shapes == tuple(graph.nodes[source].shapes[output] for source, output in node.inputs)
        assert isinstance(node.layer, Input) or node.layer.output_shape(*node.input_shapes) == node.shape


# Nesting and freezing.

def test_a_frozen_network_freezes_what_is_nested_in_it():
    core = Sequential([Input((3,)), Dense(3), BatchNormalization()], name="core")
    x, y = Input((3,)), Input((3,))
    middle = Network(x, LayerNormalization()(core(x)), name="middle", trainable=False)
    graph = Network(y, Dense(2)(core(middle(y)))).graph()
    parameters = graph.parameters()
    within = {f"middle/{name}" for name in parameters if name.startswith("core/")}
    within |= {"middle/layer_normalization/gamma", "middle/layer_normalization/beta"}
    assert {name for name in parameters if name.startswith("middle/")} == within
    averages = {f"core/batch_normalization/moving_{name}" for name in ("mean", "variance")}
    assert {name for name, declared in parameters.items() if not declared.trainable} == within | averages
    assert [node.layer.trainable for node in graph.nodes] == [True, False, False, False, True, True, True]


def test_frozen_networks_do_not_move():
    """Not by gradients, and not by the moving averages of a normalization within."""
    x = Input((3,))
    core = Sequential([Input((3,)), Dense(3, "tanh"), BatchNormalization()], name="core", trainable=False)
    model = nnkit.compile(Network(x, Dense(1)(core(x))), optimizer="sgd", loss="mse", seed=0)
    before = {name: values.copy() for name, values in model.parameters.items()}
    rng = np.random.default_rng(0)
    model.fit(rng.standard_normal((20, 3)), rng.standard_normal((20, 1)), epochs=2, verbose=0)
    moved = {name for name, values in model.parameters.items() if not np.array_equal(values, before[name])}
    assert moved == {"dense/kernel", "dense/bias"}


def test_what_a_layer_of_several_outputs_returns():
    score, code = two_outputs()(X, Z)
    assert (score.shape, code.shape) == ((1,), (5,))
    assert score.call is code.call
    with pytest.raises(ValueError, match=re.escape("network has 2 outputs; where one is needed, call it on tensors and take one")):
        two_outputs().output_shape((3,), (4,))
    assert two_outputs()([X, Z])[0].shape == (1,)


def test_deep_networks_are_declared_without_recursion():
    h = X
    for _ in range(2000):
        h = Activation("tanh")(h)
    assert len(Network(X, h).graph().nodes) == 2001


# Parts.

def tower():
    """data -> encoder (two layers) -> latent; skip -> add -> dense."""
    data, skip = Input((4,), name="data"), Input((2,), name="skip")
    encoder = Sequential([Input((4,)), Dense(3, "tanh"), Dense(2)], name="encoder")
    latent = Activation("tanh", name="latent")(encoder(data))
    return Network([data, skip], Dense(5)(Add()([latent, skip]))).graph()


def shown(graph):
    return [node.name for node in graph.nodes], graph.output_names


@pytest.mark.parametrize(("inputs", "outputs", "nodes", "names"), [
    (None, ["latent"], ["data", "encoder/dense", "encoder/dense_1", "latent"], ("latent",)),
    (None, ["encoder"], ["data", "encoder/dense", "encoder/dense_1"], ("encoder",)),
    (None, ["encoder/dense", "latent"], ["data", "encoder/dense", "encoder/dense_1", "latent"], ("encoder/dense", "latent")),
    (["latent", "skip"], None, ["latent", "skip", "add", "dense"], ("dense",)),
    (["skip", "latent"], None, ["skip", "latent", "add", "dense"], ("dense",)),
    (["encoder/dense"], ["latent"], ["encoder/dense", "encoder/dense_1", "latent"], ("latent",)),
    (["encoder"], ["latent", "encoder"], ["encoder", "latent"], ("latent", "encoder")),
    (["add"], None, ["add", "dense"], ("dense",)),
    (None, None, ["data", "skip", "encoder/dense", "encoder/dense_1", "latent", "add", "dense"], ("dense",)),
    (["data"], ["encoder/dense"], ["data", "encoder/dense"], ("encoder/dense",)),
    (None, ["dense", "dense"], ["data", "skip", "encoder/dense", "encoder/dense_1", "latent", "add", "dense"], ("dense", "dense_1")),
])
def test_parts(inputs, outputs, nodes, names):
    part = tower().cut(inputs, outputs)
    found = [name if name in nodes else name.replace("encoder/dense_1", "encoder") for name in shown(part)[0]]
    assert (found, part.output_names) == (nodes, names)
    for node in part.nodes:
        assert isinstance(node.layer, Input) == (not node.inputs)
        assert node.input_shapes == tuple(part.nodes[source].shapes[output] for source, output in node.inputs)
    assert part.parameters().keys() <= tower().parameters().keys()


def test_parts_of_parts():
    part = tower().cut(None, ["latent"]).cut(["encoder/dense"], ["encoder"])
    assert shown(part) == (["encoder/dense", "encoder/dense_1"], ("encoder",))


@pytest.mark.parametrize(("inputs", "outputs", "message"), [
    (None, ["latnt"], "unknown layer 'latnt': did you mean 'latent'?"),
    (["codes"], None, "unknown layer 'codes': "),
    (["skip"], None, "submodel: data -> encoder/dense -> encoder/dense_1 -> latent -> add -> dense begins at an input that is not among "
                     "inputs=('skip',)"),
    (["latent"], None, "submodel: skip -> add -> dense begins at an input that is not among inputs=('latent',)"),
    (["latent", "skip", "encoder"], None, "submodel: no output depends on 'encoder/dense_1'"),
    (["add", "latent"], None, "submodel: no output depends on 'latent'"),
    (["latent", "latent"], ["add"], "submodel: inputs must differ, received ('latent', 'latent')"),
    (["latent"], ["encoder"], "submodel: data -> encoder/dense -> encoder/dense_1 begins at an input that is not among inputs=('latent',)"),
    (None, [], "submodel: outputs must name layers, received ()"),
    ([], None, "submodel: inputs must name layers, received ()"),
])
def test_wrong_parts_are_refused(inputs, outputs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        tower().cut(inputs, outputs)


def test_a_layer_called_twice_is_no_place():
    layer = Dense(3)
    graph = Network(X, layer(layer(X))).graph()
    with pytest.raises(ValueError, match=re.escape("layer 'dense' is called 2 times: a submodel needs a place that its name alone tells")):
        graph.cut(None, ["dense"])


def test_deep_nests_are_unfolded_once():
    """Every network looks at what is inside of it when it is made; were that unfolded anew each time, 60 levels would never end."""
    spec = Sequential([Input((4,)), Dense(4, name="deepest")])
    for _ in range(60):
        spec = Sequential([Input((4,)), spec])
    assert [node.name for node in spec.graph().nodes] == ["input", "sequential/" * 60 + "deepest"]
