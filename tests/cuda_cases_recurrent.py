"""Cases of the walks of recurrent layers: cuda_cases.py collects them. What they are to leave behind is said here, step by step, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np

from nnkit.prims.gates_cpu import any_of, any_slope
from nnkit.prims.recurrent import ACTIVATIONS

__all__ = ["WalkCase", "packed", "recurrent_cases", "turned", "walk"]

TANH, SIGMOID = ACTIVATIONS.index("tanh"), ACTIVATIONS.index("sigmoid")
GATES = {"simple_rnn": 1, "lstm": 4, "gru": 3, "gru_before": 3}
CONSTANTS = 0.3, 1.1                                     # of activations that have one

rng = np.random.default_rng(8)


@attrs.frozen
class WalkCase:
    """How a walk goes: U units, N rows, T steps; Q and the quartets of R that stay in shared memory; what there is besides.

    parts: of a walk by clusters, how many lanes share a sum; tasks: into how many blocks its work is cut.
    """

    id: str
    U: int
    N: int
    T: int
    Q: int = 1
    kept: int = 0
    backwards: bool = False
    aligned: bool = False
    sequences: bool = False
    zero: bool = False
    masked: bool = False
    dropped: bool = False
    begun: bool = False
    biased: bool = True
    ends: bool = False
    codes: tuple[int, int] = (TANH, SIGMOID)
    dtypes: tuple[str, ...] = ("float32", "float64")
    parts: int = 0
    tasks: tuple[int, ...] = ()

    @property
    def form(self) -> str:
        """What kernels have in their names."""
        return "cluster" if self.parts else "walk"

    @property
    def shape(self) -> tuple[int, ...]:
        """What kernels take as `Sequence`; the place of the bytes is not read by them."""
        flags = (self.backwards, self.aligned, self.sequences, self.zero)
        return (self.U, self.parts or self.Q, self.kept, self.T, *map(int, flags), 0, *self.codes, self.N)

    @property
    def mask(self) -> np.ndarray:
        """Rows of which steps are missing on the left, on the right, in the middle, all, but for one; the others have all."""
        mask = np.ones((self.N, self.T) if self.masked else (0, self.T))
        if self.masked:
            middle = self.T // 2
            mask[0, :middle], mask[1 % self.N, middle:], mask[2 % self.N], mask[3 % self.N, 1:-1] = 0, 0, 0, 0
        return mask

    def place(self, t: int) -> int:
        """Where step t lies."""
        return self.T - 1 - t if self.backwards else t

    def output(self, t: int) -> Any:
        """Where y [N, T, U] has it."""
        return self.place(t) if self.aligned else t


def packed(weight: np.ndarray) -> np.ndarray:
    """As prims.recurrent.pack_quartets does it."""
    U, C = weight.shape
    rows = np.zeros((-(-U // 4) * 4, C))
    rows[:U] = weight
    return rows.reshape(-1, 4, C).transpose(0, 2, 1).ravel()


def turned(weight: np.ndarray) -> np.ndarray:
    """As prims.recurrent.pack_quartets_turned does it."""
    U, C = weight.shape
    return np.concatenate([packed(weight[:, k * U:(k + 1) * U].T) for k in range(C // U)]) if U else np.zeros(0)


@attrs.frozen
class Walk:
    """A cell on its way: what both kernels read, and what the forward one leaves."""

    case: WalkCase
    cell: str
    weight: np.ndarray
    bias: np.ndarray
    h0: np.ndarray
    c0: np.ndarray
    drop: np.ndarray

    @staticmethod
    def draw(case: WalkCase, cell: str) -> Walk:
        """Some numbers for all of it."""
        U, N, gates = case.U, case.N, GATES[cell]
        return Walk(case, cell, rng.standard_normal((U, gates * U)) / np.sqrt(U),
                    rng.standard_normal(3 * U * (case.biased and cell == "gru")), rng.standard_normal((N * case.begun, U)),
                    rng.standard_normal((N * case.begun * (cell == "lstm"), U)), rng.integers(0, 2, (N * case.dropped, U)) / 0.6)

    def act(self, x: np.ndarray, gate: bool = False) -> np.ndarray:
        """The activation or the recurrent one."""
        return np.vectorize(lambda each: any_of(each, self.case.codes[gate], CONSTANTS[gate]))(x)

    def slope(self, y: np.ndarray, gate: bool = False) -> np.ndarray:
        """Its derivative, from its value."""
        return np.vectorize(lambda each: any_slope(each, self.case.codes[gate], CONSTANTS[gate]))(y)

    def forward(self, given: np.ndarray) -> dict[str, np.ndarray]:
        """All that a walk forward writes, as arrays [N, T, ...], from what x gives to the gates."""
        case, cell = self.case, self.cell
        U, N = case.U, case.N
        split = [slice(k * U, (k + 1) * U) for k in range(GATES[cell])]
        h = self.h0 if len(self.h0) else np.zeros((N, U))
        c = self.c0 if len(self.c0) else np.zeros((N, U))
        found = {name: np.zeros((N, case.T, U)) for name in ("y", "hidden", "cells", "left", "inner")} | {"planes": np.array(given)}
        begun = np.zeros(N, bool)
        for t in range(case.T):
            at = case.place(t)
            counts = case.mask[:, at] > 0 if case.masked else np.ones(N, bool)
            begun |= counts
            m = h * self.drop if len(self.drop) else h
            z, s = given[:, at], m @ self.weight
            before = h, c
            values, inner = [], np.zeros((N, U))
            if cell == "simple_rnn":
                values = [self.act(z + s)]
                h = values[0]
            elif cell == "lstm":
                values = [self.act(z[:, part] + s[:, part], k != 2) for k, part in enumerate(split)]
                c = values[1] * c + values[0] * values[2]
                h = values[3] * self.act(c)
            else:
                b = self.bias if len(self.bias) else np.zeros(3 * U)
                v, r = (self.act(z[:, part] + s[:, part] + b[part], True) for part in split[:2])
                inner = s[:, split[2]] + b[split[2]] if cell == "gru" else r * m
                u = self.act(z[:, split[2]] + (r * inner if cell == "gru" else inner @ self.weight[:, split[2]]))
                values = [v, r, u]
                h = u + v * (h - u)
            for name, value in (("hidden", before[0]), ("cells", before[1]), ("left", m), ("inner", inner)):
                found[name][:, at] = value
            found["planes"][:, at] = np.concatenate(values, 1)
            h, c = np.where(counts[:, None], h, before[0]), np.where(counts[:, None], c, before[1])
            silent = ~begun | (case.zero & ~counts)
            found["y"][:, case.output(t)] = np.where(silent[:, None], 0, h)
        return found | {"last": h, "last_cell": c} | ({} if case.sequences else {"y": found["y"][:, case.output(case.T - 1)]})

    def backward(self, kept: dict[str, np.ndarray], dy: np.ndarray, dlast: np.ndarray, dlast_cell: np.ndarray) -> dict[str, np.ndarray]:
        """The gradients of the gates, those for R, of h and c before the first step."""
        case, cell = self.case, self.cell
        U, N = case.U, case.N
        weights = [self.weight[:, k * U:(k + 1) * U] for k in range(GATES[cell])]
        dp = dlast if len(dlast) else np.zeros((N, U))
        dc = dlast_cell if len(dlast_cell) else np.zeros((N, U))
        drop = self.drop if len(self.drop) else np.ones((N, U))
        mask = case.mask if case.masked else np.ones((N, case.T))
        found = {"planes": np.zeros_like(kept["planes"]), "through": np.zeros((N, case.T, 4 * U))}
        for t in reversed(range(case.T)):
            at = case.place(t)
            counts = mask[:, at] > 0
            begun = np.any([mask[:, case.place(k)] > 0 for k in range(t + 1)], 0)
            dh = dp.copy()
            if case.sequences or t == case.T - 1:
                dh += np.where((begun & (counts | (not case.zero)))[:, None], dy[:, case.output(t)] if case.sequences else dy, 0)
            g = [kept["planes"][:, at, k * U:(k + 1) * U] for k in range(GATES[cell])]
            p, q, m, inner = (kept[name][:, at] for name in ("hidden", "cells", "left", "inner"))
            dq, direct, last = dc, np.zeros((N, U)), None
            if cell == "simple_rnn":
                dz = [dh * self.slope(g[0])]
            elif cell == "lstm":
                i, f, u, o = g
                bent = self.act(f * q + i * u)
                dq = dc + dh * o * self.slope(bent)
                dz = [dq * u * self.slope(i, True), dq * q * self.slope(f, True), dq * i * self.slope(u), dh * bent * self.slope(o, True)]
                dq = dq * f
            else:
                v, r, u = g
                du, dv, direct = dh * (1 - v) * self.slope(u), dh * (p - u) * self.slope(v, True), dh * v
                if cell == "gru":
                    dz, last = [dv, du * inner * self.slope(r, True), du], du * r
                else:
                    dm = du @ weights[2].T
                    dz, last, direct = [dv, dm * m * self.slope(r, True), du], np.zeros((N, U)), direct + dm * r * drop
            into = [*dz[:-1], dz[-1] if last is None else last]
            through = sum(each @ weight.T for each, weight in zip(into, weights, strict=True)) * drop
            passed = counts[:, None]
            dp, dc = np.where(passed, direct + through, dh), np.where(passed, dq, dc)
            found["planes"][:, at] = np.where(passed, np.concatenate(dz, 1), 0)
            found["through"][:, at, :len(into) * U] = np.where(passed, np.concatenate(into, 1), 0)
        return found | {"dh0": dp, "dc0": dc}


def rows_of(array: np.ndarray) -> np.ndarray:
    """[N, T, C] as a matrix of steps."""
    return array.reshape(-1, array.shape[-1]) if array.ndim == 3 else array


Expected = Callable[[], list[np.ndarray]]


def walk(case: WalkCase, cell: str, end: str) -> Iterator[tuple[str, str, tuple[Any, ...], int, Expected, WalkCase]]:
    """(id, kernel, arguments, how many are changed, what says what they become) of the walks forward, as in training and as in prediction, and
    backward, which starts from any numbers."""
    way, U, N, T, gates = Walk.draw(case, cell), case.U, case.N, case.T, GATES[cell]
    given, kernel, lstm, gru = rng.standard_normal((N, T, gates * U)), f"layers.recurrent.{cell}{end}_{case.form}", cell == "lstm", gates == 3
    packs = [np.ravel, np.ravel] if case.parts else [packed, turned]         # a cluster reads R as it is
    none, state, scalars = np.zeros((0, U)), np.full((2 * N, U), np.nan), (case.shape, *CONSTANTS)
    drop = way.drop if len(way.drop) else none
    steps, rows, outputs = (N * T, U), (N, U), (N * T, U) if case.sequences else (N, U)

    def there(wanted: bool, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, np.nan) if wanted else none
    for training in (True, False) if case.id == "plain" else (True,):
        wanted = {"y": True, "last": case.ends, "last_cell": case.ends and lstm, "hidden": training and gru and case.dropped,
                  "cells": training and lstm, "left": training, "inner": training and gru}
        written = [there(value, outputs if name == "y" else rows if "last" in name else steps) for name, value in wanted.items()]

        def forward(training: bool = training, wanted: dict[str, bool] = wanted) -> list[np.ndarray]:
            found = way.forward(given)
            planes = found["planes"] if training or cell == "gru_before" else given
            return [*(rows_of(found[name]) if value else none for name, value in wanted.items()), rows_of(planes)]
        yield (f"{cell}{end}-{case.form}-forward-{case.id}{'' if training else '-predict'}", f"{kernel}_forward",
               (*written, rows_of(given), packs[0](way.weight), way.bias, way.h0, way.c0, case.mask, drop, state, *scalars), 8, forward, case)
    kept = {name: rng.uniform(0.1, 0.9, (N, T, width)) for name, width in
            (("planes", gates * U), ("hidden", U), ("cells", U), ("left", U), ("inner", U))}
    if not case.dropped:
        kept["hidden"] = kept["left"]
    dy, dends = rng.standard_normal((N, T, U) if case.sequences else rows), [rng.standard_normal((N * case.ends * own, U)) for own in (True, lstm)]
    width = (2 if cell == "gru_before" else 3) * U
    written = [there(case.begun, rows), there(len(way.c0) > 0, rows), there(gru, (N * T, width)), there(cell == "gru_before", steps)]

    def backward() -> list[np.ndarray]:
        found = way.backward(kept, dy, *dends)
        planes = rows_of(found["planes"])
        values = found["dh0"], found["dc0"], rows_of(found["through"])[:, :width], planes[:, 2 * U:]
        return [*(value if len(array) else array for value, array in zip(values, written, strict=True)), planes]
    yield (f"{cell}{end}-{case.form}-backward-{case.id}", f"{kernel}_backward",
           (*written, rows_of(kept["planes"]), rows_of(kept["hidden"]) if gru and case.dropped else none, rows_of(kept["cells"]) if lstm else none,
            rows_of(kept["left"]), rows_of(kept["inner"]) if gru else none, rows_of(dy), *dends, packs[1](way.weight), case.mask, drop, state,
            *scalars), 5, backward, case)


WALKS = (
    WalkCase("plain", 5, 3, 4, kept=2, sequences=True),
    WalkCase("one", 1, 1, 1, ends=True, dtypes=("float32",)),
    WalkCase("masked", 3, 9, 5, Q=2, kept=1, backwards=True, aligned=True, sequences=True, zero=True, masked=True, ends=True, dtypes=("float32",)),
    WalkCase("dropped", 7, 6, 3, kept=1, masked=True, dropped=True, begun=True, ends=True, biased=False),
)
LONG = WalkCase("long", 259, 2, 2, kept=3, sequences=True, begun=True, dtypes=("float32",))
OTHER = (
    WalkCase("bent", 4, 5, 3, masked=True, dropped=True, begun=True, codes=(ACTIVATIONS.index("softsign"), ACTIVATIONS.index("hard_sigmoid")),
             dtypes=("float32",)),
)


# By clusters: units that do not come out even for the blocks, blocks without any; several groups of rows for a cluster, and one. Units of which a
# warp has several turns: test_cuda_kernels.py, real sizes.
CLUSTERS = (
    WalkCase("masked", 17, 9, 3, parts=8, backwards=True, aligned=True, sequences=True, zero=True, masked=True, ends=True, tasks=(24, 8),
             dtypes=("float32",)),
    WalkCase("dropped", 7, 6, 3, parts=4, masked=True, dropped=True, begun=True, ends=True, biased=False, tasks=(16, 8), dtypes=("float32",)),
)
CLUSTERED_LSTM = (
    WalkCase("plain", 13, 3, 3, sequences=True, parts=16, tasks=(8,)),
    WalkCase("one", 1, 1, 1, ends=True, parts=32, tasks=(8,), dtypes=("float32",)),
)
CLUSTERED_OTHER = WalkCase("bent", 9, 5, 2, masked=True, dropped=True, begun=True, codes=OTHER[0].codes, parts=4, tasks=(8,), dtypes=("float32",))


def recurrent_cases() -> Iterator[tuple[str, str, tuple[Any, ...], int, Expected, WalkCase]]:
    """One step, one unit, one row; more units than a block has threads; all of R in shared memory, some of it, nothing; masks of all kinds."""
    for cell in GATES:
        for case in WALKS:
            yield from walk(case, cell, "")
        for case in OTHER:
            yield from walk(case, cell, "_any")
    yield from walk(LONG, "simple_rnn", "")
    for code in range(len(ACTIVATIONS)):
        yield from walk(WalkCase(ACTIVATIONS[code], 2, 3, 2, sequences=True, codes=(code, code), dtypes=("float32",)), "simple_rnn", "_any")
    for cell, cases in (("simple_rnn", CLUSTERS[1:]), ("lstm", CLUSTERS + CLUSTERED_LSTM), ("gru", CLUSTERS)):
        for case in cases:
            yield from walk(case, cell, "")
        yield from walk(CLUSTERED_OTHER, cell, "_any")
