"""The optimizers in NumPy float64, in Keras' own words (keras.src.optimizers), one function a class.

    def sgd(spec, lr, t, w, g, state) -> the new w          t: number of the update, from 1; state: dict of arrays, changed in place

`train` clips, decays and updates a whole set of parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["clipped", "train"]

State = dict[str, np.ndarray]


def sgd(spec: Any, lr: float, t: int, w: np.ndarray, g: np.ndarray, state: State) -> np.ndarray:
    if not spec.momentum:
        return w - lr * g
    m = state["m"] = spec.momentum * state.get("m", 0.0) - lr * g
    return w + (spec.momentum * m - lr * g if spec.nesterov else m)


def adagrad(spec: Any, lr: float, t: int, w: np.ndarray, g: np.ndarray, state: State) -> np.ndarray:
    a = state["a"] = state.get("a", spec.initial_accumulator_value) + g**2
    return w - lr * g / np.sqrt(a + spec.epsilon)


def rmsprop(spec: Any, lr: float, t: int, w: np.ndarray, g: np.ndarray, state: State) -> np.ndarray:
    v = state["v"] = spec.rho * state.get("v", 0.0) + (1 - spec.rho) * g**2
    if spec.centered:
        a = state["a"] = spec.rho * state.get("a", 0.0) + (1 - spec.rho) * g
        v = v - a**2
    m = state["m"] = spec.momentum * state.get("m", 0.0) + lr * g / np.sqrt(v + spec.epsilon)
    return w - m


def adam(spec: Any, lr: float, t: int, w: np.ndarray, g: np.ndarray, state: State) -> np.ndarray:
    m = state["m"] = spec.beta_1 * state.get("m", 0.0) + (1 - spec.beta_1) * g
    v = state["v"] = spec.beta_2 * state.get("v", 0.0) + (1 - spec.beta_2) * g**2
    if spec.amsgrad:
        v = state["largest"] = np.maximum(state.get("largest", 0.0), v)
    return w - lr * np.sqrt(1 - spec.beta_2**t) / (1 - spec.beta_1**t) * m / (np.sqrt(v) + spec.epsilon)


adamw = adam


def adadelta(spec: Any, lr: float, t: int, w: np.ndarray, g: np.ndarray, state: State) -> np.ndarray:
    a = state["a"] = spec.rho * state.get("a", 0.0) + (1 - spec.rho) * g**2
    d = -np.sqrt(state.get("b", 0.0) + spec.epsilon) / np.sqrt(a + spec.epsilon) * g
    state["b"] = spec.rho * state.get("b", 0.0) + (1 - spec.rho) * d**2
    return w + lr * d


def nadam(spec: Any, lr: float, t: int, w: np.ndarray, g: np.ndarray, state: State) -> np.ndarray:
    u = [spec.beta_1 * (1 - 0.5 * 0.96**i) for i in range(t + 2)]
    product = state["product"] = state.get("product", 1.0) * u[t]
    m = state["m"] = spec.beta_1 * state.get("m", 0.0) + (1 - spec.beta_1) * g
    v = state["v"] = spec.beta_2 * state.get("v", 0.0) + (1 - spec.beta_2) * g**2
    m_hat = u[t + 1] * m / (1 - product * u[t + 1]) + (1 - u[t]) * g / (1 - product)
    return w - lr * m_hat / (np.sqrt(v / (1 - spec.beta_2**t)) + spec.epsilon)


def clipped(spec: Any, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The gradients after whichever of the three clips the spec asks for."""
    if spec.clipvalue is not None:
        return {name: np.clip(g, -spec.clipvalue, spec.clipvalue) for name, g in gradients.items()}
    norms = {name: np.sqrt((g**2).sum()) for name, g in gradients.items()}
    if spec.global_clipnorm is not None:
        norms = dict.fromkeys(norms, np.sqrt(sum(norm**2 for norm in norms.values())))
    limit = spec.clipnorm or spec.global_clipnorm
    return {name: g * limit / max(norms[name], limit) if limit else g for name, g in gradients.items()}


def train(spec: Any, parameters: Mapping[str, np.ndarray], gradients: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The parameters after one update for each entry of `gradients`."""
    rule = globals()[type(spec).__name__.lower()]
    parameters, states = dict(parameters), {name: {} for name in parameters}
    for step, given in enumerate(gradients):
        lr = spec.learning_rate if isinstance(spec.learning_rate, float) else spec.learning_rate(step)
        for name, g in clipped(spec, given).items():
            w = parameters[name] - lr * (spec.weight_decay or 0.0) * parameters[name]
            parameters[name] = rule(spec, lr, step + 1, w, g, states[name])
    return parameters
