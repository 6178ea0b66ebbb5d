"""Parts of networks, and parameters copied from one model to another by name."""

import numpy as np
import pytest

import nnkit
from helpers import assert_same_bits
from nnkit import LSTM, Add, BatchNormalization, Conv2D, Dense, Flatten, GlobalMaxPooling2D, Input, Network, Sequential
from nnkit.io import Report

TRAINED = Sequential([Input((6, 6, 2)), Conv2D(3, 3, activation="relu"), Conv2D(4, 3), BatchNormalization(), Flatten(), Dense(5, "relu"), Dense(2)])


def trained(spec=TRAINED, seed=1):
    model = nnkit.compile(spec, seed=seed)
    rng = np.random.default_rng(seed)
    model.set_parameters({name: rng.random(values.shape) for name, values in model.parameters.items()})
    return model


def refused(message, action):
    with pytest.raises(ValueError) as error:             # noqa: PT011
        action()
    assert str(error.value) == message


# Parts.

def test_a_part_computes_what_the_submodel_does():
    model = trained()
    x = np.random.default_rng(0).random((5, 6, 6, 2), dtype=np.float32)
    cuts = ((None, "flatten"), (None, "conv2d"), (None, None), ("conv2d", "dense"), ("flatten", None), ("conv2d", ["dense", "flatten"]))
    for given, wanted in cuts:
        part, expected = nnkit.compile(TRAINED.part(inputs=given, outputs=wanted)), model.submodel(inputs=given, outputs=wanted)
        report = part.copy_parameters(model)
        assert report.complete
        assert part.parameters.keys() == expected.parameters.keys()
        inside = x if given is None else model.submodel(outputs=given).predict(x)
        for found, right in zip(*(y if isinstance(y, tuple) else (y,) for y in (part.predict(inside), expected.predict(inside))), strict=True):
            assert_same_bits(found, right)
    assert nnkit.from_json(nnkit.to_json(TRAINED.part(outputs="dense"))) == TRAINED.part(outputs="dense")


def test_a_part_as_a_layer_of_another_network():
    model, x = trained(), np.random.default_rng(0).random((5, 6, 6, 2), dtype=np.float32)
    other = nnkit.compile(Sequential([Input((6, 6, 2)), TRAINED.part(outputs="flatten", name="base"), Dense(7)]), seed=3)
    report = other.copy_parameters(model, names={"base/*": "*"})
    assert report == Report(copied=tuple(name for name in other.parameters if name.startswith("base/")),
                            different=(("dense/kernel", (16, 7), (16, 5)), ("dense/bias", (7,), (5,))), unused=("dense_1/kernel", "dense_1/bias"))
    assert_same_bits(other.submodel(outputs="base").predict(x), model.submodel(outputs="flatten").predict(x))


def test_parts_of_graphs_of_layers():
    """Shared layers stay shared, several inputs and outputs, nested networks are layers like others."""
    a, b = Input((4,), name="a"), Input((4,), name="b")
    shared = Dense(4, "tanh", name="shared")
    inner = Sequential([Input((4,)), Dense(3), Dense(4)], name="inner")
    h = Add(name="sum")([shared(a), shared(b)])
    states, hidden, cell = LSTM(4, return_state=True, name="lstm")(nnkit.Reshape((2, 2), name="steps")(inner(h)))
    spec = Network([a, b], {"y": Dense(1, name="y")(Add()([states, hidden, cell]))})
    model = trained(spec)
    rng = np.random.default_rng(0)
    x = tuple(rng.random((3, 4), dtype=np.float32) for _ in range(2))
    for given, wanted in ((None, "inner"), (None, "lstm"), ("sum", None), (["lstm"], None), ("sum", ["inner", "lstm"])):
        part = nnkit.compile(spec.part(inputs=given, outputs=wanted))
        assert part.copy_parameters(model).complete
        sub = model.submodel(inputs=given, outputs=wanted)
        values = x if given is None else model.submodel(outputs=given).predict(x)
        for found, right in zip(*(y if isinstance(y, tuple) else (y,) for y in (part.predict(values), sub.predict(values))), strict=True):
            assert_same_bits(found, right)
    assert spec.layer("inner") == inner
    refused("unknown layer 'iner': did you mean 'inner'?", lambda: spec.layer("iner"))


def test_what_is_no_part():
    shared = Dense(6, name="twice")
    a, b = Input((6,)), Input((6,))
    spec = Network([a, b], Add(name="end")([shared(shared(a)), Dense(6, name="own")(b)]))
    refused("part: outputs must name layers, each once, received ()", lambda: TRAINED.part(outputs=()))
    refused("part: inputs must name layers, each once, received ['conv2d', 'conv2d']", lambda: TRAINED.part(inputs=["conv2d", "conv2d"]))
    refused("part: unknown layer 'conv3d': did you mean 'conv2d'?", lambda: TRAINED.part(outputs="conv3d"))
    refused("part: unknown layer 'own/x': did you mean 'own'?; of a nested network take a part by itself", lambda: spec.part(outputs="own/x"))
    refused("part: layer 'twice' is called 2 times: a part needs a place that its name alone tells", lambda: spec.part(outputs="twice"))
    refused("part: outputs depend on 'input', too, which is not behind inputs='own'", lambda: spec.part(inputs="own"))
    refused("part: no output depends on 'dense_1' alone", lambda: TRAINED.part(inputs="dense_1", outputs="flatten"))
    refused("Network: outputs must depend on a layer, received the input 'input' itself", lambda: TRAINED.part(outputs="input"))


# Copies.

def test_what_matches_and_what_does_not():
    model = trained()
    other = trained(Sequential([Input((6, 6, 2)), Conv2D(3, 3), Conv2D(4, 2), GlobalMaxPooling2D(), Dense(5, use_bias=False)]), 2)
    before = {name: values.copy() for name, values in other.parameters.items()}
    report = other.copy_parameters(model)
    assert report == Report(copied=("conv2d/kernel", "conv2d/bias", "conv2d_1/bias"),
                            different=(("conv2d_1/kernel", (2, 2, 3, 4), (3, 3, 3, 4)), ("dense/kernel", (4, 5), (16, 5))),
                            unused=tuple(name for name in model.parameters if name.startswith(("batch", "dense_1")) or name == "dense/bias"))
    assert not report.complete
    for name, values in other.parameters.items():
        assert_same_bits(values, model.parameters[name] if name in report.copied else before[name])
    assert str(report) == """copied 3 parameters
of another shape: 2
  conv2d_1/kernel: (2, 2, 3, 4) here, (3, 3, 3, 4) there
  dense/kernel: (4, 5) here, (16, 5) there
not used: 7
  batch_normalization/gamma
  batch_normalization/beta
  batch_normalization/moving_mean
  batch_normalization/moving_variance
  dense/bias
  dense_1/kernel
  dense_1/bias"""
    refused("the source does not fit the network: conv2d_1/kernel of shape (2, 2, 3, 4) has shape (3, 3, 3, 4) there; dense/kernel of shape (4, 5) "
            "has shape (16, 5) there; not used: batch_normalization/gamma, batch_normalization/beta, batch_normalization/moving_mean, "
            "batch_normalization/moving_variance, dense/bias, dense_1/kernel, dense_1/bias", lambda: report.check("the source"))


def test_names_and_patterns():
    spec = Sequential([Input((3,)), *(Dense(3, name=name) for name in ("in.a", "in.b", "x.c", "last"))])
    model = nnkit.compile(spec)
    source = {f"{name}/{own}": np.full(shape, number) for number, name in enumerate(("a", "special", "c-y", "last"))
              for own, shape in (("kernel", (3, 3)), ("bias", (3,)))}
    report = model.copy_parameters(source, names={"in.*": "*", "in.b": "special", "x.*": "*-y"})
    assert report.complete
    assert report.unused == ()
    assert [float(model.parameters[f"{name}/bias"][0]) for name in ("in.a", "in.b", "x.c", "last")] == [0.0, 1.0, 2.0, 3.0]


def test_arrays_that_are_no_numbers_change_nothing():
    model = trained()
    before = {name: values.copy() for name, values in model.parameters.items()}
    source = {name: np.zeros(values.shape) for name, values in before.items()} | {"dense_1/bias": np.array(["a", "b"])}
    refused("parameter 'dense_1/bias' must be numbers of shape (2,), received <U1 of shape (2,)", lambda: model.copy_parameters(source))
    for name, values in model.parameters.items():
        assert_same_bits(values, before[name])


def test_a_long_report_shows_the_first_ten():
    names = [f"layer_{number}/kernel" for number in range(13)]
    report = Report(missing=tuple(names))
    assert str(report).splitlines() == ["copied 0 parameters", "missing in the source: 13", *(f"  {name}" for name in names[:10]), "  ... and 3 more"]
    refused(f"'x' does not fit the network: {'; '.join(f'{name} is not there' for name in names[:10])}, and 3 more", lambda: report.check("'x'"))
