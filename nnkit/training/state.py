"""What a model keeps, as it is when it is made and when it is declared anew: initial parameters, the optimizer's states, learning rates."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from nnkit.derive import layers_matching, with_flags
from nnkit.network import Container
from nnkit.optimizers.schedules import Schedule
from nnkit.plan.layout import COUNTERS, LEARNING_RATES, lay_out
from nnkit.pretrained import pretrained_networks
from nnkit.tensors import own_name
from nnkit.training.use import Use

if TYPE_CHECKING:
    from nnkit.training.engine import Engine

__all__ = ["COMPILED", "change_flags", "copy_into", "declare", "initialise", "prepare_rates", "refuse_in_vain", "set_rates", "start_optimizer"]

SETTABLE = ("learning_rate", "stop_training")
COMPILED = ("backend", "dtype", "graph", "optimizer", "outputs", "runtime", "seed", "spec", "threads")
ADVICE = {"lr": "the learning rate is model.learning_rate", "trainable": "freeze and unfreeze say which layers are trained"}

STRIP = 16                                               # columns that are copied together where a layout is turned


def initialise(model: Engine, draw: bool) -> None:
    """Initial parameters, from the seed or the files that the spec names, and optimizer state. Without `draw` whoever asks writes the parameters,
    and no file is looked for."""
    given = read_pretrained(model) if draw else set()
    for position, (name, declared) in enumerate(model.layout.declared.items() if draw else ()):
        if name not in given:
            values = declared.initializer.values(declared.shape, np.random.default_rng([model.seed, position]))
            model.memory.edit(model.layout.parameters[name])[...] = values
    model.counters[COUNTERS["seed"]] = model.seed
    start_optimizer(model)


def start_optimizer(model: Engine) -> None:
    """The optimizer as before its first update."""
    model.counters[COUNTERS["step"]] = 0
    if model.optimizer is not None:
        start_states(model)
        if not isinstance(model.optimizer.learning_rate, Schedule):
            set_rates(model, np.array([model.optimizer.learning_rate]), 0)


def start_states(model: Engine) -> None:
    """The optimizer's states as they are before any update; rows of tables are current."""
    for name, start in model.needed_optimizer("train").states().items():
        model.memory.edit(model.layout.buffers[f"optimizer/{name}"])[...] = start
    for name, values in model.layout.history.items():
        model.memory.edit(model.layout.buffers[name])[...] = values
    for name in model.layout.rowwise:
        model.memory.edit(model.layout.buffers[f"@last/{name}"])[...] = model.counters[COUNTERS["step"]]
    model.counters[COUNTERS["term"]] = model.counters[COUNTERS["step"]]


def read_pretrained(model: Engine) -> set[str]:
    """Copy the parameters of networks that name a file of weights from there (see `Pretrained`); returns which these are."""
    given = set()
    for prefix, network, weights in pretrained_networks(model.spec):
        for name, values in weights.read(network.graph(), own_name(network)).items():
            copy_into(model.memory.edit(model.layout.parameters[prefix + name]), values)
            given.add(prefix + name)
    return given


# What users set.

def refuse_in_vain(model: Engine, name: str) -> None:
    """Refuse to set an attribute that nothing would look at although whoever sets it thinks so: what the model was compiled with, habits from other
    libraries, names that are nearly right. Notes under other names are the user's own. Raises AttributeError."""
    if name in COMPILED:
        raise AttributeError(f"Model: {name} cannot be set, the model was compiled with it: nnkit.compile makes another model, which takes over what "
                             "this one has learnt by copy_parameters")
    near = difflib.get_close_matches(name, SETTABLE, n=1, cutoff=0.85)
    if name in ADVICE or (near and name not in SETTABLE):
        raise AttributeError(f"Model: {name} cannot be set, nothing looks at it: {ADVICE.get(name) or f'did you mean {near[0]!r}?'}")


# Learning rates.

def set_rates(model: Engine, rates: np.ndarray, start: int) -> None:
    """The table of learning rates that the update kernels read: rates[i] is that of update start + i, the last one stays."""
    model.memory.view(model.layout.buffers["learning_rates"])[:len(rates)] = rates
    model.counters[COUNTERS["table_start"]] = start
    model.counters[COUNTERS["table_size"]] = len(rates)


def prepare_rates(model: Engine, steps: int) -> int:
    """Fill the table for the next updates of a schedule; returns for how many of `steps` it is right."""
    optimizer = model.optimizer
    if optimizer is None or not isinstance(optimizer.learning_rate, Schedule):
        return steps
    steps = min(steps, LEARNING_RATES)
    start = int(model.counters[COUNTERS["step"]])
    set_rates(model, np.asarray(optimizer.learning_rate(np.arange(start, start + steps))), start)
    return steps


# Another declaration of the same parameters.

def change_flags(model: Engine, action: str, changes: Iterable[tuple[str, bool | None, float | None]]) -> None:
    """Set the flags of layers that are not None: (name or pattern, trainable, learning_rate_factor), of which later ones count."""
    if model.whole is not model:
        raise RuntimeError(f"{action}: a submodel is not trained by itself: change the whole model")
    flags = {node.name: (node.layer.trainable, node.layer.learning_rate_factor) for node in model.graph.nodes}
    before = dict(flags)
    for pattern, trainable, factor in changes:
        for name in layers_matching(model.graph, [pattern]):
            old = flags[name]
            flags[name] = (old[0] if trainable is None else trainable, old[1] if factor is None else factor)
    changed = {name: new for name, new in flags.items() if new != before[name]}
    with Use(model, action):
        if model.fitting is not None:
            model.fitting.will_change(action)
        if changed:
            declare(model, with_flags(model.spec, changed))


def declare(model: Engine, spec: Container) -> None:
    """Use another spec of the same parameters: the memory of what is trained is laid out anew, and states of the optimizer are kept."""
    if spec == model.spec:
        return
    kept = {(state, name): model.memory.read(model.layout.piece(f"optimizer/{state}", name))
            for name in model.layout.gradients for state in (model.optimizer.states() if model.optimizer is not None else ())}
    graph = spec.graph()
    vars(model).update(spec=spec, graph=graph, layout=lay_out(graph, model.optimizer, model.dtype, model.backend))
    model.memory.lay_out_anew(model.layout)
    model.tapes.clear()
    if model.optimizer is not None:
        start_states(model)
    for (state, name), values in kept.items():
        if name in model.layout.gradients:
            model.memory.edit(model.layout.piece(f"optimizer/{state}", name))[...] = values


def copy_into(target: np.ndarray, values: np.ndarray) -> None:
    """target[...] = values. A layout that is turned, as of weights from other libraries, is read in strips: each line of the cache once."""
    if values.ndim < 2 or values.flags.c_contiguous:
        target[...] = values
        return
    for begin in range(0, target.shape[-1], STRIP):
        target[..., begin:begin + STRIP] = values[..., begin:begin + STRIP]
