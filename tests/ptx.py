"""A device that executes PTX on the CPU: NumPy arrays with one lane for each CUDA thread, for tests on machines without a GPU.

`Program(ptx)` reads what NVVM makes of a launch; `run` executes it. What it looks at while it runs, and raises `Fault` for:

- every access lies in memory that was allocated, in the block's shared memory or in the thread's own, and is aligned;
- no thread reads of its own memory what it has not written;
- no block reads or writes what another block of the same launch writes;
- no thread touches what another one of its block writes with no barrier between, in shared or in global memory (under one of the schedules);
- all threads of a block meet at the same barrier, all lanes of a warp at the same exchange; all threads of a cluster at its barriers;
- blocks of a cluster use each other's shared memory as ptx_cluster.py says.

Which thread goes first is up to a schedule: "together" moves all threads on in step; "rising" and "falling" let one warp of each block run until it
waits, then the next, from the first or from the last; of a cluster, one block runs until it waits for the others, then the next. A barrier that is
missing shows as another result under one of them.

It knows the instructions that the kernels use; another one raises NotImplementedError with its text. Lanes lie in the order of the block in its
cluster, warp, cluster, lane, so that a warp of the same block of all clusters is one run of neighbours; a block alone is a cluster of one. Rounding
is that of IEEE, but a float64 fma has two roundings; approximate ones are exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np

from nnkit.plan.launch import THREADS
from nnkit.runtime.blas import Call, Operand, computed
from ptx_cluster import Accesses, Fault, Traffic, mapped
from ptx_races import Races, Touch

__all__ = ["SCHEDULES", "Fault", "Memory", "Program", "PtxDevice", "run"]

SCHEDULES = ("together", "rising", "falling")
WATCHED = "falling"                                      # the schedule under which the threads of a block are watched, too: it takes time
WARP = 32
BASE = 1 << 32                                           # address of the first byte
LOCAL = 1 << 48                                          # where a thread's own memory begins, for accesses that do not say in which memory they are
GAP = 16                                                 # bytes around the arrays of a thread's own memory
TYPES: dict[str, Any] = {"pred": np.bool_, "f32": np.float32, "f64": np.float64}
TYPES |= {f"{kind}{8 * size}": np.dtype(f"{'i' if kind == 's' else 'u'}{size}").type for kind in "sub" for size in (1, 2, 4, 8)}
RAW = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
TOGETHER = ("shfl", "mma")                               # what all lanes of a warp do together
LOW = np.uint32(0x1FFF)                                  # bits of a float32 that tf32 does not have


# Reading.

@attrs.frozen
class Instruction:
    """One line: @guard operation.modifiers arguments."""

    text: str
    guard: str
    negated: bool
    operation: str
    modifiers: tuple[str, ...]
    arguments: tuple[str, ...]

    @property
    def type(self) -> str:
        """The last modifier."""
        return self.modifiers[-1]


def arguments_of(text: str) -> tuple[str, ...]:
    """The parts between commas that are not inside of brackets."""
    return tuple(part.strip() for part in re.findall(r"(?:[^,\[\]{}()]|\[[^\]]*\]|\{[^}]*\}|\([^)]*\))+", text) if part.strip())


class Program:
    """The launch's entry: its parameters, registers, instructions and labels. Functions that it calls are put in place of the calls."""

    def __init__(self, ptx: str) -> None:
        ptx = re.sub(r"//[^\n]*", "", ptx)
        self.functions = {found[1]: found[2] for found in re.finditer(r"\.func\s+(?:\([^)]*\)\s*)?(\w+)\s*\([^)]*\)\s*\{(.*?)^\}", ptx, re.S | re.M)}
        entry = re.search(r"\.entry\s+(\w+)\s*\((.*?)\)([^{]*)\{(.*?)^\}", ptx, re.S | re.M)
        if entry is None:
            raise ValueError("the PTX has no entry")
        self.name = entry[1]
        self.parameters = re.findall(r"\.param\s+\.\w+\s+(\w+)", entry[2])
        cluster = re.search(r"\.reqnctapercluster\s+(\d+)", entry[3])
        self.cluster = int(cluster[1]) if cluster else 1 # blocks that form one
        self.shared = set(re.findall(r"\.extern\s+\.shared\s+[^;]*?(\w+)\[\];", ptx))
        tables = re.findall(r"^\s*\.global\s[^;=]*?\.b8\s+(\w+)\[\d+\]\s*=\s*\{([^}]*)\};", ptx, re.M)
        self.tables = {name: np.array(values.split(","), np.uint8) for name, values in tables}       # constants, byte by byte
        self.local: dict[str, tuple[int, int]] = {}      # arrays of a thread's own: where they begin and end
        self.local_size = GAP
        self.registers: dict[str, str] = {}
        self.code: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self._calls = 0
        self._read(entry[4], "")

    def _read(self, body: str, prefix: str) -> None:
        """Append the instructions of a body; its registers and labels get the prefix."""
        for kind, name, count in re.findall(r"\.reg\s+\.(\w+)\s+(%?\w+)(?:<(\d+)>)?;", body):
            for number in range(int(count)) if count else [""]:
                self.registers[f"{prefix}{name}{number}"] = kind
        for kind, name in re.findall(r"\.param\s+\.(\w+)\s+(\w+);", body):           # of calls: they hold one number, like registers
            self.registers[f"{prefix}{name}"] = kind
        for align, name, size in re.findall(r"\.local\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\];", body):
            start = -(-self.local_size // int(align)) * int(align)
            self.local[prefix + name], self.local_size = (start, start + int(size)), start + int(size) + GAP
        body = re.sub(r"^[\s{]*\.(?:reg|param|loc|pragma|local)\b[^;]*;", "", body, flags=re.M)       # some in a scope of their own
        for line in body.split(";"):
            line = line.lstrip("{} \t\n").rstrip()         # braces of calls and scopes; those of vectors never begin a line
            while found := re.match(r"([$\w]+):\s*", line):
                self.labels[prefix + found[1]] = len(self.code)
                line = line[found.end():].lstrip("{} \t\n")
            if line:
                self._instruction(line, prefix)

    def _instruction(self, line: str, prefix: str) -> None:
        found = re.match(r"(?:@(!?)(%\w+)\s+)?([a-z]\w*(?:\.\w+(?:::\w+)?)*)\s*(.*)$", line, re.S)
        if found is None:
            raise NotImplementedError(line)
        operation, *modifiers = found[3].split(".")
        arguments = tuple(self._renamed(each, prefix) for each in arguments_of(found[4]))
        if operation == "call":
            self._call(arguments)
            return
        if operation == "ret" and prefix:
            operation, arguments = "bra", (f"{prefix}end",)
        guard = prefix + found[2] if found[2] else ""
        self.code.append(Instruction(line, guard, bool(found[1]), operation, tuple(modifiers), arguments))

    def _renamed(self, argument: str, prefix: str) -> str:
        """The argument with the prefix before registers and labels of the body."""
        if not prefix:
            return argument
        own = self.registers.keys() | self.local.keys()
        return re.sub(r"%?[$A-Za-z_][\w$]*", lambda name: prefix + name[0] if prefix + name[0] in own or name[0][0] == "$" else name[0], argument)

    def _call(self, arguments: tuple[str, ...]) -> None:
        """(result), function, (arguments): the function's body, its parameters and result standing for the caller's."""
        result, name, given = arguments
        self._calls += 1
        prefix = f"call{self._calls}."
        body = self.functions[name].replace("func_retval0", result.strip("()"))
        for number, each in enumerate(arguments_of(given.strip("()"))):
            body = re.sub(rf"\b{name}_param_{number}\b", each, body)
        self._read(body, prefix)
        self.labels[f"{prefix}end"] = len(self.code)


# Memory.

class Memory:
    """Global memory: allocations with gaps between them, and who of a launch's blocks touched what."""

    def __init__(self) -> None:
        self.bytes = np.zeros(256, np.uint8)
        self.valid = np.zeros(256, np.bool_)
        self.writer = self.reader = np.zeros(0, np.int32)
        self._tables: dict[bytes, int] = {}

    def allocate(self, nbytes: int) -> int:
        """Zeroed bytes at a multiple of 256, with a gap behind them."""
        start = self.bytes.size
        size = -(-max(1, nbytes) // 256) * 256 + 256
        self.bytes = np.concatenate([self.bytes, np.zeros(size, np.uint8)])
        self.valid = np.concatenate([self.valid, np.arange(size) < nbytes])
        return BASE + start

    def array(self, address: int, nbytes: int) -> np.ndarray:
        """The bytes there."""
        return self.bytes[address - BASE:address - BASE + nbytes]

    def table(self, values: np.ndarray) -> int:
        """The address of constants of a program, which are kept once."""
        if values.tobytes() not in self._tables:
            self._tables[values.tobytes()] = address = self.allocate(values.size)
            self.array(address, values.size)[:] = values
        return self._tables[values.tobytes()]

    def begin(self) -> None:
        """A new launch: nobody has touched anything. Blocks count from 1; -1 stands for several readers."""
        self.writer, self.reader = np.zeros((2, self.bytes.size // 4), np.int32)

    def places(self, addresses: np.ndarray, blocks: np.ndarray, size: int, writes: bool, text: str) -> np.ndarray:
        """Where in `bytes` an access of `size` bytes lies, after all checks."""
        places = addresses - BASE
        if places.size and (places.min() < 0 or places.max() + size > self.bytes.size or not self.valid[places].all()
                            or not self.valid[places + size - 1].all()):
            raise Fault(f"outside of all memory: {text}")
        words = places // 4
        if (self.writer[words] * (self.writer[words] != blocks)).any():
            raise Fault(f"a block touches what another one writes: {text}")
        if writes:
            if (self.reader[words] * (self.reader[words] != blocks)).any():
                raise Fault(f"a block writes what another one reads: {text}")
            self.writer[words] = blocks
            if (self.writer[words] != blocks).any():     # several blocks in this very access
                raise Fault(f"a block touches what another one writes: {text}")
        else:
            self.reader[words] = np.where((self.reader[words] == 0) | (self.reader[words] == blocks), blocks, -1)
            self.reader[words[self.reader[words] != blocks]] = -1                  # several blocks read it in this very access
        return places


# Running.

def run(program: Program, memory: Memory, blocks: int, shared: int, words: Sequence[int], schedule: str = "together") -> int:
    """Execute a launch; returns how many instructions of threads that were. Raises Fault."""
    return Run(program, memory, blocks, shared, words).go(schedule)


class Run:
    """The state of one launch."""

    def __init__(self, program: Program, memory: Memory, blocks: int, shared: int, words: Sequence[int]) -> None:
        if len(words) != len(program.parameters):
            raise Fault(f"the launch takes {len(program.parameters)} words, received {len(words)}")
        self.program, self.memory = program, memory
        self.words = dict(zip(program.parameters, words, strict=True))
        if blocks % program.cluster:
            raise Fault(f"the launch has clusters of {program.cluster} blocks, received {blocks} blocks")
        self.blocks, self.cluster, clusters = blocks, program.cluster, blocks // program.cluster
        self.shape = (program.cluster, THREADS // WARP, clusters, WARP)
        rank, warp, cluster, self.lane = (axis.ravel() for axis in np.indices(self.shape))
        self.block, self.thread = cluster * program.cluster + rank, warp * WARP + self.lane
        self.shared, self.shared_size = np.zeros(blocks * (shared + 16), np.uint8), shared
        self.places = {name: memory.table(values) for name, values in program.tables.items()} | dict.fromkeys(program.shared, 0)
        self.places |= {name: start for name, (start, _) in program.local.items()}
        self.local = np.zeros((self.lane.size, -(-program.local_size // 8) * 8), np.uint8)
        self.local_valid, self.written = np.zeros(self.local.shape[1], np.bool_), np.zeros(self.local.shape, np.bool_)
        for start, end in program.local.values():
            self.local_valid[start:end] = True
        self.carry = np.zeros(self.lane.size, np.bool_)
        self.registers = {name: np.zeros(self.lane.size, np.bool_ if kind == "pred" else RAW[np.dtype(TYPES[kind]).itemsize])
                          for name, kind in program.registers.items()}
        self.counter = np.zeros(self.lane.size, np.int64)    # the instruction where each lane stands
        self.alive, self.waiting, self.meeting = np.zeros((3, self.lane.size), np.bool_)           # meeting: those that wait for their cluster
        self.arrived, self.waited = np.zeros((2, self.lane.size), np.int32)        # how often, at barriers of the cluster
        self.traffic: Traffic | None = None
        self.passed = np.ones(blocks, np.int32)          # barriers, from 1 on
        self.races: dict[str, Races] = {}
        self.copies: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []          # under way: lanes, places in shared memory, values
        self.leaders = set(program.labels.values())
        self.span = slice(None)
        self.done = 0
        self.steps: list[Any] = [None] * len(program.code)           # made when an instruction is first reached, and kept

    def go(self, schedule: str, watched: bool = False) -> int:
        """Let the threads run from the beginning, barrier by barrier; can be called again. Returns how many instructions of threads that were.

        watched: whether the threads of a block are, too, as they are under WATCHED and in clusters.
        """
        self.memory.begin()
        self.counter[:], self.alive[:], self.written[:], self.done, self.copies = 0, True, False, 0, []
        self.arrived[:] = self.waited[:] = 0
        self.passed[:] = 1
        watched = watched or schedule == WATCHED or self.cluster > 1
        self.races = {"shared": Races(self.shared.size), "global": Races(self.memory.bytes.size)} if watched else {}
        self.shared[:] = 0xFF                            # whatever was there before: NaN
        self.traffic = Traffic(self.blocks, self.cluster, self.shared_size, self.shared_size + 16) if self.cluster > 1 else None
        _, warps, clusters, _ = self.shape
        width = clusters * WARP
        ranks = [[slice(w * width, (w + 1) * width) for w in range(k * warps, (k + 1) * warps)] for k in range(self.cluster)]
        if schedule == "together":
            ranks = [[slice(None)]]
        elif schedule == "falling":
            ranks = [spans[::-1] for spans in ranks[::-1]]
        with np.errstate(all="ignore"):
            while self.alive.any():
                for spans in ranks:
                    going = True
                    while going:
                        for self.span in spans:
                            self._advance()
                        going = self._release(spans)
                self._release_clusters()
        return self.done

    def _release(self, spans: Sequence[slice]) -> bool:
        """All threads that live wait: each block that does not wait for its cluster must do so at one place. Returns whether there was one."""
        here = slice(None) if len(spans) == 1 else slice(min(span.start for span in spans), max(span.stop for span in spans))
        counter, alive, waiting, meeting = (array[here].reshape(-1, *self.shape[1:])
                                            for array in (self.counter, self.alive, self.waiting, self.meeting))
        held = (waiting & ~meeting).any((1, 3))
        first, last = np.where(alive, counter, len(self.program.code)).min((1, 3)), np.where(alive, counter, -1).max((1, 3))
        if (held & (first != last)).any():
            raise Fault("threads of a block wait at different barriers")
        if (held & ~alive.all((1, 3))).any():
            raise Fault("some threads of a block never come to a barrier at which others wait")
        waiting &= meeting
        self.passed[self.block[here].reshape(held.shape[0], -1, held.shape[1], WARP)[:, 0, :, 0]] += held
        return bool(held.any())

    def _release_clusters(self) -> None:
        """All threads that live wait for their cluster: all of its threads must."""
        alive = self.alive.reshape(self.shape)
        if (alive.any((0, 1, 3)) & ~alive.all((0, 1, 3))).any():
            raise Fault("some threads of a cluster never come to a barrier at which others wait")
        self.waited[self.waiting] += 1
        self.passed[np.unique(self.block[self.waiting])] += 1
        self.waiting[:] = self.meeting[:] = False

    def _end(self, mask: np.ndarray) -> None:
        """The lanes of a mask in the span end."""
        self.alive[self.span][mask] = False
        if self.traffic is not None:
            self.traffic.end(self.block[self.span][mask], self.waited[self.span][mask])
            alive = self.alive.reshape(self.shape).any((1, 3))           # by rank and cluster
            self.traffic.ended[:] = ~alive.T.ravel()

    def _meet(self, mask: np.ndarray) -> None:
        """barrier.cluster.wait."""
        if (self.arrived[self.span][mask] == self.waited[self.span][mask]).any():
            raise Fault("a thread waits for its cluster that has not arrived")
        self.meeting[self.span] |= mask

    def _arrive(self, instruction: Instruction) -> Callable[[np.ndarray | None], None]:
        """barrier.cluster.arrive."""
        if instruction.modifiers[:3] != ("cluster", "arrive", "release"):
            raise NotImplementedError(instruction.text)

        def come(mask: np.ndarray | None) -> None:
            lanes = slice(None) if mask is None else mask
            if (self.arrived[self.span][lanes] != self.waited[self.span][lanes]).any():
                raise Fault("a thread arrives that has not waited for its cluster since it last did")
            self.arrived[self.span][lanes] += 1
        return come

    def _advance(self) -> None:
        """Run the lanes of the span until none can go on: always those that are furthest behind."""
        span = self.span
        counter, alive, waiting = self.counter[span], self.alive[span], self.waiting[span]
        code, steps, held = self.program.code, self.steps, np.zeros(alive.shape, np.bool_)        # held: at an exchange, for others of their warp
        while True:
            ready = alive & ~waiting & ~held
            if not ready.any():
                if held.any():
                    raise Fault(f"not all lanes of a warp take part: {code[int(counter[held].min())].text}")
                return
            place = int(counter[ready].min())
            mask = ready & (counter == place)
            whole = bool(mask.all())
            active = int(mask.sum())
            while True:
                if place >= len(code):
                    self._end(mask)
                    break
                instruction = code[place]
                if instruction.operation in TOGETHER and not whole:
                    mask = self._met(mask, held, place)
                    whole, active = bool(mask.all()), int(mask.sum())
                    if not active:
                        break
                self.done += active
                taken = mask
                if instruction.guard:
                    guard = self.registers[instruction.guard][span]
                    taken = mask & (~guard if instruction.negated else guard)
                operation = instruction.operation
                if operation == "bra":
                    counter[mask] = place + 1
                    counter[taken] = self.program.labels[instruction.arguments[0]]
                    break
                if operation in ("ret", "exit"):
                    counter[mask] = place + 1
                    self._end(taken)
                    break
                if operation == "bar" or instruction.modifiers[:3] == ("cluster", "wait", "acquire"):
                    if operation == "barrier":
                        self._meet(mask)
                    waiting |= mask
                    counter[mask] = place + 1
                    break
                if steps[place] is None:
                    steps[place] = self._step(instruction)
                steps[place](taken if instruction.guard or not whole else None)
                place += 1
                if not whole and place in self.leaders:
                    counter[mask] = place
                    break

    def _met(self, mask: np.ndarray, held: np.ndarray, place: int) -> np.ndarray:
        """Who goes on of the lanes that have come to an exchange: those of warps whose lanes are all there. The others are held until then, as a GPU
        does, whatever the order in which the compiler wrote the branches."""
        counter, alive = self.counter[self.span], self.alive[self.span]
        counter[mask] = place
        there = mask | (held & (counter == place))
        missing = (alive & ~there).reshape(-1, WARP).any(1)
        held[there] = np.repeat(missing, WARP)[there]
        return there & ~held

    # Operands.

    def _reader(self, text: str, kind: str) -> Callable[[], Any]:
        """What gives an operand's values in the lanes of the span, as numbers of a type."""
        dtype = TYPES[kind]
        if text in self.registers:
            register = self.registers[text]
            if register.dtype == np.bool_:
                return lambda: register[self.span]
            if register.itemsize == np.dtype(dtype).itemsize:
                typed = register.view(dtype)
                return lambda: typed[self.span]
            return lambda: register[self.span].astype(RAW[np.dtype(dtype).itemsize]).view(dtype)
        if text in ("%tid.x", "%ctaid.x"):
            values = (self.thread if text == "%tid.x" else self.block).astype(dtype)
            return lambda: values[self.span]
        if re.match(r"0[fd][0-9a-fA-F]+$", text):
            raw = np.uint32(int(text[2:], 16)).view(np.float32) if text[1] == "f" else np.uint64(int(text[2:], 16)).view(np.float64)
            return lambda: raw
        if text in self.places:
            place = dtype(self.places[text])
            return lambda: place
        number = int(text, 0)
        if dtype is np.bool_:
            return lambda: np.bool_(number)
        size = np.dtype(dtype).itemsize
        constant = RAW[size](number & ((1 << 8 * size) - 1)).view(dtype)
        return lambda: constant

    def _writer(self, text: str) -> Callable[[Any, np.ndarray | None], None]:
        """What puts values into a register, in the lanes of a mask (None: all)."""
        if text == "_":
            return lambda values, mask: None
        register = self.registers[text]
        size = register.itemsize

        def write(values: Any, mask: np.ndarray | None) -> None:
            if register.dtype != np.bool_:
                if values.dtype.itemsize != size:        # a narrower result is extended by its sign, a wider one cut
                    values = values.astype(np.int64 if values.dtype.kind == "i" else np.uint64).astype(RAW[size])
                values = values.view(register.dtype)
            if mask is None:
                register[self.span] = values
            else:
                np.copyto(register[self.span], values, where=mask)
        return write

    def _address(self, text: str) -> Callable[[], np.ndarray]:
        """[register + offset]."""
        found = re.match(r"\[([^+\]]+)(?:\+(-?\w+))?\]", text)
        assert found is not None
        offset = int(found[2] or "0", 0)
        base = self._reader(found[1], "s64") if found[1] in self.registers or found[1] in self.places else None
        if base is None:
            raise NotImplementedError(text)
        return lambda: np.broadcast_to(base() + np.int64(offset), self.lane[self.span].shape)

    # Instructions.

    def _step(self, instruction: Instruction) -> Callable[[np.ndarray | None], None]:
        operation, modifiers = instruction.operation, instruction.modifiers
        if operation in ("bra", "ret", "exit", "bar"):
            return lambda mask: None
        if operation in ("ld", "st"):
            return self._parameter(instruction) if modifiers[0] == "param" else self._memory(instruction)
        if operation == "barrier":
            return self._arrive(instruction)
        if operation == "mapa":
            return self._mapped(instruction)
        if operation == "shfl":
            return self._exchange(instruction)
        if operation == "cp":
            return self._copy(instruction)
        if operation == "mma":
            return self._product(instruction)
        target, *sources = instruction.arguments
        if operation == "mov" and "{" in target + sources[0]:
            return self._halves(instruction)
        if operation in ("madc", "addc", "subc") or "cc" in modifiers:
            return self._carrying(instruction)
        write = self._writer(target)
        compute = COMPUTE.get(operation)
        if operation == "cvt":
            compute, kinds = ROUNDED.get(modifiers) or _conversion(modifiers), [modifiers[-1]] * len(sources)
        elif operation == "setp":
            compute, kinds = COMPARE.get(modifiers[0]), [instruction.type] * 2
        elif operation == "selp":
            kinds = [instruction.type, instruction.type, "pred"]
        elif "wide" in modifiers:
            compute, kinds = _wide(operation, instruction.type), [instruction.type] * len(sources)
            kinds[2:] = [f"{instruction.type[0]}64"] * len(kinds[2:])
        elif "hi" in modifiers:
            compute, kinds = _high(operation, instruction.type), [instruction.type] * len(sources)
        elif operation == "cvta":
            compute, kinds = CVTA.get(modifiers), ["s64"]
        elif operation in ("shl", "shr"):
            kinds = [instruction.type, "u32"]
        elif operation == "bfi":
            kinds = [instruction.type, instruction.type, "u32", "u32"]
        else:
            kinds = [instruction.type] * len(sources)
        if compute is None or len(kinds) != len(sources):
            raise NotImplementedError(instruction.text)
        readers = [self._reader(source, kind) for source, kind in zip(sources, kinds, strict=True)]
        function = compute
        return lambda mask: write(np.asarray(function(*(read() for read in readers))), mask)

    def _parameter(self, instruction: Instruction) -> Callable[[np.ndarray | None], None]:
        """A word of the launch, or what passes a number to a function and back."""
        load = instruction.operation == "ld"
        value, place = instruction.arguments if load else instruction.arguments[::-1]
        name = re.sub(r"\+0$", "", place.strip("[]"))
        if load and name in self.words:
            write = self._writer(value)
            raw = np.int64(self.words[name]).view(np.uint64).astype(RAW[np.dtype(TYPES[instruction.type]).itemsize]).view(TYPES[instruction.type])
            return lambda mask: write(np.asarray(raw), mask)
        write, read = self._writer(value if load else name), self._reader(name if load else value, instruction.type)
        return lambda mask: write(np.asarray(read()), mask)

    def _halves(self, instruction: Instruction) -> Callable[[np.ndarray | None], None]:
        """mov between a number of 64 bits and a pair of 32, the low one first."""
        target, source = instruction.arguments
        if "{" in target:
            low, high = (self._writer(name) for name in arguments_of(target.strip("{}")))
            read = self._reader(source, "u64")

            def part(mask: np.ndarray | None) -> None:
                values = np.asarray(read())
                low(values.astype(np.uint32), mask)
                high((values >> np.uint64(32)).astype(np.uint32), mask)
            return part
        readers = [self._reader(name, "u32") for name in arguments_of(source.strip("{}"))]
        write = self._writer(target)
        return lambda mask: write(np.asarray(readers[0]()).astype(np.uint64) | np.asarray(readers[1]()).astype(np.uint64) << np.uint64(32), mask)

    def _carrying(self, instruction: Instruction) -> Callable[[np.ndarray | None], None]:
        """Sums of 32 bits that take or leave a carry."""
        operation, modifiers = instruction.operation, instruction.modifiers
        if instruction.type != "u32" or operation.removesuffix("c") not in ("mad", "add", "sub"):
            raise NotImplementedError(instruction.text)
        target, *sources = instruction.arguments
        write, readers = self._writer(target), [self._reader(source, "u32") for source in sources]

        def compute(mask: np.ndarray | None) -> None:
            *factors, last = (np.asarray(read()).astype(np.uint64) for read in readers)
            first = factors[0] if len(factors) == 1 else factors[0] * factors[1]
            if len(factors) == 2:
                first = first >> np.uint64(32) if "hi" in modifiers else first & np.uint64(0xFFFFFFFF)
            carry = self.carry[self.span] if operation.endswith("c") else np.uint64(0)
            total = first - last - carry if operation.startswith("sub") else first + last + carry
            write(np.asarray(total.astype(np.uint32)), mask)
            if "cc" in modifiers:
                np.copyto(self.carry[self.span], total >> np.uint64(32) != 0, where=True if mask is None else mask)
        return compute

    def _memory(self, instruction: Instruction) -> Callable[[np.ndarray | None], None]:
        """Loads and stores, of up to four numbers at a time."""
        load = instruction.operation == "ld"
        named = next((each for each in instruction.modifiers if each in ("global", "shared", "shared::cluster", "local")), None)
        values, place = instruction.arguments if load else instruction.arguments[::-1]
        names = arguments_of(values.strip("{}"))
        address = self._address(place)
        dtype, size = TYPES[instruction.type], np.dtype(TYPES[instruction.type]).itemsize
        writers = [self._writer(name) for name in names] if load else []
        readers = [] if load else [self._reader(name, instruction.type) for name in names]

        def access(mask: np.ndarray | None) -> None:
            lanes = slice(None) if mask is None else mask
            addresses = address()[lanes]
            space = named or ("local" if (addresses >= LOCAL).any() else "global")
            if space == "local" and not named:
                addresses = addresses - LOCAL
            if (addresses % (size * len(names))).any():
                raise Fault(f"not aligned: {instruction.text}")
            for number in range(len(names)):
                cells, index = self._cells(space, addresses + number * size, lanes, size, not load, instruction.text)
                if load:
                    found = np.zeros(self.lane[self.span].size, dtype)
                    found[lanes] = cells.view(dtype)[index]
                    writers[number](found, mask)
                else:
                    cells.view(dtype)[index] = np.broadcast_to(readers[number](), self.lane[self.span].shape)[lanes]
        return access

    def _cells(self, space: str, addresses: np.ndarray, lanes: Any, size: int, writes: bool, text: str) -> tuple[np.ndarray, np.ndarray]:
        """(memory, places in it in units of the access) of what these lanes of the span touch."""
        blocks = self.block[self.span][lanes]
        if space == "global":
            places = self.memory.places(addresses, blocks + 1, size, writes, text)
            self._watch("global", places, lanes, size, writes, text)
            return self.memory.bytes, places // size
        if space == "local":
            return self._own(addresses, np.arange(self.lane.size)[self.span][lanes], size, writes, text)
        if self.traffic is not None:
            accesses = Accesses(blocks, self.arrived[self.span][lanes], self.waited[self.span][lanes], addresses, text)
            places = self.traffic.places(accesses, size, writes, space == "shared::cluster")
            if space == "shared":                        # what others give is the traffic's
                self._watch("shared", places, lanes, size, writes, text)
            return self.shared, places // size
        if addresses.size and (addresses.min() < 0 or addresses.max() + size > self.shared_size):
            raise Fault(f"outside of the block's shared memory: {text}")
        places = addresses + blocks * (self.shared_size + 16)
        self._watch("shared", places, lanes, size, writes, text)
        return self.shared, places // size

    def _watch(self, space: str, places: np.ndarray, lanes: Any, size: int, writes: bool, text: str) -> None:
        if space in self.races:
            blocks, before = self.block[self.span][lanes], self.passed[self.block[self.span][lanes]]
            until = before + self.arrived[self.span][lanes] - self.waited[self.span][lanes]
            wrong = self.races[space].find(places, size, Touch(blocks * THREADS + self.thread[self.span][lanes] + 1, before, until, writes))
            if wrong:
                raise Fault(f"{wrong}: {text}")

    def _own(self, addresses: np.ndarray, threads: np.ndarray, size: int, writes: bool, text: str) -> tuple[np.ndarray, np.ndarray]:
        width = self.local.shape[1]
        if addresses.size and (addresses.min() < 0 or addresses.max() + size > width or not self.local_valid[addresses].all()
                               or not self.local_valid[addresses + size - 1].all()):
            raise Fault(f"outside of the thread's own memory: {text}")
        for byte in range(size):
            if writes:
                self.written[threads, addresses + byte] = True
            elif not self.written[threads, addresses + byte].all():
                raise Fault(f"a thread reads what it has not written: {text}")
        return self.local.reshape(-1), (addresses + threads * width) // size

    def _mapped(self, instruction: Instruction) -> Callable[[np.ndarray | None], None]:
        """mapa: an address in the own shared memory becomes the same one in that of another block of the cluster."""
        if instruction.modifiers != ("shared::cluster", "u32"):
            raise NotImplementedError(instruction.text)
        target, address, rank = instruction.arguments
        write, own, other = self._writer(target), self._reader(address, "u32"), self._reader(rank, "u32")

        def find(mask: np.ndarray | None) -> None:
            ranks, shape = np.asarray(other()), self.lane[self.span].shape
            write(np.broadcast_to(mapped(np.asarray(own()), ranks if mask is None or not ranks.shape else np.where(mask, ranks, ranks.dtype.type(0)),
                                         self.cluster, instruction.text), shape), mask)
        return find

    def _copy(self, instruction: Instruction) -> Callable[[np.ndarray | None], None]:
        """cp.async: from global to shared memory, seen from the wait on that the same thread makes; 0 where the last argument is 0."""
        lanes_of_span = np.arange(self.lane.size)
        if instruction.modifiers == ("async", "wait_all"):
            def wait(mask: np.ndarray | None) -> None:
                come = np.zeros(self.lane.size, np.bool_)
                come[lanes_of_span[self.span] if mask is None else lanes_of_span[self.span][mask]] = True
                for lanes, index, values in self.copies:
                    here = come[lanes]
                    self.shared.view(values.dtype)[index[here]] = values[here]
                self.copies = [(lanes[~come[lanes]], index[~come[lanes]], values[~come[lanes]]) for lanes, index, values in self.copies]
                self.copies = [each for each in self.copies if each[0].size]
            return wait
        to, source, size, count = instruction.arguments
        if instruction.modifiers not in COPIES[size]:
            raise NotImplementedError(instruction.text)
        place, origin, read, nbytes = self._address(to), self._address(source), self._reader(count, "u32"), int(size)

        def copy(mask: np.ndarray | None) -> None:
            lanes = np.arange(self.lane[self.span].size)[slice(None) if mask is None else mask]
            count = np.broadcast_to(read(), self.lane[self.span].shape)[lanes]
            addresses, origins = place()[lanes], origin()[lanes]
            if (addresses % nbytes).any() or (origins % nbytes).any():
                raise Fault(f"not aligned: {instruction.text}")
            if (count > nbytes).any():
                raise Fault(f"more bytes than it copies: {instruction.text}")
            for begin in range(0, nbytes, WORD):         # beyond `count` zeros
                _, index = self._cells("shared", addresses + begin, lanes, WORD, True, instruction.text)
                wanted, values = count > begin, np.zeros(index.size, np.uint32)
                cells, places = self._cells("global", origins[wanted] + begin, lanes[wanted], WORD, False, instruction.text)
                values[wanted] = cells.view(np.uint32)[places]
                self.copies.append((lanes_of_span[self.span][lanes], index, values))
        return copy

    def _exchange(self, instruction: Instruction) -> Callable[[np.ndarray | None], None]:
        """shfl.sync.bfly: the value of the lane whose number differs in some bits."""
        if instruction.modifiers[:2] != ("sync", "bfly"):
            raise NotImplementedError(instruction.text)
        target, source, distance, *_ = instruction.arguments
        write, read, bits = self._writer(target.split("|")[0]), self._reader(source, "b32"), self._reader(distance, "s32")

        def exchange(mask: np.ndarray | None) -> None:
            if mask is not None and (mask.reshape(-1, WARP).any(1) != mask.reshape(-1, WARP).all(1)).any():
                raise Fault(f"not all lanes of a warp take part: {instruction.text}")
            values = np.broadcast_to(read(), self.lane[self.span].shape).reshape(-1, WARP)
            others = np.broadcast_to(bits(), self.lane[self.span].shape).reshape(-1, WARP) ^ np.arange(WARP)
            write(np.take_along_axis(values, others, 1).ravel(), mask)
        return exchange


    def _product(self, instruction: Instruction) -> Callable[[np.ndarray | None], None]:
        """mma.sync of a warp: d = a b + c, of matrices whose elements its lanes hold as PTX lays them down (9.7.15.5, fragments of .tf32, .bf16)."""
        if instruction.modifiers not in PRODUCTS:
            raise NotImplementedError(instruction.text)
        unpack, depth = PRODUCTS[instruction.modifiers]
        d, *factors = (arguments_of(argument.strip("{}")) for argument in instruction.arguments)
        a, b, c = ([self._reader(name, kind) for name in names] for names, kind in zip(factors, ("b32", "b32", "f32"), strict=True))
        writers = [self._writer(name) for name in d]
        group, place = np.arange(WARP) // 4, np.arange(WARP) % 4

        def fragments(readers: Sequence[Callable[[], Any]]) -> list[np.ndarray]:
            return [np.broadcast_to(read(), self.lane[self.span].shape).reshape(-1, WARP) for read in readers]

        def multiply(mask: np.ndarray | None) -> None:
            if mask is not None and (mask.reshape(-1, WARP).any(1) != mask.reshape(-1, WARP).all(1)).any():
                raise Fault(f"not all lanes of a warp take part: {instruction.text}")
            warps = self.lane[self.span].size // WARP
            left, right, sums = np.zeros((warps, 16, depth)), np.zeros((warps, depth, 8)), np.zeros((warps, 16, 8))
            for number, words in enumerate(fragments(a)):
                for k, values in unpack(words, place, number // 2):
                    left[:, group + 8 * (number % 2), k] = values
            for number, words in enumerate(fragments(b)):
                for k, values in unpack(words, place, number):
                    right[:, k, group] = values
            for number, values in enumerate(fragments(c)):
                sums[:, group + 8 * (number // 2), 2 * place + number % 2] = values
            sums = (sums + left @ right).astype(np.float32)
            for number, write in enumerate(writers):
                write(sums[:, group + 8 * (number // 2), 2 * place + number % 2].ravel(), mask)
        return multiply


# What instructions compute.

def _conversion(modifiers: tuple[str, ...]) -> Callable[..., Any]:
    to, source = TYPES[modifiers[-2]], modifiers[-1]
    rounding = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
    chosen = next((rounding[each] for each in modifiers if each in rounding), None)
    return lambda x: (chosen(x) if chosen is not None and source[0] == "f" else x).astype(to)


WORD = 4
COPIES = {"4": {("async", "ca", "shared", "global")}, "8": {("async", "ca", "shared", "global")},
          "16": {("async", "ca", "shared", "global"), ("async", "cg", "shared", "global")}}


def _to_tf32(x: Any) -> Any:
    """cvt.rna.tf32.f32: to the nearest number of 10 bits behind the point, from the middle away from 0."""
    bits = x.view(np.uint32)
    return np.where(np.isfinite(x), bits + np.uint32(0x1000) & ~LOW, np.where(np.isnan(x), np.uint32(0x7FFFFFFF), bits))


def _to_bfloat16(x: Any) -> Any:
    """To the nearest number of 7 bits behind the point, from the middle to the even one; its bits."""
    bits = x.view(np.uint32)
    return np.where(np.isnan(x), np.uint32(0x7FFF), bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) >> np.uint32(16))


ROUNDED: dict[tuple[str, ...], Callable[..., Any]] = {
    ("rna", "tf32", "f32"): _to_tf32,
    ("rn", "bf16x2", "f32"): lambda high, low: _to_bfloat16(high) << np.uint32(16) | _to_bfloat16(low),
}


def _tf32_fragment(words: np.ndarray, place: np.ndarray, number: int) -> Any:
    """(k, values) that the lanes hold in their word `number` of a row or column: one number; of its bits the product does not see the low 13."""
    yield place + 4 * number, (words & ~LOW).view(np.float32)


def _bfloat16_fragment(words: np.ndarray, place: np.ndarray, number: int) -> Any:
    """The same of pairs, the one of the smaller k in the low half."""
    yield 2 * place + 8 * number, (words << np.uint32(16)).view(np.float32)
    yield 2 * place + 8 * number + 1, (words & np.uint32(0xFFFF0000)).view(np.float32)


# mma.sync's modifiers: how its factors are unpacked, the sum's length.
PRODUCTS: dict[tuple[str, ...], tuple[Callable[..., Any], int]] = {
    ("sync", "aligned", "m16n8k8", "row", "col", "f32", "tf32", "tf32", "f32"): (_tf32_fragment, 8),
    ("sync", "aligned", "m16n8k16", "row", "col", "f32", "bf16", "bf16", "f32"): (_bfloat16_fragment, 16),
}


def _wide(operation: str, kind: str) -> Callable[..., Any]:
    """Products of 32 bits in 64."""
    to = TYPES[f"{kind[0]}64"]
    if operation == "mul":
        return lambda x, y: x.astype(to) * y.astype(to)
    return lambda x, y, z: x.astype(to) * y.astype(to) + z


def _high(operation: str, kind: str) -> Callable[..., Any] | None:
    """The upper halves of products of 32 bits."""
    if kind not in ("u32", "s32"):
        return None
    wide = _wide("mul", kind)
    if operation == "mul":
        return lambda x, y: (wide(x, y) >> 32).astype(TYPES[kind])
    return lambda x, y, z: (wide(x, y) >> 32).astype(TYPES[kind]) + z


# Addresses of a thread's own memory among all others, and back.
CVTA: dict[tuple[str, ...], Callable[..., Any]] = {("local", "u64"): lambda x: x + LOCAL, ("to", "local", "u64"): lambda x: x - LOCAL}


def _fused(x: Any, y: Any, z: Any) -> Any:
    return (x.astype(np.float64) * y + z).astype(np.float32) if x.dtype == np.float32 else x * y + z


def _shift(left: bool) -> Callable[..., Any]:
    def shift(x: Any, bits: Any) -> Any:
        width = 8 * x.dtype.itemsize
        few = np.minimum(bits, width - 1).astype(x.dtype)
        moved = x << few if left else x >> few
        return moved if x.dtype.kind == "i" and not left else np.where(bits >= width, x.dtype.type(0), moved).astype(x.dtype)
    return shift


def _quotient(x: Any, y: Any) -> Any:
    """Of whole numbers it is cut towards 0; by 0 anything."""
    if x.dtype.kind == "f":
        return x / y
    y = np.where(y == 0, y.dtype.type(1), y)
    return (np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))).astype(x.dtype) if x.dtype.kind == "i" else x // y


def _insert(a: Any, b: Any, position: Any, length: Any) -> Any:
    """b with the low `length` bits of a from `position` on."""
    one = a.dtype.type(1)
    bits = ((one << length.astype(a.dtype)) - one) << position.astype(a.dtype)
    return (b & ~bits) | ((a << position.astype(a.dtype)) & bits)


def _ones(x: Any) -> Any:
    """How many bits of each number are 1."""
    one = x.dtype.type(1)
    return sum((x >> x.dtype.type(bit)) & one for bit in range(8 * x.itemsize))


COMPUTE: dict[str, Callable[..., Any]] = {
    "mov": lambda x: x, "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "div": _quotient,
    "rem": lambda x, y: x - _quotient(x, y) * y,
    "fma": _fused, "mad": lambda x, y, z: x * y + z, "neg": lambda x: -x, "abs": np.abs,
    "copysign": lambda x, y: np.copysign(y, x), "popc": _ones, "min": np.minimum, "max": np.maximum,
    "and": lambda x, y: x & y, "or": lambda x, y: x | y, "xor": lambda x, y: x ^ y, "not": lambda x: ~x, "shl": _shift(True), "shr": _shift(False),
    "rcp": lambda x: x.dtype.type(1) / x, "sqrt": np.sqrt, "selp": lambda x, y, choice: np.where(choice, x, y), "bfi": _insert,
}
COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "nan": lambda x, y: (x != x) | (y != y),
    "num": lambda x, y: (x == x) & (y == y),
    "ne": lambda x, y: (x != y) & (x == x) & (y == y), "neu": np.not_equal, "equ": lambda x, y: ~((x < y) | (x > y)),
    "ltu": lambda x, y: ~(x >= y), "leu": lambda x, y: ~(x > y), "gtu": lambda x, y: ~(x <= y), "geu": lambda x, y: ~(x < y),
}


# A device for the runtime.

class PtxDevice:
    """What `runtime.cuda` asks of a device, on the CPU. room: bytes of its memory. watched: see `Run.go`. What is sent arrives when somebody waits,
    and no sooner."""

    architecture = (9, 0)

    def __init__(self, schedule: str = "together", room: int = 1 << 30, watched: bool = False) -> None:
        self.memory, self.schedule, self.room, self.watched = Memory(), schedule, room, watched
        self._programs: dict[str, Program] = {}
        self._sizes: dict[int, int] = {}                 # of what is allocated
        self._sent: list[tuple[int, np.ndarray]] = []
        self.done = 0
        self.written: list[int] = []                     # bytes of each copy to it
        self.fetched: list[int] = []                     # and from it

    def allocate(self, nbytes: int) -> int:
        """Zeroed memory."""
        if nbytes > self.free():
            raise MemoryError(f"the GPU has no {nbytes:,} bytes of memory left, {self.free():,} are free")
        address = self.memory.allocate(nbytes)
        self._sizes[address] = nbytes
        return address

    def release(self, address: int) -> None:
        """From now on accesses are faults."""
        self.memory.array(address, self._sizes[address])[:] = 0xFF
        self.memory.valid[address - BASE:address - BASE + self._sizes.pop(address)] = False

    def free(self) -> int:
        """Bytes that are free."""
        return self.room - sum(self._sizes.values())

    def pinned(self, nbytes: int) -> np.ndarray:
        """Bytes on the host."""
        return np.zeros(nbytes, np.uint8)

    def send(self, address: int, array: np.ndarray) -> None:
        """Copy later."""
        self._sent.append((address, array))

    def sent(self) -> None:
        """Copy now."""
        for address, array in self._sent:
            self.write(address, array)
        self._sent.clear()

    def wait_for(self, stream: int | None) -> None:
        """Nothing is under way."""

    def holds(self, address: int) -> bool:
        """Whether this is a place in its memory."""
        return BASE <= address < BASE + self.memory.bytes.size and bool(self.memory.valid[address - BASE])

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy there."""
        self.written.append(array.nbytes)
        assert self.memory.valid[address - BASE:address - BASE + array.nbytes].all()
        self.memory.array(address, array.nbytes)[:] = np.ascontiguousarray(array).view(np.uint8).ravel() if array.nbytes else 0

    def read(self, address: int, array: np.ndarray) -> None:
        """Copy from there."""
        self.fetched.append(array.nbytes)
        assert self.memory.valid[address - BASE:address - BASE + array.nbytes].all()
        if array.nbytes:
            array.view(np.uint8).reshape(-1)[:] = self.memory.array(address, array.nbytes)

    def check_library(self) -> None:
        """NumPy is there."""

    def load(self, ptx: str) -> Program:
        """Read PTX, the same only once."""
        if ptx not in self._programs:
            self._programs[ptx] = Program(ptx)
        return self._programs[ptx]

    def graph(self, nodes: Sequence[Any], copies: int) -> Any:
        """Nodes to run one after the other."""
        return PtxGraph(self, nodes, copies)


class PtxGraph:
    """Launches one after the other."""

    def __init__(self, device: PtxDevice, nodes: Sequence[Any], copies: int) -> None:
        self.device, self.nodes, self.copies = device, nodes, copies
        self.runs: list[Run | None] = [None] * len(nodes)

    def run(self, times: int) -> None:
        """Run all so many times."""
        for _ in range(times * self.copies):
            for index, node in enumerate(self.nodes):
                if isinstance(node, Call):
                    self._product(node)
                    continue
                launch = self.runs[index] or Run(node.function, self.device.memory, node.blocks, node.shared, node.words.tolist())
                self.runs[index] = launch
                self.device.done += launch.go(self.device.schedule, self.device.watched)

    def _product(self, node: Call) -> None:
        """What a library would do, by NumPy."""
        def array(operand: Operand) -> np.ndarray:
            return self.device.memory.array(operand.address, 4 * math.prod(operand.shape)).view(np.float32).reshape(operand.shape)
        array(node.y)[...] = computed(node, *map(array, (node.a, node.b, node.bias)))

    def update(self, index: int) -> None:
        """The words of a node have changed."""
        self.runs[index] = None
