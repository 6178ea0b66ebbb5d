"""nnkit: neural networks for the NumPy and SciPy world.

A network is declared as frozen records, compiled into a plan, and run by Numba kernels.

>>> import nnkit
>>> from nnkit import Dense, Input, Sequential
>>> spec = Sequential([Input((4,)), Dense(8, activation="relu"), Dense(1)])
>>> model = nnkit.compile(spec, optimizer="adam", loss="mse", seed=0)
>>> model.parameters["dense/kernel"].shape
(4, 8)
"""

from nnkit import datasets as datasets
from nnkit import graph as graph
from nnkit import metrics as metrics
from nnkit import models as models
from nnkit._version import __version__ as __version__
from nnkit.initializers import *  # noqa: F403
from nnkit.io.native import load as load
from nnkit.layers import *  # noqa: F403
from nnkit.losses import *  # noqa: F403
from nnkit.network import Network as Network
from nnkit.network import Sequential as Sequential
from nnkit.optimizers import *  # noqa: F403
from nnkit.pretrained import Pretrained as Pretrained
from nnkit.regularizers import *  # noqa: F403
from nnkit.spec import from_json as from_json
from nnkit.spec import to_json as to_json
from nnkit.tensors import GraphInput as GraphInput
from nnkit.tensors import Input as Input
from nnkit.training.callbacks import *  # noqa: F403
from nnkit.training.history import History as History
from nnkit.training.model import *  # noqa: F403
from nnkit.training.monitoring import *  # noqa: F403
