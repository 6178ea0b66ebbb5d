"""Networks that nnkit declares: shapes, names, parameters, JSON, submodels, training on scikit-learn's digits, refusals."""

import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

import nnkit
from helpers import refused
from nnkit import Dropout, GaussianNoise, KLSparsity, Sampling, from_json, to_json
from nnkit.io import FormatError
from nnkit.models import autoencoder, decode_predictions, lenet, mlp, preprocess_input, read_labels, resnet, vae, vgg16
from nnkit.models.imagenet import Label
from nnkit.pretrained import Pretrained

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


def test_vgg16_logits_and_frozen():
    network = vgg16((32, 32, 3), classes=5, classifier_activation=None, trainable=False)
    assert repr(network.layers[-1].activation) == "Linear()"
    assert not any(declared.trainable for declared in network.graph().parameters().values())


# Published weights: which file, and what does not fit. That it is read: see test_pretrained.py.

def test_references_of_vgg16():
    assert vgg16().weights is None
    base = "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels"
    assert vgg16(weights="imagenet").weights == Pretrained(f"{base}.h5", hash="md5:64373286793e3c8b2b4e3219cbf3544b")
    assert vgg16(include_top=False, classes=3, weights="imagenet").weights == Pretrained(f"{base}_notop.h5",
                                                                                         hash="md5:6d6bbae143d832006294945121d1f1fc")
    torchvision = vgg16(weights="torchvision", classifier_activation=None).weights
    assert (torchvision.path, torchvision.hash) == ("https://download.pytorch.org/models/vgg16-397923af.pth", "sha256:397923af")
    assert vgg16((64, 32, 3), include_top=False, weights="torchvision").weights == torchvision
    assert vgg16(weights="here/weights.pth").weights == Pretrained("here/weights.pth", torch_names=torchvision.torch_names)
    own = Pretrained("x.h5", hash="md5:" + 32 * "0")
    assert vgg16(classes=3, weights=own).weights == own
    # torchvision's numbers, by what its `make_layers` appends: a convolution and a ReLU, or a pooling.
    numbers, place = {}, 0
    for name in VGG16_BLOCKS:
        if name.endswith("pool"):
            place += 1
        else:
            numbers[name], place = f"features.{place}", place + 2
    assert dict(torchvision.torch_names) == numbers | {"fc1": "classifier.0", "fc2": "classifier.3", "predictions": "classifier.6"}
    network = vgg16(weights="torchvision")
    assert from_json(to_json(network)) == network != vgg16()


def test_references_of_resnet():
    for depth, digits in ((18, "f37072fd"), (34, "b627a593")):
        expected = Pretrained(f"https://download.pytorch.org/models/resnet{depth}-{digits}.pth", hash=f"sha256:{digits}")
        assert resnet(depth, weights="torchvision").weights == expected
        assert resnet(depth, (70, 50, 3), include_top=False, weights="torchvision").weights == expected
        network = resnet(depth, weights="torchvision")
        assert from_json(to_json(network)) == network == eval(repr(network), vars(nnkit))


RULE = "a Pretrained or the path of a file, './name' where its name has no dot, received"


@pytest.mark.parametrize(("make", "message"), [
    (lambda: vgg16(classes=7, weights="imagenet"), "classes must be 1000 for weights='imagenet' with the top, received 7"),
    (lambda: vgg16((64, 64, 3), weights="torchvision"),
     "input_shape must be (224, 224, 3) for weights='torchvision' with the top, received (64, 64, 3)"),
    (lambda: vgg16((64, 64, 1), include_top=False, weights="imagenet"),
     "input_shape must have 3 channels for weights='imagenet', received (64, 64, 1)"),
    (lambda: vgg16(weights="imagenet", classifier_activation="sigmoid"),
     "classifier_activation must be 'softmax' or None for weights='imagenet', received 'sigmoid'"),
    (lambda: vgg16(weights="imagnet"), f"weights must be None, 'imagenet', 'torchvision', {RULE} 'imagnet'"),
    (lambda: vgg16(weights=5), f"weights must be None, 'imagenet', 'torchvision', {RULE} 5"),
    (lambda: resnet(weights="imagenet"), f"weights must be None, 'torchvision', {RULE} 'imagenet'"),
    (lambda: resnet(classes=7, weights="torchvision"), "classes must be 1000 for weights='torchvision' with the top, received 7"),
    (lambda: resnet(50), "depth must be 18 or 34, received 50"),
    (lambda: resnet(True), "depth must be 18 or 34, received True"),
    (lambda: resnet(18, (0, 3, 3)), "input_shape must be a whole number at least 1, received 0"),
    (lambda: resnet(pooling="max"), "pooling must be None with the top, received 'max'"),
    (lambda: lenet((15, 16, 1)), "input_shape must be a whole number at least 16, received 15"),
    (lambda: lenet((11, 12, 1), padding="same"), "input_shape must be a whole number at least 12, received 11"),
    (lambda: lenet(padding=2), "padding must be 'valid' or 'same', received 2"),
    (lambda: lenet(pooling="mean"), "pooling must be 'avg' or 'max', received 'mean'"),
    (lambda: lenet(classes=0), "classes must be a whole number at least 1, received 0"),
    (lambda: mlp(0, 1), "inputs must be a whole number at least 1, received 0"),
    (lambda: mlp(3, 0), "outputs must be a whole number at least 1, received 0"),
    (lambda: mlp(3, 1, hidden=8), "hidden must be a list of whole numbers at least 1, received 8"),
    (lambda: mlp(3, 1, batch_norm=1), "batch_norm must be True or False, received 1"),
    (lambda: mlp(3, 1, dropout=1.0), "Dropout: rate must be a finite number at least 0 and less than 1, received 1.0"),
])
def test_refused_images_and_weights(make, message):
    refused(message, make)


# ResNet. The numbers of trainable parameters are those that torchvision reports.

@pytest.mark.parametrize(("depth", "blocks", "parameters"), [(18, (2, 2, 2, 2), 11_689_512), (34, (3, 4, 6, 3), 21_797_672)])
def test_resnet(depth, blocks, parameters):
    network = resnet(depth)
    declared = network.graph().parameters()
    assert sum(parameter.size for parameter in declared.values() if parameter.trainable) == parameters
    assert network.graph().output_shapes == ((1000,),)
    names = ["conv1", "bn1"]
    for stage, count in enumerate(blocks, 1):
        for number in range(count):
            names += [f"layer{stage}.{number}.{part}" for part in ("conv1", "bn1", "conv2", "bn2")]
            names += [f"layer{stage}.0.downsample.{part}" for part in (0, 1)] * (stage > 1 and number == 0)
    assert list(dict.fromkeys(name.rpartition("/")[0] for name in declared)) == [*names, "fc"]
    assert from_json(to_json(network)) == network == eval(repr(network), vars(nnkit))


def test_resnet_layers():
    """Sizes by stage, paddings, what normalizations are made with; other tops."""
    layers = {node.name: (node.layer, node.shape) for node in resnet().graph().nodes}
    assert layers["maxpool"][1] == (56, 56, 64)
    for stage, size in enumerate((56, 28, 14, 7), 1):
        assert layers[f"layer{stage}.1.relu_2"][1] == (size, size, 32 << stage)
    assert layers["conv1"][0].padding == ((3, 3), (3, 3))
    assert layers["layer2.0.conv1"][0].padding == ((1, 1), (1, 1))
    assert layers["layer2.0.downsample.0"][0].padding == ((0, 0), (0, 0))
    assert (layers["bn1"][0].momentum, layers["bn1"][0].epsilon) == (0.9, 1e-5)
    assert resnet(18, (33, 65, 3), include_top=False).graph().output_shapes == ((2, 3, 512),)
    assert resnet(18, (33, 65, 3), include_top=False, pooling="max").graph().output_shapes == ((512,),)
    assert repr(layers["fc"][0].activation) == "Softmax()"
    frozen = resnet(18, (32, 32, 3), trainable=False)
    assert not any(declared.trainable for declared in frozen.graph().parameters().values())


def test_resnet_as_a_layer():
    spec = nnkit.Sequential([nnkit.Input((32, 32, 3)), resnet(18, (32, 32, 3), include_top=False, pooling="avg"), nnkit.Dense(2, "softmax")])
    model = nnkit.compile(spec, optimizer=nnkit.SGD(0.01), loss="sparse_categorical_crossentropy", seed=0)
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3), dtype=np.float32)
    before = model.parameters["resnet18/conv1/kernel"].copy()
    assert np.isfinite(model.train_on_batch(x, [0, 1, 0, 1])["loss"])
    assert (model.parameters["resnet18/conv1/kernel"] != before).any()


# LeNet and multilayer perceptrons.

@pytest.mark.parametrize(("network", "parameters", "shapes"), [
    (lenet(), 61_706, [(28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16)]),
    (lenet((28, 28, 1), padding="same"), 61_706, [(28, 28, 6), (14, 14, 6), (10, 10, 16), (5, 5, 16)]),
    (lenet((28, 28, 1)), 44_426, [(24, 24, 6), (12, 12, 6), (8, 8, 16), (4, 4, 16)]),
    (lenet((17, 40, 3), classes=4, activation="relu", pooling="max"), 6 * 76 + 16 * 151 + sizes((16 * 7, 120), (120, 84), (84, 4)),
     [(13, 36, 6), (6, 18, 6), (2, 14, 16), (1, 7, 16)]),
], ids=["classic", "mnist-same", "mnist-valid", "other"])
def test_lenet(network, parameters, shapes):
    graph = network.graph()
    assert [node.name for node in graph.nodes] == ["input", "c1", "s2", "c3", "s4", "flatten", "c5", "f6", "output"]
    assert [node.shape for node in graph.nodes[1:5]] == shapes
    assert sum(declared.size for declared in graph.parameters().values()) == parameters
    assert from_json(to_json(network)) == network


def test_lenet_arguments():
    layers = {node.name: node.layer for node in lenet((28, 28, 1), activation="relu", pooling="max").graph().nodes}
    assert [repr(layers[name].activation) for name in ("c1", "c3", "c5", "f6", "output")] == ["ReLU()"] * 4 + ["Softmax()"]
    assert type(layers["s2"]) is type(layers["s4"]) is nnkit.MaxPooling2D


def test_mlp():
    network = mlp(20, 3, hidden=(8, 5), activation="tanh", output_activation="softmax", dropout=0.25)
    layers = {node.name: node.layer for node in network.graph().nodes}
    assert list(layers) == ["input", "hidden_1", "dropout_1", "hidden_2", "dropout_2", "output"]
    assert [repr(layers[name].activation) for name in ("hidden_1", "hidden_2", "output")] == ["Tanh()", "Tanh()", "Softmax()"]
    assert layers["dropout_2"].rate == 0.25
    assert sum(declared.size for declared in network.graph().parameters().values()) == sizes((20, 8), (8, 5), (5, 3))
    normalized = mlp(20, 1, hidden=(8,), batch_norm=True)
    assert [node.name for node in normalized.graph().nodes] == ["input", "hidden_1", "norm_1", "activation_1", "output"]
    assert "hidden_1/bias" not in normalized.graph().parameters()
    assert [node.name for node in mlp(4, 2, hidden=()).graph().nodes] == ["input", "output"]
    for declared in (network, normalized):
        assert from_json(to_json(declared)) == declared


@pytest.mark.parametrize(("network", "epochs"), [
    (mlp(64, 10, hidden=(32,), output_activation="softmax", batch_norm=True, dropout=0.1), 15),
    (lenet((16, 16, 1)), 15),
], ids=["mlp", "lenet"])
def test_digits_are_learnt(network, epochs):
    """Ten classes: chance is 0.1. Each of the seeds 1 to 4 reaches 0.91 on the last third, which others wrote."""
    images = DIGITS if len(network.layers[0].shape) == 1 else np.repeat(np.repeat(DIGITS.reshape(-1, 8, 8, 1), 2, axis=1), 2, axis=2)
    labels = load_digits().target
    model = nnkit.compile(network, optimizer=nnkit.Adam(3e-3), loss="sparse_categorical_crossentropy", metrics=["accuracy"], seed=1)
    model.fit(images[:1200], labels[:1200], epochs=epochs, batch_size=32, verbose=0)
    assert model.evaluate(images[1200:], labels[1200:])["accuracy"] > 0.85


# Images and labels of ImageNet.

@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", ">f4"])
def test_preprocessing(dtype):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3)).astype(dtype)
    before, exact = images.copy(), images.astype(np.float64)
    keras, torchvision = preprocess_input(images), preprocess_input(images, mode="torchvision")
    np.testing.assert_array_equal(images, before)
    expected = "float64" if dtype == "float64" else "float32"
    tolerance = 1e-13 if dtype == "float64" else 1e-4            # numbers up to 151, rounded at 1.1e-16 or 6e-8
    for found, reference in ((keras, exact[..., ::-1] - [103.939, 116.779, 123.68]),
                             (torchvision, (exact / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])):
        assert found.dtype == expected
        assert found.flags.c_contiguous
        assert not np.shares_memory(found, images)
        np.testing.assert_allclose(found, reference, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(preprocess_input(images[0]), keras[0])


def test_refused_images():
    refused("mode must be 'keras' or 'torchvision', received 'caffe'", preprocess_input, np.zeros((4, 4, 3)), "caffe")
    refused("images must have shape (..., height, width, 3), received (3, 4, 4)", preprocess_input, np.zeros((3, 4, 4)))
    refused("images must have shape (..., height, width, 3), received (4, 3)", preprocess_input, np.zeros((4, 3)))
    refused("images must be numbers from 0 to 255, received an array of bool", preprocess_input, np.zeros((4, 4, 3), bool), error=TypeError)


def test_labels(tmp_path):
    index, text, numbered = tmp_path / "index.json", tmp_path / "labels.txt", tmp_path / "synset_words.txt"
    index.write_text('{"0": ["n01440764", "tench"], "2": ["n02012849", "crane"], "1": ["n03126707", "crane"]}')
    text.write_text("tench\ngreat white shark\n")
    numbered.write_text("\ufeffn01440764 tench, Tinca tinca\nn01443537 goldfish\n", encoding="utf-8")
    assert read_labels(index) == (("n01440764", "tench"), ("n03126707", "crane"), ("n02012849", "crane"))
    assert read_labels(str(text)) == (Label("", "tench"), Label("", "great white shark"))
    assert read_labels(numbered) == (("n01440764", "tench, Tinca tinca"), ("n01443537", "goldfish"))
    found = decode_predictions([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]], read_labels(index), top=2)
    assert found == [[("n03126707", "crane", 0.5), ("n02012849", "crane", 0.3)], [("n01440764", "tench", 0.4), ("n02012849", "crane", 0.4)]]


@pytest.mark.parametrize(("content", "rule"), [
    (b"", "must be one a line, received none"),
    (b"tench\n\nshark\n", "must be one a line, received a blank line"),
    (b"\xff\xfe\x00", "must be UTF-8 text: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    (b'{"0": ["a", "b"]', "must be JSON: Expecting ',' delimiter: line 1 column 17 (char 16)"),
    (b"{}", "must name at least one class, received none"),
    (b'{"1": ["a", "b"]}', "must have [id, name] for every class from '0' to '0', received None for '0'"),
    (b'{"0": ["a", "b"], "1": ["a"]}', "must have [id, name] for every class from '0' to '1', received ['a'] for '1'"),
])
def test_refused_labels(tmp_path, content, rule):
    path = tmp_path / "labels"
    path.write_bytes(content)
    refused(f"labels in {str(path)!r} {rule}", read_labels, path, error=FormatError)


def test_deep_json_is_refused(tmp_path):
    """Nested too deeply for Python's stack, or for its patience: an error, not a crash."""
    path = tmp_path / "labels.json"
    path.write_text('{"0": ' + "[" * 200_000)
    with pytest.raises(FormatError, match=r"^labels in .* must be JSON: "):
        read_labels(path)


def test_refused_predictions():
    labels = (Label("", "a"), Label("", "b"))
    refused("predictions must be numbers of shape (samples, 2), as there are labels, received float64 of shape (2,)",
            decode_predictions, [0.1, 0.9], labels)
    refused("predictions must be numbers of shape (samples, 2), as there are labels, received float64 of shape (1, 3)",
            decode_predictions, [[0.1, 0.9, 0.0]], labels)
    refused("top must be a whole number at least 1, received 0", decode_predictions, [[0.1, 0.9]], labels, top=0)
    refused("top must be at most 2, the number of labels, received 5", decode_predictions, [[0.1, 0.9]], labels)


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
