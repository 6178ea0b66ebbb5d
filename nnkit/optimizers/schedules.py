"""Learning-rate schedules: the rate as a function of the number of finished updates, from 0. Keras 3's names, defaults and formulas.

    rate = CosineDecay(1e-3, 1000, warmup_target=1e-2, warmup_steps=100)
    rate(0), rate(100)                                  # 0.001, 0.01
    rate(numpy.arange(100))                             # float64, one rate a step

An optimizer's `learning_rate` takes a positive number, a schedule, or any function of the step. Below, t is the step and lr the initial rate.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import attrs
import numpy as np

from nnkit.spec import Spec, base, boolean, integer, is_of_family, real, spec

__all__ = [
    "CallableSchedule", "CosineDecay", "ExponentialDecay", "InverseTimeDecay", "PiecewiseConstantDecay", "PolynomialDecay", "Schedule", "StepDecay",
]


@base
class Schedule(Spec, abc.ABC):
    """Base of all schedules. A subclass gives `rates`; one that does not cannot be made (TypeError)."""

    family: ClassVar[str] = "schedule"

    def __call__(self, step: Any) -> Any:
        """The rate at a step (a float), or at each step of an array of any shape (float64, of that shape). Steps count from 0."""
        steps = np.asarray(step, dtype=np.float64)
        rates = self.rates(steps)
        return float(rates) if steps.ndim == 0 else rates

    @abc.abstractmethod
    def rates(self, steps: np.ndarray) -> np.ndarray:
        """The rates at float64 steps, of their shape."""


def _periods(steps: np.ndarray, length: int, staircase: bool) -> np.ndarray:
    return np.floor(steps / length) if staircase else steps / length


@spec()
class ExponentialDecay(Schedule):
    """lr decay_rate^(t / decay_steps).

    initial_learning_rate: lr, greater than 0. decay_steps: at least 1. decay_rate: greater than 0.
    staircase: True rounds t / decay_steps down, so that the rate stays for decay_steps updates; default False.
    """

    initial_learning_rate: float = real(low=0, low_open=True)
    decay_steps: int = integer(low=1)
    decay_rate: float = real(low=0, low_open=True)
    staircase: bool = boolean(default=False)

    def rates(self, steps: np.ndarray) -> np.ndarray:
        """The rates at float64 steps, of their shape."""
        return self.initial_learning_rate * self.decay_rate ** _periods(steps, self.decay_steps, self.staircase)


@spec()
class StepDecay(Schedule):
    """lr factor^floor(t / step_size): the rate is multiplied by factor every step_size updates. PyTorch's StepLR, counted in updates.

    initial_learning_rate: lr, greater than 0. step_size: at least 1. factor: greater than 0, default 0.1.
    """

    initial_learning_rate: float = real(low=0, low_open=True)
    step_size: int = integer(low=1)
    factor: float = real(default=0.1, low=0, low_open=True)

    def rates(self, steps: np.ndarray) -> np.ndarray:
        """The rates at float64 steps, of their shape."""
        return self.initial_learning_rate * self.factor ** _periods(steps, self.step_size, True)


@spec()
class InverseTimeDecay(Schedule):
    """lr / (1 + decay_rate t / decay_steps).

    initial_learning_rate: lr, greater than 0. decay_steps: at least 1. decay_rate: at least 0.
    staircase: True rounds t / decay_steps down; default False.
    """

    initial_learning_rate: float = real(low=0, low_open=True)
    decay_steps: int = integer(low=1)
    decay_rate: float = real(low=0)
    staircase: bool = boolean(default=False)

    def rates(self, steps: np.ndarray) -> np.ndarray:
        """The rates at float64 steps, of their shape."""
        return self.initial_learning_rate / (1 + self.decay_rate * _periods(steps, self.decay_steps, self.staircase))


@spec()
class PolynomialDecay(Schedule):
    """(lr - end) (1 - t / n)^power + end, with t at most n = decay_steps: from lr to end_learning_rate, which then stays.

    initial_learning_rate: lr, greater than 0. decay_steps: at least 1. end_learning_rate: at least 0, default 0.0001.
    power: greater than 0, default 1 (a straight line).
    cycle: True lets the rate jump up again after each n updates: n becomes the first multiple of decay_steps that is at least t. Default False.
    """

    initial_learning_rate: float = real(low=0, low_open=True)
    decay_steps: int = integer(low=1)
    end_learning_rate: float = real(default=0.0001, low=0)
    power: float = real(default=1.0, low=0, low_open=True)
    cycle: bool = boolean(default=False)

    def rates(self, steps: np.ndarray) -> np.ndarray:
        """The rates at float64 steps, of their shape."""
        if self.cycle:
            done = steps / (self.decay_steps * np.maximum(1, np.ceil(steps / self.decay_steps)))
        else:
            done = np.minimum(steps, self.decay_steps) / self.decay_steps
        return (self.initial_learning_rate - self.end_learning_rate) * (1 - done) ** self.power + self.end_learning_rate


@spec()
class CosineDecay(Schedule):
    """top ((1 - alpha) (1 + cos(pi t / decay_steps)) / 2 + alpha), with t at most decay_steps; before it, on request, a linear warm-up.

    initial_learning_rate: lr, at least 0; greater than 0 without a warm-up. decay_steps: at least 1, the warm-up not counted.
    alpha: the last rate as a share of the top one, from 0 to 1, default 0.
    warmup_target: None (default): no warm-up, top = lr. Otherwise, greater than 0, the top: the rate climbs there from lr in `warmup_steps`
    updates (at least 0, default 0), and t counts from there.
    Loshchilov and Hutter (2017), SGDR, equation 5 without restarts; warm-up: Goyal et al. (2017), section 2.2.
    """

    initial_learning_rate: float = real(low=0)
    decay_steps: int = integer(low=1)
    alpha: float = real(default=0.0, low=0, high=1)
    warmup_target: float | None = real(default=None, low=0, low_open=True, none=True)
    warmup_steps: int = integer(default=0, low=0)

    def __attrs_post_init__(self) -> None:
        if self.warmup_target is None and self.initial_learning_rate == 0:
            raise ValueError("CosineDecay: initial_learning_rate must be greater than 0 without a warmup_target, received 0.0")
        if self.warmup_target is None and self.warmup_steps:
            raise ValueError(f"CosineDecay: warmup_steps must be 0 without a warmup_target, received {self.warmup_steps}")

    def rates(self, steps: np.ndarray) -> np.ndarray:
        """The rates at float64 steps, of their shape."""
        top = self.initial_learning_rate if self.warmup_target is None else self.warmup_target
        done = np.clip((steps - self.warmup_steps) / self.decay_steps, 0, 1)
        rates = top * ((1 - self.alpha) * 0.5 * (1 + np.cos(math.pi * done)) + self.alpha)
        climb = self.initial_learning_rate + (top - self.initial_learning_rate) * steps / max(1, self.warmup_steps)
        return np.where(steps < self.warmup_steps, climb, rates)


def _numbers(rule: str, good: Callable[[tuple[float, ...]], bool]) -> Any:
    """An attrs field: a non-empty tuple of finite numbers for which `good` holds."""
    def convert(value: Any) -> Any:
        items = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
        if not items or any(isinstance(item, (bool, str)) for item in items):
            return value
        try:
            return tuple(map(float, items))
        except (TypeError, ValueError):
            return value

    def check(instance: Spec, attribute: attrs.Attribute, value: Any) -> None:
        numbers = isinstance(value, tuple) and value and all(type(item) is float and math.isfinite(item) for item in value)
        if not numbers or not good(value):
            raise ValueError(f"{type(instance).__name__}: {attribute.name} must be {rule}, received {value!r}")
    return attrs.field(converter=convert, validator=check)


@spec()
class PiecewiseConstantDecay(Schedule):
    """values[0] while t <= boundaries[0], values[i] while boundaries[i - 1] < t <= boundaries[i], the last of values afterwards.

    boundaries: rising numbers of updates, at least one. values: rates greater than 0, one more than boundaries.
    As in Keras a boundary belongs to the rate before it: boundaries[0] = 100 keeps values[0] for 101 updates, steps 0 to 100.
    """

    boundaries: tuple[float, ...] = _numbers("a tuple of rising numbers", lambda items: bool(np.all(np.diff(items) > 0)))
    values: tuple[float, ...] = _numbers("a tuple of numbers greater than 0", lambda items: min(items) > 0)

    def __attrs_post_init__(self) -> None:
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"PiecewiseConstantDecay: values must be one more than the {len(self.boundaries)} boundaries, received {len(self.values)} values")

    def rates(self, steps: np.ndarray) -> np.ndarray:
        """The rates at float64 steps, of their shape."""
        return np.asarray(self.values)[np.searchsorted(np.asarray(self.boundaries), steps, side="left")]


def _check_function(instance: Spec, attribute: attrs.Attribute, value: object) -> None:
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"{type(instance).__name__}: {attribute.name} must be a function of the step, received {value!r}")


@spec()
class CallableSchedule(Schedule):
    """function(t): any function of the step (a Python int) that returns the rate. It is called once an update, ahead of time, in order.

    Two such schedules are equal where they hold the same function object. JSON cannot hold a function: `to_json` raises ValueError.
    Calling raises ValueError where the function returns anything but a finite number of at least 0.
    """

    function: Callable[[int], float] = attrs.field(validator=_check_function, eq=id)

    def rates(self, steps: np.ndarray) -> np.ndarray:
        """The rates at float64 steps, of their shape."""
        return np.array([self._rate(int(t)) for t in steps.reshape(-1)], dtype=np.float64).reshape(steps.shape)

    def _rate(self, t: int) -> float:
        value = self.function(t)
        try:
            rate = float(value)
        except (TypeError, ValueError):
            rate = math.nan
        if not math.isfinite(rate) or rate < 0:
            raise ValueError(f"CallableSchedule: the function must return a finite rate of at least 0, received {value!r} at step {t}")
        return rate


def schedule_field(*, default: Any = 0.001, kw_only: bool = False) -> Any:
    """An attrs field of an optimizer: a learning rate. A finite number greater than 0 (kept as a float), a schedule, or a function of the step."""
    def convert(value: Any) -> Any:
        if isinstance(value, (bool, str, type, Spec)) or value is None:
            return value
        if callable(value):
            return CallableSchedule(value)
        try:
            return float(value)
        except (TypeError, ValueError):
            return value

    def check(instance: Spec, attribute: attrs.Attribute, value: Any) -> None:
        positive = type(value) is float and math.isfinite(value) and value > 0
        if not positive and not is_of_family(value, "schedule"):
            rule = "a finite number greater than 0, a schedule or a function of the step"
            raise ValueError(f"{type(instance).__name__}: {attribute.name} must be {rule}, received {value!r}")
    return attrs.field(default=default, validator=check, converter=convert, kw_only=kw_only)
