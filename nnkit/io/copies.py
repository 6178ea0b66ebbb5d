"""A model as Python's own copies and pickles hold it: what it was compiled with, and arrays of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkit.io.native import rate_of, restart_rows, tensors_of
from nnkit.plan.layout import COUNTERS
from nnkit.runtime.backend import backend_of

if TYPE_CHECKING:
    from nnkit.training.model import Model

__all__ = ["apart", "joined"]

COUNTED = ("step", "epoch")


def apart(model: Model) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
    """What `joined` makes an equal model of: how it was compiled, copies of its parameters and of the optimizer's states, what it has counted.

    The caller has the model for itself, and its rows are up to date. Raises ValueError for a submodel.
    """
    if model.whole is not model:
        raise ValueError("a submodel is a part of another model's memory and has no copy of its own: copy or pickle the whole, model.whole")
    runtime = model.runtime
    compiled = {name: getattr(model, name) for name in ("spec", "optimizer", "outputs", "dtype", "seed", "threads")}
    backend = {"name": runtime.name, "precision": runtime.precision, "blas": runtime.blas}
    counted = {**{name: int(model.counters[COUNTERS[name]]) for name in COUNTED}, "learning_rate": rate_of(model)}
    return {**compiled, "backend": backend}, {name: np.array(value) for name, value in tensors_of(model).items()}, counted


def joined(compiled: Mapping[str, Any], arrays: Mapping[str, np.ndarray], counted: Mapping[str, Any]) -> Model:
    """The model of these parts, in memory of its own. Raises RuntimeError where it was on a GPU and this machine has none."""
    from nnkit.training.model import Model

    given = dict(compiled)
    runtime = backend_of(action="a copied model", **given.pop("backend"))
    model = Model(graph=given["spec"].graph(), runtime=runtime, draw=False, **given)
    for name, view in tensors_of(model, edit=True).items():
        view[...] = arrays[name]
    for name in COUNTED:
        model.counters[COUNTERS[name]] = counted[name]
    restart_rows(model, counted["step"])
    if counted["learning_rate"] is not None:
        model.learning_rate = counted["learning_rate"]
    return model
