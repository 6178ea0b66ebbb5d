"""The catalogue of layers and activations, family by family."""

from nnkit.layers import (
    activation,
    base,
    conv,
    dense,
    dropout,
    embedding,
    graph,
    merge,
    noise,
    norm,
    pool,
    prelu,
    recurrent,
    resample,
    reshape,
    sampling,
    softmax,
    wrappers,
)
from nnkit.layers.activation import *  # noqa: F403
from nnkit.layers.base import *  # noqa: F403
from nnkit.layers.conv import *  # noqa: F403
from nnkit.layers.dense import *  # noqa: F403
from nnkit.layers.dropout import *  # noqa: F403
from nnkit.layers.embedding import *  # noqa: F403
from nnkit.layers.graph import *  # noqa: F403
from nnkit.layers.merge import *  # noqa: F403
from nnkit.layers.noise import *  # noqa: F403
from nnkit.layers.norm import *  # noqa: F403
from nnkit.layers.pool import *  # noqa: F403
from nnkit.layers.prelu import *  # noqa: F403
from nnkit.layers.recurrent import *  # noqa: F403
from nnkit.layers.resample import *  # noqa: F403
from nnkit.layers.reshape import *  # noqa: F403
from nnkit.layers.sampling import *  # noqa: F403
from nnkit.layers.softmax import *  # noqa: F403
from nnkit.layers.wrappers import *  # noqa: F403

__all__ = [
    *activation.__all__,
    *base.__all__,
    *conv.__all__,
    *dense.__all__,
    *dropout.__all__,
    *embedding.__all__,
    *graph.__all__,
    *merge.__all__,
    *noise.__all__,
    *norm.__all__,
    *pool.__all__,
    *prelu.__all__,
    *recurrent.__all__,
    *resample.__all__,
    *reshape.__all__,
    *sampling.__all__,
    *softmax.__all__,
    *wrappers.__all__,
]
