"""Who uses a model: one thread at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnkit.plan.layout import COUNTERS

if TYPE_CHECKING:
    from nnkit.training.engine import Engine

__all__ = ["Use"]

POSITION = COUNTERS["position"]


class Use:
    """One thread uses a model at a time. While one trains, others are refused, not kept waiting; the training thread itself (its callbacks) may
    use the model between two pieces of an epoch, so data is read from position 0 here and the position put back afterwards."""

    def __init__(self, model: Engine, action: str) -> None:
        self.model, self.action = model.whole, action

    def __enter__(self) -> None:
        model = self.model
        if not model.lock.acquire(blocking=not model.training):
            raise RuntimeError(f"{self.action}: another thread trains the model; wait until its fit returns")
        if self.action == "fit":
            if model.training:
                model.lock.release()
                raise RuntimeError("fit: the model is being trained already; wait until its fit returns")
            model.training = True
        self.position = int(model.counters[POSITION])
        model.counters[POSITION] = 0
        if self.action not in ("fit", "train_on_batch"):
            try:
                model.flush()
            except BaseException:                        # its kernels could not be compiled
                model.lock.release()
                raise

    def __exit__(self, *error: object) -> None:
        model = self.model
        model.counters[POSITION] = self.position
        try:
            if self.action == "fit":
                model.flush()
            else:
                model.settle()
        finally:
            if self.action == "fit":
                model.training = False
            model.lock.release()
