"""Merge layers beyond the case table: ties, NaN, rounding, what they cost in steps, refusals."""

import re

import numpy as np
import pytest

import nnkit
from helpers import Rig, assert_close, assert_same_bits
from nnkit import Activation, Add, Average, Concatenate, Dense, Dot, Input, Maximum, Minimum, Multiply, Network, Subtract

PAIRS = [Add(), Subtract(), Multiply(), Average(), Maximum(), Minimum()]


def rig_of(layer, *shapes, batch=3, dtype="float64"):
    inputs = [Input(shape) for shape in shapes]
    return Rig(Network(inputs, layer(inputs)), {}, batch, dtype=dtype, debug=False)


def steps_of(network, mode="gradients", batch=4, inputs=True):
    """The kernels of the network's layers, without their modules."""
    model = nnkit.compile(network, loss=nnkit.MeanSquaredError())
    steps = model.build_plan(mode, batch, input_gradients=inputs).steps
    return [step.kernel.split(".")[-1] for step in steps if step.layer and "loss" not in step.layer]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_are_rounded_once_a_pair(dtype):
    """The very bits of NumPy, pair after pair; of Average, the sum times the rounded 1/3."""
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, 3, 37)).astype(dtype)
    expected = {Add: a + b + c, Multiply: a * b * c, Maximum: np.maximum(np.maximum(a, b), c), Minimum: np.minimum(np.minimum(a, b), c),
                Average: (a + b + c) * np.array(1 / 3, dtype)}
    for cls, y in expected.items():
        assert_same_bits(rig_of(cls(), (37,), (37,), (37,), dtype=dtype).predict((a, b, c)), y, cls.__name__)
    assert_same_bits(rig_of(Subtract(), (37,), (37,), dtype=dtype).predict((a, b)), a - b)


def test_of_equal_numbers_the_first_gets_the_gradient():
    x = np.array([[1.0, 2.0, 0.0, -0.0]])
    dy = np.array([[3.0, 5.0, 7.0, 11.0]])
    for cls in (Maximum, Minimum):
        found = rig_of(cls(), (4,), (4,), (4,), batch=1).run((x, x.copy(), x.copy()), dy).dx
        np.testing.assert_array_equal(found, [dy, 0 * dy, 0 * dy])
    later = rig_of(Maximum(), (1,), (1,), (1,), batch=1).run(tuple(np.array([[value]]) for value in (0.0, 2.0, 2.0)), np.array([[3.0]])).dx
    np.testing.assert_array_equal(later, np.array([0.0, 3.0, 0.0]).reshape(3, 1, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinities(dtype):
    """Also in the part of a loop that is vector code, and where the result is written over the first input."""
    values = np.array([np.nan, np.inf, -np.inf, 1.0])
    a, b = (np.tile(grid.reshape(-1), 9)[None] for grid in np.meshgrid(values, values, indexing="ij"))
    with np.errstate(invalid="ignore"):
        expected = {Maximum: np.maximum(a, b), Minimum: np.minimum(a, b), Add: a + b, Multiply: a * b, Subtract: a - b}
    for cls, y in expected.items():
        rig = rig_of(cls(), a.shape[1:], b.shape[1:], batch=1, dtype=dtype)
        np.testing.assert_array_equal(rig.predict((a, b)), y, err_msg=cls.__name__)
    first, second = rig_of(Maximum(), a.shape[1:], b.shape[1:], batch=1, dtype=dtype).run((a, b), np.ones_like(a)).dx
    np.testing.assert_array_equal(first + second, 1)
    np.testing.assert_array_equal(first == 1, np.isnan(a) | (a >= b))


def test_a_sum_costs_one_step_and_nothing_in_backward():
    a, b, c = Input((5,)), Input((5,)), Input((5,))
    assert steps_of(Network([a, b], Add()([a, b]))) == ["sum_of_two"]
    assert steps_of(Network([a, b, c], Add()([a, b, c]))) == ["sum_of_two"] * 2
    assert steps_of(Network([a, b], Subtract()([a, b]))) == ["sum_forward", "sum_backward"]
    assert steps_of(Network([a, b, c], Average()([a, b, c]))) == ["sum_of_two", "sum_forward", "sum_backward"]
    assert steps_of(Network([a, b], Multiply()([a, b]))) == ["multiply"] * 3
    assert steps_of(Network([a, b], Maximum()([a, b]))) == ["extreme_forward"] + ["extreme_backward"] * 2


def test_gradients_that_nobody_needs_cost_nothing():
    a, b = Input((5,)), Input((5,))
    layer = Dense(5)
    for merge, steps in ((Multiply(), ["multiply", "multiply"]), (Maximum(), ["extreme_forward", "extreme_backward"]),
                         (Concatenate(), ["concatenate_two", "concatenate_backward"])):
        found = steps_of(Network([a, b], merge([layer(a), b])), inputs=False)
        assert [kernel for kernel in found if not kernel.startswith("dense")] == steps


def test_broadcasting_repeats_only_what_is_smaller():
    a, b, c = Input((2, 3, 5)), Input((5,)), Input((3, 1))
    assert steps_of(Network([a, b], Add()([a, b]))) == ["repeat_forward", "sum_of_two", "repeat_backward"]
    assert steps_of(Network([a, c], Add()([a, c])), "predict") == ["repeat_forward"] * 2 + ["sum_of_two"]
    one = Input((1, 5))
    assert steps_of(Network([b, one], Add()([b, one]))) == ["sum_of_two"]


def test_in_prediction_results_are_written_over_what_nobody_reads():
    x = Input((5,))
    h = [Dense(5, name=f"h{number}")(x) for number in range(3)]
    plan = nnkit.compile(Network(x, Multiply()(h))).build_plan("predict", 4)
    assert plan.storage("multiply/y#2") == "h0/y"


def test_dot_products_take_views_where_they_can():
    """Rows by rows need one transpose, rows by columns none in prediction."""
    a, b = Input((3, 5)), Input((4, 5))
    assert steps_of(Network([a, b], Dot(axes=2)([a, b])), "predict") == ["dot_transpose", "dot_products"]
    c = Input((5, 4))
    assert steps_of(Network([a, c], Dot(axes=(2, 1))([a, c])), "predict") == ["dot_products"]
    v, w = Input((5,)), Input((5,))
    assert steps_of(Network([v, w], Dot(axes=1)([v, w]))) == ["dot_products"] * 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_zeros_and_tiny_rows_are_normalized(dtype):
    """Below a length of 1e-7, rows are divided by 1e-7, and the gradient is that of this division; neither overflows."""
    x = np.array([[0.0, 0.0, 0.0], [3e-9, 0.0, -4e-9], [3.0, 0.0, -4.0], [3e15, 0.0, -4e15]])
    z = np.array([[0.0, 2.0, 0.0]] * 4)
    results = rig_of(Dot(axes=1, normalize=True), (3,), (3,), batch=4, dtype=dtype).run((x, z), np.ones((4, 1)))
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_array_equal(results.y, 0)
    dx, dz = results.dx
    np.testing.assert_allclose(dx, [[0, 1e7, 0], [0, 1e7, 0], [0, 0.2, 0], [0, 2e-16, 0]], rtol=tolerance)
    np.testing.assert_allclose(dz, [[0, 0, 0], [0.015, 0, -0.02], [0.3, 0, -0.4], [0.3, 0, -0.4]], rtol=tolerance, atol=1e-30)


def test_cosines():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 7))
    rig = rig_of(Dot(axes=1, normalize=True), (7,), (7,), batch=4)
    assert_close(rig.predict((x, 3 * x)), np.ones((4, 1)), 1e-14)
    assert_close(rig.predict((x, -0.1 * x)), -np.ones((4, 1)), 1e-14)


def test_one_tensor_twice_is_not_written_over():
    x = Input((5,))
    values = np.random.default_rng(2).standard_normal((3, 5))
    for layer, expected in ((Add(), 2 * values), (Subtract(), 0 * values), (Multiply(), values**2), (Average(), values), (Maximum(), values)):
        h = Activation("linear")(x)
        assert_close(Rig(Network(x, layer([h, h])), {}, 3).predict(values), expected, 1e-15, type(layer).__name__)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Add().output_shape((3,), (4,)), "Add: the shapes of its inputs' samples must broadcast against each other: aligned at the last axis, "
                                             "sizes must be equal or 1, received (3,) and (4,)"),
    (lambda: Maximum().output_shape((2, 3), (3,), (2,)), "Maximum: the shapes of its inputs' samples must broadcast against each other: aligned at "
                                                         "the last axis, sizes must be equal or 1, received (2, 3) and (3,) and (2,)"),
    (lambda: Multiply().output_shape((0,), (2,)), "Multiply: the shapes of its inputs' samples must broadcast against each other: aligned at the "
                                                  "last axis, sizes must be equal or 1, received (0,) and (2,)"),
    (lambda: Concatenate(1.5), "Concatenate: axis must be a whole number, received 1.5"),
    (lambda: Concatenate(0).output_shape((3,), (3,)), "Concatenate: axis must name an axis of the input other than the batch (axis 0), received "
                                                      "axis 0 for samples of shape (3,)"),
    (lambda: Concatenate().output_shape((), ()), "Concatenate: axis must name an axis of the input other than the batch (axis 0), received axis -1 "
                                                 "for samples of shape ()"),
    (lambda: Concatenate().output_shape((2, 3), (3, 3)), "Concatenate: the shapes of its inputs' samples must be equal but for axis -1, received "
                                                         "(2, 3) and (3, 3)"),
    (lambda: Concatenate(axis=1).output_shape((2,), (3, 3)), "Concatenate: the shapes of its inputs' samples must be equal but for axis 1, received "
                                                             "(2,) and (3, 3)"),
    (lambda: Dot(0), "Dot: axes must be a whole number or two of them, none of them 0 (the batch), received 0"),
    (lambda: Dot((1, 0)), "Dot: axes must be a whole number or two of them, none of them 0 (the batch), received (1, 0)"),
    (lambda: Dot((1, 2, 3)), "Dot: axes must be a whole number or two of them, none of them 0 (the batch), received (1, 2, 3)"),
    (lambda: Dot(True), "Dot: axes must be a whole number or two of them, none of them 0 (the batch), received True"),
    (lambda: Dot("1"), "Dot: axes must be a whole number or two of them, none of them 0 (the batch), received '1'"),
    (lambda: Dot(1, normalize=1), "Dot: normalize must be True or False, received 1"),
    (lambda: Dot(2).output_shape((3,), (3, 3)), "Dot: axis must name an axis of the input other than the batch (axis 0), received axis 2 for samples "
                                                "of shape (3,)"),
    (lambda: Dot(1).output_shape((3, 5), (4, 5)), "Dot: the axes 1 of the two inputs must have one size, received samples of shapes (3, 5) and "
                                                  "(4, 5)"),
])
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_axes_are_plain_numbers():
    assert Dot(np.int64(2)) == Dot(2)
    assert Dot([1, np.int32(2)]) == Dot((1, 2))
    assert repr(Dot([1, 2], normalize=True)) == "Dot((1, 2), normalize=True)"
