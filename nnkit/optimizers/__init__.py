"""The catalogue of optimizers and learning-rate schedules."""

from nnkit.optimizers import base, rules, schedules
from nnkit.optimizers.base import *  # noqa: F403
from nnkit.optimizers.rules import *  # noqa: F403
from nnkit.optimizers.schedules import *  # noqa: F403

__all__ = [
    *base.__all__,
    *rules.__all__,
    *schedules.__all__,
]
