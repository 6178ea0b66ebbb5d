"""The tape runner: one compiled loop over the steps of a plan, and what helping threads do meanwhile.

A tape is four arrays of int64. Group g is the kernels first[g] to first[g + 1] - 1; they run one after the other for each of the group's
tasks[g] tasks. The tasks of a group are independent, so they may run at the same time; how many there are depends on shapes alone.

The thread that runs the tape leads: it opens a group, takes its tasks one after the other, and goes on when all are done. Helping threads take
tasks, too, whenever a group is open. Nobody waits for a helper that has taken nothing: a processor that is busy with something else, a thread
that was not woken yet, or one that a fork has lost, holds nothing up. Who waits looks for a while, then lets other threads run.

A few cells of shared memory are all that leader and helpers tell each other: see runtime/threads.py. Who can add 1 to the ticket has the task, and
since the generation differs for every opening nobody takes a task of a group that has been left.

While a tape runs, numbers below the least normal one (1.2e-38 in float32) count as 0. Training makes many: moments of a unit that is dead, gradients
of what is learned by heart. They matter to nobody, and processors take many times longer for them (a small network that has been trained for long:
150 us an epoch, 116 without them).
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnkit.jit import BY_ADDRESS, I64, KERNEL_OPTIONS, ObjectCode, object_code, routine
from nnkit.runtime.store import GIVE_WAY, provide_give_way
from nnkit.runtime.threads import DONE, STOP, TICKET, WORDS

__all__ = ["RunnerCode", "alone", "assist", "lead"]

X86 = platform.machine().lower() in ("x86_64", "amd64")
FLUSH = 0x8040                                           # bits of x86's control register: results (15) and operands (6) that are not normal are 0
SPINS = 10_000                                           # looks before a waiting thread gives way: some 0.2 ms

Cells = types.CPointer(types.int64)


@intrinsic
def int64_at(typing_context: Any, address: Any) -> Any:
    """The int64 array at an address."""
    return Cells(types.int64), lambda context, builder, signature, values: builder.inttoptr(values[0], I64.as_pointer())


@intrinsic
def load(typing_context: Any, cells: Any, place: Any) -> Any:
    """cells[place], which other threads write; what they wrote before it is seen, too."""
    return types.int64(Cells, types.int64), lambda context, builder, signature, values: builder.load_atomic(builder.gep(*_one(values)), "acquire", 8)


@intrinsic
def store(typing_context: Any, cells: Any, place: Any, value: Any) -> Any:
    """cells[place] = value, for other threads to see after all that was written before."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store_atomic(values[2], builder.gep(*_one(values)), "release", 8)
        return context.get_dummy_value()
    return types.void(Cells, types.int64, types.int64), codegen


@intrinsic
def replace(typing_context: Any, cells: Any, place: Any, old: Any, new: Any) -> Any:
    """cells[place] = new if it is `old`, as one operation; whether it was."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.extract_value(builder.cmpxchg(builder.gep(*_one(values)), values[2], values[3], "acq_rel", "acquire"), 1)
    return types.boolean(Cells, types.int64, types.int64, types.int64), codegen


@intrinsic
def increase(typing_context: Any, cells: Any, place: Any) -> Any:
    """Add 1 to cells[place] as one operation."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.atomic_rmw("add", builder.gep(*_one(values)), I64(1), "acq_rel")
        return context.get_dummy_value()
    return types.void(Cells, types.int64), codegen


def _one(values: Any) -> tuple[Any, list[Any]]:
    return values[0], [values[1]]


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the processor that this is a loop that waits."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if X86:
            builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()
    return types.void(), codegen


@intrinsic
def control(typing_context: Any) -> Any:
    """How this thread computes: x86's control register, elsewhere 0."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.zext(_control_register(builder, "st"), I64) if X86 else I64(0)
    return types.int64(), codegen


@intrinsic
def set_control(typing_context: Any, value: Any) -> Any:
    """Compute as `control` said; elsewhere than on x86 nothing."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if X86:
            _control_register(builder, "ld", builder.trunc(values[0], ir.IntType(32)))
        return context.get_dummy_value()
    return types.void(types.int64), codegen


def _control_register(builder: Any, way: str, value: Any = None) -> Any:
    """Store the register ("st") or load it ("ld") with `value`; returns what it then holds."""
    place = cgutils.alloca_once(builder, ir.IntType(32))
    if value is not None:
        builder.store(value, place)
    byte_pointer = ir.IntType(8).as_pointer()
    move = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [byte_pointer]), f"llvm.x86.sse.{way}mxcsr")
    builder.call(move, [builder.bitcast(place, byte_pointer)])
    return builder.load(place)


@intrinsic
def give_way(typing_context: Any) -> Any:
    """Let other threads run: the system's call, which the store makes known under this name."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), GIVE_WAY), [])
        return context.get_dummy_value()
    return types.void(), codegen


@intrinsic
def call(typing_context: Any, address: Any, words: Any, task: Any, tasks: Any) -> Any:
    """Call a kernel's adapter, by Numba's convention: status(return slot, exception slot, arguments). Kernels do not fail; debug runs look at the
    status, which this returns."""
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        byte_pointer = ir.IntType(8).as_pointer()
        adapter = ir.FunctionType(ir.IntType(32), [byte_pointer.as_pointer(), byte_pointer.as_pointer(), I64, I64, I64])
        slots = [cgutils.alloca_once(builder, byte_pointer) for _ in range(2)]
        return builder.sext(builder.call(builder.inttoptr(values[0], adapter.as_pointer()), [*slots, *values[1:]]), I64)
    return types.int64(types.int64, types.int64, types.int64, types.int64), codegen


@routine
def flush_small():
    """From here on this thread takes numbers that are not normal for 0; returns how it computed before, for `set_control`."""
    before = control()
    set_control(before | FLUSH)
    return before


@routine
def wait(turn):
    """One turn of waiting."""
    if turn < SPINS:
        pause()
    else:
        give_way()


@routine
def take_tasks(cells, first, tasks, kernels):
    """Run tasks of the open group until none is left; returns the ticket that shows it."""
    while True:
        ticket = load(cells, TICKET)
        group, task = (ticket >> 16) & 0xFFFF, ticket & 0xFFFF
        if ticket & STOP == STOP or task >= tasks[group]:
            return ticket
        if replace(cells, TICKET, ticket, ticket + 1):
            words = int64_at(load(cells, WORDS))
            for k in range(first[group], first[group + 1]):
                call(kernels[k], words[k], task, tasks[group])
            increase(cells, DONE)


def lead_tape(steps, groups, first_address, tasks_address, kernel_address, words_address, cells_address):  # type: ignore[no-untyped-def]
    """Run the tape `steps` times."""
    before = flush_small()
    first, tasks, kernels, words = int64_at(first_address), int64_at(tasks_address), int64_at(kernel_address), int64_at(words_address)
    cells = int64_at(cells_address)
    store(cells, WORDS, words_address)
    for _ in range(steps):
        for g in range(groups):
            n = tasks[g]
            if n == 1:
                for k in range(first[g], first[g + 1]):
                    call(kernels[k], words[k], 0, 1)
                continue
            generation = ((load(cells, TICKET) >> 32) + 1) & 0x7FFFFFFF
            store(cells, DONE, 0)
            store(cells, TICKET, (generation << 32) | (g << 16))
            take_tasks(cells, first, tasks, kernels)
            turn = 0
            while load(cells, DONE) < n:
                wait(turn)
                turn += 1
    store(cells, TICKET, load(cells, TICKET) | STOP)
    set_control(before)


def assist_tape(steps, groups, first_address, tasks_address, kernel_address, words_address, cells_address):  # type: ignore[no-untyped-def]
    """Take tasks of whatever group is open until the leader stops. Arguments as for `lead_tape`."""
    before = flush_small()
    first, tasks, kernels = int64_at(first_address), int64_at(tasks_address), int64_at(kernel_address)
    cells = int64_at(cells_address)
    turn = seen = 0
    while True:
        ticket = take_tasks(cells, first, tasks, kernels)
        if ticket & STOP == STOP:
            set_control(before)
            return
        turn = turn + 1 if ticket == seen else 0
        seen = ticket
        wait(turn)


def call_alone(kernel, words, task, tasks, status_address, _unused, _also):  # type: ignore[no-untyped-def]
    """One task of one step, computed as the runner does; what its kernel returns goes to the int64 at `status_address`. For debug runs."""
    before = flush_small()
    status = int64_at(status_address)
    status[0] = call(kernel, words, task, tasks)
    set_control(before)


class RunnerCode:
    """A part of the runner, compiled and stored like a kernel; the same for all dtypes."""

    signature = "int64 int64 int64 int64 int64 int64 int64"

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    def compile(self, dtype: str, debug: bool = False) -> ObjectCode:
        """Object code."""
        provide_give_way()                               # Numba, too, links what it compiles
        return object_code(self.function, f"{__name__}.{self.function.__name__}", 7, {**KERNEL_OPTIONS, **BY_ADDRESS})


lead, assist, alone = RunnerCode(lead_tape), RunnerCode(assist_tape), RunnerCode(call_alone)
