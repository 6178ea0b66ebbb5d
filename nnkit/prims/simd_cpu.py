"""Vector code by name: the intrinsics from which the matrix kernels are made.

The width follows the features that Numba compiles for: a register of `vector_bytes()` holds LANES[T] numbers of type T. All take addresses
and strides in elements; edges are masked, so nothing beyond the array is read or written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, array_view, vector_bytes

__all__ = [
    "LANES32", "LANES64", "STREAMED", "address", "copy_masked", "copy_past", "copy_whole", "fence", "itemsize", "lanes", "largest_of_square",
    "micro", "part", "prefetch", "prefetch_run", "run", "transpose_tile",
]

LANES32, LANES64 = vector_bytes() // 4, vector_bytes() // 8
LINE = 64                                                # bytes of a cache line
LONG = 512                                               # registers of a run that are summed before their sum is added to the rest
STREAMED = 2 ** 24                                       # bytes of an output from which on it is written past the caches
I32, I1 = ir.IntType(32), ir.IntType(1)


def _vector(element: types.Float) -> tuple[ir.Type, int, str, int]:
    """(scalar type, lanes, name as in llvm.fma.v16f32, bytes of one element)."""
    if element == types.float32:
        return ir.FloatType(), LANES32, f"v{LANES32}f32", 4
    return ir.DoubleType(), LANES64, f"v{LANES64}f64", 8


class Emitter:
    """Emits vector instructions for one element type into one function, in whole registers or (few) in parts of them, of so many lanes."""

    def __init__(self, builder: Any, element: types.Float, few: int = 0) -> None:
        self.b, self.element = builder, element
        self.scalar, self.lanes, name, itemsize = _vector(element)
        if few:
            self.lanes, name = few, name.replace(f"v{self.lanes}", f"v{few}")
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.mask_type = ir.VectorType(I1, self.lanes)
        self.align = ir.Constant(I32, itemsize)
        self.itemsize = itemsize
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)
        pointer = self.vector.as_pointer()
        get = cgutils.get_or_insert_function
        module = builder.module
        self._fma = get(module, ir.FunctionType(self.vector, [self.vector] * 3), f"llvm.fma.{name}")
        self._load = get(module, ir.FunctionType(self.vector, [pointer, I32, self.mask_type, self.vector]), f"llvm.masked.load.{name}.p0{name}")
        self._store = get(module, ir.FunctionType(ir.VoidType(), [self.vector, pointer, I32, self.mask_type]), f"llvm.masked.store.{name}.p0{name}")

    def pointer(self, address: Any) -> Any:
        return self.b.inttoptr(address, self.scalar.as_pointer())

    def at(self, pointer: Any, elements: Any) -> Any:
        return self.b.gep(pointer, [elements if not isinstance(elements, int) else ir.Constant(I64, elements)])

    def splat(self, value: Any, kind: Any = None) -> Any:
        vector = kind or self.vector
        one = self.b.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def splat_constant(self, value: float) -> Any:
        """A register of one number."""
        return ir.Constant(self.vector, [value] * self.lanes)

    def first(self, count: Any) -> Any:
        """Mask of the first `count` lanes; all of them where count is larger.

        Made of bits, not by comparing lanes: a mask then needs no vector register, in loops either.
        """
        b, top = self.b, I64(self.lanes)
        count = b.select(b.icmp_signed("<", count, top), count, top)
        count = b.select(b.icmp_signed(">", count, I64(0)), count, I64(0))
        bits = b.sub(b.shl(I64(1), count), I64(1))
        return b.bitcast(b.trunc(bits, ir.IntType(self.lanes)), self.mask_type)

    def load(self, pointer: Any, mask: Any = None) -> Any:
        place = self.b.bitcast(pointer, self.vector.as_pointer())
        if mask is None:
            value = self.b.load(place)
            value.align = self.itemsize
            return value
        return self.b.call(self._load, [place, self.align, mask, self.zero])

    def store(self, value: Any, pointer: Any, mask: Any = None) -> None:
        place = self.b.bitcast(pointer, self.vector.as_pointer())
        if mask is None:
            self.b.store(value, place).align = self.itemsize
        else:
            self.b.call(self._store, [value, place, self.align, mask])

    def stream(self, value: Any, pointer: Any) -> None:
        """Store a register past the caches, at a multiple of its size. Other threads see it after a `fence`."""
        written = self.b.store(value, self.b.bitcast(pointer, self.vector.as_pointer()))
        written.align = self.itemsize * self.lanes
        written.set_metadata("nontemporal", self.b.module.add_metadata([I32(1)]))

    def load_whole(self, pointer: Any, mask: Any) -> Any:
        """A register's lanes of int32 under a mask, 0 elsewhere."""
        kind, load = self._whole("load", True)
        place = self.b.bitcast(pointer, kind.as_pointer())
        return self.b.call(load, [place, I32(4), mask, ir.Constant(kind, [0] * self.lanes)])

    def store_whole(self, value: Any, pointer: Any, mask: Any) -> None:
        """Store the lanes of int32 under a mask."""
        kind, store = self._whole("store", False)
        self.b.call(store, [value, self.b.bitcast(pointer, kind.as_pointer()), I32(4), mask])

    def _whole(self, name: str, returns: bool) -> tuple[Any, Any]:
        """The type of as many int32 as there are lanes, and the masked load or store of them."""
        kind, suffix = ir.VectorType(I32, self.lanes), f"v{self.lanes}i32"
        signature = ir.FunctionType(kind, [kind.as_pointer(), I32, self.mask_type, kind]) if returns else \
            ir.FunctionType(ir.VoidType(), [kind, kind.as_pointer(), I32, self.mask_type])
        return kind, cgutils.get_or_insert_function(self.b.module, signature, f"llvm.masked.{name}.{suffix}.p0{suffix}")

    def all_lanes(self, condition: Any) -> Any:
        """The mask of all lanes where a condition holds, of none where it does not."""
        return self.b.select(condition, ir.Constant(self.mask_type, [1] * self.lanes), ir.Constant(self.mask_type, [0] * self.lanes))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.b.call(self._fma, [a, b, c])

    def opaque(self, pointer: Any) -> Any:
        """The same pointer, unknown to the optimizer: else it unrolls a loop, shares loads between its turns and spills accumulators."""
        assembly = ir.InlineAsm(ir.FunctionType(pointer.type, [pointer.type]), "", "=r,0", side_effect=True)
        return self.b.call(assembly, [pointer])

    def prefetch(self, address: Any, write: bool = False, near: bool = False) -> None:
        """Fetch the line of an address for reading, into the second-level cache, or for writing or `near`, into the first. Any address will do."""
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), I32, I32, I32])
        fetch = cgutils.get_or_insert_function(self.b.module, kind, "llvm.prefetch.p0i8")
        self.b.call(fetch, [self.b.inttoptr(address, ir.IntType(8).as_pointer()), I32(int(write)), I32(3 if write or near else 2), I32(1)])

    def prefetch_lines(self, address: Any, n: Any, write: bool = False, near: bool = False) -> None:
        """Fetch the lines of n numbers from an address on: see `prefetch`."""
        lines = self.b.sdiv(self.b.add(self.b.mul(n, I64(self.itemsize)), I64(LINE - 1)), I64(LINE))
        with cgutils.for_range(self.b, lines) as loop:
            self.prefetch(self.b.add(address, self.b.mul(loop.index, I64(LINE))), write, near)

    def larger(self, a: Any, b: Any) -> Any:
        """max(a, b), a where they are equal. Of NaN the last, which then stays: two comparisons and two selections."""
        found = self.b.select(self.b.fcmp_ordered(">", b, a), b, a)
        return self.b.select(self.b.fcmp_unordered("uno", b, b), b, found)

    def each_register(self, n: Any, visit: Callable[[Any, Any], None]) -> None:
        """visit(first element, mask of the lanes that exist) for every register of a run of n elements."""
        lanes = ir.Constant(I64, self.lanes)
        turns = self.b.sdiv(self.b.add(n, ir.Constant(I64, self.lanes - 1)), lanes)
        with cgutils.for_range(self.b, turns) as loop:
            first = self.b.mul(loop.index, lanes)
            visit(first, self.first(self.b.sub(n, first)))

    def long_sum(self, n: Any, step: Callable[[Any, Any, Any], Any]) -> Any:
        """The sum over a run of n elements, one number for each lane: step(total, first element, mask) is a running total with one register's terms.

        LONG registers are summed on their own, and then these sums, so that no term is added to a total that has outgrown it.
        """
        b, long = self.b, ir.Constant(I64, LONG * self.lanes)
        part = cgutils.alloca_once_value(b, self.zero)
        b.store(self.zero, part)

        def stretch(start: Any, length: Any) -> None:
            self.each_register(length, lambda first, mask: b.store(step(b.load(part), b.add(start, first) if start else first, mask), part))
        with b.if_else(b.icmp_signed("<=", n, long), likely=True) as (short, other):
            with short:                                  # code of its own: rows of a few numbers take some ten cycles in all
                stretch(None, n)
            with other:
                total = cgutils.alloca_once_value(b, self.zero)
                b.store(self.zero, total)
                with cgutils.for_range_slice(b, I64(0), n, long) as (start, _):
                    left = b.sub(n, start)
                    stretch(start, b.select(b.icmp_signed("<", left, long), left, long))
                    b.store(b.fadd(b.load(total), b.load(part)), total)
                    b.store(self.zero, part)
                b.store(b.load(total), part)
        return b.load(part)

    def fold(self, value: Any, combine: Callable[[Any, Any], Any]) -> Any:
        """One number from the lanes of a register: pairwise, halving."""
        width = self.lanes
        while width > 1:
            width //= 2
            order = [k + width if k < width else k for k in range(self.lanes)]
            value = combine(value, self.b.shuffle_vector(value, value, ir.Constant(ir.VectorType(I32, self.lanes), order)))
        return self.b.extract_element(value, ir.Constant(I32, 0))


@intrinsic
def address(typing_context: Any, array: Any) -> Any:
    """The address of an array's first element, as int64."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, values[0])
        return builder.ptrtoint(view.data, I64)
    return types.int64(array), codegen


@intrinsic
def fence(typing_context: Any) -> Any:
    """What was written so far, past the caches too, other threads see before what is written from here on."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()
    return types.void(), codegen


@intrinsic
def part(typing_context: Any, array: Any, start: Any, stop: Any) -> Any:
    """The elements [start, stop) of a C-contiguous array, as a vector over the same memory.

    Loops that count from 0 over such a part become vector code; loops from an unknown start do not, since a negative index would mean
    another place.
    """
    vector = types.Array(array.dtype, 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, values[0])
        first = builder.gep(view.data, [values[1]])
        return array_view(context, builder, vector, builder.ptrtoint(first, I64), [builder.sub(values[2], values[1])])
    return vector(array, types.int64, types.int64), codegen


@intrinsic
def run(typing_context: Any, array: Any, start: Any, n: Any) -> Any:
    """The n elements from `start` on, likewise."""
    vector = types.Array(array.dtype, 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, values[0])
        return array_view(context, builder, vector, builder.ptrtoint(builder.gep(view.data, [values[1]]), I64), [values[2]])
    return vector(array, types.int64, types.int64), codegen


@intrinsic
def lanes(typing_context: Any, like: Any) -> Any:
    """How many numbers of the type of `like` (a number or an array) a vector register holds."""
    element = like.dtype if isinstance(like, types.Array) else like
    count = _vector(element)[1]
    return types.int64(like), lambda context, builder, signature, values: ir.Constant(I64, count)


@intrinsic
def itemsize(typing_context: Any, like: Any) -> Any:
    """Bytes of one element of the array `like`."""
    size = _vector(like.dtype)[3]
    return types.int64(like), lambda context, builder, signature, values: ir.Constant(I64, size)


def micro(rows: int, vectors: int, masked: bool) -> Any:
    """The register-blocked product: C[rows, vectors * LANES] = start + A B, all by address.

    A[i, k] at a + i rsa + k csa; B[k, :] contiguous at b + k rsb; C at c + i rsc; start is C0 at c0 + i rs0 (rs0 = 0: one row, a bias), or
    zero where c0 is 0. `n`: columns that exist, where `masked`. `like` gives the element type. One accumulator register per (row, vector).
    start comes last, so that of a long product, made block by block, no term is added to a sum that has outgrown it.
    """
    @intrinsic
    def product(typing_context: Any, depth: Any, a: Any, rsa: Any, csa: Any, b: Any, rsb: Any, c: Any, rsc: Any, c0: Any, rs0: Any, n: Any,
                like: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            depth, a, rsa, csa, b, rsb, c, rsc, c0, rs0, n, _ = values
            e = Emitter(builder, signature.args[-1].dtype)
            column = [ir.Constant(I64, j * e.lanes) for j in range(vectors)]
            masks = [e.first(builder.sub(n, column[j])) if masked else None for j in range(vectors)]
            tile = [[cgutils.alloca_once_value(builder, e.zero) for _ in range(vectors)] for _ in range(rows)]
            a_rows = [e.at(e.pointer(a), builder.mul(rsa, ir.Constant(I64, i))) for i in range(rows)]
            b_first = e.pointer(b)
            with cgutils.for_range(builder, depth) as loop:
                along = builder.mul(loop.index, csa)
                b_row = e.at(b_first, builder.mul(loop.index, rsb))
                b_values = [e.load(e.at(b_row, column[j]), masks[j]) for j in range(vectors)]
                for i in range(rows):
                    x = e.splat(builder.load(e.at(a_rows[i], along)))
                    for j in range(vectors):
                        builder.store(e.fma(x, b_values[j], builder.load(tile[i][j])), tile[i][j])
            with builder.if_then(builder.icmp_signed("!=", c0, ir.Constant(I64, 0))):
                start = e.pointer(c0)
                for i in range(rows):
                    row = e.at(start, builder.mul(rs0, ir.Constant(I64, i)))
                    for j in range(vectors):
                        builder.store(builder.fadd(e.load(e.at(row, column[j]), masks[j]), builder.load(tile[i][j])), tile[i][j])
            c_first = e.pointer(c)
            for i in range(rows):
                row = e.at(c_first, builder.mul(rsc, ir.Constant(I64, i)))
                for j in range(vectors):
                    e.store(builder.load(tile[i][j]), e.at(row, column[j]), masks[j])
            return context.get_dummy_value()
        return types.void(*[types.int64] * 11, like), codegen
    return product


@intrinsic
def copy_masked(typing_context: Any, y: Any, x: Any, n: Any, like: Any) -> Any:
    """y[:n] = x[:n] by address, n at most one register: one masked load and store."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[-1].dtype)
        mask = e.first(values[2])
        e.store(e.load(e.pointer(values[1]), mask), e.pointer(values[0]), mask)
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, types.int64, like), codegen


@intrinsic
def copy_past(typing_context: Any, y: Any, x: Any, n: Any, next_a: Any, next_b: Any, like: Any) -> Any:
    """y[:n] = x[:n] by address, past the caches: whole registers of y, from the first one of a line on. Others see it after a `fence`.

    Meanwhile as many numbers are fetched from two other addresses, which may be any: memory that only writes gives half of what it could.
    """
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, x, n, next_a, next_b, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        size, lanes = I64(e.itemsize), I64(e.lanes)
        source, target = e.pointer(x), e.pointer(y)
        before = builder.sdiv(builder.and_(builder.neg(y), I64(LINE - 1)), size)
        before = builder.select(builder.icmp_signed("<", before, n), before, n)
        turns = builder.sdiv(builder.sub(n, before), lanes)
        last = builder.add(before, builder.mul(turns, lanes))

        def few(first: Any, count: Any) -> None:
            def visit(offset: Any, mask: Any) -> None:
                place = builder.add(first, offset)
                e.store(e.load(e.at(source, place), mask), e.at(target, place), mask)
            e.each_register(count, visit)
        few(I64(0), before)
        with cgutils.for_range(builder, turns) as loop:
            place = builder.add(before, builder.mul(loop.index, lanes))
            e.stream(e.load(e.at(source, place)), e.at(target, place))
            for following in (next_a, next_b):
                e.prefetch(builder.add(following, builder.mul(place, size)))
        few(last, builder.sub(n, last))
        return context.get_dummy_value()
    return types.void(*[types.int64] * 5, like), codegen


@intrinsic
def largest_of_square(typing_context: Any, y: Any, x: Any, down: Any, along: Any, n: Any, like: Any) -> Any:
    """y[:n] = the largest of x[:n], and the same `along`, `down` and both further on. By address, distances in elements."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, x, down, along, n, _ = values
        e = Emitter(builder, signature.args[-1].dtype)

        def visit(first: Any, mask: Any) -> None:
            places = [builder.add(first, at) for at in (I64(0), along, down, builder.add(down, along))]
            a, b, c, d = (e.load(e.at(e.pointer(x), place), mask) for place in places)
            e.store(e.larger(e.larger(a, b), e.larger(c, d)), e.at(e.pointer(y), first), mask)
        e.each_register(n, visit)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 5, like), codegen


@intrinsic
def prefetch(typing_context: Any, x: Any, start: Any, n: Any) -> Any:
    """Fetch the elements [start, start + n) of an array into the first-level cache, to be written. They need not exist."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[0].dtype)
        view = context.make_array(signature.args[0])(context, builder, values[0])
        e.prefetch_lines(builder.ptrtoint(builder.gep(view.data, [values[1]]), I64), values[2], write=True)
        return context.get_dummy_value()
    return types.void(x, types.int64, types.int64), codegen


@intrinsic
def prefetch_run(typing_context: Any, x: Any, n: Any, like: Any) -> Any:
    """Fetch x[:n], by address, into the second-level cache. Any address will do."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        Emitter(builder, signature.args[-1].dtype).prefetch_lines(values[0], values[1])
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, like), codegen


@intrinsic
def copy_whole(typing_context: Any, y: Any, x: Any, like: Any) -> Any:
    """One register's numbers from x to y, by address."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        e = Emitter(builder, signature.args[-1].dtype)
        e.store(e.load(e.pointer(values[1])), e.pointer(values[0]))
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, like), codegen


@intrinsic
def transpose_tile(typing_context: Any, y: Any, rsy: Any, x: Any, rsx: Any, rows: Any, columns: Any, like: Any) -> Any:
    """y[j, i] = x[i, j] for a tile of rows x columns, at most LANES x LANES, by address: butterfly stages of two-source shuffles."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        y, rsy, x, rsx, rows, columns, _ = values
        e = Emitter(builder, signature.args[-1].dtype)
        L = e.lanes
        index = ir.VectorType(I32, L)
        mask, written = e.first(columns), e.first(rows)
        none = ir.Constant(e.mask_type, [0] * L)
        tile = []
        for i in range(L):
            there = builder.icmp_signed("<", ir.Constant(I64, i), rows)
            place = builder.select(there, builder.mul(rsx, ir.Constant(I64, i)), ir.Constant(I64, 0))
            tile.append(e.load(e.at(e.pointer(x), place), builder.select(there, mask, none)))
        distance = L // 2
        while distance:
            for i in range(L):
                if i & distance:
                    continue
                p, q = tile[i], tile[i + distance]
                low = [k if not k & distance else L + k - distance for k in range(L)]
                high = [k + distance if not k & distance else L + k for k in range(L)]
                tile[i] = builder.shuffle_vector(p, q, ir.Constant(index, low))
                tile[i + distance] = builder.shuffle_vector(p, q, ir.Constant(index, high))
            distance //= 2
        for j in range(L):
            with builder.if_then(builder.icmp_signed("<", ir.Constant(I64, j), columns)):
                e.store(tile[j], e.at(e.pointer(y), builder.mul(rsy, ir.Constant(I64, j))), written)
        return context.get_dummy_value()
    return types.void(*[types.int64] * 6, like), codegen
