"""Weights of random PyTorch networks, saved by PyTorch in all of its forms and loaded into the same networks in nnkit: equal predictions.

Skipped where PyTorch is not installed. Networks are drawn at random (parity_weights.py): a fixed sample, and a sweep with the seed of
NNKIT_SWEEP_SEED.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nnkit
from nnkit.io.torch_layout import TABLE, from_torch
from nnkit.io.torch_pickle import read_pickled

torch = pytest.importorskip("torch")

import parity_graph  # noqa: E402
from parity_weights import DrawnWeights, draw_weights  # noqa: E402
from sweeps import sweep_seed  # noqa: E402

SEED, COUNT, BLOCKS = 1, 180, 10
FORMS = ("zip", "older", "safetensors")

# Of the largest prediction or 1. float32 rounds at 6e-8; sums of up to 500 terms, each layer after the other.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def saved(drawn: DrawnWeights, folder: Path) -> dict[str, np.ndarray]:
    """The state_dict, by way of a file; one of safetensors does not keep the order of names."""
    state = drawn.modules.state_dict()
    form = FORMS[drawn.number // 9 % (2 if drawn.style == "order" else 3)]
    path = folder / "weights"
    if form == "safetensors":
        numpy = pytest.importorskip("safetensors.numpy")
        pytest.importorskip("safetensors.torch").save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        return numpy.load_file(path)
    torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    return read_pickled(path)


def assert_same_predictions(drawn: DrawnWeights, state: dict[str, np.ndarray]) -> None:
    if drawn.style == "order" and list(state) == sorted(state):
        return                                           # for want of biases; then their order is not trusted, see tests/test_torch_weights.py
    model = nnkit.compile(drawn.network, dtype=drawn.dtype)
    arrays, unused = from_torch(state, drawn.network.graph(), drawn.names)
    assert arrays.keys() == model.parameters.keys()
    assert unused == ()
    model.set_parameters(arrays)
    x = drawn.data(3)
    found, expected = model.predict(x), drawn.expected(x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[drawn.dtype] * max(1, np.abs(expected).max(initial=0)))


@pytest.mark.parametrize("number", range(COUNT))
def test_weights(tmp_path: Path, number: int) -> None:
    drawn = draw_weights(SEED, number)
    assert_same_predictions(drawn, saved(drawn, tmp_path))


@pytest.mark.sweep
@pytest.mark.parametrize("block", range(BLOCKS))
def test_sweep(tmp_path: Path, block: int) -> None:
    seed = sweep_seed()
    for number in range(100 * block, 100 * block + 100):
        drawn = draw_weights(seed, number)
        try:
            assert_same_predictions(drawn, saved(drawn, tmp_path))
        except Exception as error:
            raise AssertionError(f"{seed}, {drawn}") from error


@pytest.mark.parametrize("number", range(24))
def test_layers_on_graphs(number: int) -> None:
    """By the names that tensors have in PyTorch Geometric's modules."""
    pytest.importorskip("torch_geometric")
    drawn = parity_graph.draw_on_graph(3, number)
    states: dict[str, np.ndarray] = {}
    call = parity_graph.call
    at = 0

    def kept(module, given, *inputs):                    # as state_dict would have them, in its own order
        nonlocal at
        names = [*module.state_dict()]
        if names and all(name in given for name in names):
            states.update({f"conv{at}.{name}": given[name].detach().numpy() for name in names})
        at += 1
        return call(module, given, *inputs)
    parity_graph.call = kept
    try:
        parity_graph.in_pyg(drawn)
    finally:
        parity_graph.call = call
    parameters = drawn.parameters()
    graph = drawn.network.graph()
    if len(states) != len(parameters):                   # a layer made of parts, for want of weighted sums in PyTorch Geometric's
        pytest.skip("PyTorch Geometric has no such layer")
    names = {node.name: f"conv{position}" for position, node in enumerate(graph.nodes[2:2 + len(drawn.layers)])}
    arrays, unused = from_torch(states, graph, names)
    assert unused == ()
    assert arrays.keys() == parameters.keys()
    for name, values in parameters.items():
        np.testing.assert_array_equal(arrays[name], values)


def test_the_sample_has_every_layer_of_the_table() -> None:
    drawn = [type(layer) for number in range(COUNT) for layer in draw_weights(SEED, number).layers]
    graphs = [type(layer) for number in range(24) for layer in parity_graph.draw_on_graph(3, number).layers]
    missing = {cls.__name__ for cls in TABLE if not any(issubclass(other, cls) for other in [*drawn, *graphs])}
    assert missing == {"TimeDistributed"}                # see the test below


def test_time_distributed() -> None:
    """The same layers at every step: images into rows into a recurrent layer."""
    from torch import nn

    torch.manual_seed(0)
    conv, fc, rnn = nn.Conv2d(2, 3, 2), nn.Linear(3 * 3 * 2, 4), nn.GRU(4, 3, batch_first=True)
    spec = nnkit.Sequential([nnkit.Input((5, 4, 3, 2)), nnkit.TimeDistributed(nnkit.Conv2D(3, 2)), nnkit.TimeDistributed(nnkit.Flatten()),
                             nnkit.TimeDistributed(nnkit.Dense(4)), nnkit.GRU(3)])
    modules = nn.ModuleList([conv, fc, rnn]).double()
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 3, 2))
    with torch.no_grad():
        images = torch.as_tensor(x).permute(0, 1, 4, 2, 3)
        expected = rnn(fc(conv(images.flatten(0, 1)).flatten(1)).reshape(2, 5, 4))[0][:, -1].numpy()
    model = nnkit.compile(spec, dtype="float64")
    arrays, unused = from_torch({name: tensor.numpy() for name, tensor in modules.state_dict().items()}, spec.graph())
    assert unused == ()
    model.set_parameters(arrays)
    np.testing.assert_allclose(model.predict(x), expected, rtol=0, atol=1e-12)
