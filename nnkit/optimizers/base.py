"""What an optimizer is: a spec that says what state it keeps and how it lowers itself into update steps over the flat parameter vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from nnkit.optimizers.schedules import Schedule, schedule_field
from nnkit.plan.passes import work_tasks
from nnkit.spec import Spec, base, real

if TYPE_CHECKING:
    from nnkit.plan.build import Builder, Layout

__all__ = ["Optimizer"]

SHARE = 4096                # fewest elements worth a task
PIECE = 16_384              # elements whose squares are summed into one number before these are summed
WIDTH = 64                  # partial sums of a piece that run side by side


@base
class Optimizer(Spec):
    """Base of all optimizers.

    learning_rate: positive number, schedule, or function of the number of finished updates.
    weight_decay: decoupled: before the rule, w -= lr weight_decay w, for all trainable parameters; at least 0; None (default) for none.
    clipnorm: the gradient of each parameter (a whole array) is scaled down to this norm where it is longer: g clipnorm / max(|g|, clipnorm).
    clipvalue: each entry of a gradient is cut to [-clipvalue, clipvalue]. global_clipnorm: all gradients together are scaled down to this norm.
    At most one of the three, greater than 0; None (default) for none. Clipping comes first, then the decay, then the rule.
    """

    family: ClassVar[str] = "optimizer"

    learning_rate: float | Schedule = schedule_field(default=0.001)
    weight_decay: float | None = real(default=None, low=0, none=True, kw_only=True)
    clipnorm: float | None = real(default=None, low=0, low_open=True, none=True, kw_only=True)
    clipvalue: float | None = real(default=None, low=0, low_open=True, none=True, kw_only=True)
    global_clipnorm: float | None = real(default=None, low=0, low_open=True, none=True, kw_only=True)

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

    def lower(self, g: Builder, layout: Layout) -> None:
        """Clip the gradients, then one sweep over all trainable parameters: weight decay and the rule."""
        size = layout.trainable_size
        if not size:
            return
        self._lower_clipping(g, layout)
        parameters, gradients = g.state("parameters").piece(size), g.state("gradients")
        states = [g.state(f"optimizer/{name}") for name in self.states()]
        scalars = [*(*self.scalars(), 0.0, 0.0, 0.0)[:3], self.weight_decay or 0.0]
        tasks = work_tasks(10 * size, gradients.nbytes * (3 + 2 * len(states)), most=-(-size // SHARE))
        reads = [gradients, g.state("learning_rates"), g.state("counters")]
        g.step(f"optimizers.rules.{self.rule}_update", updates=[parameters, *states], reads=reads, scalars=scalars, tasks=tasks, flops=10 * size)

    def _lower_clipping(self, g: Builder, layout: Layout) -> None:
        """At most one of the three; the norm in pieces that tasks share, then the scaling."""
        gradients = g.state("gradients")
        if self.clipvalue is not None:
            tasks = work_tasks(2 * gradients.size, 2 * gradients.nbytes, most=-(-gradients.size // SHARE))
            g.step("optimizers.rules.clip_by_value", updates=[gradients], scalars=[self.clipvalue], tasks=tasks, flops=2 * gradients.size)
        limit = self.clipnorm or self.global_clipnorm
        if limit is None:
            return
        for piece in [gradients] if self.clipnorm is None else layout.gradients.values():
            if not piece.size:
                continue
            vector, pieces = piece.flat(), -(-piece.size // PIECE)
            sums = g.scratch("square_sums", pieces * WIDTH, dtype="float64")
            work = 2 * piece.size, piece.nbytes
            g.step("optimizers.rules.square_sums", [sums], [vector], tasks=work_tasks(*work, most=pieces), flops=work[0])
            g.step("optimizers.rules.clip_by_norm", updates=[vector], reads=[sums], scalars=[limit],
                   tasks=work_tasks(*work, most=-(-piece.size // SHARE)), flops=work[0])
