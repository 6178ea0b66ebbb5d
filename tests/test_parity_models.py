"""VGG16 and ResNets of nnkit beside those of PyTorch and Keras: the same random parameters, outputs, all gradients, moving statistics. Skipped where
these are not installed. The networks in PyTorch are written out here, with torchvision's names of modules; torchvision is not needed."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest

import nnkit
from helpers import Rig
from nnkit.io.report import source_name
from nnkit.models import resnet, vgg16
from nnkit.models.vgg16 import TORCH_NAMES

os.environ.setdefault("KERAS_BACKEND", "torch")
torch = pytest.importorskip("torch")
torch.set_num_threads(2)

# Float64: of each array's largest number. Sums here have up to 4,608 terms and pass up to 36 layers, each number of which is off by 1.1e-16; the most
# that four seeds were off is 1.6e-14 for VGG16, 8.9e-14 for ResNets, whose last normalizations divide by the deviation of few rows. A wrong formula,
# or float32 within one, is off by 1e-7 and more.
DOUBLE = 1e-12
# Float32, outputs: likewise, with 6e-8 for 1.1e-16 (1.1e-5 in four seeds).
SINGLE = 2e-4
# Float32, gradients: there are a million ReLUs, so in every other draw one has an input that rounding takes across 0, and all of the gradient through
# it is there or not (1e-5 without, up to 0.03 with one, of the array's Euclidean norm). What is wrong is off by as much as it is large.
FLIPPED = 0.2


def parameters_of(network, rng):
    """Random parameters that keep numbers near 1 through many layers, by name: nothing stays at 0 or 1, so that a mix-up shows."""
    found = {}
    for name, declared in network.graph().parameters().items():
        kind, shape = name.rpartition("/")[2], declared.shape
        if kind == "kernel":
            found[name] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
        elif kind in ("gamma", "moving_variance"):
            found[name] = rng.uniform(0.5, 1.5, shape)
        else:
            found[name] = 0.1 * rng.standard_normal(shape)
    return found


def in_nnkit(network, parameters, x, dy, dtype):
    """y in training, the gradients by x and all trainable parameters, y of prediction."""
    rig = Rig(network, parameters, len(x), dtype=dtype, debug=False, threads=2)
    results = rig.run(x, dy)
    return {"y": results.y, "x": results.dx, **results.gradients, "prediction": rig.predict(x)}


def assert_near(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        np.testing.assert_allclose(found[name], values, rtol=0, atol=tolerance * np.abs(values).max(), err_msg=name)


def assert_parity(network, parameters, x, dy, expected):
    """Float64 number by number, float32 as far as it goes."""
    assert_near(in_nnkit(network, parameters, x, dy, "float64"), expected, DOUBLE)
    found = in_nnkit(network, parameters, x, dy, "float32")
    for name in ("y", "prediction"):
        assert_near({name: found[name]}, {name: expected[name]}, SINGLE)
    for name, values in expected.items():
        assert np.linalg.norm(found[name] - values) < FLIPPED * np.linalg.norm(values), name


# PyTorch.

def torch_vgg16(flattened: int, classes: int):
    """torchvision's modules, without the adaptive pooling (which changes nothing at 224 x 224) and dropout. flattened: numbers before the top."""
    nn = torch.nn
    features, channels = [], 3
    for filters in (64, 64, "pool", 128, 128, "pool", *[256] * 3, "pool", *[512] * 3, "pool", *[512] * 3, "pool"):
        if filters == "pool":
            features.append(nn.MaxPool2d(2, 2))
        else:
            features += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU()]
            channels = filters
    module = nn.Module()
    module.features = nn.Sequential(*features)
    module.classifier = nn.Sequential(nn.Linear(flattened, 4096), nn.ReLU(), nn.Identity(), nn.Linear(4096, 4096), nn.ReLU(), nn.Identity(),
                                      nn.Linear(4096, classes))
    module.forward = lambda x: torch.softmax(module.classifier(torch.flatten(module.features(x), 1)), 1)
    return module.double()


def block(inputs: int, filters: int, stride: int):
    """torchvision's BasicBlock."""
    nn = torch.nn
    module = nn.Module()
    module.conv1, module.bn1 = nn.Conv2d(inputs, filters, 3, stride, padding=1, bias=False), nn.BatchNorm2d(filters)
    module.conv2, module.bn2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters)
    module.downsample = nn.Sequential(nn.Conv2d(inputs, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)) if stride > 1 else None

    def forward(x):
        h = module.bn2(module.conv2(torch.relu(module.bn1(module.conv1(x)))))
        return torch.relu(h + (x if module.downsample is None else module.downsample(x)))
    module.forward = forward
    return module


def torch_resnet(counts, classes: int):
    """torchvision's ResNet of basic blocks."""
    nn = torch.nn
    module = nn.Module()
    module.conv1, module.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
    module.maxpool, module.fc = nn.MaxPool2d(3, 2, 1), nn.Linear(512, classes)
    stages, inputs = [], 64
    for stage, (count, filters) in enumerate(zip(counts, (64, 128, 256, 512), strict=True), 1):
        first = block(inputs, filters, 2 if stage > 1 else 1)
        stages.append(nn.Sequential(first, *[block(filters, filters, 1) for _ in range(count - 1)]))
        setattr(module, f"layer{stage}", stages[-1])
        inputs = filters

    def forward(x):
        h = module.maxpool(torch.relu(module.bn1(module.conv1(x))))
        for stage in stages:
            h = stage(h)
        return module.fc(h.mean((2, 3)))
    module.forward = forward
    return module.double()


KINDS = {"gamma": "weight", "kernel": "weight", "beta": "bias", "bias": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def torch_name(name, names):
    layer, _, kind = name.rpartition("/")
    return f"{source_name(layer, names)}.{KINDS[kind]}"


def to_torch(values, name, flattened):
    """An array in PyTorch's layout. flattened: (height, width, channels) before the layer fc1, which takes channels first there."""
    if name == "fc1/kernel":
        return values.reshape(*flattened, -1).transpose(3, 2, 0, 1).reshape(values.shape[1], -1)
    return values.transpose(3, 2, 0, 1) if values.ndim == 4 else values.T


def from_torch(values, name, flattened):
    """The same backward."""
    if name == "fc1/kernel":
        height, width, channels = flattened
        return values.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, len(values))
    return values.transpose(2, 3, 1, 0) if values.ndim == 4 else values.T


def in_torch(module, parameters, x, dy, names=None, flattened=None):
    """The same as `in_nnkit`; y and the gradient by x of prediction; and the moving statistics after the pass of training."""
    state = {torch_name(name, names): torch.tensor(np.ascontiguousarray(to_torch(values, name, flattened))) for name, values in parameters.items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    rows, dy = torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)), requires_grad=True), torch.tensor(dy)
    prediction = module.eval()(rows)
    (dx,) = torch.autograd.grad(prediction, [rows], dy)
    frozen = {"y": prediction.detach().numpy(), "x": dx.numpy().transpose(0, 2, 3, 1)}
    y = module.train()(rows)
    weights = dict(module.named_parameters())
    gradients = dict(zip(["x", *weights], torch.autograd.grad(y, [rows, *weights.values()], dy), strict=True))
    found = {"y": y.detach().numpy(), "x": gradients["x"].numpy().transpose(0, 2, 3, 1), "prediction": frozen["y"]}
    found |= {name: from_torch(gradients[own].numpy(), name, flattened) for name in parameters if (own := torch_name(name, names)) in gradients}
    moved = {name: module.state_dict()[torch_name(name, names)].numpy() for name in parameters if name not in found}
    return found, frozen, moved


def drawn_vgg16(seed=3):
    rng = np.random.default_rng(seed)
    network = vgg16((64, 32, 3), classes=7)
    return network, parameters_of(network, rng), rng.standard_normal((2, 64, 32, 3)), rng.standard_normal((2, 7))


def drawn_resnet(depth, seed=4):
    rng = np.random.default_rng(seed)
    network = resnet(depth, (64, 40, 3), classes=7, classifier_activation=None)
    return network, parameters_of(network, rng), rng.standard_normal((4, 64, 40, 3)), rng.standard_normal((4, 7))


def test_vgg16_in_torch():
    """Not square, and with 2 x 1 places before the top, so that its order of channels and places shows."""
    network, parameters, x, dy = drawn_vgg16()
    expected, _, _ = in_torch(torch_vgg16(1024, 7), parameters, x, dy, dict(TORCH_NAMES), (2, 1, 512))
    assert_parity(network, parameters, x, dy, expected)


def moved_in_nnkit(network, parameters, x):
    """The moving statistics after a step of training, whose update of the others does not count."""
    model = nnkit.compile(network, optimizer="sgd", loss="mse", dtype="float64")
    model.set_parameters(parameters)
    model.train_on_batch(x, np.zeros((len(x), 7)))
    return {name: model.parameters[name] for name in parameters if "/moving_" in name}


def biased(network, parameters, moved, batch):
    """PyTorch's moving variance is the unbiased one: with n numbers of a channel in the batch, nnkit's step from 0.9 old is (n - 1) / n of its."""
    rows = {f"{node.name}/moving_variance": batch * node.shape[0] * node.shape[1] for node in network.graph().nodes if len(node.shape) == 3}
    found = {}
    for name, values in moved.items():
        old = 0.9 * parameters[name]
        found[name] = old + (values - old) * (1 - 1 / rows[name]) if name in rows else values
    return found


@pytest.mark.parametrize(("depth", "counts"), [(18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))])
def test_resnet_in_torch(depth, counts):
    """Training with the batch's statistics; prediction, and training of a frozen network, with the moving ones."""
    network, parameters, x, dy = drawn_resnet(depth)
    expected, frozen, moved = in_torch(torch_resnet(counts, 7), parameters, x, dy)
    assert_parity(network, parameters, x, dy, expected)
    rig = Rig(resnet(depth, (64, 40, 3), classes=7, classifier_activation=None, trainable=False), parameters, len(x), debug=False, threads=2)
    results = rig.run(x, dy)
    assert not results.gradients
    assert_near({"y": results.y, "x": results.dx}, frozen, DOUBLE)
    found = moved_in_nnkit(network, parameters, x)
    assert_near(found, biased(network, parameters, moved, len(x)), DOUBLE)


def float32(parameters):
    return {name: values.astype(np.float32) for name, values in parameters.items()}


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch(tmp_path, zipped):
    """As torchvision publishes them: the newer form and, for VGG16, the one before; what such files hold is found by torchvision's names."""
    pytest.importorskip("nnkit.io.torch_pickle")
    network, parameters, *_ = drawn_resnet(18) if zipped else drawn_vgg16()
    names, flattened = (None, None) if zipped else (dict(TORCH_NAMES), (2, 1, 512))
    state = {torch_name(name, names): torch.tensor(np.ascontiguousarray(to_torch(values, name, flattened)))
             for name, values in float32(parameters).items()}
    state |= {"bn1.num_batches_tracked": torch.tensor(7)} if zipped else {}
    path = tmp_path / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    if zipped:
        loaded = resnet(18, (64, 40, 3), classes=7, classifier_activation=None, weights=path)
    else:
        loaded = nnkit.Sequential([nnkit.Input((64, 32, 3)), vgg16((64, 32, 3), classes=7, weights=path)])     # names have "vgg16/" in front then
    found = nnkit.compile(loaded).parameters
    assert {name.removeprefix("vgg16/") for name in found} == {*parameters}
    for name, values in found.items():
        np.testing.assert_array_equal(values, parameters[name.removeprefix("vgg16/")].astype(np.float32), err_msg=name)
    other = resnet(18, (64, 40, 3), classes=8, weights=path) if zipped else vgg16((64, 32, 3), classes=8, weights=path)
    with pytest.raises(ValueError, match=rf"^{network.name}: the file .* does not fit the network: \w+/kernel of shape [(]\d+, 8[)] has shape "):
        nnkit.compile(other)


# Keras.

@contextlib.contextmanager
def keras_of(dtype):
    """Keras, which makes its layers of this dtype: of the policy that it took from floatx once, and keeps whatever floatx becomes."""
    from keras.src.backend.common import global_state

    import parity_keras  # settings under which Keras computes in float64

    keras = parity_keras.keras
    floatx, policy = keras.config.floatx(), global_state.get_global_attribute("dtype_policy")
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield keras
    finally:
        keras.config.set_floatx(floatx)
        global_state.set_global_attribute("dtype_policy", policy)


def test_vgg16_in_keras():
    """keras.applications.VGG16: the names and order of its weights, too."""
    network, parameters, x, dy = drawn_vgg16()
    with keras_of("float64") as keras:
        model = keras.applications.VGG16(weights=None, input_shape=(64, 32, 3), classes=7)
        assert [weight.path for weight in model.weights] == list(parameters)
        model.set_weights(list(parameters.values()))
        rows, weights = torch.tensor(x, requires_grad=True), [weight.value for weight in model.trainable_weights]
        y = model(rows, training=True)
        gradients = torch.autograd.grad(y, [rows, *weights], torch.tensor(dy))
        expected = dict(zip(["x", *parameters], [gradient.numpy() for gradient in gradients], strict=True))
        expected |= {"y": y.detach().numpy(), "prediction": model(rows, training=False).detach().numpy()}
    assert_near(in_nnkit(network, parameters, x, dy, "float64"), expected, DOUBLE)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("ending", [".weights.h5", ".h5", ".keras"])
def test_files_of_keras(tmp_path, ending):
    """What keras.applications.VGG16 saves is found by its names, and predicts the same."""
    pytest.importorskip("h5py")
    x, path = np.random.default_rng(6).standard_normal((3, 32, 32, 3)).astype(np.float32), tmp_path / f"vgg16{ending}"
    with keras_of("float32") as keras:
        model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")
        rng = np.random.default_rng(5)
        model.set_weights([rng.standard_normal(weight.shape) * np.sqrt(2 / np.prod(weight.shape[:-1])) for weight in model.weights])
        model.save_weights(path) if ending == ".weights.h5" else model.save(path)
        expected = model.predict(x, verbose=0)
    found = nnkit.compile(vgg16((32, 32, 3), include_top=False, pooling="avg", weights=path))
    for weight, (name, values) in zip(model.weights, found.parameters.items(), strict=True):
        np.testing.assert_array_equal(values, weight.numpy(), err_msg=name)
    assert_near({"y": found.predict(x)}, {"y": expected}, 2e-5)        # thirteen layers in float32, on both sides
