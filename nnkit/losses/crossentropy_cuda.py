"""CUDA twins of crossentropy_cpu.py. R rows, C classes, N samples (R / N rows each). A warp takes a row of classes."""

from __future__ import annotations

from nnkit.cuda_jit import THREADS, data, kernel, routine, scratch, thread
from nnkit.jit import Int, Labels, Matrix, Real, Vector
from nnkit.losses import crossentropy_cpu as cpu
from nnkit.losses.crossentropy_cpu import clipped
from nnkit.losses.pointwise_cuda import pointwise_loss, weight_of
from nnkit.prims.block_cuda import WARPS, block_sum, divided, row_share
from nnkit.prims.rows_cuda import largest_of_row, row_of_warp, sum_over_warp, warp_lane
from nnkit.scalar import exp_below, exp_normal, log

binary_crossentropy_forward, binary_crossentropy_backward = pointwise_loss(cpu.binary_crossentropy_forward, cpu.binary_crossentropy_backward)
binary_crossentropy_logits_forward, binary_crossentropy_logits_backward = pointwise_loss(
    cpu.binary_crossentropy_logits_forward, cpu.binary_crossentropy_logits_backward)
kl_divergence_forward, kl_divergence_backward = pointwise_loss(cpu.kl_divergence_forward, cpu.kl_divergence_backward)


# On probabilities y, which are divided by their sum.

@routine
def scale_of(ys, first, C, like):
    """1 / the sum of ys[first : first + C], by a warp."""
    T = like.dtype.type
    total = T(0)
    for i in range(first + warp_lane(), first + C, 32):
        total += ys[i]
    return T(1) / sum_over_warp(total)


@kernel
def categorical_crossentropy_forward(task: Int, tasks: Int, rows: Vector, kept: Matrix, scale: Vector, y: Matrix, t: Matrix, w: Vector,
                                     logs: Vector, smoothing: Real) -> None:
    """rows[r] = -w sum_c t log q, q = y / sum y within [1e-7, 1 - 1e-7]; kept = log q; scale = 1 / sum y.

    Shapes: rows, scale [R], kept, y, t [R, C], w [N]; logs is not used. Row-local. Writes rows, kept and scale (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    T = type(smoothing)
    R, C = y.shape
    ys, ks, ts = data(y), data(kept), data(t)
    base, part = smoothing / T(C), T(1) - smoothing
    for r in range(start + row_of_warp(), stop, WARPS):
        own = scale_of(ys, r * C, C, y)
        cross = T(0)
        for i in range(r * C + warp_lane(), (r + 1) * C, 32):
            k = log(clipped(own * ys[i]))
            ks[i] = k
            cross += (part * ts[i] + base) * k
        cross = sum_over_warp(cross)
        if warp_lane() == 0:
            data(rows)[r] = -weight_of(w, r, R) * cross
            data(scale)[r] = own


@kernel
def categorical_crossentropy_backward(task: Int, tasks: Int, dy: Matrix, y: Matrix, t: Matrix, w: Vector, kept: Matrix, scale: Vector,
                                      smoothing: Real) -> None:
    """dy[r, c] = w / R scale (sum t - t / q), q = e^kept, where t counts as 0 if its q was clipped.

    Shapes: dy, y, t, kept [R, C], scale [R], w [N]. Row-local. Writes dy (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    T = type(smoothing)
    R, C = y.shape
    ds, ys, ks, ts = data(dy), data(y), data(kept), data(t)
    base, part = smoothing / T(C), T(1) - smoothing
    low, high = log(clipped(T(0))), log(clipped(T(1)))
    for r in range(start + row_of_warp(), stop, WARPS):
        own = data(scale)[r]
        total = T(0)
        for i in range(r * C + warp_lane(), (r + 1) * C, 32):
            ratio = (part * ts[i] + base) * exp_normal(-ks[i])
            ratio = T(0) if ks[i] <= low or ks[i] >= high else ratio
            ds[i] = ratio
            total += ratio * ys[i]
        total = sum_over_warp(total) * own               # sum of t / q times q, q not clipped
        factor = weight_of(w, r, R) / T(R) * own
        for i in range(r * C + warp_lane(), (r + 1) * C, 32):
            ds[i] = factor * (total - ds[i])


# Along logits.

@kernel
def categorical_crossentropy_logits_forward(task: Int, tasks: Int, rows: Vector, kept: Matrix, scale: Vector, z: Matrix, t: Matrix, w: Vector,
                                            logs: Vector, smoothing: Real) -> None:
    """rows[r] = w sum_c t (log sum e - (z - max z)), e = exp(z - max z); kept = e; scale = sum t / sum e.

    Shapes: rows, scale [R], kept, z, t [R, C], w [N]; logs is not used. Row-local. Writes rows, kept and scale (=).
    """
    start, stop = row_share(z.shape[0], tasks, task)
    T = type(smoothing)
    R, C = z.shape
    zs, es, ts = data(z), data(kept), data(t)
    base, part = smoothing / T(C), T(1) - smoothing
    for r in range(start + row_of_warp(), stop, THREADS // 32):
        largest = largest_of_row(zs, r * C, C, z)
        total, targets, cross = T(0), T(0), T(0)
        for i in range(r * C + warp_lane(), (r + 1) * C, 32):
            target, shifted = part * ts[i] + base, zs[i] - largest
            e = exp_below(shifted)
            es[i] = e
            total += e
            targets += target
            cross += T(0) if target == T(0) else target * shifted     # 0 log 0 = 0
        total, targets, cross = sum_over_warp(total), sum_over_warp(targets), sum_over_warp(cross)
        if warp_lane() == 0:
            data(rows)[r] = weight_of(w, r, R) * (targets * log(total) - cross)
            data(scale)[r] = targets / total


@kernel
def categorical_crossentropy_logits_backward(task: Int, tasks: Int, dz: Matrix, z: Matrix, t: Matrix, w: Vector, kept: Matrix, scale: Vector,
                                             smoothing: Real) -> None:
    """dz[r, c] = w / R (scale e - t), which is softmax(z) sum t - t. Shapes: dz, z, t, kept [R, C], scale [R], w [N]. Row-local. Writes dz (=)."""
    start, stop = row_share(dz.shape[0], tasks, task)
    T = type(smoothing)
    R, C = dz.shape
    ds, es, ts = data(dz), data(kept), data(t)
    base, part = smoothing / T(C), T(1) - smoothing
    for r in range(start + row_of_warp(), stop, THREADS // 32):
        factor, own = weight_of(w, r, R) / T(R), data(scale)[r]
        for i in range(r * C + warp_lane(), (r + 1) * C, 32):
            ds[i] = factor * (own * es[i] - (part * ts[i] + base))


@routine
def counts(label, valid, ignore):
    """Whether a row of this label counts in the loss."""
    return valid.size == 0 or label != ignore


@kernel
def valid_share(task: Int, tasks: Int, valid: Vector, t: Labels, mask: Vector, ignore: Int) -> None:
    """valid[0] = number of rows / number of those whose label is not `ignore`, 0 where there are none; of the rows with a mask of 1, if there is one.

    Shapes: valid [1], t [R], mask [M] or empty, R a multiple of M. One task. Writes valid (=).
    """
    T, place = valid.dtype.type, scratch(valid)
    per_entry = divided(t.size, max(1, mask.size))[0]
    rows, count = T(0), T(0)                             # whole numbers below 2^24: exact in float32
    for r in range(thread(), t.size, THREADS):
        if mask.size == 0 or data(mask)[divided(r, per_entry)[0]] != T(0):
            rows += T(1)
            count += T(1) if data(t)[r] != ignore else T(0)
    rows, count = block_sum(rows, place), block_sum(count, place)
    if thread() == 0:
        data(valid)[0] = rows / count if count > T(0) else T(0)


@kernel
def sparse_categorical_crossentropy_forward(task: Int, tasks: Int, rows: Vector, kept: Matrix, scale: Vector, y: Matrix, t: Labels, w: Vector,
                                            valid: Vector, ignore: Int) -> None:
    """rows[r] = -w log q[t], q = y / sum y within [1e-7, 1 - 1e-7]; kept = q, not clipped; scale = 1 / sum y.

    Shapes: rows, scale, t [R], kept, y [R, C], w [N], valid [1] or empty. Row-local. Writes rows, kept and scale (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    T = y.dtype.type
    R, C = y.shape
    ys, qs = data(y), data(kept)
    for r in range(start + row_of_warp(), stop, WARPS):
        own = scale_of(ys, r * C, C, y)
        for i in range(r * C + warp_lane(), (r + 1) * C, 32):
            qs[i] = own * ys[i]
        if warp_lane() == 0:
            label = data(t)[r]
            loss = T(0)
            if counts(label, valid, ignore):
                loss = -log(clipped(own * ys[r * C + label])) * weight_of(w, r, R)
                loss = loss * data(valid)[0] if valid.size else loss
            data(rows)[r] = loss
            data(scale)[r] = own


@kernel
def sparse_categorical_crossentropy_backward(task: Int, tasks: Int, dy: Matrix, y: Matrix, t: Labels, w: Vector, kept: Matrix, scale: Vector,
                                             valid: Vector, ignore: Int) -> None:
    """dy[r, c] = w / R scale (1 - [c = t] / q[t]), 0 where q[t] was clipped.

    Shapes: dy, y, kept [R, C], scale, t [R], w [N], valid [1] or empty. Row-local. Writes dy (=).
    """
    start, stop = row_share(y.shape[0], tasks, task)
    T = y.dtype.type
    R, C = y.shape
    ds, qs = data(dy), data(kept)
    for r in range(start + row_of_warp(), stop, WARPS):
        label = data(t)[r]
        factor, ratio = T(0), T(0)
        if counts(label, valid, ignore):
            q = qs[r * C + label]
            factor = weight_of(w, r, R) / T(R) * data(scale)[r]
            factor = factor * data(valid)[0] if valid.size else factor
            factor = T(0) if clipped(q) < q or clipped(q) > q else factor
            ratio = factor / q if factor != T(0) else T(0)
        for c in range(warp_lane(), C, 32):
            ds[r * C + c] = factor - ratio if c == label else factor


@kernel
def sparse_categorical_crossentropy_logits_forward(task: Int, tasks: Int, rows: Vector, kept: Matrix, scale: Vector, z: Matrix, t: Labels,
                                                   w: Vector, valid: Vector, ignore: Int) -> None:
    """rows[r] = w (log sum e - (z[t] - max z)), e = exp(z - max z); kept = e; scale = 1 / sum e.

    Shapes: rows, scale, t [R], kept, z [R, C], w [N], valid [1] or empty. Row-local. Writes rows, kept and scale (=).
    """
    start, stop = row_share(z.shape[0], tasks, task)
    T = z.dtype.type
    R, C = z.shape
    zs, es = data(z), data(kept)
    for r in range(start + row_of_warp(), stop, THREADS // 32):
        largest = largest_of_row(zs, r * C, C, z)
        total = T(0)
        for i in range(r * C + warp_lane(), (r + 1) * C, 32):
            e = exp_below(zs[i] - largest)
            es[i] = e
            total += e
        total = sum_over_warp(total)
        if warp_lane() == 0:
            label = data(t)[r]
            loss = T(0)
            if counts(label, valid, ignore):
                loss = weight_of(w, r, R) * (log(total) - (zs[r * C + label] - largest))
                loss = loss * data(valid)[0] if valid.size else loss
            data(rows)[r] = loss
            data(scale)[r] = T(1) / total


@kernel
def sparse_categorical_crossentropy_logits_backward(task: Int, tasks: Int, dz: Matrix, z: Matrix, t: Labels, w: Vector, kept: Matrix,
                                                    scale: Vector, valid: Vector, ignore: Int) -> None:
    """dz[r, c] = w / R (scale e - [c = t]), which is softmax(z) - [c = t].

    Shapes: dz, z, kept [R, C], scale, t [R], w [N], valid [1] or empty. Row-local. Writes dz (=).
    """
    start, stop = row_share(dz.shape[0], tasks, task)
    T = dz.dtype.type
    R, C = dz.shape
    ds, es = data(dz), data(kept)
    for r in range(start + row_of_warp(), stop, THREADS // 32):
        label, own = data(t)[r], data(scale)[r]
        factor = weight_of(w, r, R) / T(R)
        factor = factor * data(valid)[0] if valid.size else factor
        factor = factor if counts(label, valid, ignore) else T(0)
        for c in range(warp_lane(), C, 32):
            i = r * C + c
            ds[i] = T(0) if factor == T(0) else factor * (own * es[i] - (T(1) if c == label else T(0)))
