"""The only file that imports numba.cuda and names its compile options; the kernel decorator of the CUDA side.

A CUDA kernel stands in `x_cuda.py` under the name of its twin in `x_cpu.py`, and takes the same arguments in the same order, with the same
annotations. A task is a block of THREADS threads, which share the task's work; what one task covers is cut along the same lines as on the CPU:

    @kernel
    def scaled(task: Int, tasks: Int, y: Vector, x: Vector, factor: Real) -> None:
        '''y = factor x. Row-local. Writes y (=).'''
        start, stop = row_share(y.size, tasks, task)
        ys, xs = data(y), data(x)
        for n in range(start + thread(), stop, THREADS):
            ys[n] = factor * xs[n]

Kernels are not launched one by one. A *launch* is what `plan.launch` makes of neighbouring steps: lanes that run side by side, each a chain of steps
that one set of tasks goes through, with a barrier of the block between two steps. `compile_launch` makes one kernel of it, whose parameters are the
words of all its steps: addresses, dimensions, scalars. Parameters lie in the constant bank, so nothing is loaded before the work begins.

Kernels trust their arguments, allocate nothing and raise nothing. Memory that the threads of a block share is `scratch(like)`, which every step of a
launch uses anew: plan/launch.py says how much each step needs.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any
from unittest import mock

from llvmlite import ir
from numba import cuda, types
from numba.cuda import cgutils
from numba.cuda import dispatcher as cuda_dispatcher
from numba.extending import intrinsic

from nnkit.jit import I64, Argument, declared_arguments, reason
from nnkit.plan.launch import ARCHITECTURE, CLUSTER, CLUSTERS, ENTRY, THREADS
from nnkit.runtime.store import USER_KERNELS

__all__ = [
    "THREADS", "Kernel", "anew", "arrive", "barrier", "behind", "bfloat16_pair", "both_sides", "check_formula", "clustered", "compile_launch",
    "copy_four_later", "copy_later", "data", "find", "four_aligned", "from_lane", "give", "kernel", "multiply_on_cores", "nothing", "quartet_at",
    "registers", "routine", "scratch", "tf32_bits", "thread", "wait_for_cluster", "wait_for_copies", "whole_numbers",
]

# forceinline: a launch is one function in the end, so that arrays become registers. opt: of the function itself; NVVM optimises the whole.
# No fastmath: NaN, infinities and the order of sums keep their meaning; NVVM still makes one fma of a * b + c.
DEVICE_OPTIONS: dict[str, Any] = {"device": True, "forceinline": True, "opt": True, "debug": False}
BLOCKS = 2                                               # that a multiprocessor can hold at least: 128 registers for a thread
FORGETTING = 4                                           # steps of a chain after which what a step can make anew is not kept in registers
DTYPES: dict[str, types.Type] = {"float32": types.float32, "float64": types.float64, "int32": types.int32, "int64": types.int64}

barrier = cuda.syncthreads
EVERY_LANE = 0xFFFFFFFF


def routine(function: Callable[..., Any]) -> Any:
    """A function that kernels call."""
    return cuda.jit(**DEVICE_OPTIONS)(function)


@routine
def thread():
    """The number of the thread in its block."""
    return types.int64(cuda.threadIdx.x)


@routine
def from_lane(value, distance):
    """`value` of the lane whose number differs in the bit `distance`; all lanes of a warp call it together."""
    return cuda.shfl_xor_sync(EVERY_LANE, value, distance)


class Kernel:
    """A CUDA kernel: what a step of its twin's name does on the device.

    where: for each array where it lies, see `plan.launch.coded`; empty where all lie in global memory. A step's own comes with its name, see `find`.
    cluster: how many blocks work together as a cluster.
    """

    where: str = ""
    cluster: int = 1

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__
        declared = declared_arguments(function)
        self.argument_names = tuple(declared)
        self.arguments: tuple[Argument, ...] = tuple(declared.values())
        self.device = routine(function)

    @property
    def signature(self) -> str:
        """The declared arguments as text, as `jit.Kernel.signature` gives it for the twin."""
        return " ".join(map(str, self.arguments))


def kernel(function: Callable[..., None]) -> Kernel:
    """Declare a kernel; see the module's docstring."""
    return Kernel(function)


def clustered(function: Callable[..., None]) -> Kernel:
    """Declare a kernel of which CLUSTER blocks with neighbouring numbers, the first of them a multiple of CLUSTER, form a cluster. It is alone in its
    launch."""
    found = Kernel(function)
    found.cluster = CLUSTER
    return found


# Compiling a launch.

def find(name: str) -> Kernel:
    """The CUDA kernel of a step: "layers.dense.dense_forward" is dense_forward of nnkit.layers.dense_cuda; behind an @ it says where
    arrays lie. That of a user's activation or loss is made of its formula.

    Raises ValueError where there is none.
    """
    if name in USER_KERNELS:
        return _of_formula(name)
    name, _, where = name.partition("@")
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(f"nnkit.{module}_cuda"), attribute, None)
    except ModuleNotFoundError as error:
        if not str(error.name).endswith("_cuda"):
            raise
        found = None
    if not isinstance(found, Kernel):
        raise ValueError(f"there is no CUDA kernel {name!r} yet")
    if where:
        found = copy.copy(found)
        found.where = where
    return found


@functools.cache
def _of_formula(name: str) -> Kernel:
    """The twin of a registered kernel, by the function that has the name of its maker: both take a pair of formulas, forward and backward."""
    kernel = USER_KERNELS[name]
    if kernel.formula is None:
        raise ValueError(f"there is no CUDA kernel {name!r}")
    maker, _, way = kernel.function.__qualname__.partition(".<locals>.")
    module = importlib.import_module(f"{kernel.function.__module__.removesuffix('_cpu')}_cuda")
    base = name.removesuffix(way)
    forward, backward = getattr(module, maker)(USER_KERNELS[f"{base}forward"], USER_KERNELS[f"{base}backward"])
    return forward if way == "forward" else backward


@functools.cache
def check_formula(name: str, dtype: str, architecture: tuple[int, int] = ARCHITECTURE) -> None:
    """Compile the formula of a user's kernel by itself, which is a matter of milliseconds. Raises ValueError with the reason where that fails."""
    formula = USER_KERNELS[name].formula
    assert formula is not None
    try:
        with _for_architecture(architecture):
            cuda.compile_ptx(formula, (DTYPES[dtype],) * len(inspect.signature(formula).parameters), device=True, cc=architecture)
    except Exception as error:                           # Numba's and NVVM's have no base in common
        raise ValueError(f"must be a function that Numba can compile for a GPU, received one of which it says: {reason(error, formula)}") from error


def words_of_arguments(arguments: Sequence[Argument]) -> int:
    """How many words a kernel's arguments take."""
    return sum(argument.count or 1 + argument.ndim for argument in arguments)


def compile_launch(lanes: Sequence[Sequence[Kernel]], dtype: str, architecture: tuple[int, int] = ARCHITECTURE) -> str:
    """PTX of one kernel that runs these lanes side by side. Its parameters, all 64 bits wide: the number of tasks of each lane, then the words of all
    steps in their order. It has one entry, "launch". A kernel of clusters says in the PTX how many blocks form one, so it is launched like all
    others. Raises ValueError where the architecture has no clusters."""
    cluster = max(each.cluster for lane in lanes for each in lane)
    if cluster > 1 and architecture[0] not in CLUSTERS:
        raise ValueError(f"clusters of blocks need compute capability {' or '.join(map(str, CLUSTERS))}, received {'.'.join(map(str, architecture))}")
    position = len(lanes)
    bodies = []
    for lane in lanes:
        steps = []
        for each in lane:
            steps.append(_body(each, position, dtype))
            position += words_of_arguments(each.arguments)
        bodies.append(_chain(steps))
    run = _side_by_side(bodies, 0)

    def launch(words):  # type: ignore[no-untyped-def]
        run(words, types.int64(cuda.blockIdx.x))

    with _for_architecture(architecture):
        blocks = BLOCKS if architecture >= ARCHITECTURE else 1        # for older ones ptxas does without a few more registers only by spilling
        ptx, _ = cuda.compile_ptx(launch, types.void(types.UniTuple(types.int64, position)), cc=architecture, launch_bounds=(THREADS, blocks))
    return _tidied(ptx, cluster)


def _tidied(ptx: str, cluster: int) -> str:
    """The entry under a plain name, without variables of Numba's that nothing reads, and with the size of its clusters."""
    found = re.search(r"\.entry\s+(\w+)", ptx)
    assert found is not None
    ptx = re.sub(r"^\.common \.global .*NumbaEnv.*;\n", "", ptx, flags=re.MULTILINE)
    if cluster > 1:
        ptx = re.sub(r"^\.minnctapersm .*\n", rf"\g<0>.explicitcluster\n.reqnctapercluster {cluster}, 1, 1\n", ptx, count=1, flags=re.MULTILINE)
    return ptx.replace(found[1], ENTRY)


@contextlib.contextmanager
def _for_architecture(architecture: tuple[int, int]) -> Iterator[None]:
    """Functions that kernels call are compiled for the present device, so Numba asks for one even where only PTX is made; this answers."""
    device = mock.Mock(compute_capability=architecture)
    with mock.patch.object(cuda_dispatcher, "get_current_device", return_value=device):
        yield


def _body(each: Kernel, position: int, dtype: str) -> Any:
    """(words, task, tasks) -> None for one step, whose words begin at `position`."""
    inner, unpack = each.device, _unpacker(each.arguments, position, dtype, each.where)

    @routine
    def body(words, task, tasks):
        inner(task, tasks, *unpack(words, task, tasks))
    return body


def _chain(steps: Sequence[Any]) -> Any:
    """The steps one after the other, each seeing what the block's threads wrote in those before it."""
    if len(steps) == 1:
        return steps[0]
    first, second = _chain(steps[:len(steps) // 2]), _chain(steps[len(steps) // 2:])
    long = len(steps) > FORGETTING

    @routine
    def both(words, task, tasks):
        first(words, task, tasks)
        barrier()
        second(words, anew(task) if long else task, tasks)
    return both


@intrinsic
def anew(typing_context: Any, number: Any) -> Any:
    """The number, of which the compiler does not know that it has it already: what is made of it is not kept in registers from step to step."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.call(ir.InlineAsm(ir.FunctionType(I64, [I64]), "mov.b64 $0, $1;", "=l,l", side_effect=True), values)
    return types.int64(types.int64), codegen


def _side_by_side(lanes: Sequence[Any], index: int) -> Any:
    """(words, block) -> None: the first words[0] blocks take lane 0, the next words[1] lane 1, ..."""
    lane = lanes[0]
    if len(lanes) == 1:
        @routine
        def last(words, block):
            lane(words, block, words[index])
        return last
    rest = _side_by_side(lanes[1:], index + 1)

    @routine
    def parted(words, block):
        tasks = words[index]
        if block < tasks:
            lane(words, block, tasks)
        else:
            rest(words, block - tasks)
    return parted


def _unpacker(arguments: tuple[Argument, ...], position: int, dtype: str, where: str = "") -> Any:
    """The intrinsic that turns the words from `position` on into a tuple of array views and scalars. A real has its own bits in the word."""
    @intrinsic
    def unpack(typing_context: Any, words: Any, task: Any, tasks: Any) -> Any:
        members = [argument.numba_type(dtype) for argument in arguments]
        result = types.Tuple(members)

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            taken = iter(range(position, position + words_of_arguments(arguments)))
            places = iter(where)

            def word() -> Any:
                return builder.extract_value(values[0], next(taken))
            parts = []
            for member in members:
                if isinstance(member, types.Array):
                    address, dimensions, place = word(), [word() for _ in range(member.ndim)], next(places, "-")
                    if place != "-":
                        rows = dimensions if place == "r" else []
                        address = _on_chip(context, builder, member, address, rows, *values[1:])
                    parts.append(_array(context, builder, member, address, dimensions))
                elif isinstance(member, types.UniTuple):
                    parts.append(context.make_tuple(builder, member, [word() for _ in range(member.count)]))
                elif member == types.float32:
                    parts.append(builder.bitcast(builder.trunc(word(), ir.IntType(32)), ir.FloatType()))
                elif member == types.float64:
                    parts.append(builder.bitcast(word(), ir.DoubleType()))
                else:
                    value = word()
                    parts.append(value if member == types.int64 else builder.trunc(value, context.get_value_type(member)))
            return context.make_tuple(builder, result, parts)
        return result(words, task, tasks), codegen
    return unpack


def _on_chip(context: Any, builder: Any, kind: types.Array, offset: Any, rows: list[Any], task: Any, tasks: Any) -> Any:
    """A pointer into shared memory, `offset` bytes (a multiple of 16) from its beginning. rows: the dimensions of an array of which the task's rows
    alone lie there; the pointer is then to where row 0 would be, so that rows keep their numbers. Shares are those of `row_share`."""
    element = context.get_data_type(kind.dtype)
    at = builder.and_(offset, ir.Constant(I64, -16))     # says that it is aligned
    if rows:
        i32 = ir.IntType(32)
        each = builder.zext(builder.udiv(builder.trunc(rows[0], i32), builder.trunc(tasks, i32)), I64)
        more = builder.sub(rows[0], builder.mul(each, tasks))
        before = builder.add(builder.mul(task, each), builder.select(builder.icmp_signed("<", task, more), task, more))
        for dimension in rows[1:]:
            before = builder.mul(before, dimension)
        at = builder.sub(at, builder.mul(before, ir.Constant(I64, context.get_abi_sizeof(element))))
    return builder.bitcast(builder.gep(_shared_memory(builder), [ir.Constant(ir.IntType(32), 0), at]), ir.PointerType(element, 3))


def _array(context: Any, builder: Any, kind: types.Array, address: Any, dimensions: list[Any]) -> Any:
    """A C-contiguous array that nobody owns: in global memory, or where a pointer points."""
    element = context.get_data_type(kind.dtype)
    pointer = address
    if address.type == I64:
        pointer = builder.inttoptr(address, ir.PointerType(element, 1))            # from here LLVM knows that it is global memory
    itemsize = ir.Constant(I64, context.get_abi_sizeof(element))
    strides: list[Any] = []
    stride: Any = itemsize
    for dimension in reversed(dimensions):
        strides.insert(0, stride)
        stride = builder.mul(stride, dimension)
    count = dimensions[0]
    for dimension in dimensions[1:]:
        count = builder.mul(count, dimension)
    view = context.make_array(kind)(context, builder)
    view.data = builder.addrspacecast(pointer, element.as_pointer())
    view.shape = cgutils.pack_array(builder, dimensions, ty=I64)
    view.strides = cgutils.pack_array(builder, strides, ty=I64)
    view.itemsize, view.nitems = itemsize, count
    view.meminfo = view.parent = ir.Constant(ir.IntType(8).as_pointer(), None)
    return view._getvalue()


# What kernels are made of.

@intrinsic
def data(typing_context: Any, array: Any) -> Any:
    """A pointer to the array's first element: data(y)[i] is element i, without the checks of y[i] for indices from the end."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.make_array(array)(context, builder, values[0]).data
    return types.CPointer(array.dtype)(array), codegen


def _shared_memory(builder: Any) -> Any:
    """The memory that the threads of a block share, which the module declares once."""
    module, name = builder.module, "nnkit_scratch"
    if name not in module.globals:
        memory = ir.GlobalVariable(module, ir.ArrayType(ir.IntType(8), 0), name, addrspace=3)
        memory.linkage, memory.align = "external", 16
    return module.globals[name]


@intrinsic
def scratch(typing_context: Any, like: Any) -> Any:
    """A pointer to the memory that the block's threads share, SCRATCH bytes, as elements of the type of the array `like`."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.bitcast(_shared_memory(builder), ir.PointerType(context.get_data_type(like.dtype), 3))
        return builder.addrspacecast(pointer, context.get_data_type(like.dtype).as_pointer())
    return types.CPointer(like.dtype)(like), codegen


@intrinsic
def whole_numbers(typing_context: Any, place: Any, index: Any) -> Any:
    """A pointer to shared memory from place[index] on as numbers of 32 bits."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(builder.gep(values[0], [values[1]]), ir.IntType(32).as_pointer())
    return types.CPointer(types.int32)(place, types.int64), codegen


@intrinsic
def behind(typing_context: Any, place: Any, count: Any) -> Any:
    """The pointer to place[count]."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.gep(values[0], [values[1]])
    return place(place, types.int64), codegen


@intrinsic
def nothing(typing_context: Any, like: Any) -> Any:
    """A vector of no elements of the type of the array `like`."""
    kind = types.Array(like.dtype, 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _array(context, builder, kind, ir.Constant(I64, 0), [ir.Constant(I64, 0)])
    return kind(like), codegen


@intrinsic
def quartet_at(typing_context: Any, place: Any, index: Any) -> Any:
    """place[index] and the three behind it, read in one go; the address must be a multiple of 16 bytes."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        element, kind = context.get_data_type(place.dtype), types.UniTuple(place.dtype, 4)
        width = 16 // context.get_abi_sizeof(element)    # numbers of a load
        vector = ir.VectorType(element, width)
        found = []
        for first in range(0, 4, width):
            pointer = builder.gep(values[0], [builder.add(values[1], ir.Constant(I64, first))])
            loaded = builder.load(builder.bitcast(pointer, vector.as_pointer()), align=16)
            found += [builder.extract_element(loaded, ir.Constant(ir.IntType(32), number)) for number in range(width)]
        return context.make_tuple(builder, kind, found)
    return types.UniTuple(place.dtype, 4)(place, types.int64), codegen


@intrinsic
def copy_later(typing_context: Any, place: Any, index: Any, source: Any, at: Any, inside: Any) -> Any:
    """place[index] = source[at], or 0 where `inside` is false, between `wait_for_copies` and now: no register holds it on the way. place is shared
    memory, source global; elements of 4 or 8 bytes (cp.async)."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        element = context.get_data_type(place.dtype)
        size = context.get_abi_sizeof(element)
        to = builder.addrspacecast(builder.gep(values[0], [values[1]]), ir.PointerType(element, 3))
        source_pointer = builder.addrspacecast(builder.gep(values[2], [values[3]]), ir.PointerType(element, 1))
        i32 = ir.IntType(32)
        count = builder.mul(builder.zext(values[4], i32), ir.Constant(i32, size))
        kind = ir.FunctionType(ir.VoidType(), [i32, I64, i32])
        code = ir.InlineAsm(kind, f"cp.async.ca.shared.global [$0], [$1], {size}, $2;", "r,l,r,~{memory}", side_effect=True)
        builder.call(code, [builder.ptrtoint(to, i32), builder.ptrtoint(source_pointer, I64), count])
        return context.get_dummy_value()
    return types.void(place, types.int64, source, types.int64, types.boolean), codegen


@intrinsic
def copy_four_later(typing_context: Any, place: Any, index: Any, source: Any, at: Any, many: Any) -> Any:
    """The same for four numbers of 4 bytes from place[index] on, of which the first `many` are copied and the others 0. Both sides are aligned to 16
    bytes, source[at] also where `many` is 0; it goes past the first-level cache."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        element, i32 = context.get_data_type(place.dtype), ir.IntType(32)
        to = builder.addrspacecast(builder.gep(values[0], [values[1]]), ir.PointerType(element, 3))
        source_pointer = builder.addrspacecast(builder.gep(values[2], [values[3]]), ir.PointerType(element, 1))
        count = builder.shl(builder.trunc(values[4], i32), ir.Constant(i32, 2))
        code = ir.InlineAsm(ir.FunctionType(ir.VoidType(), [i32, I64, i32]), "cp.async.cg.shared.global [$0], [$1], 16, $2;", "r,l,r,~{memory}",
                            side_effect=True)
        builder.call(code, [builder.ptrtoint(to, i32), builder.ptrtoint(source_pointer, I64), count])
        return context.get_dummy_value()
    return types.void(place, types.int64, source, types.int64, types.int64), codegen


@intrinsic
def four_aligned(typing_context: Any, place: Any) -> Any:
    """Whether four numbers can be copied at a time from this pointer into global memory on: it is a multiple of 16."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.addrspacecast(values[0], ir.PointerType(context.get_data_type(place.dtype), 1))
        rest = builder.and_(builder.ptrtoint(pointer, I64), ir.Constant(I64, 15))
        return builder.icmp_unsigned("==", rest, ir.Constant(I64, 0))
    return types.boolean(place), codegen


# Tensor cores.

@intrinsic
def tf32_bits(typing_context: Any, value: Any) -> Any:
    """The float32 rounded to tf32: 10 bits behind the point, from the middle away from 0."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [ir.FloatType()])
        return builder.call(ir.InlineAsm(kind, "cvt.rna.tf32.f32 $0, $1;", "=r,f"), values)
    return types.int32(types.float32), codegen


@intrinsic
def bfloat16_pair(typing_context: Any, low: Any, high: Any) -> Any:
    """Two float32 rounded to bfloat16 (7 bits behind the point, from the middle to the even one) in one word."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [ir.FloatType()] * 2)
        return builder.call(ir.InlineAsm(kind, "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f"), values[::-1])
    return types.int32(types.float32, types.float32), codegen


def multiply_on_cores(operation: str) -> Any:
    """M = multiply_on_cores("mma.sync...."): M(sums, at, step, left, a0, a1, a2, a3, right, b0, b1) adds a product of matrices that a warp holds to
    the sums at, at + 1, at + step, at + step + 1; the factors are the words of these numbers."""
    @intrinsic
    def multiply(typing_context: Any, sums: Any, at: Any, step: Any, left: Any, a0: Any, a1: Any, a2: Any, a3: Any, right: Any, b0: Any, b1: Any
                 ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            base, gap = values[1], values[2]
            one, real, word = ir.Constant(I64, 1), ir.FloatType(), ir.IntType(32)
            second = builder.add(base, gap)
            places = [builder.gep(values[0], [index]) for index in (base, builder.add(base, one), second, builder.add(second, one))]
            factors = [builder.load(builder.gep(values[3], [index])) for index in values[4:8]]
            factors += [builder.load(builder.gep(values[8], [index])) for index in values[9:]]
            kind = ir.FunctionType(ir.LiteralStructType([real] * 4), [word] * 6 + [real] * 4)
            code = ir.InlineAsm(kind, f"{operation} {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};",
                                ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4), side_effect=True)
            # convergent: all lanes of a warp execute it together, so it must not come to depend on more conditions, as by copies in two branches.
            found = builder.call(code, factors + [builder.load(place) for place in places], attrs=("convergent",))
            for number, place in enumerate(places):
                builder.store(builder.extract_value(found, number), place)
            return context.get_dummy_value()
        whole = types.int64
        return types.void(sums, whole, whole, left, whole, whole, whole, whole, right, whole, whole), codegen
    return multiply


@intrinsic
def wait_for_copies(typing_context: Any) -> Any:
    """What the thread asked for by `copy_later` has come; after a barrier that of all threads."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.call(ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), "cp.async.wait_all;", "~{memory}", side_effect=True), [])
        return context.get_dummy_value()
    return types.void(), codegen


# Clusters: blocks that run at the same time and write into each other's shared memory.

def _rendezvous(name: str, code: str) -> Any:
    """An instruction without arguments, over which no access to memory is moved."""
    @intrinsic
    def act(typing_context: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            builder.call(ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), code, "~{memory}", side_effect=True), [], attrs=("convergent",))
            return context.get_dummy_value()
        return types.void(), codegen
    act.__name__ = name
    return act


# All threads of the cluster arrive, and later wait until all have: what a thread wrote before it arrived is then there for all.
arrive = _rendezvous("arrive", "barrier.cluster.arrive.release;")
wait_for_cluster = _rendezvous("wait_for_cluster", "barrier.cluster.wait.acquire;")


@intrinsic
def give(typing_context: Any, place: Any, index: Any, block: Any, value: Any) -> Any:
    """place[index] = value in the shared memory of the block of that number in the cluster, which may be the own one. place: `scratch`."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        element, i32 = context.get_data_type(place.dtype), ir.IntType(32)
        own = builder.ptrtoint(builder.addrspacecast(builder.gep(values[0], [values[1]]), ir.PointerType(element, 3)), i32)
        kind = ir.FunctionType(i32, [i32, i32])
        there = builder.call(ir.InlineAsm(kind, "mapa.shared::cluster.u32 $0, $1, $2;", "=r,r,r"), [own, builder.trunc(values[2], i32)])
        letter, bits = ("f", 32) if place.dtype == types.float32 else ("d", 64)
        code = ir.InlineAsm(ir.FunctionType(ir.VoidType(), [i32, element]), f"st.shared::cluster.f{bits} [$0], $1;", f"r,{letter},~{{memory}}",
                            side_effect=True)
        builder.call(code, [there, values[3]])
        return context.get_dummy_value()
    return types.void(place, types.int64, types.int64, place.dtype), codegen


def both_sides(matrix: Sequence[Sequence[Fraction]]) -> Any:
    """B = both_sides(M): B(to, source) writes M s M^T to the registers `to`, s being the square matrix in the registers `source`, row by row. What is
    multiplied by 0 is left out, so a NaN there does not count; a 1 costs nothing."""
    def combined(builder: Any, row: Sequence[Fraction], values: Sequence[Any]) -> Any:
        total = None
        for factor, value in zip(row, values, strict=True):
            if factor == 0:
                continue
            if total is not None and factor == -1:
                total = builder.fsub(total, value)
                continue
            term = value if factor == 1 else builder.fmul(ir.Constant(value.type, float(factor)), value)
            total = term if total is None else builder.fadd(total, term)
        return total

    @intrinsic
    def apply(typing_context: Any, to: Any, source: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            size = len(matrix[0])
            found = [[builder.load(builder.gep(values[1], [ir.Constant(I64, size * i + j)])) for i in range(size)] for j in range(size)]     # columns
            halves = [[combined(builder, row, column) for column in found] for row in matrix]
            for i, half in enumerate(halves):
                for j, row in enumerate(matrix):
                    builder.store(combined(builder, row, half), builder.gep(values[0], [ir.Constant(I64, len(matrix) * i + j)]))
            return context.get_dummy_value()
        return types.void(to, source), codegen
    return apply


def registers(n: int, dtype: str = "T") -> Any:
    """R = registers(n): R(like) is a pointer to n elements of the thread's own, of the type of the array `like`, or of `dtype`. They are registers
    where all indices are known when loops are unrolled, that is in loops of a constant number of turns; else slow memory."""
    @intrinsic
    def own(typing_context: Any, like: Any) -> Any:
        kind = like.dtype if dtype == "T" else DTYPES[dtype]

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            element = context.get_data_type(kind)
            return builder.bitcast(cgutils.alloca_once(builder, ir.ArrayType(element, n)), element.as_pointer())
        return types.CPointer(kind)(like), codegen
    return own
