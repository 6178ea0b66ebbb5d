"""The catalogue of losses: one line for each family."""

from nnkit.losses.base import Loss as Loss
from nnkit.losses.crossentropy import *  # noqa: F403
from nnkit.losses.hinge import *  # noqa: F403
from nnkit.losses.regression import *  # noqa: F403
