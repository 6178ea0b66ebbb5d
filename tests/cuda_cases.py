"""Cases of CUDA kernels: for each the arguments of one call, in the order of the kernel's. Shapes are prime, 1, not square, somewhere empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np

from nnkit.plan.build import COUNTERS, SUMS

__all__ = ["CASES", "KernelCase"]


@attrs.frozen
class KernelCase:
    """kernel: a step's name. written: how many of the arguments, from the first, the kernel changes. tasks: into how many its work is cut. twin: the
    CPU's kernel where it has another name, or None where the result is `expected` (a function of the arguments, which gives the changed ones).
    single: the tolerance of float32, relative to the largest entry."""

    id: str
    kernel: str
    arguments: tuple[Any, ...]
    written: int = 1
    tasks: tuple[int, ...] = (1, 3)
    expected: Any = None
    single: float = 2e-6
    dtypes: tuple[str, ...] = ("float32", "float64")


rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    """Standard normal numbers, to be cast to the plan's dtype."""
    return rng.standard_normal(shape)


def empty(*shape: int) -> np.ndarray:
    """What a kernel is to write whole: NaN."""
    return np.full(shape, np.nan)


def counters(**values: int) -> np.ndarray:
    """The counters, 0 but for these."""
    found = np.zeros(8, np.int64)
    for name, value in values.items():
        found[COUNTERS[name]] = value
    return found


ACTIVATIONS = ("relu", "relu_general", "leaky_relu", "hard_sigmoid", "hard_silu", "sigmoid", "tanh", "exponential", "elu", "selu", "celu", "softplus",
               "softsign", "silu", "mish", "gelu", "gelu_tanh")
CONSTANTS = (1.3, 1 / 1.3, 0.2)


def activations() -> Iterator[KernelCase]:
    """Values on both sides of every bend, some far out."""
    for name in ACTIVATIONS:
        x = 3 * normal(7, 43)
        x[0, :6] = (0, 30, -30, 100, -100, np.inf)
        yield KernelCase(f"{name}-forward", f"layers.activation.{name}_forward", (empty(7, 43), x, *CONSTANTS))
        yield KernelCase(f"{name}-backward", f"layers.activation.{name}_backward", (empty(7, 43), normal(7, 43), normal(7, 43), *CONSTANTS))
    for name in ("softmax", "log_softmax"):
        for shape in ((5, 3), (3, 77), (2, 32)):
            y = rng.uniform(0.01, 1, shape)
            y /= y.sum(1, keepdims=True)
            yield KernelCase(f"{name}-forward-{shape[1]}", f"layers.activation.{name}_forward", (empty(*shape), 5 * normal(*shape)))
            yield KernelCase(f"{name}-backward-{shape[1]}", f"layers.activation.{name}_backward", (empty(*shape), normal(*shape), np.log(y)))


POINTWISE_LOSSES = ("crossentropy.binary_crossentropy", "crossentropy.binary_crossentropy_logits", "crossentropy.kl_divergence",
                    "regression.mean_squared_error", "regression.mean_absolute_error", "regression.huber", "regression.log_cosh",
                    "regression.poisson")


def losses() -> Iterator[KernelCase]:
    """Rows of one entry and of several; one row and several for a sample; weights of 0 and 1 among others."""
    for name in POINTWISE_LOSSES:
        for R, J, N in ((11, 1, 11), (6, 37, 3)):
            probabilities = "crossentropy" in name and "logits" not in name
            y = rng.uniform(0, 1, (R, J)) if probabilities else 2 * normal(R, J)
            t = rng.uniform(0, 1, (R, J))
            y = np.abs(y) if "poisson" in name else y
            w = rng.uniform(0, 2, N)
            w[:2] = (0, 1)
            scalars = (1 / J, 0.3, 0.0)
            yield KernelCase(f"{name}-forward-{J}", f"losses.{name}_forward", (empty(R), y, t, w, empty(R, J), *scalars))
            yield KernelCase(f"{name}-backward-{J}", f"losses.{name}_backward", (empty(R, J), y, t, w, *scalars), single=4e-6)
    for R, C, N in ((5, 3, 5), (4, 67, 2)):
        z, w = 4 * normal(R, C), rng.uniform(0, 2, N)
        e = np.exp(z - z.max(1, keepdims=True))
        t = rng.uniform(0, 1, (R, C))
        labels = rng.integers(0, C, R).astype(np.int32)
        name = "losses.crossentropy.categorical_crossentropy_logits"
        yield KernelCase(f"categorical-forward-{C}", f"{name}_forward", (empty(R), empty(R, C), empty(R), z, t, w, empty(R), 0.1), written=3)
        yield KernelCase(f"categorical-backward-{C}", f"{name}_backward", (empty(R, C), z, t, w, e, 1 / e.sum(1), 0.1))
        name = "losses.crossentropy.sparse_categorical_crossentropy_logits"
        for valid, ignore in ((np.empty(0), 0), (np.array([1.25]), int(labels[1]))):
            yield KernelCase(f"sparse-forward-{C}-{valid.size}", f"{name}_forward",
                             (empty(R), empty(R, C), empty(R), z, labels, w, valid, ignore), written=3)
            yield KernelCase(f"sparse-backward-{C}-{valid.size}", f"{name}_backward", (empty(R, C), z, labels, w, e, 1 / e.sum(1), valid, ignore))
    sums = rng.uniform(0, 1, 14)
    for R, term, last in ((5, 0, 1), (600, 0, 0), (31, 2, 1)):
        yield KernelCase(f"accumulate-{R}", "losses.reduce.accumulate", (sums, normal(R), rng.uniform(0, 1, 3), 7, term, 0.5, last), tasks=(1,))
    yield KernelCase("report", "losses.reduce.report", (sums, np.array([0.7]), 7, SUMS["terms"]), tasks=(1,))


RULES = {"sgd": 0, "sgd_momentum": 1, "sgd_nesterov": 1, "adagrad": 1, "rmsprop": 1, "rmsprop_momentum": 2, "rmsprop_centered": 2, "adam": 2,
         "adadelta": 2, "nadam": 2, "adam_amsgrad": 3, "rmsprop_centered_momentum": 3}


def updates() -> Iterator[KernelCase]:
    """The first update and a later one, with a table of rates, decay, and a factor of the rate."""
    for name, states in RULES.items():
        for step in (0, 6):
            held = [rng.uniform(0, 1, 701) for _ in range(states)]
            if "centered" in name:
                held[0] += 1                             # a mean square is larger than the square of the mean
            yield KernelCase(f"{name}-{step}", f"optimizers.rules.{name}_update",
                             (normal(701), *held, normal(701), rng.uniform(0.01, 0.1, 1024), counters(step=step, table_start=2, table_size=3),
                              0.9, 0.95, 1e-3, 0.02, 1 - step / 12), written=1 + states)


def feeds() -> Iterator[KernelCase]:
    """With an order and without; labels too."""
    x, labels = normal(23, 5), rng.integers(0, 9, (23, 1)).astype(np.int32)
    order = rng.permutation(23)
    for given, places in (("order", order), ("no-order", order[:0])):
        yield KernelCase(f"gather-rows-{given}", "prims.feed.gather_rows", (empty(6, 5), x, places, counters(position=12)))
        yield KernelCase(f"gather-labels-{given}", "prims.feed.gather_labels", (np.full((6, 1), -1, np.int32), labels, places, counters(position=12)))
    yield KernelCase("scatter", "prims.feed.scatter", (normal(23, 5), normal(6, 5), counters(position=12)))
    yield KernelCase("advance", "prims.feed.advance", (counters(step=3, position=64), 32, 1), tasks=(1,))
    for n in (1, 2, 29):
        yield KernelCase(f"shuffle-{n}", "prims.random.shuffle", (np.zeros(n, np.int64), counters(seed=5, epoch=2)), tasks=(1,))
    yield KernelCase("add", "prims.pointwise.add", (normal(301), normal(301)))
    yield KernelCase("sum-of-two", "prims.pointwise.sum_of_two", (empty(7, 41), normal(7, 41), normal(7, 41)))
    yield KernelCase("product-of-two", "prims.pointwise.product_of_two", (empty(7, 41), normal(7, 41), normal(7, 41)))
    yield KernelCase("scaled", "prims.pointwise.scaled", (empty(7), normal(7), 1.7))
    yield KernelCase("zero", "prims.pointwise.zero", (empty(301),))


def products() -> Iterator[KernelCase]:
    """Small ones and ones by tiles of all sizes, which go beyond one tile, end within one, and end within a slice."""
    none = np.empty(0)
    sizes = {"": ((5, 7, 11), (3, 1, 2), (1, 19, 1), (3, 261, 6), (261, 2, 3), (11, 70, 37)),
             "_32": ((37, 21, 33), (32, 16, 32)), "_64": ((67, 35, 40),), "_128": ((131, 18, 70),)}
    for suffix, shapes in sizes.items():
        dtypes = ("float32", "float64") if suffix in ("", "_32") else ("float32",)
        for R, I, O in shapes:
            x, w, dy = normal(R, I), normal(I, O), normal(R, O)
            for bias in (normal(O), none):
                named = f"{suffix}-{R}-{I}-{O}-{bias.size}"
                yield KernelCase(f"dense-forward{named}", f"layers.dense.dense_forward{suffix}", (empty(R, O), x, w, bias, none), dtypes=dtypes,
                                 expected=lambda y, x, w, b, _: (x @ w + (b if b.size else 0),))
                yield KernelCase(f"dense-weight{named}", f"layers.dense.dense_backward_weight{suffix}", (empty(I, O), 0 * bias + np.nan, x, dy, none),
                                 written=2, dtypes=dtypes, expected=lambda dw, db, x, dy, _: (x.T @ dy, dy.sum(0) if db.size else db))
            yield KernelCase(f"dense-input{suffix}-{R}-{I}-{O}", f"layers.dense.dense_backward_input_whole{suffix}", (empty(R, I), dy, w),
                             dtypes=dtypes, expected=lambda dx, dy, w: (dy @ w.T,))


CASES: Sequence[KernelCase] = [*activations(), *losses(), *updates(), *feeds(), *products()]
