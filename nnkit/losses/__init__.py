"""The catalogue of losses, family by family."""

from nnkit.losses import base, crossentropy, custom, hinge, regression
from nnkit.losses.base import *  # noqa: F403
from nnkit.losses.crossentropy import *  # noqa: F403
from nnkit.losses.custom import *  # noqa: F403
from nnkit.losses.hinge import *  # noqa: F403
from nnkit.losses.regression import *  # noqa: F403

__all__ = [
    *base.__all__,
    *crossentropy.__all__,
    *custom.__all__,
    *hinge.__all__,
    *regression.__all__,
]
