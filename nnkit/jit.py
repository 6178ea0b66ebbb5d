"""The only file that names Numba's compile options; the kernel decorator.

A kernel is a plain function on arrays. Its annotations declare what the tape passes to it:

    @kernel
    def scale_forward(task: Int, tasks: Int, y: Matrix, x: Matrix, factor: Real) -> None:
        '''y = factor x. Task t covers its share of the rows. Writes y (=).'''

Order of arguments: task and tasks, then arrays that are written (=), arrays that are updated (+= or in place), arrays that are only read,
scratch, scalars. From that declaration `Kernel.compile` derives the adapter `(words, task, tasks) -> None` that the tape runner calls by
address. `words` is a run of int64: for an array its address and its dimensions (C-contiguous), for a scalar its value (a real as the bits of
a float64). `T` arrays and reals take the plan's dtype, float32 or float64.

Kernels trust their arguments: everything was checked at the edge. They do not allocate (compiled without Numba's runtime) and do not raise.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from types import FunctionType
from typing import Annotated, Any, get_args, get_type_hints

import attrs
import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.errors import NumbaError
from numba.extending import intrinsic

from nnkit.runtime import store

__all__ = [
    "BY_ADDRESS", "I64", "KERNEL_OPTIONS", "Counters", "Double", "Doubles", "Int", "Kernel", "LabelMatrix", "Labels", "Matrix", "ObjectCode",
    "Ordinals", "Real", "Tensor3", "Vector", "Windows", "array_view", "compiled_scalar", "kernel", "object_code", "routine", "scalar", "shared",
    "vector_bytes",
]


@attrs.frozen
class Argument:
    """What the tape passes for one argument: an array of `dtype` and `ndim`, or (ndim 0) a scalar. dtype 'T' is the plan's own.

    count: where it is not 0, a tuple of so many scalars.
    """

    dtype: str
    ndim: int
    count: int = 0

    def __str__(self) -> str:
        return f"{self.dtype}{self.ndim}" if self.ndim else " ".join([self.dtype] * max(1, self.count))

    def numba_type(self, dtype: str) -> types.Type:
        """What a kernel sees, where T is `dtype`."""
        element = DTYPES[dtype if self.dtype == "T" else self.dtype]
        if self.count:
            return types.UniTuple(element, self.count)
        return types.Array(element, self.ndim, "C") if self.ndim else element

    def words(self, value: Any, dtype: str, name: str) -> list[int]:
        """The tape's words for a value, where T is `dtype`. Raises TypeError for an array that the kernel cannot take."""
        expected = dtype if self.dtype == "T" else self.dtype
        if self.count:
            if len(value) != self.count:
                raise TypeError(f"{name} must be a tuple of {self.count} whole numbers, received {value!r}")
            return list(map(int, value))
        if not self.ndim:
            return [int(value) if expected == "int64" else int(np.float64(value).view(np.int64))]
        if not isinstance(value, np.ndarray) or value.dtype != expected or value.ndim != self.ndim or not value.flags.c_contiguous:
            found = f"{value.dtype} array of {value.ndim} dimensions" if isinstance(value, np.ndarray) else repr(value)
            raise TypeError(f"{name} must be a C-contiguous {expected} array of {self.ndim} dimensions, received {found}")
        return [value.ctypes.data, *value.shape]


Vector = Annotated[np.ndarray, Argument("T", 1)]
Matrix = Annotated[np.ndarray, Argument("T", 2)]
Tensor3 = Annotated[np.ndarray, Argument("T", 3)]
Labels = Annotated[np.ndarray, Argument("int32", 1)]          # class labels, indices
LabelMatrix = Annotated[np.ndarray, Argument("int32", 2)]     # the same, several for a sample
Ordinals = Annotated[np.ndarray, Argument("int64", 1)]        # positions of samples in a data set
Counters = Annotated[np.ndarray, Argument("int64", 1)]        # what a step counts: see plan.layout.COUNTERS
Doubles = Annotated[np.ndarray, Argument("float64", 1)]       # sums and learning rates, float64 whatever the plan's dtype
Real = Annotated[float, Argument("T", 0)]
Double = Annotated[float, Argument("float64", 0)]
Int = Annotated[int, Argument("int64", 0)]
Windows = Annotated[tuple, Argument("int64", 0, 21)]          # the places of a convolution or pooling: see Convolution.windows
Sequence = Annotated[tuple, Argument("int64", 0, 12)]         # how a recurrent layer goes through its sequences: see prims.recurrent
ANNOTATIONS = "Vector, Matrix, Tensor3, Labels, LabelMatrix, Ordinals, Counters, Doubles, Real, Double or Int"

# error_model: Python's may raise on a division, which is a way out of the loop and stops vectorisation (Adam: 6.5 -> 0.44 us).
# fastmath: contract alone, so that a * b + c may be one fma; NaN, infinities and the order of sums keep their meaning.
# _nrt: without Numba's runtime nothing can be allocated or reference-counted.
KERNEL_OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}, "_nrt": False}
# no_..._wrapper: kernels are called by address alone, from the tape or through `Kernel.__call__`. Routines and scalar functions keep Numba's
# wrapper: they can be called from Python, and without it such a call would end the process.
BY_ADDRESS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
# Scalar functions: no fastmath at all, since the exact rounding steps of the vector maths must stay as written; fma is asked for by name.
SCALAR_OPTIONS: dict[str, Any] = {**KERNEL_OPTIONS, "fastmath": False, "forceinline": True}

# What machine code must not call that runs without the interpreter, and without Numba, whose helpers nobody could link (as of reshape).
PYTHON = ("Py", "_Py", "NRT_", "numba_")

DTYPES: dict[str, types.Type] = {"float32": types.float32, "float64": types.float64, "int32": types.int32, "int64": types.int64}
I64 = ir.IntType(64)


def cpu_features() -> frozenset[str]:
    """The instruction sets that Numba compiles for: the machine's, or those that NUMBA_CPU_FEATURES narrows them to."""
    narrowed = os.environ.get("NUMBA_CPU_FEATURES")
    if narrowed is not None:
        return frozenset(word[1:] for word in narrowed.split(",") if word.startswith("+"))
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def vector_bytes() -> int:
    """Bytes of the widest vector register worth using: 64 with AVX-512, 32 with AVX2, 16 with NEON and where nothing is known."""
    features = cpu_features()
    if "avx512f" in features:
        return 64
    return 32 if {"avx2", "fma"} <= features else 16


def scalar(function: Callable[..., Any]) -> Any:
    """A scalar function that kernels call: forced inline, NumPy's error model, no fastmath. LLVM makes vector loops of its callers."""
    return njit(**SCALAR_OPTIONS)(function)


def routine(function: Callable[..., Any]) -> Any:
    """A function on arrays or addresses that several kernels call; compiled like a kernel, without an adapter."""
    return njit(**KERNEL_OPTIONS)(function)


@attrs.frozen
class ObjectCode:
    """Machine code of one entry point: relocatable object, name of the entry, and the outside symbols it calls."""

    data: bytes
    symbol: str
    externals: tuple[str, ...]


class Kernel:
    """A kernel: callable on arrays (`k(0, 1, y, x)` for task 0 of 1), and compilable to object code for the tape.

    step: the name by which steps call it: of nnkit's own the place where it is declared, "layers.dense.dense_forward"; others get theirs from
    `store.register`. formula: the scalar function that the kernel computes element by element, where it is made of one; its CUDA twin is, too, by a
    function of the same name as the one that made this.
    """

    formula: Callable[..., Any] | None = None

    def __init__(self, function: Callable[..., None]) -> None:
        declared = declared_arguments(function)
        self.function = function
        self.name = function.__name__
        self.step = f"{str(function.__module__).removeprefix('nnkit.').removesuffix('_cpu')}.{function.__qualname__}"
        self.__doc__ = function.__doc__
        self.argument_names = tuple(declared)
        self.arguments: tuple[Argument, ...] = tuple(declared.values())
        self._entries: dict[str, store.Entry] = {}

    @property
    def signature(self) -> str:
        """The declared arguments as text, e.g. 'T2 T2 T1 int64': a stored kernel is called only with steps of the same signature."""
        return " ".join(map(str, self.arguments))

    def __call__(self, task: int, tasks: int, *values: Any) -> None:
        """Run the kernel on arrays, by the same machine code that the tape calls. Arrays must be C-contiguous and of the declared dtypes."""
        dtype = next((str(value.dtype) for value, argument in zip(values, self.arguments, strict=True) if argument.dtype == "T" and argument.ndim),
                     "float64")
        words = np.array([word for value, argument, name in zip(values, self.arguments, self.argument_names, strict=True)
                          for word in argument.words(value, dtype, name)], np.int64)
        if dtype not in self._entries:
            self._entries[dtype] = store.load(self.name, store.Stored.of(self.compile(dtype), self.signature))
        slots = np.zeros(2, np.int64)
        store.KERNEL(self._entries[dtype].address)(slots.ctypes.data, slots.ctypes.data + 8, words.ctypes.data, task, tasks)

    def compile(self, dtype: str, debug: bool = False) -> ObjectCode:
        """Object code of this kernel for one dtype. With `debug` every index is checked; a wrong one ends the kernel with status 1.

        Raises ValueError with Numba's reason where it cannot be compiled, and where it would call Python: it runs without the interpreter.
        """
        inner = njit(**KERNEL_OPTIONS, **BY_ADDRESS, boundscheck=debug)(self.function)
        unpack = _unpacker(self.arguments, dtype)

        def adapter(words, task, tasks):  # type: ignore[no-untyped-def]
            inner(task, tasks, *unpack(words))

        try:
            code = object_code(adapter, f"{self.function.__module__}.{self.name}.{dtype}", 3, {**KERNEL_OPTIONS, **BY_ADDRESS})
        except Exception as error:
            raise ValueError(f"kernel {self.step} cannot be compiled by Numba for {dtype}: {reason(error, self.function)}") from error
        calls = [symbol for symbol in code.externals if symbol.startswith(PYTHON)]
        if calls:
            raise ValueError(f"kernel {self.step} must not call Python (no print, no Python objects, no reshape), "
                             f"but its machine code calls {calls[0]}")
        return code


def declared_arguments(function: Callable[..., None]) -> dict[str, Argument]:
    """What a kernel's annotations declare, by name, task and tasks apart. Raises TypeError where they are not a kernel's."""
    if not inspect.isfunction(function) or function.__name__ == "<lambda>":
        raise TypeError(f"kernel: must be a plain function, declared by def, received {function!r}")
    what = f"kernel {function.__qualname__}"
    parameters = list(inspect.signature(function).parameters.values())
    names = [parameter.name for parameter in parameters]
    if names[:2] != ["task", "tasks"]:
        raise TypeError(f"{what}: the first two arguments must be task and tasks, received {names[:2]}")
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:                           # whatever looking them up gives
        raise TypeError(f"{what}: annotations must be known where the kernel is declared: {error}") from None
    found: dict[str, Argument] = {}
    for parameter in parameters:
        argument = next((part for part in get_args(hints.get(parameter.name)) if isinstance(part, Argument)), None)
        if argument is None:
            received = "none" if parameter.annotation is parameter.empty else repr(hints[parameter.name])
            raise TypeError(f"{what}: the annotation of {parameter.name} must be {ANNOTATIONS}, received {received}")
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            raise TypeError(f"{what}: arguments must be plain ones without defaults, received {parameter}")
        last = list(found)[-1] if len(found) > 2 else None
        if last is not None and argument.ndim and not found[last].ndim:
            raise TypeError(f"{what}: arrays must stand before numbers, received the array {parameter.name} after the number {last}")
        found[parameter.name] = argument
    if any(found.pop(name) != Argument("int64", 0) for name in ("task", "tasks")):
        raise TypeError(f"{what}: task and tasks must be annotated as Int")
    return found


def reason(error: Exception, function: Callable[..., Any]) -> str:
    """Why Numba could not compile a function, in one line: the first sentence of what it says, and the line in the function's file."""
    text = str(error) if isinstance(error, NumbaError) else f"{type(error).__name__}: {error}"
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and not line.startswith(("Failed in ", "During:", "File ", "This error"))]
    first = " ".join(said[:2]) if said and said[0].endswith(":") else "".join(said[:1])
    if "NRT required" in text or "returning of array passed" in text:
        first = "it would make a new array, which a kernel must not: write a loop, or have the step name the array in `scratch`"
    file = os.path.basename(function.__code__.co_filename)
    place = re.search(rf'{re.escape(file)}(?:", line | \()(\d+)', text)
    return (first or type(error).__name__) + (f" ({file}, line {place[1]})" if place else "")


class Shared:
    """A routine that many kernels call and that is slow to compile: compiled once for each dtype, stored like a kernel, called by its symbol.

    Its arguments are int64 but for the last, `like`, an array that only gives the element type. Callable from kernels, as `routine` is:

        @shared
        def product(m, n, ..., like): ...
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.name = f"{function.__module__.removeprefix('nnkit.').removesuffix('_cpu')}.{function.__name__}"
        self.arity = function.__code__.co_argcount - 1
        self.arguments = (*[Argument("int64", 0)] * self.arity, Argument("T", 1))
        self.signature = " ".join(map(str, self.arguments))

    def compile(self, dtype: str, debug: bool = False) -> ObjectCode:
        """Object code for one dtype; called like a kernel, with the words of its arguments."""
        inner, unpack = njit(**KERNEL_OPTIONS, **BY_ADDRESS)(self.function), _unpacker(self.arguments, dtype)

        def adapter(words, task, tasks):  # type: ignore[no-untyped-def]
            inner(*unpack(words))
        return object_code(adapter, f"{self.function.__module__}.{self.function.__name__}.{dtype}", 3, {**KERNEL_OPTIONS, **BY_ADDRESS})

    def caller(self) -> Any:
        """The intrinsic by which kernels call the routine: its integers on the stack as words, and an empty array for `like`."""
        @intrinsic
        def call(typing_context: Any, *arguments: Any) -> Any:
            given = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else arguments
            symbol = store.link(self.name, str(given[-1].dtype))

            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                values = cgutils.unpack_tuple(builder, values[0]) if len(values) == 1 else values
                byte_pointer = ir.IntType(8).as_pointer()
                kind = ir.FunctionType(ir.IntType(32), [byte_pointer.as_pointer()] * 2 + [I64] * 3)
                slots = [cgutils.alloca_once(builder, byte_pointer) for _ in range(2)]
                words = cgutils.alloca_once(builder, I64, size=self.arity + 2)
                for position, value in enumerate([*values[:-1], ir.Constant(I64, 0), ir.Constant(I64, 0)]):
                    builder.store(value, builder.gep(words, [ir.Constant(I64, position)]))
                entry = cgutils.get_or_insert_function(builder.module, kind, symbol)
                builder.call(entry, [*slots, builder.ptrtoint(words, I64), ir.Constant(I64, 0), ir.Constant(I64, 1)])
                return context.get_dummy_value()
            return types.void(types.StarArgTuple(given)), codegen
        return call


def shared(function: Callable[..., None]) -> Any:
    """Decorator: a `Shared` routine. The result is what kernels call; it also compiles and signs for the store."""
    source = Shared(function)
    call = source.caller()
    call.compile, call.signature = source.compile, source.signature
    return call


def kernel(function: Callable[..., None]) -> Kernel:
    """Decorator: the function becomes a `Kernel`. One that is declared outside of nnkit is registered as "user:<module>.<qualified name>".

    Raises TypeError for a function that is not a kernel's: its arguments, their order, their annotations.
    """
    made = Kernel(function)
    if not str(function.__module__).startswith("nnkit."):
        store.register(f"user:{function.__module__}.{function.__qualname__}", {"": made})
    return made


def compiled_scalar(function: Callable[..., Any], what: str, count: int = 1) -> Any:
    """The function of `count` numbers, compiled for float32 and float64. Raises ValueError with Numba's reason where it cannot be."""
    compiled = scalar(function)
    for number in (types.float32, types.float64):
        try:
            compiled.compile((number,) * count)
        except Exception as error:
            raise ValueError(f"{what} cannot be compiled by Numba: {reason(error, function)}") from None
        result = compiled.overloads[(number,) * count].signature.return_type
        if not isinstance(result, (types.Float, types.Integer)):
            raise ValueError(f"{what} must return a number, returns {result}")
    return compiled


def object_code(function: Callable[..., Any], name: str, arity: int, options: dict[str, Any]) -> ObjectCode:
    """Compile a function of `arity` int64 arguments; `name` makes its symbol unique. Called as status(return slot, exception slot, arguments)."""
    renamed = FunctionType(function.__code__, function.__globals__, name.replace(".", "_"), function.__defaults__, function.__closure__)
    compiled = njit(types.void(*[types.int64] * arity), **options)(renamed)
    overload: Any = compiled.overloads[compiled.signatures[0]]
    _, kind, (data, bitcode) = overload.library.serialize_using_object_code()
    assert kind == "object"
    entry = overload.fndesc.llvm_func_name
    functions = llvm.parse_bitcode(bitcode).functions if bitcode else ()
    externals = sorted(f.name for f in functions if f.is_declaration and not f.name.startswith("llvm."))
    return ObjectCode(data=bytes(data), symbol=entry, externals=tuple(externals))


def _unpacker(arguments: tuple[Argument, ...], dtype: str) -> Any:
    """The intrinsic that turns the tape's words into a tuple of array views and scalars."""
    @intrinsic
    def unpack(typing_context: Any, words: Any) -> Any:
        members = [argument.numba_type(dtype) for argument in arguments]
        result = types.Tuple(members)

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pointer = builder.inttoptr(values[0], I64.as_pointer())
            position = 0

            def word() -> Any:
                nonlocal position
                position += 1
                return builder.load(builder.gep(pointer, [ir.Constant(I64, position - 1)]))

            parts = []
            for member in members:
                if isinstance(member, types.Array):
                    parts.append(array_view(context, builder, member, word(), [word() for _ in range(member.ndim)]))
                elif isinstance(member, types.UniTuple):
                    parts.append(context.make_tuple(builder, member, [word() for _ in range(member.count)]))
                elif isinstance(member, types.Float):
                    value = builder.bitcast(word(), ir.DoubleType())
                    parts.append(value if member == types.float64 else builder.fptrunc(value, ir.FloatType()))
                else:
                    value = word()
                    parts.append(value if member == types.int64 else builder.trunc(value, context.get_value_type(member)))
            return context.make_tuple(builder, result, parts)
        return result(types.int64), codegen
    return unpack


def array_view(context: Any, builder: Any, kind: types.Array, address: Any, dimensions: list[Any]) -> Any:
    """A C-contiguous array over memory that nobody owns."""
    element = context.get_data_type(kind.dtype)
    itemsize = ir.Constant(I64, context.get_abi_sizeof(element))
    strides: list[Any] = []
    stride = itemsize
    for dimension in reversed(dimensions):
        strides.insert(0, stride)
        stride = builder.mul(stride, dimension)
    count = dimensions[0]
    for dimension in dimensions[1:]:
        count = builder.mul(count, dimension)
    view = context.make_array(kind)(context, builder)
    nobody = ir.Constant(ir.IntType(8).as_pointer(), None)
    context.populate_array(view, data=builder.inttoptr(address, element.as_pointer()), shape=cgutils.pack_array(builder, dimensions, ty=I64),
                           strides=cgutils.pack_array(builder, strides, ty=I64), itemsize=itemsize, meminfo=nobody, parent=nobody)
    return view._getvalue()
