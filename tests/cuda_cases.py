"""Cases of CUDA kernels: for each the arguments of one call, in the order of the kernel's. Shapes are prime, 1, not square, somewhere empty."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np

from cuda_cases_chip import chip_cases
from cuda_cases_recurrent import packed, recurrent_cases, turned
from nnkit.layers.pool import by_channel
from nnkit.layers.pool_cpu import max_forward as max_cpu
from nnkit.layers.window import Span
from nnkit.plan.layout import COUNTERS, SUMS
from nnkit.prims.convolution import Convolution

__all__ = ["CASES", "KernelCase"]


@attrs.frozen
class KernelCase:
    """kernel: a step's name. written: how many of the arguments, from the first, the kernel changes. tasks: into how many its work is cut. twin: the
    CPU's kernel where it has another name, or None where the result is `expected` (a function of the arguments, which gives the changed ones).
    counts: what of the changed arrays is of use. scratch: how many of the last arrays may hold anything afterwards.
    single, double: the tolerances of float32 and float64, relative to the largest entry."""

    id: str
    kernel: str
    arguments: tuple[Any, ...]
    written: int = 1
    tasks: tuple[int, ...] = (1, 3)
    expected: Any = None
    counts: Any = lambda *arrays: arrays
    scratch: int = 0
    single: float = 2e-6
    double: float = 1e-13
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
            yield KernelCase(f"{name}-forward-{shape[1]}", f"layers.softmax.{name}_forward", (empty(*shape), 5 * normal(*shape)))
            yield KernelCase(f"{name}-backward-{shape[1]}", f"layers.softmax.{name}_backward", (empty(*shape), normal(*shape), np.log(y)))
        for shape in ((5, 3, 7), (3, 11, 101), (1, 1, 1)):
            rows = empty(shape[0], shape[2])
            y = np.log(rng.uniform(0.01, 1, shape))
            yield KernelCase(f"{name}-axis-forward-{shape[1]}", f"layers.softmax.{name}_axis_forward",
                             (empty(*shape), 5 * normal(*shape), rows, rows))
            yield KernelCase(f"{name}-axis-backward-{shape[1]}", f"layers.softmax.{name}_axis_backward", (empty(*shape), normal(*shape), y, rows))


POINTWISE_LOSSES = ("crossentropy.binary_crossentropy", "crossentropy.binary_crossentropy_logits", "crossentropy.kl_divergence",
                    "regression.mean_squared_error", "regression.mean_absolute_error", "regression.huber", "regression.log_cosh",
                    "regression.poisson", "hinge.hinge", "hinge.squared_hinge")


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
        y = rng.uniform(0, 1, (R, C))
        y[0], y[1, :2] = np.eye(C)[0], (0, 1)                  # clipped at both ends
        name = "losses.crossentropy.categorical_crossentropy"
        inverse = 1 / y.sum(1)
        clipped = np.clip((y * inverse[:, None]).astype(np.float32), np.float32(1e-7), np.float32(1) - np.float32(1e-7))
        yield KernelCase(f"categorical-probabilities-forward-{C}", f"{name}_forward", (empty(R), empty(R, C), empty(R), y, t, w, empty(R), 0.1),
                         written=3)
        yield KernelCase(f"categorical-probabilities-backward-{C}", f"{name}_backward", (empty(R, C), y, t, w, np.log(clipped), inverse, 0.1),
                         single=1e-5)
        name = "losses.crossentropy.sparse_categorical_crossentropy"
        for valid, ignore in ((np.empty(0), 0), (np.array([1.25]), int(labels[1]))):
            yield KernelCase(f"sparse-probabilities-forward-{C}-{valid.size}", f"{name}_forward",
                             (empty(R), empty(R, C), empty(R), y, labels, w, valid, ignore), written=3)
            yield KernelCase(f"sparse-probabilities-backward-{C}-{valid.size}", f"{name}_backward",
                             (empty(R, C), y, labels, w, y * inverse[:, None], inverse, valid, ignore))
            yield KernelCase(f"valid-share-{C}-{valid.size}", "losses.crossentropy.valid_share",
                             (empty(1), np.repeat(labels, 2), (1.0 * (np.arange(R) % 3 > 0))[:R if valid.size else 0], ignore), tasks=(1,))
        name = "losses.crossentropy.categorical_crossentropy_logits"
        yield KernelCase(f"categorical-forward-{C}", f"{name}_forward", (empty(R), empty(R, C), empty(R), z, t, w, empty(R), 0.1), written=3)
        yield KernelCase(f"categorical-backward-{C}", f"{name}_backward", (empty(R, C), z, t, w, e, 1 / e.sum(1), 0.1))
        name = "losses.crossentropy.sparse_categorical_crossentropy_logits"
        for valid, ignore in ((np.empty(0), 0), (np.array([1.25]), int(labels[1]))):
            yield KernelCase(f"sparse-forward-{C}-{valid.size}", f"{name}_forward",
                             (empty(R), empty(R, C), empty(R), z, labels, w, valid, ignore), written=3)
            yield KernelCase(f"sparse-backward-{C}-{valid.size}", f"{name}_backward", (empty(R, C), z, labels, w, e, 1 / e.sum(1), valid, ignore))
    z, t = np.array([[-np.inf, 0.5, 2], [np.nan, 1, 2], [1, -np.inf, 0]]), np.eye(3)[[1, 2, 1]]
    yield KernelCase("categorical-forward-infinite", "losses.crossentropy.categorical_crossentropy_logits_forward",
                     (empty(3), empty(3, 3), empty(3), z, t, np.ones(3), empty(3), 0.0), written=3)
    yield KernelCase("categorical-hinge-forward-infinite", "losses.hinge.categorical_hinge_forward", (empty(3), empty(3, 3), z, t, np.ones(3)),
                     written=2)
    yield KernelCase("categorical-hinge-backward-nan", "losses.hinge.categorical_hinge_backward",
                     (empty(3, 3), np.array([np.nan, 2, 0]), normal(3, 3), t, np.ones(3)))
    sums = rng.uniform(0, 1, 14)
    for R, term, last in ((5, 0, 1), (600, 0, 0), (31, 2, 1), (8703, 1, 1)):
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


def rows_in_parts(y: np.ndarray, x: np.ndarray, order: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray]:
    """Rows of x from `position` on, as rows of as many numbers as those of y have."""
    position = int(counts[COUNTERS["position"]])
    numbers = np.arange(position, position + y.size // x.shape[1])
    return (x[order[numbers].astype(int) if order.size else numbers].reshape(y.shape),)


def feeds() -> Iterator[KernelCase]:
    """With an order and without; labels too."""
    x, labels = normal(23, 5), rng.integers(0, 9, (23, 1)).astype(np.int32)
    order = rng.permutation(23)
    for given, places in (("order", order), ("no-order", order[:0])):
        yield KernelCase(f"gather-rows-{given}", "prims.feed.gather_rows", (empty(6, 5), x, places, counters(position=12)))
        yield KernelCase(f"gather-parts-{given}", "prims.feed.gather_rows", (empty(18, 5), normal(23, 15), places, counters(position=12)),
                         tasks=(1, 5), expected=rows_in_parts)     # three to a row
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


def clipping() -> Iterator[KernelCase]:
    """Norms within the limit and beyond, and NaN; one piece and several."""
    g = normal(1301)
    g[7] = np.nan
    yield KernelCase("clip-by-value", "optimizers.rules.clip_by_value", (g, 0.7))
    for size in (1, 701, 2 * 16_384 + 5):
        yield KernelCase(f"square-sums-{size}", "optimizers.rules.square_sums", (np.zeros(-(-size // 16_384) * 64), normal(size)),
                         counts=lambda sums: (sums[::64],))
    sums = np.zeros(3 * 64)
    sums[::64] = (3, 4, 9)
    for limit in (2.5, 4.0, 5.0):
        yield KernelCase(f"clip-by-norm-{limit}", "optimizers.rules.clip_by_norm", (normal(1301), sums, limit))
    yield KernelCase("clip-by-norm-nan", "optimizers.rules.clip_by_norm", (normal(7), sums * np.nan, 1.0))


def penalties() -> Iterator[KernelCase]:
    """Blocks that end within the last one, zeros among the numbers; units whose mean is clipped."""
    x = normal(2501)
    x[::5] = 0
    name = "losses.penalty"
    yield KernelCase("penalty", f"{name}.penalty", (empty(2), x, 0.3, 0.2, 1600))
    yield KernelCase("penalty-1", f"{name}.penalty", (empty(1), normal(1), 0.3, 0.2, 1600))
    yield KernelCase("penalty-total", f"{name}.penalty_total", (empty(1), normal(301)), tasks=(1,))
    yield KernelCase("penalty-gradient", f"{name}.penalty_gradient", (empty(5, 271), normal(5, 271), x[:1355].reshape(5, 271), 0.3, 0.2))
    for first, whole in ((0, 2501), (700, 4000), (0, 9000)):     # of several tasks some have nothing of it
        yield KernelCase(f"add-penalty-gradient-within-{first}-{whole}", f"{name}.add_penalty_gradient_within",
                         (normal(2501), x, 0.3, 0.2, first, whole), tasks=(1, 50),
                         expected=lambda dx, x, l1, l2, *_: (dx + l1 * np.sign(x) + 2 * l2 * x,))
    yield KernelCase("add-penalty-gradient", f"{name}.add_penalty_gradient", (normal(2501), x, 0.3, 0.2))
    for R, J, K in ((37, 5, 3), (11, 67, 1)):
        yield KernelCase(f"column-totals-{J}", f"{name}.column_totals", (empty(K, J), normal(R, J), -(-R // K)))
    sums = 10 * rng.uniform(0.1, 0.9, (3, 7))
    sums[:, 2] = -1
    yield KernelCase("sparsity", f"{name}.sparsity", (empty(1), empty(7), sums, empty(7), 30, 0.1, 0.3, 1e-3), written=2, tasks=(1,),
                     counts=lambda value, slopes: (value, slopes))
    yield KernelCase("sparsity-gradient", f"{name}.sparsity_gradient", (empty(7, 15), normal(7, 15), normal(5)))
    for R, N, M in ((12, 3, 6), (5, 5, 5), (300, 1, 300)):
        mask = (rng.uniform(0, 1, M) < 0.6).astype(float)
        yield KernelCase(f"masked-{R}", "losses.weights.masked", (empty(R), rng.uniform(0, 2, N), mask, 1.7), tasks=(1,))
    yield KernelCase("masked-none", "losses.weights.masked", (empty(6), rng.uniform(0, 2, 3), np.zeros(3), 1.7), tasks=(1,))


def hinges() -> Iterator[KernelCase]:
    """Beside the pointwise ones the categorical: of equal largest others the first counts."""
    for R, C, N in ((5, 3, 5), (12, 67, 4), (3, 1, 1)):
        y, t = normal(R, C), np.eye(C)[rng.integers(0, C, R)]
        y[1, C // 2:] = y[1, C // 2]
        w = rng.uniform(0, 2, N)
        name, others = "losses.hinge.categorical_hinge", (1 - t) * y
        rows = rng.uniform(-1, 1, R)
        yield KernelCase(f"categorical-hinge-forward-{C}", f"{name}_forward", (empty(R), empty(R, C), y, t, w), written=2)
        yield KernelCase(f"categorical-hinge-backward-{C}", f"{name}_backward", (empty(R, C), rows, others, t, w))


def drawn() -> Iterator[KernelCase]:
    """Rows whose numbers begin between two counters, more of them than a block draws at a time; seeds of a layer's own."""
    large = (1 << 40) + 12345
    for shape, seed in (((7, 13), -1), ((3, 1361), 5), ((1, 1), -1), ((5, 3), large)):
        last = (0.3, 1 / 0.7, 2, seed)
        state = counters(step=6, seed=large)
        yield KernelCase(f"dropout-{shape[1]}", "layers.dropout.dropout_apply", (empty(*shape), normal(*shape), state, *last), single=0, double=0)
        yield KernelCase(f"dropout-mask-{shape[1]}", "layers.dropout.dropout_mask", (empty(*shape), state, *last), single=0, double=0)
        yield KernelCase(f"relu-dropout-backward-{shape[1]}", "layers.dropout.relu_dropout_backward",
                         (empty(*shape), normal(*shape), normal(*shape), 1 / 0.7), single=0, double=0)
        yield KernelCase(f"noise-{shape[1]}", "layers.noise.gaussian_noise_forward", (empty(*shape), normal(*shape), state, 0.3, 2, seed))
    for N, M, sizes in ((5, 2 * 4 * 5, (2, 3, 4, 7, 5)), (4, 6, (3, 5, 2, 1, 1)), (3, 11, (1, 1, 1, 4, 11))):
        A, B, C, D, E = sizes
        for masks in (N, 1):
            yield KernelCase(f"dropout-spread-{M}-{masks}", "layers.dropout.dropout_spread",
                             (empty(N, A * B * C * D * E), normal(N, A * B * C * D * E), normal(masks, M), B, C, D, E))
    name = "layers.sampling"
    for shape, evaluation in (((7, 13), 0), ((7, 13), 1), ((2, 701), 1)):
        state = counters(step=6, seed=large, position=5)
        mean, logs = normal(*shape), normal(*shape)
        yield KernelCase(f"sampling-{shape[1]}-{evaluation}", f"{name}.sampling_forward", (empty(*shape), mean, logs, state, 2, -1, evaluation))
    z = mean + normal(*shape)
    yield KernelCase("sampling-log-variance", f"{name}.sampling_backward_log_variance", (empty(*shape), normal(*shape), z, mean, logs, 0.3))
    yield KernelCase("sampling-mean", f"{name}.sampling_backward_mean", (empty(*shape), normal(*shape), mean, 0.3))
    yield KernelCase("kl", f"{name}.kl_divergence", (empty(2), mean.ravel(), logs.ravel(), 0.3, 800))


def sums() -> Iterator[KernelCase]:
    """Narrow matrices and wide ones, chunks that do not come out even, none and one row."""
    for R, C, K in ((37, 5, 3), (11, 67, 1), (900, 1, 2), (1, 33, 1), (0, 3, 1), (29, 64, 4)):
        yield KernelCase(f"sum-chunks-{R}-{C}", "prims.reduce.sum_chunks", (empty(K, C), normal(R, C), 1, max(1, -(-R // K))), tasks=(1, 2))
    for A, S, B in ((1, 37, 5), (2, 100, 11), (3, 11, 70), (7, 300, 1), (2, 0, 3), (1, 1, 1)):
        yield KernelCase(f"sum-middle-{A}-{S}-{B}", "prims.reduce.sum_middle", (empty(A, B), normal(A, S, B)))
    for N, F, W in ((7, 15, 5), (3, 470, 47), (2, 6, 6)):
        x = normal(N, F)
        x[0, 0] = 0
        yield KernelCase(f"prelu-forward-{W}", "layers.prelu.prelu_forward", (empty(N, F), x, normal(W)))
        yield KernelCase(f"prelu-input-{W}", "layers.prelu.prelu_input", (empty(N, F), normal(N, F), x, normal(W)))
    for R, P, K in ((37, 5, 3), (11, 67, 1)):
        yield KernelCase(f"prelu-sums-{P}", "layers.prelu.prelu_gradient_sums", (empty(K, P), normal(R, P), normal(R, P), 1, -(-R // K)))
    yield KernelCase("prelu-repeat", "layers.prelu.prelu_repeat", (empty(3, 5, 11), normal(3, 11)))


def normalizations() -> Iterator[KernelCase]:
    """Means far from 0; copies of the statistics; rows of one cell, and long ones."""
    name = "layers.norm.batch_norm"
    for R, C, K in ((37, 5, 3), (11, 67, 1), (1, 3, 1), (140, 11, 70)):
        x, chunk = 3 * normal(R, C) + 20, -(-R // K)
        dy, statistics = normal(R, C), normal(4, C)
        yield KernelCase(f"moments-{R}-{C}", f"{name}_moments", (np.zeros((K, 3, C)), x, 1, chunk),
                         counts=lambda partial: (partial[:, 0], partial[:, 1]), single=1e-5)
        yield KernelCase(f"gradient-sums-{R}-{C}", f"{name}_gradient_sums", (empty(K, 2, C), dy, normal(R, C), statistics, 1, chunk), single=4e-6)
        partial = np.abs(normal(K, 3, C)) + 1
        for times, moving in ((1, C), (4, C), (2, 0)):
            yield KernelCase(f"statistics-{R}-{C}-{times}", f"{name}_statistics",
                             (empty(4, times * C), normal(moving), normal(moving), partial, normal(C), normal(C), C, R, chunk, 1e-3, 0.9), written=3)
            yield KernelCase(f"gradients-{R}-{C}-{times}", f"{name}_gradients",
                             (empty(2, times * C), empty(C), empty(C), normal(K, 2, C), normal(4, times * C), C, R), written=3)
    for C, times in ((5, 4), (67, 1)):
        variance = rng.uniform(0, 2, C)
        yield KernelCase(f"inference-{C}", f"{name}_inference", (empty(4, times * C), normal(C), variance, normal(C), normal(C), 1e-3))
    for R, O, W in ((7, 5, 15), (3, 67, 67)):
        for bias in (normal(O), np.empty(0)):
            yield KernelCase(f"fold-{O}-{bias.size}", f"{name}_fold", (empty(R, O), empty(O), normal(R, O), bias, normal(4, W)), written=2)
    for N, F, W in ((7, 15, 5), (3, 470, 47), (3, 470, 470)):
        x, dy, statistics = normal(N, F), normal(N, F), normal(4, W)
        yield KernelCase(f"normalize-{F}-{W}", f"{name}_normalize", (empty(N, F), x, statistics))
        yield KernelCase(f"input-{F}-{W}", f"{name}_input", (empty(N, F), dy, x, statistics, normal(2, W)))
        yield KernelCase(f"scale-{F}-{W}", f"{name}_scale", (empty(N, F), dy, statistics))
    for N, P, C, I in ((3, 2, 5, 7), (2, 1, 3, 401)):
        x, dy, statistics = normal(N, P * C, I), normal(N, P * C, I), normal(4, C)
        yield KernelCase(f"normalize-inner-{C}", f"{name}_normalize_inner", (empty(N, P * C, I), x, statistics))
        yield KernelCase(f"input-inner-{C}", f"{name}_input_inner", (empty(N, P * C, I), dy, x, statistics, normal(2, C)))
        yield KernelCase(f"scale-inner-{C}", f"{name}_scale_inner", (empty(N, P * C, I), dy, statistics))
        whole = (N * P, C, I)
        yield KernelCase(f"moments-inner-{C}", f"{name}_moments_inner", (np.zeros((1, 3, C)), x.reshape(whole)),
                         counts=lambda partial: (partial[:, 0], partial[:, 1]), single=1e-5)
        yield KernelCase(f"gradient-sums-inner-{C}", f"{name}_gradient_sums_inner", (empty(1, 2, C), dy.reshape(whole), x.reshape(whole), statistics),
                         single=4e-6)
    yield KernelCase("fill", "layers.norm.fill", (empty(301), 1.7))
    name = "layers.norm.layer_norm"
    for R, L in ((11, 1), (13, 37), (3, 701)):
        x, dy, gamma = 3 * normal(R, L) + 20, normal(R, L), normal(L)
        statistics = np.stack([x.mean(1), 1 / np.sqrt(x.var(1) + 1e-3)], 1)
        yield KernelCase(f"layer-norm-forward-{L}", f"{name}_forward", (empty(R, L), empty(R, 2), x, gamma, normal(L), 1e-3), written=2, single=2e-5)
        if L > 1:                                        # else 0 and what rounding makes of it
            yield KernelCase(f"layer-norm-input-{L}", f"{name}_input", (empty(R, L), dy, x, statistics, gamma), single=1e-5)
        yield KernelCase(f"layer-norm-sums-{L}", f"{name}_gradient_sums", (empty(2, 2, L), dy, x, statistics, -(-R // 2)), single=4e-6)
    for L, K, none in ((37, 70, False), (67, 11, True)):
        gone = np.empty(0)
        yield KernelCase(f"layer-norm-gradients-{L}", f"{name}_gradients", (empty(L), gone if none else empty(L), normal(K, 2, L)), written=2)


def places(*axes: tuple[int, int, int, int, int], channels: int) -> tuple[tuple[int, ...], int, int]:
    """The windows of a pooling, and the numbers of its input and output; of every axis size, window, stride, before, windows."""
    found = by_channel(tuple(Span(size, window, stride, 1, before, windows) for size, window, stride, before, windows in axes), channels).windows
    return found, int(np.prod([axis[0] for axis in axes])) * channels, int(np.prod([axis[4] for axis in axes])) * channels


POOLINGS = {
    "squares": places((4, 2, 2, 0, 2), (6, 2, 2, 0, 3), channels=5),
    "overlapping": places((5, 3, 2, 1, 3), (6, 3, 1, 1, 6), channels=3),
    "gaps": places((7, 2, 3, 0, 2), channels=1),
    "volume": places((3, 2, 1, 0, 2), (3, 2, 2, 0, 1), (4, 3, 2, 1, 2), channels=2),
    "whole": places((3, 3, 3, 0, 1), (5, 5, 5, 0, 1), channels=7),
}


def poolings() -> Iterator[KernelCase]:
    """Side by side, overlapping, with gaps and padding, all of an image; equal numbers and NaN; images cut into pieces."""
    pool = "layers.pool"
    for name, (windows, before, after) in POOLINGS.items():
        for N, pieces in ((3, 1), (1, 2)):
            x, y = np.round(2 * normal(N, before)), empty(N, after)
            x[0, before // 2] = np.nan
            max_cpu(0, 1, y, x, windows, 1)
            dy = normal(N, after)
            yield KernelCase(f"max-forward-{name}-{N}", f"{pool}.max_forward", (empty(N, after), x, windows, pieces))
            for relu in (0, 1) if name == "overlapping" else (0,):
                yield KernelCase(f"max-backward-{name}-{N}-{relu}", f"{pool}.max_backward", (empty(N, before), x, y, dy, windows, pieces, relu))
            for mean in (0, 1):
                yield KernelCase(f"sum-forward-{name}-{N}-{mean}", f"{pool}.sum_forward", (empty(N, after), normal(N, before), windows, mean, pieces))
                yield KernelCase(f"sum-backward-{name}-{N}-{mean}", f"{pool}.sum_backward", (empty(N, before), dy, windows, mean, pieces))
    mask = (rng.uniform(0, 1, (5, 7)) < 0.5).astype(float)
    mask[1] = 0
    yield KernelCase("masked-mean-forward", f"{pool}.masked_mean_forward", (empty(5, 3), normal(5, 7, 3), mask))
    yield KernelCase("masked-mean-backward", f"{pool}.masked_mean_backward", (empty(5, 7, 3), normal(5, 3), mask))
    for name, axes in (("pad", ((4, 1, 1, 2, 7), (3, 1, 1, 1, 5))), ("crop", ((5, 1, 1, -1, 3), (7, 1, 1, -2, 4), (6, 1, 1, 0, 6)))):
        windows, before, after = places(*axes, channels=3)
        for N, pieces in ((3, 1), (1, 2)):
            yield KernelCase(f"shift-{name}-{N}", "layers.resample.shift", (empty(N, after), normal(N, before), windows, pieces))
    for A, S, M, I, pieces in ((2, 5, 3, 4, 1), (1, 3, 2, 7, 2), (3, 1, 4, 1, 1)):
        few, many = normal(2, A * S * I), normal(2, A * S * M * I)
        for way, y, x in (("forward", 0 * many, few), ("backward", 0 * few, many)):
            yield KernelCase(f"linear-{way}-{A}-{S}-{M}", f"layers.resample.linear_{way}", (y, x, empty(2 * pieces, 2 * M), A, S, M, I, pieces))


def merges() -> Iterator[KernelCase]:
    """Equal numbers and NaN among those that are compared; widths that leave columns over."""
    merge = "layers.merge"
    shape = (7, 301)
    a, b = np.round(normal(*shape)), np.round(normal(*shape))
    a[0, 0] = b[0, 1] = np.nan
    for sign in (1.0, -1.0):
        yield KernelCase(f"merge-sum-{sign}", f"{merge}.sum_forward", (empty(*shape), normal(*shape), normal(*shape), sign, 0.3))
        yield KernelCase(f"extreme-{sign}", f"{merge}.extreme_forward", (empty(*shape), a, b, sign))
        for side in (0, 1):
            yield KernelCase(f"extreme-backward-{sign}-{side}", f"{merge}.extreme_backward", (empty(*shape), normal(*shape), a, b, sign, side))
    yield KernelCase("merge-sum-backward", f"{merge}.sum_backward", (empty(*shape), normal(*shape), 0.3))
    yield KernelCase("multiply", f"{merge}.multiply", (empty(*shape), normal(*shape), normal(*shape)))
    for R, S, B in ((5, 3, 7), (11, 37, 1), (1, 1, 2)):
        yield KernelCase(f"repeat-forward-{B}", f"{merge}.repeat_forward", (empty(R, S, B), normal(R, B)))
        yield KernelCase(f"repeat-backward-{B}", f"{merge}.repeat_backward", (empty(R, B), normal(R, S, B)))
    for R, W, A, B in ((5, 19, 7, 11), (3, 3, 1, 2), (2, 5, 0, 5)):
        yield KernelCase(f"concatenate-two-{W}", f"{merge}.concatenate_two", (empty(R, W), normal(R, A), normal(R, B)))
        yield KernelCase(f"concatenate-more-{W}", f"{merge}.concatenate_more", (normal(R, W), normal(R, B), A))
        yield KernelCase(f"concatenate-backward-{W}", f"{merge}.concatenate_backward", (empty(R, B), normal(R, W), A))
    for N, M, O, K in ((3, 5, 7, 11), (2, 3, 1, 5), (1, 1, 1, 1)):
        for transposed in (0, 1):
            left = normal(N, K, M) if transposed else normal(N, M, K)
            yield KernelCase(f"dot-{M}-{transposed}", f"{merge}.dot_products", (empty(N, M, O), left, normal(N, K, O), transposed))
    yield KernelCase("dot-transpose", f"{merge}.dot_transpose", (empty(3, 7, 5), normal(3, 5, 7)))
    for R, D in ((5, 37), (3, 1)):
        x = normal(R, D)
        x[1] = 0
        inverse = np.minimum(1 / np.maximum(np.sqrt((x * x).sum(1)), 1e-30), 2.0)
        yield KernelCase(f"normalize-forward-{D}", f"{merge}.normalize_forward", (empty(R, D), empty(R), x, 2.0), written=2)
        yield KernelCase(f"normalize-backward-{D}", f"{merge}.normalize_backward", (empty(R, D), normal(R, D), x, inverse, 2.0), single=4e-6)

# Convolutions: the windows of x as patches [N, E, P, Q, T, R, S, G, C/G].

def patches(windows: tuple[int, ...], x: np.ndarray) -> tuple[np.ndarray, tuple[Any, ...], np.ndarray]:
    """(the patches, where their numbers lie in x seen as images, which of these are in the image)."""
    sizes, places, strides, steps, before, counts = (windows[3 * i:3 * i + 3] for i in range(6))
    C, _, G = windows[18:]
    lies, inside = [], np.ones(1, bool)
    for axis in range(3):
        at = np.arange(counts[axis])[:, None] * strides[axis] - before[axis] + np.arange(places[axis]) * steps[axis]
        shape = [1] * 6
        shape[axis], shape[axis + 3] = at.shape
        inside = inside & ((at >= 0) & (at < sizes[axis])).reshape(shape)
        lies.append(np.clip(at, 0, sizes[axis] - 1).reshape(shape))
    found = x.reshape(len(x), *sizes, G, C // G)[(slice(None), *lies)]
    return found * inside[..., None, None], (slice(None), *lies), inside[..., None, None]


def split_filters(windows: tuple[int, ...], w: np.ndarray) -> np.ndarray:
    """W as [T, R, S, C/G, G, O/G]."""
    C, filters, G = windows[18:]
    return w.reshape(*windows[3:6], C // G, G, filters // G)


def forward(y: np.ndarray, x: np.ndarray, w: np.ndarray, bias: np.ndarray, windows: tuple[int, ...], relu: int) -> tuple[np.ndarray, ...]:
    """y = x * W (+ b)."""
    found = np.einsum("nepqtrsgc,trscgo->nepqgo", patches(windows, x)[0], split_filters(windows, w)).reshape(-1, windows[19])
    found = found + bias if bias.size else found
    return (np.maximum(found, 0) if relu else found).reshape(y.shape),


def input_gradient(dx: np.ndarray, dy: np.ndarray, w: np.ndarray, bias: np.ndarray, windows: tuple[int, ...], relu: int) -> tuple[np.ndarray, ...]:
    """dx = dy spread over the windows (+ b)."""
    C, filters, G = windows[18:]
    found = np.zeros((len(dx), *windows[:3], G, C // G))
    _, lies, inside = patches(windows, dx)
    spread = np.einsum("nepqgo,trscgo->nepqtrsgc", dy.reshape(len(dx), *windows[15:18], G, filters // G), split_filters(windows, w))
    np.add.at(found, lies, spread * inside)
    found = found.reshape(-1, C) + bias if bias.size else found
    return (np.maximum(found, 0) if relu else found).reshape(dx.shape),


def weight_gradient(dweight: np.ndarray, x: np.ndarray, dy: np.ndarray, windows: tuple[int, ...], chunk: int) -> tuple[np.ndarray, ...]:
    """dW of slices of the places of y."""
    C, filters, G = windows[18:]
    taps = int(np.prod(windows[3:6]))
    found, places = patches(windows, x)[0].reshape(-1, taps, G, C // G), dy.reshape(-1, G, filters // G)
    parts = [np.einsum("mkgc,mgo->kcgo", found[first:first + chunk], places[first:first + chunk]) for first in range(0, len(dweight) * chunk, chunk)]
    return np.stack(parts).reshape(dweight.shape),


def channels_forward(y: np.ndarray, x: np.ndarray, w: np.ndarray, bias: np.ndarray, windows: tuple[int, ...], pieces: int,
                     relu: int) -> tuple[np.ndarray, ...]:
    """As `forward`."""
    return forward(y, x, w, bias, windows, relu)


def channels_input(dx: np.ndarray, dy: np.ndarray, w: np.ndarray, windows: tuple[int, ...], pieces: int) -> tuple[np.ndarray, ...]:
    """As `input_gradient`."""
    return input_gradient(dx, dy, w, np.empty(0), windows, 0)


def convolution(*axes: tuple[int, int, int, int, int, int], channels: int, filters: int, groups: int = 1) -> Convolution:
    """Of every axis size, window, stride, dilation, places before, windows."""
    return Convolution.of(tuple(Span(*axis) for axis in axes), channels, filters, groups, "auto")


def sizes_of(c: Convolution) -> tuple[int, int, int]:
    """Numbers of an image of x, of one of y; rows of W."""
    return int(np.prod(c.input_shape(3))), int(np.prod(c.output_shape(3))), c.taps * c.channels_each


CONVOLUTIONS = {
    "plain": (convolution((5, 3, 1, 1, 0, 3), (7, 3, 1, 1, 0, 5), channels=3, filters=5), 3),
    "same": (convolution((5, 3, 1, 1, 1, 5), (6, 3, 1, 1, 1, 6), channels=6, filters=17), 2),
    "strided": (convolution((7, 3, 2, 1, 1, 4), (6, 2, 3, 1, 0, 2), channels=5, filters=7), 3),
    "dilated": (convolution((9, 3, 2, 2, 1, 3), (7, 2, 4, 6, 2, 2), channels=2, filters=3), 1),
    "grouped": (convolution((4, 2, 1, 1, 1, 5), (5, 3, 2, 1, 1, 3), channels=6, filters=9, groups=3), 2),
    "causal": (convolution((11, 3, 1, 2, 4, 11), channels=1, filters=1), 5),
    "volume": (convolution((3, 2, 1, 1, 0, 2), (4, 3, 2, 1, 1, 2), (5, 1, 2, 1, 0, 3), channels=3, filters=4), 2),
    "long": (convolution((601, 2, 1, 1, 0, 600), channels=1, filters=2), 1),
    "point": (convolution((1, 1, 1, 1, 0, 1), channels=1, filters=2), 1),
    "gaps": (convolution((7, 1, 3, 1, 0, 3), (3, 1, 1, 1, 1, 5), channels=2, filters=3), 2),
    "wide": (convolution((9, 2, 1, 1, 1, 10), (8, 1, 1, 1, 0, 8), channels=11, filters=70), 2),
    "halved": (convolution((13, 3, 2, 1, 1, 7), (11, 1, 1, 1, 0, 11), channels=67, filters=5), 2),
    "two": (convolution((7, 3, 1, 1, 1, 7), (12, 2, 1, 1, 1, 12), channels=4, filters=6, groups=2), 1),
}
TILED = {"wide": ("_64",), "halved": ("_128",), "two": ("_narrow",)}
BIASED = {"plain", "strided"}
DOUBLE = {"strided", "grouped"}
DEPTHWISE = {
    "same": (convolution((5, 3, 1, 1, 1, 5), (6, 3, 1, 1, 1, 6), channels=7, filters=7, groups=7), 3),
    "strided": (convolution((7, 3, 2, 1, 0, 3), (8, 5, 3, 1, 1, 2), channels=3, filters=6, groups=3), 2),
    "dilated": (convolution((9, 2, 2, 3, 1, 4), channels=2, filters=2, groups=2), 3),
    "volume": (convolution((3, 2, 1, 1, 0, 2), (4, 3, 2, 1, 1, 2), (5, 2, 1, 2, 1, 5), channels=67, filters=67, groups=67), 1),
}


def convolutions() -> Iterator[KernelCase]:
    """Strides, dilation, groups, padding beyond the image, in one to three dimensions; places that no window sees; tiles that end within, several of
    them; slices that end within."""
    name = "prims.implicit.implicit"
    for case, (c, N) in CONVOLUTIONS.items():
        windows, (before, after, weights) = c.windows, sizes_of(c)
        x, w, dy = normal(N, before), normal(weights, c.filters), normal(N, after)
        for end in TILED.get(case, ("",)):
            dtypes = ("float32", "float64") if case in DOUBLE else ("float32",)
            tasks = (1, 3) if end == "" else (2,)
            for relu, bias in ((0, True), (1, False)) if case in BIASED else ((0, False),):
                cut = {"tasks": tasks, "dtypes": dtypes}
                yield KernelCase(f"implicit-forward{end}-{case}-{relu}", f"{name}_forward{end}",
                                 (empty(N, after), x, w, normal(c.filters if bias else 0), windows, relu), expected=forward, **cut)
                yield KernelCase(f"implicit-input{end}-{case}-{relu}", f"{name}_input{end}",
                                 (empty(N, before), dy, w, normal(c.channels if bias else 0), windows, relu), expected=input_gradient, **cut)
            places = N * after // c.filters
            chunk = next(chunk for chunk in (320, 32, 16, 0) if places > chunk) or 16
            slices = -(-places // chunk)
            yield KernelCase(f"implicit-weight{end}-{case}", f"{name}_weight{end}", (empty(slices, weights * c.filters), x, dy, windows, chunk),
                             tasks=(2, 3) if end == "" else (2,), dtypes=dtypes, expected=weight_gradient)
    for case, (c, N) in DEPTHWISE.items():
        windows, (before, after, weights) = c.windows, sizes_of(c)
        x, w, dy = normal(N, before), normal(weights, c.filters), normal(N, after)
        for pieces in (1, 2):
            yield KernelCase(f"channels-forward-{case}-{pieces}", "prims.depthwise.channels_forward",
                             (empty(N, after), x, w, normal(c.filters * (pieces - 1)), windows, pieces, pieces - 1), expected=channels_forward)
            yield KernelCase(f"channels-input-{case}-{pieces}", "prims.depthwise.channels_input", (empty(N, before), dy, w, windows, pieces),
                             expected=channels_input)
        places = N * after // c.filters
        yield KernelCase(f"channels-weight-{case}", "prims.depthwise.channels_weight",
                         (empty(-(-places // 16), weights * c.filters), x, dy, windows, 16), expected=weight_gradient)


ROOM = 3                                                 # entries behind the used ones, which nobody may read


def matrix_of(R: int, C: int, lengths: Sequence[int]) -> tuple[np.ndarray, ...]:
    """starts, columns of a matrix with rows of these lengths, then starts, columns and places of its transpose."""
    rows, columns = np.repeat(np.arange(R), lengths), rng.integers(0, max(1, C), sum(lengths))
    order = np.lexsort((rows, columns))
    room = np.zeros(ROOM, np.int64)
    return (np.r_[0, np.cumsum(lengths)], np.r_[columns, room], np.r_[0, np.cumsum(np.bincount(columns, minlength=C)[:C])], np.r_[rows[order], room],
            np.r_[order, len(order) + np.arange(ROOM)])


def with_room(*shape: int) -> np.ndarray:
    """Numbers of entries, NaN behind."""
    return np.concatenate([normal(*shape), empty(ROOM, *shape[1:])])


# Rows of a few entries and of none; one that is longer than a warp goes through alone; a matrix of one entry, of none, of no rows.
MATRICES = {
    "few": matrix_of(11, 7, (2, 0, 1, 5, 0, 3, 17, 1, 0, 4, 2)),
    "hub": matrix_of(7, 13, (0, 3, 700, 1, 0, 2, 0)),
    "one": matrix_of(1, 1, (1,)),
    "none": matrix_of(3, 2, (0, 0, 0)),
    "rows": matrix_of(131, 29, rng.integers(0, 5, 131)),
}


def product_of(y: Any, carry: Any, starts: Any, columns: Any, values: Any, x: Any, bias: Any, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """y and carry as csr_cpu.product leaves them; its twin takes 4 s to compile."""
    starts, columns = starts.astype(int), columns.astype(int)
    y, carry, values = 0 * x[:1].repeat(len(y), 0), carry.copy(), values.reshape(len(values), -1)
    terms = values.repeat(x.shape[1] // values.shape[1], 1) * x[columns]
    for i, (first, end) in enumerate(itertools.pairwise(starts)):
        if end - first <= chunk:
            y[i] = terms[first:end].sum(0) + (bias if bias.size else 0)
        else:
            for k, start in enumerate(range(first, end, chunk)):
                carry[2 * (first // chunk) + k] = terms[start:min(start + chunk, end)].sum(0)
    return y, carry


def rows_of(y: Any, starts: Any, columns: Any, values: Any, x: Any, bias: Any) -> tuple[np.ndarray]:
    """y = A x + bias, row by row."""
    return product_of(y, np.zeros((0, y.shape[1])), starts, columns, values, x, bias, len(columns))[:1]


def sparse_products() -> Iterator[KernelCase]:
    """Chunks that end with a row and within one, a share of the walk of less than a chunk; widths below a warp's and beyond two columns of a lane."""
    name = "prims.csr"
    for matrix, F, H, chunk, biased in (("few", 1, 1, 4, 1), ("few", 16, 2, 3, 0), ("few", 3, 1, 64, 1), ("hub", 33, 3, 70, 1), ("hub", 7, 7, 64, 0),
                                        ("hub", 2, 1, 512, 1), ("one", 67, 1, 8, 0), ("none", 5, 1, 1, 1), ("rows", 66, 1, 3, 0)):
        starts, columns, starts_t, *_ = MATRICES[matrix]
        R, C, E = len(starts) - 1, len(starts_t) - 1, len(columns)
        carry = np.zeros((2 * (E // chunk) + 2 if chunk < E else 0, F))
        bias, named = normal(F * biased), f"{matrix}-{F}-{H}"
        values, last = with_room(E - ROOM, H), (normal(C, F), bias, chunk)
        by_rows = (starts, columns, values if H > 1 else values[:, 0], *last[:2])
        yield KernelCase(f"csr-rows-{named}", f"prims.csr_rows.product{'_heads' * (H > 1)}", (empty(R, F), *by_rows), tasks=(1, 4), expected=rows_of)
        if carry.size:
            yield KernelCase(f"csr-join-{named}", f"{name}.csr_join", (normal(R, F), normal(*carry.shape), starts, bias, chunk))
        if H == 1:
            yield KernelCase(f"csr-product-{named}", f"{name}.csr_product", (empty(R, F), carry, starts, columns, values[:, 0], *last), written=2,
                             tasks=(1, 4), expected=product_of)
            yield KernelCase(f"csr-entries-{named}", f"{name}.csr_entries", (empty(E), starts, columns, normal(R, F), normal(C, F)))
        if H > 1 or F == 3:
            yield KernelCase(f"csr-product-heads-{named}", f"{name}.csr_product_heads", (empty(R, F), carry, starts, columns, values, *last),
                             written=2, tasks=(1, 4), expected=product_of)
            yield KernelCase(f"csr-entries-heads-{named}", f"{name}.csr_entries_heads", (empty(E, H), starts, columns, normal(R, F), normal(C, F)))


def along_edges() -> Iterator[KernelCase]:
    """Heads that fill a part of a warp, and more than it has lanes; scores on both sides of the bend."""
    name = "prims.attention"
    for matrix, H in (("few", 1), ("few", 3), ("few", 37), ("hub", 4), ("one", 2), ("none", 1), ("rows", 8)):
        starts, columns, starts_t, columns_t, places = MATRICES[matrix]
        R, C, E = len(starts) - 1, len(starts_t) - 1, len(columns)
        s, t = 2 * normal(R, H), 2 * normal(C, H)
        alpha, named = np.abs(with_room(E - ROOM, H)), f"{matrix}-{H}"
        yield KernelCase(f"softmax-edges-{named}", f"{name}.edge_softmax_forward", (empty(E, H), starts, columns, s, t, 0.2))
        yield KernelCase(f"softmax-edges-backward-{named}", f"{name}.edge_softmax_backward",
                         (empty(E, H), empty(R, H), starts, columns, alpha / 30, with_room(E - ROOM, H), s, t, 0.2), written=2)
        yield KernelCase(f"row-sums-{named}", f"{name}.csr_row_sums", (empty(R, H), starts, with_room(E - ROOM, H)))
        yield KernelCase(f"places-{named}", f"{name}.csr_places", (empty(E, H), normal(E, H), places))
        x = np.round(2 * normal(C, H))
        x[C // 2, 0] = np.nan
        found = empty(R, H), np.zeros((R, H), np.int32)
        yield KernelCase(f"csr-max-{named}", "prims.segment.csr_max_forward", (*found, starts, columns, x), written=2)
        lengths = np.diff(starts)[:, None]
        best = np.where(lengths > 0, starts[:-1, None] + rng.integers(0, 1000, (R, H)) % np.maximum(1, lengths), -1)
        yield KernelCase(f"csr-max-backward-{named}", "prims.segment.csr_max_backward",
                         (empty(C, H), starts_t, columns_t, places, best, normal(R, H)))


def runs_of_rows() -> Iterator[KernelCase]:
    """Graphs without nodes, nodes without a graph, a graph that a whole block goes through, more features than lanes."""
    for segments, V, F in (((0, 3, 3, 4, 11), 13, 5), ((0, 600, 602), 602, 2), ((0, 1), 1, 1), ((0, 2, 40), 41, 35)):
        ends, G = np.array(segments), len(segments) - 1
        x = np.round(2 * normal(V, F))
        x[V // 2, 0] = np.nan
        best = np.stack([rng.integers(a, b, F) if b > a else np.full(F, -1) for a, b in itertools.pairwise(segments)]).astype(np.int32)
        for kind in ("sum", "mean"):
            yield KernelCase(f"segment-{kind}-{V}", f"prims.segment.segment_{kind}_forward", (empty(G, F), ends, normal(V, F)))
            yield KernelCase(f"segment-{kind}-backward-{V}", f"prims.segment.segment_{kind}_backward", (empty(V, F), ends, normal(G, F)))
        yield KernelCase(f"segment-max-{V}", "prims.segment.segment_max_forward", (empty(G, F), np.zeros((G, F), np.int32), ends, x), written=2)
        yield KernelCase(f"segment-max-backward-{V}", "prims.segment.segment_max_backward", (empty(V, F), ends, best, normal(G, F)))


def on_nodes() -> Iterator[KernelCase]:
    """Heads of one number and of more than a warp has lanes; pairs of a node with itself."""
    name = "layers.graph"
    for V, H, U in ((11, 3, 5), (5, 1, 37), (1, 4, 1), (67, 2, 8)):
        F, named = H * U, f"{H}-{U}"
        own, other, ds, dt = normal(H, U), normal(H, U), normal(V, H), normal(V, H)
        yield KernelCase(f"scores-{named}", f"{name}.scores_forward", (empty(V, H), empty(V, H), normal(V, F), own, other), written=2)
        yield KernelCase(f"scores-backward-{named}", f"{name}.scores_backward", (empty(V, F), ds, dt, own, other))
        yield KernelCase(f"diagonal-{named}", f"{name}.diagonal_blocks", (empty(H, U), normal(H, F)), tasks=(1,))
        for bias in (normal(U), np.empty(0)):
            yield KernelCase(f"head-mean-{named}-{bias.size}", f"{name}.head_mean_forward", (empty(V, U), normal(V, F), bias))
        yield KernelCase(f"head-mean-backward-{named}", f"{name}.head_mean_backward", (empty(V, F), normal(V, U)))
        yield KernelCase(f"add-scaled-{named}", f"{name}.add_scaled", (empty(V, F), normal(V, F), normal(V, F), normal(1)))
        yield KernelCase(f"scaled-rows-{named}", f"{name}.scaled_rows", (empty(V, F), normal(V, F), normal(1)))
        yield KernelCase(f"row-dots-{named}", f"{name}.row_dots", (empty(V, 1), normal(V, F), normal(V, F)))
        for B in (0, 3) if H > 1 else (149,):
            pairs = rng.integers(0, V, (B, 2))
            yield KernelCase(f"pair-dot-{named}-{B}", f"{name}.pair_dot_forward", (empty(B, 1), pairs, normal(V, F)))
            yield KernelCase(f"pair-dot-backward-{named}-{B}", f"{name}.pair_dot_backward", (empty(V, F), pairs, normal(B, 1), normal(V, F)))


def embedded() -> Iterator[KernelCase]:
    """Indices that occur often, and not at all; steps of which all, or all but one number, are the masked value."""
    name = "layers.embedding"
    for R, V, D in ((149, 11, 5), (7, 300, 37), (0, 3, 2), (1, 1, 1)):
        indices = rng.integers(0, V, R)
        indices[R // 2:] = V // 2
        yield KernelCase(f"embedding-forward-{V}", f"{name}.embedding_forward", (empty(R, D), indices, normal(V, D)))
        yield KernelCase(f"embedding-backward-{V}", f"{name}.embedding_backward", (empty(V, D), indices, normal(R, D), np.empty(0)))
        yield KernelCase(f"nonzero-{V}", f"{name}.nonzero", (empty(R), indices % 3))
    for R, F in ((13, 5), (3, 70), (1, 1)):
        x = normal(R, F)
        x[R // 2] = 1.5
        x[0, 1:] = 1.5
        yield KernelCase(f"masking-forward-{F}", f"{name}.masking_forward", (empty(R, F), empty(R), x, 1.5), written=2)
        yield KernelCase(f"masking-backward-{F}", f"{name}.masking_backward", (empty(R, F), normal(R, F), np.arange(R) % 2.0))


def walks() -> Iterator[KernelCase]:
    """Recurrent layers: see cuda_cases_recurrent.py. More tasks than groups of rows; and what is packed for them."""
    for name, kernel, arguments, written, expected, case in recurrent_cases():
        yield KernelCase(name, kernel, arguments, written=written, scratch=1, expected=lambda *_, made=expected: made(), dtypes=case.dtypes,
                         tasks=case.tasks or ((1, 3) if len(case.dtypes) == 2 else (2,)))
    for U, gates in ((1, 1), (5, 3), (37, 4), (8, 1)):
        weight = normal(U, gates * U)
        for kernel, pack in (("pack_quartets", packed), ("pack_quartets_turned", turned)):
            found = pack(weight)
            yield KernelCase(f"{kernel}-{U}", f"prims.recurrent.{kernel}", (empty(found.size), weight), expected=lambda *_, found=found: [found])
    for N, U in ((1, 1), (7, 43)):
        yield KernelCase(f"keep-state-{U}", "prims.recurrent.keep_state", (empty(N, U), normal(N, U)))
        yield KernelCase(f"reverse-steps-{U}", "layers.recurrent.reverse_steps", (empty(N, U), normal(N, U)))


from cuda_cases_cores import on_tensor_cores, sums_in_slices  # noqa: E402, which takes from above
from cuda_cases_winograd import winograd  # noqa: E402, likewise

CASES: Sequence[KernelCase] = [*activations(), *losses(), *updates(), *feeds(), *products(), *clipping(), *penalties(), *hinges(), *drawn(), *sums(),
                               *normalizations(), *poolings(), *merges(), *convolutions(), *sparse_products(), *along_edges(),
                               *runs_of_rows(), *on_nodes(), *embedded(), *walks(), *sums_in_slices(), *on_tensor_cores(), *winograd(),
                               *chip_cases(KernelCase, normal, empty, counters)]
