"""The same networks in PyTorch and in Keras: predictions, loss, gradients, moving statistics, training. Skipped where these are not installed.

Chains of layers are drawn at random (parity_draw.py): a fixed sample, one test each, and a larger one with the seed of NNKIT_SWEEP_SEED. A failed
test's name begins with the network's number and shows its declaration; `draw(SEED, number)` makes it again. Graphs are drawn by hypothesis, always
the same, and a failed one is shown in its simplest form.
"""

from __future__ import annotations

import collections
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import cases_merge
import nnkit
from helpers import Rig
from nnkit.layers.activation import REGISTERED
from nnkit.layers.conv import Convolutional
from nnkit.spec import SHORTHANDS
from parity_draw import ACTIVATIONS, Drawn, DrawnGraph, GraphResults, Results, draw, draw_graph, run_nnkit, run_nnkit_graph
from sweeps import BLOCKS, sweep

SEED = 1
FIXED = [draw(SEED, number) for number in range(240)]
GRAPHS = 400

# All in float64, whose rounding is 1e-16; the most that 3,000 networks of other seeds were off stands behind each. Predictions and losses pass at
# most six sums of at most 6,000 terms (3.0e-14, 2.4e-15). Gradients pass normalizations, which multiply by up to 1 / sqrt(epsilon) = 32 each, and
# before some of them are 0 as a difference of large terms; so their error is measured against the largest entry of all gradients too (1.6e-10).
# Adam and its kin divide by the size of a gradient, which lifts the rounding of one near 0 (five updates: 7.4e-10). A wrong formula, or float32
# within one, is off by 1e-8 and more.
PREDICTIONS, LOSS, GRADIENTS, TRAINED = 1e-12, 1e-12, 1e-9, 1e-8
CANCELLED = 1e-2                                         # of the largest gradient: arrays that are smaller are held to the error of this
DIVERGED = 30                                            # parameters beyond: the updates amplify every rounding, up to overflow; not compared
CLIPPED = 1e-6                                           # probabilities nearer to 0 or 1 may be clipped elsewhere (at 1e-7)

Run = Callable[[Drawn], Results]

# What Keras says about drawn oddities and about NumPy 2.
quiet = pytest.mark.filterwarnings("ignore:You are using a softmax over axis:UserWarning", "ignore:The model does not have any trainable:UserWarning",
                                   "ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def run_torch() -> Run:
    pytest.importorskip("torch")
    import parity_torch
    return parity_torch.run


@pytest.fixture(scope="module")
def run_keras() -> Run:
    import parity_keras
    return parity_keras.run


def assert_near(found: np.ndarray, expected: np.ndarray, tolerance: float, floor: float, what: str) -> None:
    """|found - expected| <= tolerance * max(floor, largest |expected|)."""
    assert np.shape(found) == np.shape(expected), f"{what}: shape {np.shape(found)}, expected {np.shape(expected)}"
    scale = max(floor, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, err_msg=what)


def assert_parity(drawn: Drawn, run: Run) -> None:
    found, expected = run_nnkit(drawn), run(drawn)
    assert_near(found.predictions, expected.predictions, PREDICTIONS, 1, "predictions")
    if is_clipped(drawn, expected.predictions):
        return
    assert_near(np.float64(found.loss), np.float64(expected.loss), LOSS, 1, "loss")
    assert found.gradients.keys() == expected.gradients.keys()
    clipped = [is_clipped(drawn, y) for y in expected.outputs]
    if clipped[:1] == [True]:
        return
    largest = max((np.abs(values).max(initial=0) for values in expected.gradients.values()), default=0)
    for name, values in expected.gradients.items():
        assert_near(found.gradients[name], values, GRADIENTS, CANCELLED * max(1, largest), f"gradient of {name}")
    assert len(expected.trained) <= len(found.trained)
    for update, parameters in enumerate(expected.trained):
        assert parameters.keys() <= found.trained[update].keys()
        if clipped[update] or any(not np.abs(values).max(initial=0) <= DIVERGED for values in parameters.values()):
            return
        for name, values in parameters.items():
            assert_near(found.trained[update][name], values, TRAINED, 1, f"{name} after update {update + 1}")


def is_clipped(drawn: Drawn, y: np.ndarray) -> bool:
    """Whether the other library's loss clips these probabilities where nnkit's takes the logits, and rightly differs."""
    return drawn.clips and y.size > 0 and bool(((y < CLIPPED) | (y > 1 - CLIPPED)).any())


@pytest.mark.parametrize("drawn", FIXED, ids=str)
def test_torch(drawn, run_torch):
    assert_parity(drawn, run_torch)


@quiet
@pytest.mark.parametrize("drawn", FIXED, ids=str)
def test_keras(drawn, run_keras):
    assert_parity(drawn, run_keras)


@pytest.mark.sweep
@pytest.mark.parametrize("block", range(BLOCKS))
def test_torch_sweep(block, run_torch):
    sweep(block, draw, lambda drawn: assert_parity(drawn, run_torch))


@pytest.mark.sweep
@quiet
@pytest.mark.parametrize("block", range(BLOCKS))
def test_keras_sweep(block, run_keras):
    sweep(block, draw, lambda drawn: assert_parity(drawn, run_keras))


# Networks as graphs: shared layers, tensors that feed several layers, merge layers, nested networks, several inputs and outputs.

graphs = st.composite(lambda draw: draw_graph(lambda options: draw(st.sampled_from(options))))()


def assert_graph_parity(drawn: DrawnGraph, run: Callable[[DrawnGraph], GraphResults]) -> None:
    found, expected = run_nnkit_graph(drawn), run(drawn)
    for name, y, other in zip(drawn.declared.network.output_names, found.predictions, expected.predictions, strict=True):
        assert_near(y, other, GRADIENTS, 1, name)
    assert_near(np.float64(found.loss), np.float64(expected.loss), GRADIENTS, 1, "loss")
    assert found.gradients.keys() == expected.gradients.keys()
    largest = max(np.abs(values).max(initial=0) for values in expected.gradients.values())
    for name, values in expected.gradients.items():
        assert_near(found.gradients[name], values, GRADIENTS, CANCELLED * max(1, largest), f"gradient of {name}")


def test_graphs_in_torch():
    pytest.importorskip("torch")
    from parity_torch import run_graph

    drawings = []

    @settings(max_examples=GRAPHS, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=[Phase.generate, Phase.shrink])
    @given(drawn=graphs)
    def check(drawn):
        drawings.append(drawn)
        assert_graph_parity(drawn, run_graph)

    check()
    assert_graphs_cover(drawings)


def assert_graphs_cover(drawings: list[DrawnGraph]) -> None:
    """All that was to be drawn has been, and not just once."""
    assert len(drawings) >= GRAPHS
    graphs = [drawn.declared.network.graph() for drawn in drawings]
    kinds = collections.Counter(kind for graph in graphs for kind in {type(node.layer) for node in graph.nodes})
    for kind in (nnkit.Add, nnkit.Subtract, nnkit.Multiply, nnkit.Average, nnkit.Maximum, nnkit.Minimum, nnkit.Concatenate, nnkit.Dot, nnkit.Dense,
                 nnkit.LayerNormalization, nnkit.Activation):
        assert kinds[kind] > 0.02 * GRAPHS, kind
    names = [collections.Counter(node.name for node in graph.nodes) for graph in graphs]
    uses = [collections.Counter(index for node in graph.nodes for index in node.inputs) for graph in graphs]
    for what, often in (("shared layers", sum(max(counts.values()) > 1 for counts in names)),
                        ("tensors that feed three layers", sum(max(counts.values()) > 2 for counts in uses)),
                        ("nested networks", sum(bool(drawn.declared.nested) for drawn in drawings)),
                        ("three inputs", sum(len(graph.input_names) == 3 for graph in graphs)),
                        ("three outputs", sum(len(graph.outputs) == 3 for graph in graphs)),
                        ("an output without a loss", sum(None in drawn.losses for drawn in drawings)),
                        ("frozen layers", sum(any(not node.layer.trainable for node in graph.nodes) for graph in graphs)),
                        ("more than ten layers", sum(len(graph.nodes) > 10 for graph in graphs))):
        assert often > 0.05 * GRAPHS, what


MERGES = [case for case in cases_merge.CASES if [type(layer) for layer in case.network.layers].count(nnkit.Input) == len(case.network.layers) - 1]


@quiet
@pytest.mark.parametrize("case", MERGES, ids=[case.id for case in MERGES])
def test_merge_layers_in_keras(case):
    """All rows of the case table that are nothing but a merge layer."""
    import parity_keras

    rng, graph = np.random.default_rng(3), case.network.graph()
    x, dy = (tuple(rng.standard_normal((case.batch, *shape)) for shape in shapes) for shapes in (graph.input_shapes, graph.output_shapes))
    expected, gradients = parity_keras.run_merge(case.network.layers[-1], x, dy[0])
    found = Rig(case.network, {}, case.batch, debug=False).run(x, dy)
    assert_near(found.y, expected, PREDICTIONS, 1, "y")
    for number, (dx, gradient) in enumerate(zip(found.dx, gradients, strict=True)):
        assert_near(dx, gradient, PREDICTIONS, 1, f"gradient of input {number}")


def test_the_sample_covers_what_it_is_drawn_from():
    """Every activation, every option's effect on the shapes, and few networks that can be compared only in part."""
    seen = {type(layer) for drawn in FIXED for layer in drawn.network.layers}
    seen |= {type(layer.activation) for drawn in FIXED for layer in drawn.network.layers if hasattr(layer, "activation")}
    rng = np.random.default_rng(0)
    assert {type(make(rng, (3, 5))) for make in ACTIVATIONS} <= seen
    assert {nnkit.Dense, nnkit.BatchNormalization, nnkit.LayerNormalization, nnkit.Activation} <= seen
    assert {drawn.batch for drawn in FIXED} >= {1, 2, 97}
    assert {len(drawn.input_shape) for drawn in FIXED} == {1, 2, 3, 4}
    convolutions = collections.Counter(type(layer) for drawn in FIXED for layer in drawn.network.layers if isinstance(layer, Convolutional))
    assert {*convolutions} >= {nnkit.Conv1D, nnkit.Conv2D, nnkit.Conv3D, nnkit.Conv2DTranspose, nnkit.DepthwiseConv2D, nnkit.SeparableConv2D}
    assert convolutions.total() > 0.2 * len(FIXED)
    dense = [sum(isinstance(layer, nnkit.Dense) for layer in drawn.network.layers) for drawn in FIXED]
    assert set(dense) == {1, 2, 3, 4}
    assert any(drawn.weighted for drawn in FIXED)
    assert sum(drawn.updates == 0 for drawn in FIXED) < 0.1 * len(FIXED)
    assert sum(drawn.updates > 1 for drawn in FIXED) > 0.25 * len(FIXED)


def test_names_of_activations_in_keras():
    """A name stands for Keras' function, whose defaults are not always those of its layer. float32, up to a few roundings of e^6."""
    keras = pytest.importorskip("keras")
    x = np.linspace(-6, 6, 97, dtype=np.float32).reshape(1, -1)
    names = [name for family, name in SHORTHANDS if family == "activation" and name not in ("prelu", *REGISTERED)]
    assert None in names
    assert "leaky_relu" in names
    for name in names:
        model = nnkit.compile(nnkit.Sequential([nnkit.Input((97,)), nnkit.Activation(name)]))
        expected = keras.ops.convert_to_numpy(keras.activations.get(name)(keras.ops.convert_to_tensor(x)))
        np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5, atol=1e-6, err_msg=str(name))
