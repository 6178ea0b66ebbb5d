"""The catalogue of optimizers and schedules."""

from nnkit.optimizers.base import Optimizer as Optimizer
from nnkit.optimizers.rules import *  # noqa: F403
from nnkit.optimizers.schedules import *  # noqa: F403
