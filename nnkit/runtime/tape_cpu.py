"""The tape runner: one compiled loop over the steps of a plan. It holds the only `prange` of the library.

A tape is four arrays of int64. Group g is the kernels first[g] to first[g + 1] - 1; they run one after the other for each of the group's
tasks[g] tasks. The tasks of a group are independent, so they may run at the same time; how many there are depends on shapes alone. Every thread
takes the next task when it is done with one: a processor that is slow for a while, busy with something else, does not hold up the others.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import I64, RUNNER_OPTIONS, ObjectCode, object_code

__all__ = ["RunnerCode", "run_parallel", "run_serial"]


@intrinsic
def int64_at(typing_context: Any, address: Any) -> Any:
    """The int64 array at an address."""
    return types.CPointer(types.int64)(types.int64), lambda context, builder, signature, values: builder.inttoptr(values[0], I64.as_pointer())


@intrinsic
def call(typing_context: Any, address: Any, words: Any, task: Any, tasks: Any) -> Any:
    """Call a kernel's adapter, by Numba's convention: status(return slot, exception slot, arguments). Kernels do not fail; debug runs look."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        byte_pointer = ir.IntType(8).as_pointer()
        adapter = ir.FunctionType(ir.IntType(32), [byte_pointer.as_pointer(), byte_pointer.as_pointer(), I64, I64, I64])
        slots = [cgutils.alloca_once(builder, byte_pointer) for _ in range(2)]
        builder.call(builder.inttoptr(values[0], adapter.as_pointer()), [*slots, *values[1:]])
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def take(typing_context: Any, cell: Any, index: Any) -> Any:
    """The int64 cell[index], and add 1 to it, as one operation: no two threads get the same number."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.atomic_rmw("add", builder.gep(values[0], [values[1]]), I64(1), "monotonic")
    return types.int64(types.CPointer(types.int64), types.int64), codegen


def run(steps, groups, first_address, tasks_address, kernel_address, words_address):  # type: ignore[no-untyped-def]
    """Run the tape `steps` times. tasks[groups] is where the tasks of the running group are counted."""
    first = int64_at(first_address)
    tasks = int64_at(tasks_address)
    kernels = int64_at(kernel_address)
    words = int64_at(words_address)
    for _ in range(steps):
        for g in range(groups):
            n = tasks[g]
            if n == 1:
                for k in range(first[g], first[g + 1]):
                    call(kernels[k], words[k], 0, 1)
            else:
                tasks[groups] = 0
                for _turn in prange(n):                  # a thread's first turn goes on until no task is left; its others find none
                    task = take(tasks, groups)
                    while task < n:
                        for k in range(first[g], first[g + 1]):
                            call(kernels[k], words[k], task, n)
                        task = take(tasks, groups)


class RunnerCode:
    """A variant of the runner, compiled and stored like a kernel."""

    signature = "int64 int64 int64 int64 int64 int64"

    def __init__(self, parallel: bool) -> None:
        self.parallel = parallel

    def compile(self, dtype: str, debug: bool = False) -> ObjectCode:
        """Object code; the runner is the same for all dtypes."""
        return object_code(run, f"{__name__}.run.{'parallel' if self.parallel else 'serial'}", 6, {**RUNNER_OPTIONS, "parallel": self.parallel})


run_serial = RunnerCode(parallel=False)
run_parallel = RunnerCode(parallel=True)
