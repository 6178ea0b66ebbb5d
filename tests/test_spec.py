"""Specs: values that check themselves, print as code, and go to JSON and back."""

import inspect
import re
import types

import attrs
import numpy as np
import pytest

import nnkit
from nnkit import Adam, Dense, Dropout, Flatten, GlorotUniform, Input, LeakyReLU, Sequential, from_json, metrics, to_json
from nnkit.initializers import Initializer, RandomInitializer
from nnkit.metrics.base import Metric
from nnkit.metrics.classification import Hits
from nnkit.optimizers.schedules import Schedule
from nnkit.spec import CLASSES, SHORTHANDS, Spec, base, child, integer, spec

NAMESPACE = vars(nnkit)


@spec("demo_spec_test")
class DemoOfSpecs(Spec):
    family = "demo"
    count: int = integer(low=1)
    other: Spec | None = child("demo", default=None, none=True)


def network():
    return Sequential([Input((20,)), Dense(64, activation="relu"), Dropout(0.5), Dense(3, activation=LeakyReLU(0.01), name="out")])


def test_specs_are_values():
    assert network() == network()
    assert hash(network()) == hash(network())
    assert Dense(3) != Dense(4)
    with pytest.raises(AttributeError):
        Dense(3).units = 4


def test_repr_is_the_code_that_makes_it():
    assert repr(Dense(3)) == "Dense(3)"
    assert repr(Dense(3, activation="relu", use_bias=False)) == "Dense(3, activation=ReLU(), use_bias=False)"
    assert eval(repr(network()), dict(NAMESPACE)) == network()


@pytest.mark.parametrize("value", [network(), Adam(0.01, clipnorm=1.0), GlorotUniform(seed=3), Dense(2, kernel_regularizer=nnkit.L2(0.1))], ids=repr)
def test_json_round_trip(value):
    assert from_json(to_json(value)) == value


@pytest.mark.parametrize(("text", "message"), [
    ("nonsense", "a spec must be JSON text"),
    ("[1]", "a spec must be a JSON object with format 1 and a spec, received format 'list'"),
    ('{"format": 2, "spec": {}}', "received format 2"),
    ('{"format": 1, "spec": {"type": "Dens", "units": 1}}', "unknown spec type 'Dens': did you mean 'Dense'?"),
    ('{"format": 1, "spec": {"type": "Dense", "unit": 1}}', "Dense has no field 'unit': did you mean 'units'?"),
    ('{"format": 1, "spec": {"type": "Dense", "units": 0}}', "Dense: units must be a whole number at least 1, received 0"),
])
def test_bad_json_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        from_json(text)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Dense(0), "Dense: units must be a whole number at least 1, received 0"),
    (lambda: Dense(2.5), "Dense: units must be a whole number at least 1, received 2.5"),
    (lambda: Dense(True), "Dense: units must be a whole number at least 1, received True"),
    (lambda: Dense(2, activation="rellu"), "unknown activation 'rellu': did you mean 'relu'?"),
    (lambda: Dense(2, activation=3), "Dense: activation must be an activation spec or its name, received 3"),
    (lambda: Dense(2, activation=LeakyReLU), "Dense: activation must be an activation spec or its name, received the class LeakyReLU, "
                                             "not an object made from it"),
    (lambda: Dense(2, activation="LeakyReLU"), "unknown activation 'LeakyReLU': did you mean 'leaky_relu'?"),
    (lambda: Dense(2, use_bias=1), "Dense: use_bias must be True or False, received 1"),
    (lambda: Dense(2, name="a/b"), "Dense: name must be made of letters, digits, '_', '.' and '-', received 'a/b'"),
    (lambda: Dense(2, trainable=0), "Dense: trainable must be True or False, received 0"),
    (lambda: LeakyReLU(float("nan")), "LeakyReLU: negative_slope must be a finite number at least 0, received nan"),
    (lambda: Adam(beta_1=1.0), "Adam: beta_1 must be a finite number at least 0 and less than 1, received 1.0"),
    (lambda: Adam(clipnorm=1.0, clipvalue=1.0), "at most one of clipnorm, clipvalue and global_clipnorm may be given"),
    (lambda: DemoOfSpecs(1, other=Dense(2)), "DemoOfSpecs: other must be a demo spec or its name or None, received Dense(2)"),
])
def test_a_wrong_field_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Dense(2, unit=3), "Dense has no field 'unit': did you mean 'units'?"),
    (lambda: Dense(2, input_dim=3), "Dense has no field 'input_dim': the shape of the data is declared by the Input that comes first, "
                                    "as in Input((20,))"),
    (lambda: Input((5,), dtype="int32"), "Input has no field 'dtype': a model computes in one, nnkit.compile(..., dtype='float64'), and an Embedding "
                                         "makes its Input one of whole numbers"),
    (lambda: Flatten(data_format="channels_first"), "Flatten has no field 'data_format': channels are the last axis; np.moveaxis(x, 1, -1) puts "
                                                    "them there"),
    (lambda: LeakyReLU(alpha=0.1), "LeakyReLU has no field 'alpha': known are learning_rate_factor, name, negative_slope, trainable"),
    (lambda: Adam(rate=0.1, decay=0), "Adam has no field 'rate': known are amsgrad, beta_1, beta_2, clipnorm, clipvalue, epsilon, "
                                      "global_clipnorm, learning_rate, row_updates, weight_decay"),
    (lambda: metrics.AUC(curve="PR"), "metrics.AUC has no field 'curve': known are name"),
])
def test_an_unknown_field_is_refused(make, message):
    with pytest.raises(TypeError, match="^" + re.escape(message) + "$"):
        make()


def test_a_spec_does_not_change_and_says_what_does():
    layer = Dense(3)
    with pytest.raises(AttributeError, match=r"^Dense: units cannot be set, a spec is a value: attrs\.evolve makes another$"):
        layer.units = 4
    with pytest.raises(attrs.exceptions.FrozenInstanceError, match=r"^Dense: trainable cannot be set, a spec is a value: Model\.freeze freezes "
                                                                   r"layers of a model, and attrs\.evolve makes another spec$"):
        layer.trainable = False
    assert layer == Dense(3)


def test_a_message_shows_the_shape_of_a_large_array():
    with pytest.raises(ValueError, match=r"^Constant: value must be a finite number, received an ndarray of shape \(30, 5\)$"):
        nnkit.Constant(np.zeros((30, 5)))
    with pytest.raises(ValueError, match=r"^Constant: value must be a finite number, received array\(\[1, 2\]\)$"):
        nnkit.Constant(np.array([1, 2]))


def test_constructors_keep_their_signatures():
    assert list(inspect.signature(LeakyReLU).parameters) == ["negative_slope", "name", "trainable", "learning_rate_factor"]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'units'"):
        Dense()


@pytest.mark.parametrize(("layers", "message"), [
    ([], "Sequential: layers must be a list of layers that begins with an Input, received ()"),
    ([Dense(3)], "the first layer must be Input(shape), received Dense(3) at position 0"),
    ([Input((3,)), Input((3,))], "Input must come first and once, received Input((3,)) at position 1"),
    ([Input((3,)), Dense], "Sequential: layers[1] must be a layer, received the class Dense, not an object made from it"),
    ([Input((3,)), "relu"], "Sequential: layers[1] must be a layer, received 'relu'"),
    ([Input((3,)), Dense(2, name="a"), Dense(2, name="a")], "two layers have the name 'a'; names must differ"),
    ([Input(()), Dense(2)], "layer 'dense' cannot take input: Dense needs at least one axis besides the batch"),
])
def test_a_wrong_network_is_refused(layers, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Sequential(layers)


def test_layers_are_named_as_in_keras():
    graph = Sequential([Input((4,)), Dense(3), Dense(3, name="dense_1"), Dense(3), LeakyReLU()]).graph()
    assert [node.name for node in graph.nodes] == ["input", "dense", "dense_1", "dense_2", "leaky_re_lu"]


def test_two_specs_of_one_class_name_in_two_modules_are_refused():
    class Dense(Spec):
        pass
    with pytest.raises(ValueError, match=r"a spec named 'Dense' exists already in nnkit\.layers\.dense"):
        spec()(Dense)
    assert CLASSES["Dense"].__module__ == "nnkit.layers.dense"


def test_a_shorthand_stands_for_one_class():
    """A class that is refused leaves nothing behind, and one that is declared anew, as in a notebook, takes the old one's place."""
    class Shifted(Metric):
        pass
    message = "the metric name 'mse' stands for metrics.MeanSquaredError already; choose another for metrics.Shifted"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        spec("shifted", "mse")(Shifted)
    assert "metrics.Shifted" not in CLASSES
    assert ("metric", "shifted") not in SHORTHANDS
    for _ in range(2):
        cls = spec("shifted")(type("Shifted", (Metric,), {"__module__": __name__}))
        assert CLASSES.pop("metrics.Shifted") is SHORTHANDS["metric", "shifted"] is cls
    del SHORTHANDS["metric", "shifted"]


@pytest.mark.parametrize(("family", "methods"), [
    (Initializer, "values"), (RandomInitializer, "draw"), (Metric, "result, update"), (Hits, "score"), (Schedule, "rates"),
])
def test_a_class_that_lacks_what_its_base_asks_for_cannot_be_made(family, methods):
    """The words are Python's; 3.12 chose others."""
    @base
    class Lacking(family):
        pass
    for cls in (family, Lacking):
        with pytest.raises(TypeError) as caught:
            cls()
        said = str(caught.value).replace("'", "").replace("without an implementation for", "with")
        assert said == f"Cant instantiate abstract class {cls.__name__} with abstract method{'s' * (',' in methods)} {methods}"

    whole = base(type("Whole", (family,), {name: lambda self, *given: given for name in methods.split(", ")}))
    assert getattr(whole(), methods.partition(",")[0])(1) == (1,)


def test_what_nnkit_offers_is_meant_for_users():
    """Classes, subpackages and these functions: what modules share among themselves is not among them."""
    functions = {name for name, value in vars(nnkit).items() if not name.startswith("_") and not isinstance(value, (type, types.ModuleType))}
    assert functions == {"compile", "from_json", "load", "register_activation", "register_loss", "to_json"}
