"""Well-known networks: functions that return specs, to compile as they are or to use as layers of a larger network; and what goes with them."""

from nnkit.models.autoencoder import autoencoder
from nnkit.models.gcn import gcn
from nnkit.models.imagenet import decode_predictions, preprocess_input, read_labels
from nnkit.models.lenet import lenet
from nnkit.models.mlp import mlp
from nnkit.models.resnet import resnet
from nnkit.models.vae import vae
from nnkit.models.vgg16 import vgg16

__all__ = ["autoencoder", "decode_predictions", "gcn", "lenet", "mlp", "preprocess_input", "read_labels", "resnet", "vae", "vgg16"]
