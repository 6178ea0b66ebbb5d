"""What an optimizer is: a spec that says what state it keeps and how it lowers itself into update steps over the flat parameter vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from nnkit.optimizers import lazy
from nnkit.optimizers.schedules import Schedule, schedule_field
from nnkit.plan.passes import work_tasks
from nnkit.plan.plan import Buffer
from nnkit.spec import Spec, base, choice, real

if TYPE_CHECKING:
    import numpy as np

    from nnkit.plan.builder import Builder, Touched
    from nnkit.plan.layout import Layout

__all__ = ["Optimizer"]

SHARE = 4096                # fewest elements worth a task
PIECE = 16_384              # elements whose squares are summed into one number before these are summed
WIDTH = 64                  # partial sums of a piece that run side by side


@base
class Optimizer(Spec):
    """Base of all optimizers.

    learning_rate: positive number, schedule, or function of the number of finished updates; default 0.001.
    weight_decay: decoupled: before the rule, w -= lr weight_decay w, for all trainable parameters; at least 0; None (default) for none.
    clipnorm: the gradient of each parameter (a whole array) is scaled down to this norm where it is longer: g clipnorm / max(|g|, clipnorm).
    clipvalue: each entry of a gradient is cut to [-clipvalue, clipvalue]. global_clipnorm: all gradients together are scaled down to this norm.
    At most one of the three, greater than 0; None (default) for none. Clipping comes first, then the decay, then the rule.
    row_updates: how the table of an `Embedding` is updated. "closed" (default): the rows of the batch alone; a row catches up with the updates that
    it has missed (momentum, decay) when it is next read, by a closed form, which gives the numbers of the dense rule up to rounding. "replay": the
    same by repeating the rule, which gives the dense rule's bits. "dense": the whole table at every update. What one of the first two cannot do is
    dense: there is no closed form of Nadam, of RMSprop with a momentum above 1 and of Adam where beta_2 is so small that its series converges
    slowly; and a norm for clipnorm or global_clipnorm has the bits of the dense sum only where that is computed.
    """

    family: ClassVar[str] = "optimizer"

    learning_rate: float | Schedule = schedule_field(default=0.001)
    weight_decay: float | None = real(default=None, low=0, none=True, kw_only=True)
    clipnorm: float | None = real(default=None, low=0, low_open=True, none=True, kw_only=True)
    clipvalue: float | None = real(default=None, low=0, low_open=True, none=True, kw_only=True)
    global_clipnorm: float | None = real(default=None, low=0, low_open=True, none=True, kw_only=True)
    row_updates: str = choice("closed", "replay", "dense", default="closed", kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Refuse two ways of clipping at once."""
        given = [name for name in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{type(self).__name__}: at most one of clipnorm, clipvalue and global_clipnorm may be given, received {given}")

    def states(self) -> Mapping[str, float]:
        """Names of the state vectors and the value that each starts with."""
        return {}

    def scalars(self) -> tuple[float, ...]:
        """The constants of the rule, in the order of the kernel's arguments."""
        return ()

    @property
    def rule(self) -> str:
        """The kernel's name without _update."""
        return type(self).__name__.lower()

    def constants(self) -> list[float]:
        """What the update's kernel takes: the three constants of the rule and the weight decay."""
        return [*(*self.scalars(), 0.0, 0.0, 0.0)[:3], self.weight_decay or 0.0]

    def missed(self, dtype: str) -> lazy.Missed | None:
        """What updates without a gradient do to a row, all at once. None: there is no closed form, or none that is right to rounding."""
        return None

    def by_rows(self, dtype: str) -> str | None:
        """How tables are updated row by row, "closed" or "replay"; None where they are updated as a whole."""
        if self.row_updates == "replay":
            return "replay" if self.clipnorm is None and self.global_clipnorm is None else None
        return "closed" if self.row_updates == "closed" and self.missed(dtype) is not None else None

    def history(self, dtype: str) -> Mapping[str, np.ndarray]:
        """How the persistent tables start that rows catch up with; empty where no row ever has to."""
        return lazy.history(self, dtype)

    def lower(self, g: Builder, layout: Layout) -> None:
        """Clip the gradients; a sweep over each run of trainable parameters, weight decay and the rule; then the rows of the others."""
        if not layout.trainable_size:
            return
        touched = g.touched_gradients()
        self._lower_clipping(g, layout, touched)
        for run in layout.runs:
            parameters, gradients = run.piece(g.state("parameters"), run.start), run.piece(g.state("gradients"), run.first)
            states = [run.piece(g.state(f"optimizer/{name}"), run.first) for name in self.states()]
            tasks = work_tasks(10 * run.size, gradients.nbytes * (3 + 2 * len(states)), most=-(-run.size // SHARE))
            reads = [gradients, g.state("learning_rates"), g.state("counters")]
            g.step(f"optimizers.rules.{self.rule}_update", updates=[parameters, *states], reads=reads, scalars=[*self.constants(), run.factor],
                   tasks=tasks, flops=10 * run.size)
        if layout.rowwise:
            self.lower_tick(g, ahead=1)
            for name, (rows, gradient) in touched.items():
                lazy.lower_rows(self, g, name, rows, gradient)

    def lower_missed(self, g: Builder, name: str, rows: Buffer, count: Buffer) -> None:
        """Let the first count[0] of these rows of a parameter catch up; all where `rows` is empty."""
        lazy.lower_missed(self, g, name, rows, count)

    def lower_tick(self, g: Builder, ahead: int) -> None:
        """Enter the coming update into the history that rows catch up with (ahead = 1), or begin it anew (0)."""
        lazy.lower_tick(self, g, ahead)

    def _lower_clipping(self, g: Builder, layout: Layout, touched: Mapping[str, tuple[Touched, Buffer]]) -> None:
        """At most one of the three, on the gradients of the dense sweep and on those of the rows."""
        swept = g.state("gradients").piece(layout.dense_size)
        every: list[tuple[Buffer, Touched | None]] = [(swept, None)] if swept.size else []
        every += [(gradient, rows) for rows, gradient in touched.values()]
        if self.clipvalue is not None:
            for gradient, rows in every:
                _lower_clip("by_value", g, gradient, rows, [], self.clipvalue)
        elif self.global_clipnorm is not None and every:
            sums = [_lower_square_sums(g, gradient, rows) for gradient, rows in every]
            total = sums[0] if len(sums) == 1 else _lower_total(g, sums)
            for gradient, rows in every:
                _lower_clip("by_norm", g, gradient, rows, [total], self.global_clipnorm)
        elif self.clipnorm is not None:
            pieces: list[tuple[Buffer, Touched | None]] = [
                (piece.flat(), None) for name, piece in layout.gradients.items() if piece.size and name not in layout.rowwise]
            for gradient, rows in [*pieces, *((gradient, rows) for rows, gradient in touched.values())]:
                _lower_clip("by_norm", g, gradient, rows, [_lower_square_sums(g, gradient, rows)], self.clipnorm)


# A gradient is a vector, or a matrix of the rows that a batch touches.

def _lower_clip(how: str, g: Builder, gradient: Buffer, rows: Touched | None, sums: Sequence[Buffer], limit: float) -> None:
    """Cut the gradient, or scale it down by the norm that `sums` holds."""
    kernel, reads = (f"optimizers.rules.clip_{how}", []) if rows is None else (f"optimizers.lazy.clip_rows_{how}", [rows.count])
    tasks = work_tasks(2 * gradient.size, (1 if sums else 2) * gradient.nbytes, most=-(-gradient.size // SHARE))
    g.step(kernel, updates=[gradient], reads=[*reads, *sums], scalars=[limit], tasks=tasks, flops=2 * gradient.size)


def _lower_square_sums(g: Builder, gradient: Buffer, rows: Touched | None) -> Buffer:
    """The squares of the gradient, summed in pieces that tasks share."""
    pieces = -(-gradient.size // PIECE)
    sums = g.scratch("square_sums", pieces * WIDTH, dtype="float64")
    kernel, reads = ("optimizers.rules.square_sums", []) if rows is None else ("optimizers.lazy.row_square_sums", [rows.count])
    g.step(kernel, [sums], [gradient, *reads], tasks=work_tasks(2 * gradient.size, gradient.nbytes, most=pieces), flops=2 * gradient.size)
    return sums


def _lower_total(g: Builder, sums: Sequence[Buffer]) -> Buffer:
    """The sum of several such sums, as a sum of one piece."""
    total = Buffer("no_sum", (0,), "float64", "external")
    for each in sums:
        before, total = total, g.scratch("square_sum", WIDTH, dtype="float64")
        g.step("optimizers.lazy.add_square_sums", [total], [each, before])
    return total
