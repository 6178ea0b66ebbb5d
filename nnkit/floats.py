"""What scalar maths is made of: single operations of LLVM on floats, numbers and polynomials in the type of their argument. See scalar.py.

Everything works in the width of its argument (Numba's own int32 arithmetic is int64), for float32 and float64, on CPUs and on GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from nnkit.jit import SCALAR_OPTIONS, scalar

__all__ = ["by_type", "constant", "copysign", "fabs", "fma", "maximum", "minimum", "polynomial", "power_of_two", "split", "sqrt", "whole_power"]


@attrs.frozen
class Layout:
    """Where a float type keeps its exponent."""

    mantissa: int       # bits
    bias: int           # the exponent field of 1.0
    suffix: str         # of LLVM's intrinsics

    @property
    def integer(self) -> ir.IntType:
        """The integer type of the same width."""
        return ir.IntType(32 if self.suffix == "f32" else 64)

    def bits(self, value: float) -> ir.Constant:
        """The bits of `value` as an integer constant."""
        single = self.suffix == "f32"
        return ir.Constant(self.integer, int(np.array(value, np.float32 if single else np.float64).view(np.int32 if single else np.int64)))


LAYOUTS = {types.float32: Layout(mantissa=23, bias=127, suffix="f32"), types.float64: Layout(mantissa=52, bias=1023, suffix="f64")}


def _literal(kind: ir.Type, value: float) -> ir.Constant:
    return ir.Constant(kind, float(np.float32(value)) if isinstance(kind, ir.FloatType) else float(value))


def _call(builder: Any, name: str, arguments: Sequence[Any]) -> Any:
    kind = arguments[0].type
    if builder.module.triple.startswith("nvptx") and name in SIGN_OPERATIONS:
        return SIGN_OPERATIONS[name](builder, *arguments)
    suffix = "f32" if isinstance(kind, ir.FloatType) else "f64"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * len(arguments)), f"llvm.{name}.{suffix}")
    return builder.call(function, arguments)


def _sign_bits(builder: Any, x: Any, sign: bool) -> Any:
    """The sign bit of x alone, or all others, as an integer."""
    width = 32 if isinstance(x.type, ir.FloatType) else 64
    integer, top = ir.IntType(width), 1 << (width - 1)
    return builder.and_(builder.bitcast(x, integer), ir.Constant(integer, top if sign else top - 1))


# What NVIDIA's LLVM has no intrinsic for.
SIGN_OPERATIONS: dict[str, Callable[..., Any]] = {
    "fabs": lambda builder, x: builder.bitcast(_sign_bits(builder, x, False), x.type),
    "copysign": lambda builder, x, sign: builder.bitcast(builder.or_(_sign_bits(builder, x, False), _sign_bits(builder, sign, True)), x.type),
}


def constant(single: float, double: float | None = None) -> Callable[..., Any]:
    """C = constant(single, double): C(x) is that number in the type of x."""
    def typed(typing_context: Any, like: Any) -> Any:
        value = single if like == types.float32 or double is None else double
        return (like(like), lambda context, builder, signature, values: _literal(values[0].type, value)) if like in LAYOUTS else None
    return intrinsic(typed)


def _horner(builder: Any, terms: Sequence[Any], x: Any) -> Any:
    total = terms[-1]
    for term in terms[-2::-1]:
        total = _call(builder, "fma", [total, x, term])
    return total


def polynomial(single: Sequence[float], double: Sequence[float] | None = None, halves: bool = False) -> Callable[..., Any]:
    """P = polynomial(c): P(x) = c[0] + c[1] x + c[2] x^2 + ... by Horner's rule in fma, the coefficients by the type of x.

    halves: the even and the odd terms are summed side by side, which halves the wait for one more product and a little more rounding.
    """
    def typed(typing_context: Any, x: Any) -> Any:
        coefficients = single if x == types.float32 or double is None else double

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            x = values[0]
            terms = [_literal(x.type, c) for c in coefficients]
            if not halves:
                return _horner(builder, terms, x)
            square = builder.fmul(x, x)
            return _call(builder, "fma", [_horner(builder, terms[1::2], square), x, _horner(builder, terms[::2], square)])
        return (x(x), codegen) if x in LAYOUTS else None
    return intrinsic(typed)


def by_type(single: Callable[..., Any], double: Callable[..., Any]) -> Callable[..., Any]:
    """One function of two: `single` where the argument is float32, `double` where it is float64."""
    def chosen(*arguments: Any) -> Any:
        raise TypeError("only compiled code chooses by type")

    @overload(chosen, jit_options=SCALAR_OPTIONS)
    def choose(*arguments):
        function = {types.float32: single, types.float64: double}.get(arguments[0])
        return None if function is None else lambda *arguments: function(*arguments)
    return chosen


@intrinsic
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once."""
    return (a(a, a, a), lambda context, builder, signature, values: _call(builder, "fma", values)) if a == b == c and a in LAYOUTS else None


@intrinsic
def copysign(typing_context: Any, x: Any, sign: Any) -> Any:
    """|x| with the sign of `sign`, zeros and NaN included."""
    return (x(x, x), lambda context, builder, signature, values: _call(builder, "copysign", values)) if x == sign and x in LAYOUTS else None


@intrinsic
def fabs(typing_context: Any, x: Any) -> Any:
    """|x|."""
    return (x(x), lambda context, builder, signature, values: _call(builder, "fabs", values)) if x in LAYOUTS else None


@intrinsic
def sqrt(typing_context: Any, x: Any) -> Any:
    """The square root, correctly rounded; NaN below zero, -0 at -0."""
    return (x(x), lambda context, builder, signature, values: _call(builder, "sqrt", values)) if x in LAYOUTS else None


@intrinsic
def power_of_two(typing_context: Any, t: Any) -> Any:
    """2^n for t = n + ROUND, n from -126 to 127 (float64: -1022 to 1023): the low bits of t, shifted into the exponent."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        layout = LAYOUTS[t]
        exponent = builder.shl(builder.bitcast(values[0], layout.integer), ir.Constant(layout.integer, layout.mantissa))
        return builder.bitcast(builder.add(exponent, layout.bits(1.0)), values[0].type)
    return (t(t), codegen) if t in LAYOUTS else None


@intrinsic
def split(typing_context: Any, y: Any) -> Any:
    """(m, k), both floats, with y = 2^k m and sqrt(1/2) <= m < sqrt(2), for y positive and normal. k as by ROUND, not by a conversion,
    which has no vector form from int64 before AVX-512."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        layout, kind = LAYOUTS[y], values[0].type
        shift = ir.Constant(layout.integer, layout.mantissa)
        bits = builder.bitcast(values[0], layout.integer)
        k = builder.ashr(builder.sub(bits, layout.bits(math.sqrt(0.5))), shift)
        m = builder.bitcast(builder.sub(bits, builder.shl(k, shift)), kind)
        rounder = 1.5 * 2.0 ** layout.mantissa
        exponent = builder.fsub(builder.bitcast(builder.add(k, layout.bits(rounder)), kind), _literal(kind, rounder))
        return context.make_tuple(builder, signature.return_type, [m, exponent])
    return (types.UniTuple(y, 2)(y), codegen) if y in LAYOUTS else None


@scalar
def whole_power(x, n):
    """x^n for a whole number n >= 0, by repeated squaring: the relative error is about n units of rounding at most."""
    power = type(x)(1)
    while n > 0:
        if n & 1:
            power *= x
        x *= x
        n >>= 1
    return power


@scalar
def minimum(a, b):
    """The smaller of a and b; NaN if either is NaN; of 0 and -0 the second."""
    return a if a < b or a != a else b


@scalar
def maximum(a, b):
    """The larger of a and b; NaN if either is NaN; of 0 and -0 the second."""
    return a if a > b or a != a else b
