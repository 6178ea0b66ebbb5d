"""Models of several inputs and outputs: data by name, losses with weights, what is reported; submodels that share memory."""

import re
import warnings

import numpy as np
import pytest

import nnkit
from helpers import assert_same_bits
from nnkit import Dense, Input, Network, Sequential

RNG = np.random.default_rng(5)
N = 50
A, B = RNG.standard_normal((N, 4)), RNG.standard_normal((N, 3))
SCORE, KIND = (A.sum(axis=1) > 0).astype(float), B.argmax(axis=1)
X, Y = {"a": A, "b": B}, {"score": SCORE, "kind": KIND}
LOSSES = {"score": "binary_crossentropy", "kind": "sparse_categorical_crossentropy"}


def two_by_two():
    """Inputs a and b, outputs score and kind; score depends on a alone."""
    a, b = Input((4,), name="a"), Input((3,), name="b")
    h = Dense(5, "tanh", name="latent")(a)
    kind = Dense(3, "softmax")(Dense(3, "tanh", name="mixed")(b))
    return Network([a, b], {"score": Dense(1, "sigmoid")(h), "kind": kind})


def compiled(loss=None, **options):
    options = {"optimizer": "adam", "dtype": "float64", "seed": 2, **options}
    return nnkit.compile(two_by_two(), loss=LOSSES if loss is None else loss, **options)


@pytest.mark.parametrize(("x", "y"), [(X, Y), ([A, B], [SCORE, KIND]), ((A, B), Y), ({"b": B, "a": A}, (SCORE, KIND))],
                         ids=["dicts", "lists", "tuple and dict", "dict and tuple"])
def test_data_by_name_or_in_order(x, y):
    found, expected = compiled(), compiled()
    expected.fit(X, Y, epochs=2, batch_size=16, verbose=0)
    history = found.fit(x, y, epochs=2, batch_size=16, verbose=0)
    assert list(history) == ["loss", "score_loss", "kind_loss"]
    for name, values in expected.parameters.items():
        assert_same_bits(found.parameters[name], values, name)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    weights = {"score": 0.3, "kind": 2.5}
    model = compiled(loss_weights=weights)
    found = model.evaluate(X, Y, batch_size=16)
    # a few roundings of numbers near 1
    assert found["loss"] == pytest.approx(0.3 * found["score_loss"] + 2.5 * found["kind_loss"], rel=1e-13)
    p = model.predict(X)
    picked = p["kind"][np.arange(N), KIND]
    assert found["kind_loss"] == pytest.approx(-np.log(picked).mean(), rel=1e-9)      # Keras clips at 1e-7, which no probability here comes near
    assert found["score_loss"] == pytest.approx(-np.log(np.where(SCORE == 1, p["score"][:, 0], 1 - p["score"][:, 0])).mean(), rel=1e-9)
    on_batch = model.train_on_batch(X, Y)
    assert on_batch == pytest.approx(found, rel=1e-12)
    assert list(on_batch) == list(found)


def test_gradients_are_linear_in_the_weights():
    both = compiled(loss_weights=[0.3, 2.5]).gradients(X, Y, inputs=True)
    score = compiled({"score": LOSSES["score"]}).gradients(X, {"score": SCORE}, inputs=True)
    kind = compiled({"kind": LOSSES["kind"]}).gradients(X, {"kind": KIND}, inputs=True)
    assert set(both) == set(score)
    for name, values in both.items():
        np.testing.assert_allclose(values, 0.3 * score[name] + 2.5 * kind[name], rtol=1e-12, atol=1e-16, err_msg=name)
    assert not score["x1"].any()                         # no loss depends on b
    assert not kind["latent/kernel"].any()
    assert kind["x1"].any()


def test_an_output_without_a_loss_is_predicted_and_not_trained():
    model = compiled({"score": "binary_crossentropy"}, metrics={"score": "accuracy"})
    before = {name: values.copy() for name, values in model.parameters.items()}
    history = model.fit(X, {"score": SCORE}, epochs=1, verbose=0)
    assert list(history) == ["loss", "score_accuracy"]
    changed = {name.split("/")[0] for name, values in model.parameters.items() if not np.array_equal(values, before[name])}
    assert changed == {"latent", "dense"}
    assert model.predict(X)["kind"].shape == (N, 3)
    assert not any("mixed" in step.layer for step in model.build_plan("train", 8).steps)


def test_metrics_by_output():
    model = compiled(metrics={"kind": ["accuracy"], "score": "mae"})
    found = model.evaluate(X, Y)
    assert list(found) == ["loss", "score_loss", "kind_loss", "score_mae", "kind_accuracy"]
    p = model.predict(X)
    assert found["kind_accuracy"] == pytest.approx((p["kind"].argmax(axis=1) == KIND).mean())
    assert found["score_mae"] == pytest.approx(np.abs(p["score"][:, 0] - SCORE).mean(), rel=1e-12)
    history = model.fit(X, Y, epochs=1, validation_split=0.2, verbose=0)
    assert {"val_kind_accuracy", "val_score_mae", "val_kind_loss", "val_loss"} <= set(history)


def test_both_losses_are_fused_with_their_activations():
    kernels = [step.kernel for step in compiled().build_plan("train", 8).steps]
    assert "losses.crossentropy.binary_crossentropy_logits_backward" in kernels
    assert "losses.crossentropy.sparse_categorical_crossentropy_logits_backward" in kernels
    assert not any("sigmoid" in kernel or "softmax" in kernel for kernel in kernels)


def test_threads_change_no_bit():
    models = [compiled(threads=threads, dtype="float32") for threads in (1, 2)]
    for model in models:
        model.fit(X, Y, epochs=2, verbose=0)
    for name, values in models[0].parameters.items():
        assert_same_bits(values, models[1].parameters[name], name)


def test_what_predict_returns():
    x = Input((4,))
    h = Dense(2)(x)
    several = nnkit.compile(Network(x, [Dense(3)(h), h]))
    assert [values.shape for values in several.predict(A)] == [(N, 3), (N, 2)]
    assert several.graph.output_names == ("dense_1", "dense")
    named = nnkit.compile(Network(x, {"code": h})).predict({"input": A})
    assert list(named) == ["code"]
    assert named["code"].shape == (N, 2)
    assert nnkit.compile(Network(x, h)).predict(A).shape == (N, 2)


@pytest.mark.parametrize(("action", "message"), [
    (lambda m: m.fit(X, SCORE), "y must be a dict by output name, or a list of one entry for each of the outputs ('score', 'kind'), received a"),
    (lambda m: m.fit(X, {"score": SCORE}), "y must have targets for the output 'kind', received none"),
    (lambda m: m.fit(X, {**Y, "kinds": KIND}), "y: unknown output 'kinds': did you mean 'kind'?"),
    (lambda m: m.fit(X, [SCORE]), "y must have one entry for each of the 2 outputs ('score', 'kind'), received 1"),
    (lambda m: m.fit(X, {"score": SCORE, "kind": KIND + 3}), "output 'kind': y must hold class labels from 0 to 2"),
    (lambda m: m.fit(X, {"score": SCORE, "kind": KIND[:7]}), "must have the same number of samples, received 50, 50 and 7"),
    (lambda m: m.fit({"a": A}, Y), "x must have an array for each of the inputs ('a', 'b'), received none for 'b'"),
    (lambda m: m.fit({**X, "c": A}, Y), "x: unknown input 'c'"),
    (lambda m: m.fit([A], Y), "x must be a tuple of 2 arrays, one for each input, or a dict by input name, received a list of 1"),
    (lambda m: m.fit([A, B[:9]], Y), "x[0] and x[1] must have the same number of samples, received 50 and 9"),
    (lambda m: m.fit(X, Y, class_weight={0: 1.0}), "class_weight needs a network of one output, received one of 2: pass sample_weight"),
    (lambda m: m.predict(A), "x must be a tuple of 2 arrays"),
])
def test_data_that_does_not_fit_is_refused(action, message):
    model = compiled()
    before = {name: values.copy() for name, values in model.parameters.items()}
    with pytest.raises((TypeError, ValueError)) as refused:
        action(model)
    assert message in str(refused.value)
    for name, values in model.parameters.items():
        assert_same_bits(values, before[name], name)


@pytest.mark.parametrize(("options", "message"), [
    ({"loss": {"scores": "mse"}}, "loss: unknown output 'scores': did you mean 'score'?"),
    ({"loss": ["mse"]}, "loss must have one entry for each of the 2 outputs ('score', 'kind'), received 1"),
    ({"loss": {"score": 3}}, "loss must be a loss spec, its name or None, received 3"),
    ({"loss": {"kind": "binary_crossentropy", "score": "sparse_categorical_crossentropy"}}, "output 'score': "),
    ({"metrics": ["accuracy"]}, "metrics must have one entry for each of the 2 outputs ('score', 'kind'), received 1"),
    ({"metrics": "accuracy"}, "metrics must be a dict by output name"),
    ({"loss": {"score": "mse"}, "metrics": {"kind": "accuracy"}}, "metrics need a loss, received metrics=['accuracy'] and no loss"),
    ({"loss_weights": {"score": 0}}, "the weight of output 'score' must be a finite number greater than 0, received 0"),
    ({"loss_weights": {"score": float("nan")}}, "the weight of output 'score' must be a finite number greater than 0, received nan"),
    ({"loss": {"score": "mse"}, "loss_weights": {"kind": 1.0}}, "loss_weights: output 'kind' has no loss, received the weight 1.0"),
    ({"loss_weights": 2.0}, "loss_weights must be a dict by output name"),
])
def test_losses_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        nnkit.compile(two_by_two(), **{"loss": LOSSES, **options})


# Submodels.

def autoencoder():
    return nnkit.compile(Sequential([Input((4,)), Dense(6, "relu"), Dense(2, name="latent"), Dense(6, "relu"), Dense(4, name="again")]),
                         optimizer="adam", loss="mse", seed=1)


def test_encoder_and_decoder_are_the_autoencoder():
    model = autoencoder()
    encoder, decoder = model.submodel(outputs="latent"), model.submodel(inputs="latent")
    for _ in range(2):                                   # before and after training: the memory is the same
        assert_same_bits(decoder.predict(encoder.predict(A)), model.predict(A))
        model.fit(A, A, epochs=1, verbose=0)
    assert set(encoder.parameters) == {"dense/kernel", "dense/bias", "latent/kernel", "latent/bias"}
    assert encoder.parameters["latent/kernel"] is not None
    assert np.shares_memory(encoder.parameters["latent/kernel"], model.parameters["latent/kernel"])
    encoder.set_parameters({"latent/bias": [7.0, 8.0]})
    assert model.parameters["latent/bias"].tolist() == [7, 8]


def test_a_submodel_of_a_submodel_and_of_nested_networks():
    encoder = Sequential([Input((4,)), Dense(3, "tanh"), Dense(2)], name="encoder")
    decoder = Sequential([Input((2,)), Dense(4)], name="decoder")
    x = Input((4,))
    model = nnkit.compile(Network(x, decoder(encoder(x))), dtype="float64")
    code = model.submodel(outputs="encoder")
    assert code.graph.output_names == ("encoder",)
    assert_same_bits(model.submodel(inputs="encoder").predict(code.predict(A)), model.predict(A))
    assert code.submodel(outputs="encoder/dense").predict(A).shape == (N, 3)
    both = model.submodel(outputs=["encoder/dense", "decoder"]).predict(A)
    assert [values.shape for values in both] == [(N, 3), (N, 4)]
    assert_same_bits(both[1], model.predict(A))


def test_a_submodel_takes_the_inputs_that_it_needs():
    model = compiled()
    assert model.submodel(outputs="mixed").graph.input_names == ("b",)
    part = model.submodel(inputs=["latent", "mixed"])
    assert part.graph.input_names == ("latent", "mixed")
    assert [values.shape for values in part.predict([np.zeros((2, 5)), np.zeros((2, 3))])] == [(2, 1), (2, 3)]


def test_a_callback_may_ask_a_submodel_during_fit():
    seen = []
    plain, watched = autoencoder(), autoencoder()
    part = watched.submodel(outputs="latent")
    plain.fit(A, A, epochs=2, batch_size=8, verbose=0)
    watched.fit(A, A, epochs=2, batch_size=8, verbose=0, callbacks=nnkit.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(
        part.predict(A, batch_size=16))))
    assert len(seen) == 14
    for name, values in plain.parameters.items():
        assert_same_bits(watched.parameters[name], values, name)


@pytest.mark.parametrize(("action", "message"), [
    (lambda m: m.submodel(outputs="latnt"), "unknown layer 'latnt': did you mean 'latent'?"),
    (lambda m: m.submodel(inputs="latent", outputs="mixed"), "submodel: b -> mixed begins at an input that is not among inputs=('latent',)"),
    (lambda m: m.submodel(inputs=["a", "b", "latent"]), "submodel: no output depends on 'a'"),
    (lambda m: m.submodel(outputs="latent").fit(A, A), "fit needs an optimizer"),
    (lambda m: m.submodel(outputs="latent").set_parameters({"mixed/bias": [0] * 3}), "unknown parameter 'mixed/bias'"),
])
def test_wrong_submodels_are_refused(action, message):
    with pytest.raises((ValueError, RuntimeError)) as refused:
        action(compiled())
    assert message in str(refused.value)


def test_a_shared_layer_is_no_place():
    x, z = Input((4,), name="x"), Input((4,), name="z")
    shared = Dense(2, name="shared")
    model = nnkit.compile(Network([x, z], [Dense(1)(shared(x)), Dense(1)(shared(z))]))
    with pytest.raises(ValueError, match="layer 'shared' is called 2 times"):
        model.submodel(outputs="shared")


# Activations that a loss is not meant for.

def chain(last, loss, size=3):
    return nnkit.compile(Sequential([Input((4,)), Dense(size, activation=last), nnkit.Reshape((size,))]), loss=loss)


@pytest.mark.parametrize(("last", "size", "loss", "message"), [
    (None, 1, "binary_crossentropy", "a linear function, whose values may be below 0, but binary_crossentropy takes probabilities: end in "
                                     "activation='sigmoid', or take loss=BinaryCrossentropy(from_logits=True)"),
    ("tanh", 3, "sparse_categorical_crossentropy", "a tanh function, whose values may be below 0, but sparse_categorical_crossentropy takes "
                                                   "probabilities: end in activation='softmax', or take "
                                                   "loss=SparseCategoricalCrossentropy(from_logits=True)"),
    ("softmax", 1, "mse", "a softmax over one number, which is always 1: take activation='sigmoid'"),
])
def test_an_activation_that_cannot_be_meant_is_warned_of(last, size, loss, message):
    with pytest.warns(UserWarning, match="^" + re.escape(f"the output 'reshape' is {message}") + "$") as found:
        chain(last, loss, size)
    assert found[0].filename == __file__


@pytest.mark.parametrize(("last", "loss"), [
    ("softmax", "categorical_crossentropy"), ("sigmoid", "binary_crossentropy"), (None, "mse"), ("exponential", "categorical_crossentropy"),
    (None, nnkit.BinaryCrossentropy(from_logits=True)), (None, nnkit.SparseCategoricalCrossentropy(from_logits=True)), (None, None),
    ("tanh", "hinge"),
])
def test_others_are_not(last, loss):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chain(last, loss)
