"""The catalogue of layers and activations: one line for each family."""

from nnkit.layers.activation import *  # noqa: F403
from nnkit.layers.base import Layer as Layer
from nnkit.layers.dense import *  # noqa: F403
from nnkit.layers.dropout import *  # noqa: F403
from nnkit.layers.noise import *  # noqa: F403
from nnkit.layers.norm import *  # noqa: F403
from nnkit.layers.prelu import *  # noqa: F403
from nnkit.layers.reshape import *  # noqa: F403
