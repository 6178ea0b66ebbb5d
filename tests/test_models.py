"""Networks that nnkit declares: shapes, names, parameters, JSON, submodels, training on scikit-learn's digits, refusals."""

import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

import nnkit
from nnkit import Dropout, GaussianNoise, KLSparsity, Sampling, from_json, to_json
from nnkit.models import autoencoder, vae, vgg16

DIGITS = load_digits().data.astype(np.float32) / 16


def sizes(*layers):
    """The number of parameters of Dense layers (inputs, units)."""
    return sum(inputs * units + units for inputs, units in layers)


@pytest.mark.parametrize(("network", "names", "parameters"), [
    (autoencoder(20, 10), ["latent", "reconstruction"], sizes((20, 10), (10, 20))),
    (autoencoder(64, 8, hidden=[32, 16], activation="tanh", output_activation="linear"),
     ["encoder_1", "encoder_2", "latent", "decoder_1", "decoder_2", "reconstruction"],
     sizes((64, 32), (32, 16), (16, 8), (8, 16), (16, 32), (32, 64))),
    (autoencoder(7, 9, code_activation="sigmoid", activity_regularizer=KLSparsity(0.1, 0.3)), ["latent", "reconstruction"], sizes((7, 9), (9, 7))),
    (autoencoder(7, 3, corruption=GaussianNoise(0.5)), ["gaussian_noise", "latent", "reconstruction"], sizes((7, 3), (3, 7))),
    (autoencoder(7, 3, corruption=Dropout(0.3, name="holes")), ["holes", "latent", "reconstruction"], sizes((7, 3), (3, 7))),
    (vae(), ["encoder_1", "mean", "log_variance", "latent", "decoder_1", "reconstruction"],
     sizes((784, 400), (400, 20), (400, 20), (20, 400), (400, 784))),
    (vae(5, hidden=(4, 3), latent=1, beta=0.5, seed=8), ["encoder_1", "encoder_2", "mean", "log_variance", "latent", "decoder_1", "decoder_2",
                                                         "reconstruction"],
     sizes((5, 4), (4, 3), (3, 1), (3, 1), (1, 3), (3, 4), (4, 5))),
    (vae(5, hidden=(), latent=2), ["mean", "log_variance", "latent", "reconstruction"], sizes((5, 2), (5, 2), (2, 5))),
], ids=["textbook", "deep", "sparse", "denoising", "masking", "vae", "deep-vae", "linear-vae"])
def test_declarations(network, names, parameters):
    graph = network.graph()
    assert [node.name for node in graph.nodes] == ["input", *names]
    assert graph.input_shapes == graph.output_shapes
    assert graph.output_names == ("reconstruction",)
    assert sum(declared.size for declared in graph.parameters().values()) == parameters
    assert from_json(to_json(network)) == network


def test_arguments_reach_their_layers():
    network = autoencoder(64, 9, hidden=(32,), activation="elu", code_activation="sigmoid", output_activation="linear", activity_regularizer="l1")
    layers = {node.name: node.layer for node in network.graph().nodes}
    assert {name: repr(layers[name].activation) for name in layers if name != "input"} == {
        "encoder_1": "ELU()", "latent": "Sigmoid()", "decoder_1": "ELU()", "reconstruction": "Linear()"}
    assert [name for name in layers if name != "input" and layers[name].activity_regularizer is not None] == ["latent"]
    layers = {node.name: node.layer for node in vae(8, beta=2.0, seed=5, activation="tanh").graph().nodes}
    assert layers["latent"] == Sampling(0.25, seed=5, name="latent")
    assert repr(layers["encoder_1"].activation) == repr(layers["decoder_1"].activation) == "Tanh()"
    assert repr(layers["mean"].activation) == repr(layers["log_variance"].activation) == "Linear()"


@pytest.mark.parametrize(("network", "first", "last"), [
    (autoencoder(64, 8, hidden=(32,), corruption=GaussianNoise(0.3)), 0.5, 0.35),
    (autoencoder(64, 32, code_activation="sigmoid", activity_regularizer=KLSparsity()), 0.6, 0.36),
    (vae(64, hidden=(64,), latent=8), 0.5, 0.41),
], ids=["denoising", "sparse", "vae"])
def test_training_lowers_the_loss(network, first, last):
    """The means of the pixels alone give 0.424, perfect reconstructions 0.213; each seed reaches `last` with 0.02 to spare."""
    model = nnkit.compile(network, optimizer=nnkit.Adam(3e-3), loss="binary_crossentropy", seed=1)
    history = model.fit(DIGITS, DIGITS, epochs=20, batch_size=64, verbose=0)
    assert history["loss"][0] > first
    assert history["loss"][-1] < last
    assert np.isfinite(model.evaluate(DIGITS, DIGITS)["loss"])


@pytest.mark.parametrize("network", [autoencoder(64, 8, hidden=(32,), corruption=Dropout(0.3)), vae(64, hidden=(32,), latent=3)], ids=["ae", "vae"])
def test_encoder_and_decoder_are_the_model(network):
    model = nnkit.compile(network, optimizer="adam", loss="binary_crossentropy", seed=1)
    encoder, decoder = model.submodel(outputs="latent"), model.submodel(inputs="latent")
    model.fit(DIGITS[:256], DIGITS[:256], epochs=1, verbose=0)
    codes = encoder.predict(DIGITS[:100])
    assert codes.shape == (100, network.graph().parameters()["decoder_1/kernel"].shape[0])
    np.testing.assert_array_equal(decoder.predict(codes), model.predict(DIGITS[:100]))


def test_the_bound_in_nats():
    """D times the reported parts are the sums over pixels, by hand from z, and over the code, in closed form."""
    D = 64
    model = nnkit.compile(vae(D, hidden=(32,), latent=3), optimizer="adam", loss="binary_crossentropy", dtype="float64", seed=1)
    model.fit(DIGITS, DIGITS, epochs=2, verbose=0)
    heads = model.submodel(outputs=["mean", "log_variance"])
    mean, log_variance = heads.predict(DIGITS)
    divergence = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=1).mean()
    found = model.evaluate(DIGITS, DIGITS)
    assert D * found["kl_loss"] == pytest.approx(divergence, rel=1e-12)
    assert found["loss"] == pytest.approx(found["reconstruction_loss"] + found["kl_loss"], rel=1e-12)
    # The expected reconstruction loss over many draws of z; its standard error over 1,797 images is about 0.1 nats a draw.
    rng, decoder, losses = np.random.default_rng(0), model.submodel(inputs="latent"), []
    for _ in range(5):
        p = decoder.predict(mean + np.exp(log_variance / 2) * rng.standard_normal(mean.shape))
        losses.append(-(DIGITS * np.log(p) + (1 - DIGITS) * np.log(1 - p)).sum(axis=1).mean())
    assert np.mean(losses) == pytest.approx(D * found["reconstruction_loss"], abs=0.5)


# VGG16. The numbers of parameters are those that Keras' VGG16 reports.

VGG16_BLOCKS = [f"block{block}_{layer}" for block, count in enumerate((2, 2, 3, 3, 3), 1)
                for layer in [*(f"conv{number}" for number in range(1, count + 1)), "pool"]]


@pytest.mark.parametrize(("network", "rest", "shape", "parameters"), [
    (vgg16(), ["flatten", "fc1", "fc2", "predictions"], (1000,), 138_357_544),
    (vgg16(include_top=False), [], (7, 7, 512), 14_714_688),
    (vgg16(include_top=False, pooling="avg"), ["global_average_pooling2d"], (512,), 14_714_688),
    (vgg16((33, 70, 1), include_top=False, pooling="max"), ["global_max_pooling2d"], (512,), 14_714_688 - 2 * 9 * 64),
    (vgg16((32, 64, 3), include_top=False), [], (1, 2, 512), 14_714_688),
    (vgg16((32, 32, 3), classes=7), ["flatten", "fc1", "fc2", "predictions"], (7,), 14_714_688 + sizes((512, 4096), (4096, 4096), (4096, 7))),
], ids=["top", "no-top", "avg", "max", "small", "classes"])
def test_vgg16(network, rest, shape, parameters):
    graph = network.graph()
    assert [node.name for node in graph.nodes] == ["input", *VGG16_BLOCKS, *rest]
    assert graph.output_shapes == (shape,)
    assert sum(declared.size for declared in graph.parameters().values()) == parameters
    assert from_json(to_json(network)) == network


def test_vgg16_layers():
    """Filters, windows and padding, block by block."""
    layers = {node.name: (node.layer, node.shape) for node in vgg16().graph().nodes}
    for block, (filters, size) in enumerate(((64, 224), (128, 112), (256, 56), (512, 28), (512, 14)), 1):
        convolution, shape = layers[f"block{block}_conv2"]
        assert (convolution.kernel_size, convolution.strides, convolution.padding, repr(convolution.activation)) == ((3, 3), (1, 1), "same", "ReLU()")
        assert shape == (size, size, filters)
        assert layers[f"block{block}_pool"][1] == (size // 2, size // 2, filters)
    assert repr(layers["predictions"][0].activation) == "Softmax()"


def test_vgg16_as_a_layer():
    """Its blocks below layers of one's own, on small images; the parameters carry its name."""
    spec = nnkit.Sequential([nnkit.Input((32, 32, 3)), vgg16((32, 32, 3), include_top=False, pooling="avg"), nnkit.Dense(2, activation="softmax")])
    model = nnkit.compile(spec, optimizer=nnkit.SGD(0.01), loss="sparse_categorical_crossentropy", seed=0)
    assert model.parameters["vgg16/block5_conv3/kernel"].shape == (3, 3, 512, 512)
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3), dtype=np.float32)
    before = model.parameters["vgg16/block1_conv1/kernel"].copy()
    assert np.isfinite(model.train_on_batch(x, [0, 1, 0, 1])["loss"])
    assert (model.parameters["vgg16/block1_conv1/kernel"] != before).any()
    assert model.submodel(outputs="vgg16/block3_pool").predict(x).shape == (4, 4, 4, 256)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: vgg16((224, 31, 3)), "input_shape must be a whole number at least 32, received 31"),
    (lambda: vgg16((224, 224)), "input_shape must be (height, width, channels), received (224, 224)"),
    (lambda: vgg16(classes=0), "classes must be a whole number at least 1, received 0"),
    (lambda: vgg16(pooling="avg"), "pooling must be None with the top, received 'avg'"),
    (lambda: vgg16(include_top=False, pooling="mean"), "pooling must be 'avg', 'max' or None, received 'mean'"),
    (lambda: autoencoder(0, 3), "inputs must be a whole number at least 1, received 0"),
    (lambda: autoencoder((8, 8), 3), "inputs must be a whole number at least 1, received (8, 8)"),
    (lambda: autoencoder(8, 2.5), "code must be a whole number at least 1, received 2.5"),
    (lambda: autoencoder(8, 3, hidden=5), "hidden must be a list of whole numbers at least 1, received 5"),
    (lambda: autoencoder(8, 3, hidden=(5, 0)), "hidden must be a whole number at least 1, received 0"),
    (lambda: vae(8, latent=0), "latent must be a whole number at least 1, received 0"),
    (lambda: vae(8, beta=-2), "Sampling: beta must be a finite number at least 0, received -2.0"),
    (lambda: vae(8, activation="rellu"), "unknown activation 'rellu': did you mean 'relu'?"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        make()
