"""Row-wise updates: of a table of which a batch reads few rows, only those rows are updated. Kernels: lazy_cpu.py, and by
the way in which rows catch up closed_cpu.py and replay_cpu.py.

Under most rules a row moves without a gradient, too: momentum goes on, running means fade, weights decay. So each row keeps the number of the
update up to which it is current, and catches up before it is read. How, says `Optimizer.row_updates`:

closed: all missed updates at once, by a closed form of the rule (`Missed`). The numbers are those of the dense sweep up to rounding.
replay: the rule with gradient 0, once for every missed update. The bits are those of the dense sweep.

Either way the missed updates are looked up in a table, "@history", that begins at an update ("term" of the counters) and has room for SPAN. When it
is full, and when somebody wants to read the whole table (a flush), all rows catch up and it begins anew. The names of these buffers begin with @,
which no layer's name may contain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from nnkit.plan.passes import work_tasks

if TYPE_CHECKING:
    from nnkit.optimizers.base import Optimizer
    from nnkit.plan.builder import Builder, Touched
    from nnkit.plan.plan import Buffer

__all__ = ["RECORD", "SHORT", "SPAN", "Missed", "history", "lower_missed", "lower_rows", "lower_tick", "powers", "rounded"]

SPAN = 512                  # updates that the history has room for
SHORT, LONG = 5, 13         # numbers that it keeps of an update: the factor of p and up to 4 sums, or up to 12
RECORD = 6                  # the same for a replay: the constants of the rule, and the factor of p
FEWEST_ROWS = 8             # worth a task


@attrs.frozen(eq=False)
class Missed:
    """What k updates without a gradient do to a parameter p and to its states, as a closed form.

    Each state is multiplied by its factor^k, and p by keep = the product of 1 - lr_s weight_decay over the missed updates s = 1, ..., k. The formula
    (the kernel's name without _missed) then adds what the states hold times the sums W_j = sum over s of amount_s c_j(s) keep_(s+1) ... keep_k.

    sums: the numbers c_j(1), ..., c_j(SPAN) for each j. amount: which amount_s: "unit" for 1, "adam" for lr_s sqrt(1 - beta_2^t) / (1 - beta_1^t).
    """

    formula: str
    factors: tuple[float, ...]
    sums: tuple[np.ndarray, ...] = ()
    amount: str = "unit"

    @property
    def moves(self) -> bool:
        """Whether anything moves, weight decay apart."""
        return bool(self.sums) or any(factor != 1 for factor in self.factors)

    @property
    def columns(self) -> int:
        """Numbers that the history keeps of an update."""
        return SHORT if len(self.sums) < SHORT else LONG


def powers(factor: float) -> np.ndarray:
    """factor^1, ..., factor^SPAN."""
    return factor ** np.arange(1.0, SPAN + 1)


def rounded(value: float, dtype: str) -> float:
    """The number as the rule's kernel sees it."""
    return float(np.dtype(dtype).type(value))


def history(optimizer: Optimizer, dtype: str) -> Mapping[str, np.ndarray]:
    """What stands at the start in the persistent tables that rows catch up with; none where rows without a gradient stay as they are.

    @history: [SPAN + 1, columns]; closed: row t is what a row of a parameter has missed that is current up to update t of the term: the factor
    keep, then the sums W_j. replay: row s holds the constants of update s. @coefficients: the c_j(k) for k = SPAN, ..., 1 as [SPAN, columns],
    column 0 is keep's. @powers: factor^k of each state for k = 0, ..., SPAN.
    """
    missed = optimizer.missed(dtype)
    if missed is not None and not (missed.moves or optimizer.weight_decay):
        return {}
    if optimizer.by_rows(dtype) == "replay":
        return {"@history": np.zeros((SPAN + 1) * RECORD)}
    assert missed is not None
    start = np.zeros((SPAN + 1, missed.columns))
    start[0, 0] = 1
    coefficients = np.zeros((SPAN, missed.columns))
    for j, series in enumerate(missed.sums):
        coefficients[:, j + 1] = series[::-1]
    factors = np.ones((SPAN + 1, max(1, len(missed.factors))))
    for j, factor in enumerate(missed.factors):
        factors[1:, j] = powers(factor)
    return {"@history": start.reshape(-1), "@coefficients": coefficients.reshape(-1), "@powers": factors.reshape(-1)}


def lower_missed(optimizer: Optimizer, g: Builder, name: str, rows: Buffer, count: Buffer) -> None:
    """Let the rows of a parameter catch up: the first count[0] of `rows`; all where `rows` is empty."""
    layout = g.layout
    if not layout.history:
        return
    p, states, last = table_of(optimizer, g, name)
    most = rows.size or p.shape[0]
    tasks = work_tasks(10 * most * p.shape[1], 2 * (1 + len(states)) * most * p.nbytes // max(1, p.shape[0]), most=-(-most // FEWEST_ROWS))
    reads = [rows, count, g.state("@history")]
    if optimizer.by_rows(layout.dtype) == "replay":
        g.step(f"optimizers.replay.{optimizer.rule}_replay", updates=[p, *states, last], reads=[*reads, g.state("counters")], tasks=tasks)
        return
    missed = optimizer.missed(layout.dtype)
    assert missed is not None
    g.step(f"optimizers.closed.{missed.formula}_missed", updates=[p, *states, last], reads=[*reads, g.state("@powers"), g.state("counters")],
           scalars=[getattr(optimizer, "epsilon", 0.0)], tasks=tasks, flops=10 * most * p.shape[1])


def lower_tick(optimizer: Optimizer, g: Builder, ahead: int) -> None:
    """After the rows have caught up: begin the history anew where it is full, and enter the coming update (ahead = 1); or begin it anew (0)."""
    dtype = g.layout.dtype
    if not g.layout.history:
        return
    table, coming = g.state("@history"), [g.state("learning_rates")]
    scalars = [*optimizer.constants(), ahead]
    counters = g.state("counters")
    if optimizer.by_rows(dtype) == "replay":
        family = optimizer.rule.partition("_")[0]
        g.step(f"optimizers.replay.{family}_record", updates=[table, counters], reads=coming, scalars=scalars)
        return
    missed = optimizer.missed(dtype)
    assert missed is not None
    g.step(f"optimizers.closed.{missed.amount}_tick", updates=[table, counters], reads=[g.state("@coefficients"), *coming],
           scalars=[*scalars, missed.columns])


def lower_rows(optimizer: Optimizer, g: Builder, name: str, touched: Touched, gradient: Buffer) -> None:
    """One update of the rows of a parameter that the batch touches."""
    p, states, last = table_of(optimizer, g, name)
    tasks = work_tasks(10 * gradient.size, gradient.nbytes * (3 + 2 * len(states)), most=-(-gradient.shape[0] // FEWEST_ROWS))
    reads = [gradient, touched.rows, touched.count, g.state("learning_rates"), g.state("counters")]
    g.step(f"optimizers.lazy.{optimizer.rule}_rows", updates=[p, *states, last], reads=reads, scalars=optimizer.constants(), tasks=tasks,
           flops=10 * gradient.size)


def table_of(optimizer: Optimizer, g: Builder, name: str) -> tuple[Buffer, list[Buffer], Buffer]:
    """The parameter as a matrix of its rows, its states likewise, and up to which update each row is current."""
    layout = g.layout
    states = [layout.piece(f"optimizer/{state}", name).rows() for state in optimizer.states()]
    return layout.parameters[name].rows(), states, g.state(f"@last/{name}")
