"""Copies and pickles of specs and models: independent, equal, and they go on with the same bits."""

import copy
import pickle

import numpy as np
import pytest

import nnkit
from nnkit import SGD, Adam, Dense, Dropout, Embedding, ExponentialDecay, GlobalAveragePooling1D, Input, LambdaCallback, Network, Sequential
from nnkit.metrics import Function

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((24, 5)).astype(np.float32), RNG.integers(0, 3, 24)
WORDS = RNG.integers(0, 50, (24, 6))


def chain():
    return Sequential([Input((5,)), Dense(7, activation="relu"), Dropout(0.3), Dense(3, activation="softmax")])


def table():
    return Sequential([Input((6,)), Embedding(50, 4), GlobalAveragePooling1D(), Dense(3, activation="softmax")])


def share_of_zeros(y_true, y_pred):
    return float(np.mean(y_true == 0))


CASES = {
    "adam": (chain, {"optimizer": "adam", "metrics": ["accuracy"]}, X),
    "float64": (chain, {"optimizer": SGD(0.1, momentum=0.9), "dtype": "float64", "seed": 3, "threads": 1}, X),
    "schedule": (chain, {"optimizer": Adam(ExponentialDecay(0.1, 3, 0.5))}, X),
    "function": (chain, {"optimizer": "adam", "metrics": [share_of_zeros]}, X),
    "rows": (table, {"optimizer": "adam"}, WORDS),
}
WAYS = {"pickle": lambda model: pickle.loads(pickle.dumps(model)), "deepcopy": copy.deepcopy, "copy": copy.copy}


def compiled(spec, options):
    return nnkit.compile(spec, loss="sparse_categorical_crossentropy", **options)


def assert_equal_models(a, b):
    assert a.spec == b.spec
    assert a.parameters.keys() == b.parameters.keys()
    for name, value in a.parameters.items():
        np.testing.assert_array_equal(b.parameters[name], value, err_msg=name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_a_copy_goes_on_bit_for_bit_in_memory_of_its_own(case, way):
    make, options, x = CASES[case]
    model = compiled(make(), options)
    model.fit(x, Y, batch_size=10, epochs=2, verbose=0)
    again = WAYS[way](model)
    assert_equal_models(model, again)
    assert (again.dtype, again.seed, again.threads, again.optimizer, again.outputs) == (
        model.dtype, model.seed, model.threads, model.optimizer, model.outputs)
    for name in model.parameters:
        assert not np.shares_memory(model.parameters[name], again.parameters[name])
    before = {name: value.copy() for name, value in model.parameters.items()}
    history = again.fit(x, Y, batch_size=10, epochs=2, verbose=0)
    for name, value in before.items():
        np.testing.assert_array_equal(model.parameters[name], value)
    assert any((again.parameters[name] != value).any() for name, value in before.items())
    assert model.fit(x, Y, batch_size=10, epochs=2, verbose=0).history == history.history
    assert_equal_models(model, again)


def test_the_learning_rate_that_was_set_and_frozen_layers_are_copied():
    model = compiled(chain(), {"optimizer": "adam"})
    model.learning_rate = 0.5
    model.freeze("dense")
    again = copy.deepcopy(model)
    assert again.learning_rate == 0.5
    assert again.spec == model.spec


def test_a_model_that_only_predicts():
    model = nnkit.compile(chain(), seed=2)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_several_outputs():
    x = Input((5,))
    model = nnkit.compile(Network(x, {"a": Dense(3)(x), "b": Dense(2)(x)}), loss={"a": "mse"}, optimizer="sgd", metrics={"a": ["mae"]})
    again = copy.deepcopy(model)
    assert again.outputs == model.outputs
    assert again.predict(X).keys() == {"a", "b"}


def test_a_copy_made_by_a_callback_is_of_that_moment():
    copies = []
    model = compiled(table(), {"optimizer": "adam"})
    model.fit(WORDS, Y, epochs=2, verbose=0, callbacks=LambdaCallback(on_epoch_end=lambda epoch, logs: copies.append(copy.deepcopy(model))))
    other = compiled(table(), {"optimizer": "adam"})
    other.fit(WORDS, Y, epochs=1, verbose=0)
    assert_equal_models(copies[0], other)
    assert_equal_models(copies[1], model)


@pytest.mark.parametrize("way", [pickle.dumps, copy.deepcopy, copy.copy])
def test_a_submodel_has_no_copy(way):
    part = compiled(chain(), {}).submodel(outputs="dense")
    with pytest.raises(ValueError, match=r"^a submodel is a part of another model's memory and has no copy of its own: copy or pickle the whole, "
                                         r"model\.whole$"):
        way(part)


def test_what_python_cannot_pickle_is_named_by_python():
    model = compiled(chain(), {"optimizer": "adam", "metrics": [Function(lambda y_true, y_pred: 0.0, name="nothing")]})
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(model)
    assert copy.deepcopy(model).outputs == model.outputs


def test_specs_are_copied_and_pickled():
    x = Input((5,))
    for spec in (chain(), Network(x, Dense(3)(x)), Adam(ExponentialDecay(0.1, 3, 0.5))):
        assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == spec
