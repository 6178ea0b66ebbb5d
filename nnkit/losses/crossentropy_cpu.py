"""Kernels of the cross-entropies. R rows, C classes (entries of a row), N samples (R / N rows each).

The categorical ones come in two forms, for probabilities y and for logits z, with one list of arguments, so that a pass can put one in place of
the other. Forward keeps for backward, in the form for probabilities, q = y / sum y or its logarithm and scale = 1 / sum y; in the form for
logits, e = exp(z - max z) and scale = 1 / sum e.
"""

from __future__ import annotations

from nnkit.jit import Int, Labels, Matrix, Real, Vector, kernel, routine, scalar
from nnkit.losses.pointwise_cpu import pointwise_loss
from nnkit.losses.weights_cpu import weigh
from nnkit.prims.matmul_cpu import row_share
from nnkit.prims.rows_cpu import blend_run, fill_run, largest_run, scale_run, shift_run, sum_run, sum_shifted
from nnkit.prims.simd_cpu import address, itemsize, part
from nnkit.scalar import exp_below, exp_normal, fabs, log, sigmoid, softplus


@scalar
def smoothed(t, smoothing):
    """T (1 - s) + s / 2."""
    T = type(t)
    return t * (T(1) - smoothing) + T(0.5) * smoothing


@scalar
def clipped(y):
    """Y within [1e-7, 1 - 1e-7]; NaN stays NaN."""
    T = type(y)
    low, high = T(1e-7), T(1) - T(1e-7)
    return low if y < low else (high if y > high else y)


def binary_crossentropy(y, t, smoothing):
    """-t log y - (1 - t) log(1 - y)."""
    T = type(y)
    t = smoothed(t, smoothing)
    p = clipped(y)
    return -(t * log(p) + (T(1) - t) * log(T(1) - p))


def binary_crossentropy_derivative(y, t, smoothing):
    """(y - t) / (y (1 - y)), 0 where y was clipped."""
    T = type(y)
    p = clipped(y)
    return T(0) if p < y or p > y else (p - smoothed(t, smoothing)) / (p * (T(1) - p))


binary_crossentropy_forward, binary_crossentropy_backward = pointwise_loss(binary_crossentropy, binary_crossentropy_derivative)


def binary_crossentropy_logits(z, t, smoothing):
    """softplus(z) - z t, as log(1 + exp(-|z|)) + |z| u with u = 1 - t above 0, t below: where z is large and right, nothing is subtracted from it.

    u = 0 counts as 0 whatever z is.
    """
    T = type(z)
    t = smoothed(t, smoothing)
    size = fabs(z)
    u = T(1) - t if z > T(0) else t
    return softplus(-size) + (T(0) if u == T(0) else size * u)


def binary_crossentropy_logits_derivative(z, t, smoothing):
    """sigmoid(z) - t."""
    return sigmoid(z) - smoothed(t, smoothing)


binary_crossentropy_logits_forward, binary_crossentropy_logits_backward = pointwise_loss(
    binary_crossentropy_logits, binary_crossentropy_logits_derivative)


@scalar
def clipped_to_one(y):
    """Y within [1e-7, 1]; NaN stays NaN."""
    T = type(y)
    return T(1e-7) if y < T(1e-7) else (T(1) if y > T(1) else y)


def kl_divergence(y, t):
    """T log(t / y), both within [1e-7, 1]."""
    t = clipped_to_one(t)
    return t * log(t / clipped_to_one(y))


def kl_divergence_derivative(y, t):
    """-t / y, 0 where y was clipped."""
    T = type(y)
    p = clipped_to_one(y)
    return T(0) if p < y or p > y else -clipped_to_one(t) / p


kl_divergence_forward, kl_divergence_backward = pointwise_loss(kl_divergence, kl_divergence_derivative)


# What the categorical forms share.

@routine
def exp_rows(e, start, stop):
    """e = exp(e) for rows [start, stop), elementwise: one long loop also where rows are short."""
    C = e.shape[1]
    es = part(e, start * C, stop * C)
    for i in range(es.size):
        es[i] = exp_below(es[i])


@routine
def normalize_rows(q, scale, y, start, stop):
    """q = y / sum y, scale = 1 / sum y, for rows [start, stop)."""
    C = y.shape[1]
    T = y.dtype.type
    for r in range(start, stop):
        row = itemsize(y) * r * C
        scale[r] = T(1) / sum_run(address(y) + row, C, y)
        scale_run(address(q) + row, scale[r], address(y) + row, C, y)


# Categorical: targets t [R, C], of which t (1 - s) + s / C is meant, s the smoothing.

@kernel
def categorical_crossentropy_forward(task: Int, tasks: Int, rows: Vector, kept: Matrix, scale: Vector, y: Matrix, t: Matrix, w: Vector,
                                     logs: Vector, smoothing: Real) -> None:
    """rows[r] = -w sum_c t log q, q = y / sum y within [1e-7, 1 - 1e-7]; kept = log q; scale = 1 / sum y.

    Shapes: rows, scale [R], kept, y, t [R, C], w [N]; logs is not used. Row-local. Writes rows, kept and scale (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    C = y.shape[1]
    T = y.dtype.type
    row = itemsize(y) * C
    normalize_rows(kept, scale, y, start, stop)
    ks = part(kept, start * C, stop * C)
    for i in range(ks.size):
        ks[i] = log(clipped(ks[i]))
    for r in range(start, stop):
        logs = address(kept) + r * row
        rows[r] = -(T(1) - smoothing) * sum_shifted(address(t) + r * row, logs, T(0), C, y)
        if smoothing != T(0):
            rows[r] -= smoothing / T(C) * sum_run(logs, C, y)
    weigh(rows, w, start, stop)


@kernel
def categorical_crossentropy_backward(task: Int, tasks: Int, dy: Matrix, y: Matrix, t: Matrix, w: Vector, kept: Matrix, scale: Vector,
                                      smoothing: Real) -> None:
    """dy[r, c] = w / R scale (sum t - t / q), q = e^kept, where t counts as 0 if its q was clipped.

    Shapes: dy, y, t, kept [R, C], scale [R], w [N]. Row-local. Writes dy (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    R, C = y.shape
    T = y.dtype.type
    row = itemsize(y) * C
    per_sample = R // w.size
    low, high = log(clipped(T(0))), log(clipped(T(1)))
    base = smoothing / T(C)
    ds, ts, ks = part(dy, start * C, stop * C), part(t, start * C, stop * C), part(kept, start * C, stop * C)
    for i in range(ds.size):
        share = (ts[i] * (T(1) - smoothing) + base) * exp_normal(-ks[i])
        share = T(0) if ks[i] <= low else share
        ds[i] = T(0) if ks[i] >= high else share
    for r in range(start, stop):
        here = address(dy) + r * row
        factor = weight_of(w, r, per_sample) / T(R) * scale[r]
        total = sum_shifted(here, address(y) + r * row, T(0), C, y) * scale[r]            # sum of t / q times q, q not clipped
        blend_run(here, -factor, here, T(0), here, factor * total, C, y)


@kernel
def categorical_crossentropy_logits_forward(task: Int, tasks: Int, rows: Vector, kept: Matrix, scale: Vector, z: Matrix, t: Matrix, w: Vector,
                                            logs: Vector, smoothing: Real) -> None:
    """rows[r] = w sum_c t (log sum e - (z - max z)), e = exp(z - max z); kept = e; scale = sum t / sum e.

    Shapes: rows, scale [R], kept, z, t [R, C], w [N]; logs [R] is scratch. Row-local. Writes rows, kept and scale (=).
    """
    start, stop = row_share(z.shape[0], tasks, task)
    C = z.shape[1]
    T = z.dtype.type
    row = itemsize(z) * C
    for r in range(start, stop):
        logits, targets = address(z) + r * row, address(t) + r * row
        largest = largest_run(logits, C, z)
        shift_run(address(kept) + r * row, logits, largest, C, z)
        if smoothing != T(1):                            # else the targets count for nothing, whatever their logarithms are
            rows[r] = (T(1) - smoothing) * sum_shifted(targets, logits, largest, C, z)
        else:
            rows[r] = T(0)
        scale[r] = (T(1) - smoothing) * sum_run(targets, C, z) + smoothing
    if smoothing != T(0):
        for r in range(start, stop):
            rows[r] += smoothing / T(C) * sum_run(address(kept) + r * row, C, z)
    exp_rows(kept, start, stop)
    for r in range(start, stop):
        logs[r] = sum_run(address(kept) + r * row, C, z)
    own, scales, sums = part(rows, start, stop), part(scale, start, stop), part(logs, start, stop)
    for r in range(own.size):
        own[r] = scales[r] * log(sums[r]) - own[r]
        scales[r] /= sums[r]
    weigh(rows, w, start, stop)


@kernel
def categorical_crossentropy_logits_backward(task: Int, tasks: Int, dz: Matrix, z: Matrix, t: Matrix, w: Vector, kept: Matrix, scale: Vector,
                                             smoothing: Real) -> None:
    """dz[r, c] = w / R (scale e - t), which is softmax(z) sum t - t. Shapes: dz, z, t, kept [R, C], scale [R], w [N]. Row-local. Writes dz (=)."""
    start, stop = row_share(dz.shape[0], tasks, task)
    R, C = dz.shape
    T = dz.dtype.type
    row = itemsize(dz) * C
    per_sample = R // w.size
    for r in range(start, stop):
        factor = weight_of(w, r, per_sample) / T(R)
        blend_run(address(dz) + r * row, factor * scale[r], address(kept) + r * row, -factor * (T(1) - smoothing), address(t) + r * row,
                  -factor * smoothing / T(C), C, dz)


@routine
def weight_of(w, r, per_sample):
    """The weight of the row's sample."""
    return w[r] if per_sample == 1 else w[r // per_sample]


# Sparse: labels t [R]. Where `valid` has an entry, rows whose label is `ignore` count 0, and the others `valid` times.

@kernel
def valid_share(task: Int, tasks: Int, valid: Vector, t: Labels, mask: Vector, ignore: Int) -> None:
    """valid[0] = number of rows / number of those whose label is not `ignore`, 0 where there are none; of the rows with a mask of 1, if there is one.

    Shapes: valid [1], t [R], mask [M] or empty, R a multiple of M. One task. Writes valid (=).
    """
    T = valid.dtype.type
    rows = count = 0
    for r in range(t.size):
        if mask.size == 0 or mask[r // (t.size // mask.size)] != T(0):
            rows += 1
            count += t[r] != ignore
    valid[0] = T(rows) / T(count) if count else T(0)


@routine
def weigh_valid(rows, t, w, valid, ignore, start, stop):
    """rows[r] *= w of the row's sample and the share of valid rows; 0 where the label is ignored, whatever stood there."""
    weigh(rows, w, start, stop)
    if valid.size:
        T = rows.dtype.type
        for r in range(start, stop):
            rows[r] = T(0) if t[r] == ignore else rows[r] * valid[0]


@routine
def label_of(t, r, valid, ignore):
    """The row's label; class 0 stands in for an ignored one, which may be no class."""
    return 0 if valid.size and t[r] == ignore else t[r]


@routine
def row_factor(t, w, r, per_sample, valid, ignore):
    """w / R of a row, times the share of valid rows; 0 where the label is ignored."""
    T = w.dtype.type
    factor = weight_of(w, r, per_sample) / T(t.size)
    if valid.size:
        factor = T(0) if t[r] == ignore else factor * valid[0]
    return factor


@kernel
def sparse_categorical_crossentropy_forward(task: Int, tasks: Int, rows: Vector, kept: Matrix, scale: Vector, y: Matrix, t: Labels, w: Vector,
                                            valid: Vector, ignore: Int) -> None:
    """rows[r] = -w log q[t], q = y / sum y within [1e-7, 1 - 1e-7]; kept = q, not clipped; scale = 1 / sum y.

    Shapes: rows, scale, t [R], kept, y [R, C], w [N], valid [1] or empty. Row-local. Writes rows, kept and scale (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    normalize_rows(kept, scale, y, start, stop)
    for r in range(start, stop):
        rows[r] = kept[r, label_of(t, r, valid, ignore)]
    own = part(rows, start, stop)
    for r in range(own.size):
        own[r] = -log(clipped(own[r]))
    weigh_valid(rows, t, w, valid, ignore, start, stop)


@kernel
def sparse_categorical_crossentropy_backward(task: Int, tasks: Int, dy: Matrix, y: Matrix, t: Labels, w: Vector, kept: Matrix, scale: Vector,
                                             valid: Vector, ignore: Int) -> None:
    """dy[r, c] = w / R scale (1 - [c = t] / q[t]), 0 where q[t] was clipped.

    Shapes: dy, y, kept [R, C], scale, t [R], w [N], valid [1] or empty. Row-local. Writes dy (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    R, C = y.shape
    T = y.dtype.type
    per_sample = R // w.size
    row = itemsize(y) * C
    for r in range(start, stop):
        q = kept[r, label_of(t, r, valid, ignore)]
        factor = row_factor(t, w, r, per_sample, valid, ignore)
        moved = clipped(q) < q or clipped(q) > q         # not where q is NaN, which stays visible
        fill_run(address(dy) + r * row, T(0) if factor == T(0) or moved else factor * scale[r], C, y)
    for r in range(start, stop):
        label = label_of(t, r, valid, ignore)
        if dy[r, label] != T(0):
            dy[r, label] -= dy[r, label] / clipped(kept[r, label])


@kernel
def sparse_categorical_crossentropy_logits_forward(task: Int, tasks: Int, rows: Vector, kept: Matrix, scale: Vector, z: Matrix, t: Labels,
                                                   w: Vector, valid: Vector, ignore: Int) -> None:
    """rows[r] = w (log sum e - (z[t] - max z)), e = exp(z - max z); kept = e; scale = 1 / sum e.

    Shapes: rows, scale, t [R], kept, z [R, C], w [N], valid [1] or empty. Row-local. Writes rows, kept and scale (=).
    """
    start, stop = row_share(z.shape[0], tasks, task)
    C = z.shape[1]
    T = z.dtype.type
    row = itemsize(z) * C
    for r in range(start, stop):
        largest = largest_run(address(z) + r * row, C, z)
        shift_run(address(kept) + r * row, address(z) + r * row, largest, C, z)
        rows[r] = z[r, label_of(t, r, valid, ignore)] - largest
    exp_rows(kept, start, stop)
    for r in range(start, stop):
        scale[r] = sum_run(address(kept) + r * row, C, z)
    own, scales = part(rows, start, stop), part(scale, start, stop)
    for r in range(own.size):
        own[r] = log(scales[r]) - own[r]
        scales[r] = T(1) / scales[r]
    weigh_valid(rows, t, w, valid, ignore, start, stop)


@kernel
def sparse_categorical_crossentropy_logits_backward(task: Int, tasks: Int, dz: Matrix, z: Matrix, t: Labels, w: Vector, kept: Matrix,
                                                    scale: Vector, valid: Vector, ignore: Int) -> None:
    """dz[r, c] = w / R (scale e - [c = t]), which is softmax(z) - [c = t].

    Shapes: dz, z, kept [R, C], scale, t [R], w [N], valid [1] or empty. Row-local. Writes dz (=).
    """
    start, stop = row_share(dz.shape[0], tasks, task)
    R, C = dz.shape
    T = dz.dtype.type
    row = itemsize(dz) * C
    per_sample = R // w.size
    for r in range(start, stop):
        factor = row_factor(t, w, r, per_sample, valid, ignore)
        if factor == T(0):                               # 0 whatever stands in an ignored row
            fill_run(address(dz) + r * row, factor, C, dz)
        else:
            scale_run(address(dz) + r * row, factor * scale[r], address(kept) + r * row, C, dz)
    for r in range(start, stop):
        dz[r, label_of(t, r, valid, ignore)] -= row_factor(t, w, r, per_sample, valid, ignore)
