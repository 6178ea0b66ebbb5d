"""A layer, a loss and a metric of one's own: a network of radial basis functions that learns the 90 % quantile of noisy data.

The layer's kernels are plain Python loops with their backward pass written by hand; nnkit compiles them like its own, and `check_gradients` says
whether they are right. The loss is two short functions of two numbers, the metric a few lines of NumPy. docs/extending.md explains every part.
"""

import argparse
import math

import numpy as np

import nnkit
from nnkit import Adam, Dense, Input, RandomUniform, Sequential
from nnkit.extend import (
    Initializer,
    Int,
    Layer,
    Matrix,
    Metric,
    Parameter,
    Real,
    check_gradients,
    initializer_field,
    integer,
    kernel,
    mean_of,
    real,
    register_loss,
    row_share,
    spec,
    weighted_sums,
    work_tasks,
)

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--quick", action="store_true", help="two epochs, to see that everything runs")
options = options.parse_args()


# The layer's kernels. N samples (rows), I inputs, U units.

@kernel
def rbf_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, centers: Matrix, gamma: Real) -> None:
    """y[n, u] = exp(-gamma |x[n] - centers[u]|^2). y [N, U], x [N, I], centers [U, I]. Row-local. Writes y (=)."""
    T = type(gamma)                                          # the plan's own type: T(0) keeps float32 arithmetic in float32
    start, stop = row_share(x.shape[0], tasks, task)         # the rows of this task
    U, I = centers.shape
    for n in range(start, stop):
        for u in range(U):
            distance = T(0)
            for i in range(I):
                distance += (x[n, i] - centers[u, i]) ** 2
            y[n, u] = math.exp(-gamma * distance)


@kernel
def rbf_backward_centers(task: Int, tasks: Int, dcenters: Matrix, dy: Matrix, y: Matrix, x: Matrix, centers: Matrix, gamma: Real) -> None:
    """dcenters[u] = sum_n 2 gamma dy[n, u] y[n, u] (x[n] - centers[u]). Task t covers its share of the units. Writes dcenters (=)."""
    T = type(gamma)
    U, I = centers.shape
    for u in range(U * task // tasks, U * (task + 1) // tasks):
        for i in range(I):
            dcenters[u, i] = T(0)
        for n in range(x.shape[0]):
            scale = T(2) * gamma * dy[n, u] * y[n, u]
            for i in range(I):
                dcenters[u, i] += scale * (x[n, i] - centers[u, i])


@kernel
def rbf_backward_input(task: Int, tasks: Int, dx: Matrix, dy: Matrix, y: Matrix, x: Matrix, centers: Matrix, gamma: Real) -> None:
    """dx[n] = -sum_u 2 gamma dy[n, u] y[n, u] (x[n] - centers[u]). Row-local. Writes dx (=)."""
    T = type(gamma)
    start, stop = row_share(x.shape[0], tasks, task)
    U, I = centers.shape
    for n in range(start, stop):
        for i in range(I):
            dx[n, i] = T(0)
        for u in range(U):
            scale = T(2) * gamma * dy[n, u] * y[n, u]
            for i in range(I):
                dx[n, i] -= scale * (x[n, i] - centers[u, i])


# The layer.

@spec()
class RBF(Layer):
    """y_u = exp(-gamma |x - c_u|^2) over the last axis: bumps around learned centers.

    units: number of bumps, at least 1. gamma: greater than 0; a bump is about 1 / sqrt(gamma) wide. Parameter "centers", shape (units, inputs).
    Input (N, ..., inputs), output (N, ..., units). Broomhead and Lowe, Multivariable functional interpolation and adaptive networks (1988).
    """

    units: int = integer(low=1)
    gamma: float = real(default=1.0, low=0, low_open=True)
    centers_initializer: Initializer = initializer_field(default=RandomUniform(-1.0, 1.0))

    def output_shape(self, shape):
        """The input's shape with `units` as its last entry."""
        if not shape:
            raise ValueError("RBF needs at least one axis besides the batch, received samples of shape ()")
        return (*shape[:-1], self.units)

    def parameters(self, shape):
        """The centers."""
        return {"centers": Parameter((self.units, shape[-1]), self.centers_initializer)}

    def lower(self, g, x):
        """One step forward; backward: the gradients of the centers and of the input."""
        centers = g.parameter("centers")
        y = g.buffer("y", *x.shape[:-1], self.units)
        x2, y2 = x.rows(len(x.shape) - 1), y.rows(len(y.shape) - 1)          # all axes but the last are rows
        rows, flops = x2.shape[0], 4 * x.size * self.units
        g.step(rbf_forward, [y2], [x2, centers], scalars=[self.gamma], rows=rows, flops=flops)

        def backward(dy):
            dy2 = dy.rows(len(dy.shape) - 1)
            g.step(rbf_backward_centers, [g.gradient("centers")], [dy2, y2, x2, centers], scalars=[self.gamma],
                   tasks=work_tasks(flops, x.nbytes, most=self.units), flops=flops)
            dx = g.buffer("dx", *x.shape)
            g.step(rbf_backward_input, [dx.rows(len(x.shape) - 1)], [dy2, y2, x2, centers], scalars=[self.gamma], rows=rows, flops=flops)
            return dx
        g.on_backward(y, [x], backward)
        return y


# The loss: its least value is at the 90 % quantile. Of an error e = t - y, 0.9 e counts where y is too low, -0.1 e where it is too high.

def quantile(y, t):
    """max(0.9 (t - y), -0.1 (t - y))."""
    T = type(y)
    return T(0.9) * (t - y) if t > y else T(0.1) * (y - t)


def quantile_derivative(y, t):
    """In y: -0.9 where y is too low, 0.1 where it is too high."""
    T = type(y)
    return T(-0.9) if t > y else T(0.1)


register_loss("quantile_90", quantile, quantile_derivative)


# The metric.

@spec("coverage")
class Coverage(Metric):
    """The share of targets that are at most the prediction: 0.9 for a perfect 90 % quantile."""

    def update(self, y_true, y_pred, weight=None):
        """(weight of the covered targets, weight of all)."""
        return weighted_sums(y_true <= y_pred, weight)

    def result(self, sums):
        """The share."""
        return mean_of(sums)


error = check_gradients(RBF(4, gamma=0.7), (3,))
print(f"Gradients of RBF against central differences: largest error {error:.0e}")

# A sine whose noise grows from left to right: the quantile lies higher above it the further right.
rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (4000, 1))
y = np.sin(3 * x) + (0.1 + 0.4 * (x + 1)) * rng.standard_normal(x.shape)
x_train, x_test, y_train, y_test = x[:3000], x[3000:], y[:3000], y[3000:]

network = Sequential([Input((1,)), RBF(16, gamma=8.0), Dense(1)])
assert nnkit.from_json(nnkit.to_json(network)) == network    # a spec like any other
model = nnkit.compile(network, optimizer=Adam(0.01), loss="quantile_90", metrics=["coverage"], seed=0)
model.fit(x_train, y_train, batch_size=64, epochs=2 if options.quick else 60, verbose=0)

constant = np.quantile(y_train, 0.9)
scores = model.evaluate(x_test, y_test)
print(f"Test loss: {scores['loss']:.4f} (a constant: {np.maximum(0.9 * (y_test - constant), 0.1 * (constant - y_test)).mean():.4f})")
print(f"Test coverage: {scores['coverage']:.4f} (aimed at: 0.9000)")
for left, right in ((-1, -0.5), (-0.5, 0), (0, 0.5), (0.5, 1)):
    inside = (x_test[:, 0] >= left) & (x_test[:, 0] < right)
    print(f"  for x from {left:4} to {right:4}: {model.evaluate(x_test[inside], y_test[inside])['coverage']:.4f}")
