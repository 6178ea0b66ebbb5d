"""Well-known networks: functions that return specs, to compile as they are or to use as layers of a larger network."""

from nnkit.models.autoencoder import autoencoder
from nnkit.models.gcn import gcn
from nnkit.models.vae import vae
from nnkit.models.vgg16 import vgg16

__all__ = ["autoencoder", "gcn", "vae", "vgg16"]
