"""Cases of products on tensor cores, and of sums that go in slices. They are a part of cuda_cases.CASES.

What tensor cores multiply are factors rounded to tf32 or bfloat16, whose products are exact in float32: so the result is that of rounded factors, at
the tolerance of float32. On a device additions are cut and not rounded, which of these few is 1e-6 at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cuda_cases import KernelCase, convolution, empty, forward, input_gradient, normal, sizes_of, weight_gradient

__all__ = ["ROUND", "on_tensor_cores", "sums_in_slices"]


def to_tf32(x: np.ndarray) -> np.ndarray:
    """The nearest numbers of 10 bits behind the point, from the middle away from 0."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.trunc(fraction * 2 ** 11 + np.copysign(0.5, fraction)), exponent - 11)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The nearest numbers of 7 bits behind the point, from the middle to the even one."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(fraction * 2 ** 8), exponent - 8)


ROUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {"_tf32": to_tf32, "_bfloat16": to_bfloat16}

# Rows, inputs, outputs of products by tiles of 64 and 128: such that four numbers can be copied at a time, and not, and in one factor alone; ends
# within a tile and within a slice.
PRODUCTS = {"_64": ((67, 35, 40), (72, 36, 68), (1, 64, 70)), "_128": ((131, 18, 70), (132, 20, 136))}
DENSE = "layers.dense.dense"

# Convolutions by tiles whose channels, filters, or none of them, go four at a time; groups, strides.
CONVOLUTIONS = {
    "_64": ((convolution((5, 2, 1, 1, 1, 6), (8, 1, 1, 1, 0, 8), channels=11, filters=70), 2),
            (convolution((5, 3, 2, 1, 1, 3), (8, 2, 1, 1, 0, 7), channels=12, filters=72), 2)),
    "_128": ((convolution((13, 3, 2, 1, 1, 7), (11, 1, 1, 1, 0, 11), channels=67, filters=5), 2),
             (convolution((13, 3, 1, 2, 2, 13), (11, 1, 1, 1, 0, 11), channels=68, filters=8), 1)),
    "_narrow": ((convolution((7, 3, 1, 1, 1, 7), (12, 2, 1, 1, 1, 12), channels=4, filters=6, groups=2), 1),
                (convolution((7, 3, 2, 1, 1, 4), (12, 2, 1, 1, 1, 12), channels=16, filters=8, groups=2), 2)),
}
IMPLICIT = "prims.implicit.implicit"


def parts_of(depth: int, slices: int) -> list[slice]:
    """The slices of a sum, but for the last a multiple of 16 long."""
    chunk = -(-depth // (16 * slices)) * 16
    return [slice(first, first + chunk) for first in range(0, slices * chunk, chunk)]


def sliced(y: np.ndarray, a: np.ndarray, b: np.ndarray, bias: np.ndarray, rounded: Any = lambda x: x) -> tuple[np.ndarray, ...]:
    """A B of each slice, the first with the bias, one behind the other."""
    parts = [rounded(a[:, part]) @ rounded(b[part]) for part in parts_of(a.shape[1], len(y) // len(a))]
    return np.concatenate([parts[0] + (bias if bias.size else 0), *parts[1:]]),


def dense(end: str, side: str, R: int, I: int, O: int, slices: int, cut: dict[str, Any]) -> Iterator[KernelCase]:
    """Forward and both gradients, in slices."""
    rounded = ROUND.get(end, lambda x: x)
    x, w, dy, bias, none = normal(R, I), normal(I, O), normal(R, O), normal(O), np.empty(0)
    named = f"{side}{end}-{R}-{I}-{O}-{slices}"
    yield KernelCase(f"dense-forward{named}", f"{DENSE}_forward{side}{end}", (empty(slices * R, O), x, w, bias, none),
                     expected=lambda y, x, w, b, _: sliced(y, x, w, b, rounded), **cut)
    yield KernelCase(f"dense-input{named}", f"{DENSE}_backward_input_whole{side}{end}", (empty(slices * R, I), dy, w),
                     expected=lambda dx, dy, w: sliced(dx, dy, w.T, none, rounded), **cut)
    if slices > 1:                                       # the bias's gradient is then elsewhere
        yield KernelCase(f"dense-weight{named}", f"{DENSE}_backward_weight{side}{end}", (empty(slices * I, O), none, x, dy, none), written=2,
                         expected=lambda dw, _, x, dy, __: (*sliced(dw, x.T, dy, none, rounded), none), **cut)


def sums_in_slices() -> Iterator[KernelCase]:
    """Sums of products and convolutions in slices, of which the last is short, or empty."""
    cut = {"dtypes": ("float32",), "tasks": (1, 3)}
    for side, (R, I, O) in {"_32": (35, 70, 37), "_64": (67, 100, 35), "_128": (131, 40, 33)}.items():
        yield from dense("", side, R, I, O, 3, cut)
    for side, ((c, N), *_) in CONVOLUTIONS.items():
        yield from convolved("", side, c, N, 3, cut)


def convolved(end: str, side: str, c: Any, N: int, slices: int, cut: dict[str, Any]) -> Iterator[KernelCase]:
    """Forward and the gradient by the input of a convolution; of several slices their sum is looked at. The first has the bias."""
    rounded, windows, (before, after, weights) = ROUND.get(end, lambda x: x), c.windows, sizes_of(c)
    x, w, dy, relu = normal(N, before), normal(weights, c.filters), normal(N, after), int(slices == 1)
    named = f"{side}{end}-{c.channels}-{slices}"

    def of_slices(gradient: Any) -> Any:
        def expected(y: np.ndarray, a: np.ndarray, b: np.ndarray, *rest: Any) -> tuple[np.ndarray, ...]:
            whole, = gradient(y[:N], rounded(a), rounded(b), *rest)
            return np.concatenate([whole, *[0 * whole] * (slices - 1)]),
        return expected

    def total(y: np.ndarray) -> tuple[np.ndarray, ...]:
        return y.reshape(slices, N, -1).sum(0),
    yield KernelCase(f"implicit-forward{named}", f"{IMPLICIT}_forward{side}{end}", (empty(slices * N, after), x, w, normal(c.filters), windows, relu),
                     expected=of_slices(forward), counts=total, **cut)
    yield KernelCase(f"implicit-input{named}", f"{IMPLICIT}_input{side}{end}", (empty(slices * N, before), dy, w, normal(c.channels), windows, relu),
                     expected=of_slices(input_gradient), counts=total, **cut)


def on_tensor_cores() -> Iterator[KernelCase]:
    """Products of rounded factors; db, which is no product, of numbers as they are."""
    cut, none = {"dtypes": ("float32",), "tasks": (2,)}, np.empty(0)
    for end, rounded in ROUND.items():
        for side, shapes in PRODUCTS.items():
            for R, I, O in shapes if end == "_tf32" else shapes[-2:-1]:            # what differs is how words are made of four numbers
                yield from dense(end, side, R, I, O, 2 if I == 35 else 1, cut)
                yield KernelCase(f"dense-weight{side}{end}-{R}-{I}-{O}", f"{DENSE}_backward_weight{side}{end}",
                                 (empty(I, O), empty(O), normal(R, I), normal(R, O), none), written=2,
                                 expected=lambda dw, db, x, dy, _, r=rounded: (r(x).T @ r(dy), dy.sum(0)), **cut)
        for side, cases in CONVOLUTIONS.items():
            for c, N in cases if end == "_tf32" else cases[-1:]:
                windows, (before, after, weights) = c.windows, sizes_of(c)
                yield from convolved(end, side, c, N, 2 if c.channels in (12, 4) else 1, cut)
                places = N * after // c.filters
                yield KernelCase(f"implicit-weight{side}{end}-{c.channels}", f"{IMPLICIT}_weight{side}{end}",
                                 (empty(-(-places // 48), weights * c.filters), normal(N, before), normal(N, after), windows, 48),
                                 expected=lambda dw, x, dy, windows, chunk, r=rounded: weight_gradient(dw, r(x), r(dy), windows, chunk), **cut)
