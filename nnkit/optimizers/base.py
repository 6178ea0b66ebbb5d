"""What an optimizer is: a spec that says what state it keeps and how it lowers itself into update steps over the flat parameter vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import attrs

from nnkit.layers.base import snake_case
from nnkit.optimizers.schedules import Schedule, schedule_field
from nnkit.plan.passes import work_tasks
from nnkit.spec import Spec, real

if TYPE_CHECKING:
    from nnkit.plan.build import Builder, Layout

__all__ = ["Optimizer"]


@attrs.frozen(repr=False)
class Optimizer(Spec):
    """Base of all optimizers.

    learning_rate: positive number, schedule, or function of the number of finished updates.
    weight_decay: decoupled: before the rule, w -= lr weight_decay w; None for none.
    clipnorm: each parameter's gradient is scaled down to this norm; clipvalue: each entry is cut to [-clipvalue, clipvalue];
    global_clipnorm: all gradients together are scaled down to this norm. At most one of the three.
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
    def kernel(self) -> str:
        """The rule's kernel."""
        return f"optimizers.rules.{snake_case(type(self).__name__)}_update"

    def lower(self, g: Builder, layout: Layout) -> None:
        """Clip the gradients, decay the weights, then one sweep of the rule over all trainable parameters."""
        size = layout.trainable_size
        if not size:
            return
        self._lower_clipping(g, layout)
        parameters = g.state("parameters").piece(size)
        rates = [g.state("learning_rates"), g.state("counters")]
        states = [g.state(f"optimizer/{name}") for name in self.states()]
        gradients = g.state("gradients")
        tasks = work_tasks(10 * size, gradients.nbytes * (3 + 2 * len(states)), most=-(-size // 4096))
        if self.weight_decay:
            g.step("optimizers.rules.decay_weights", updates=[parameters], reads=rates, scalars=[self.weight_decay], tasks=tasks, flops=2 * size)
        g.step(self.kernel, updates=[parameters, *states], reads=[gradients, *rates], scalars=self.scalars(), tasks=tasks, flops=10 * size)

    def _lower_clipping(self, g: Builder, layout: Layout) -> None:
        gradients = g.state("gradients")
        if self.clipvalue is not None:
            g.step("optimizers.rules.clip_by_value", updates=[gradients], scalars=[self.clipvalue])
        if self.global_clipnorm is not None:
            g.step("optimizers.rules.clip_by_norm", updates=[gradients], scalars=[self.global_clipnorm])
        if self.clipnorm is not None:
            for piece in layout.gradients.values():
                g.step("optimizers.rules.clip_by_norm", updates=[piece.flat()], scalars=[self.clipnorm])
