"""The test ELBO of a variational autoencoder beside the same network in PyTorch: same data, epochs, optimizer, initialisation rule; several seeds.

    python benchmarks/elbo.py --epochs 10 --seeds 5

needs PyTorch and nnkit in one environment. Data: `workloads.fashion` (Fashion-MNIST where NNKIT_DATA names a folder that holds it), the last tenth
for the test. Printed: -ELBO in nats for each image, mean over the test images, one draw of the code for each.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import nnkit

sys.path.append(str(Path(__file__).resolve().parent / "peers"))
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))       # which the peers' driver says
from peer_torch import VAE, bound
from workloads import fashion

PIXELS, HIDDEN, LATENT, BATCH = 784, 400, 20, 128


def with_nnkit(train: np.ndarray, test: np.ndarray, epochs: int, seed: int) -> float:
    model = nnkit.compile(nnkit.models.vae(PIXELS, (HIDDEN,), LATENT), optimizer="adam", loss="binary_crossentropy", seed=seed)
    model.fit(train, train, batch_size=BATCH, epochs=epochs, verbose=0)
    return PIXELS * model.evaluate(test, test)["loss"]


def with_torch(train: np.ndarray, test: np.ndarray, epochs: int, seed: int) -> float:
    """The peers' network; its layers start as nnkit's and Keras' do: Glorot uniform, zeros."""
    torch.manual_seed(seed)
    model, x = VAE(), torch.from_numpy(train)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-7)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            bound(model(x[batch]), x[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        target = torch.from_numpy(test)
        return PIXELS * bound(model(target), target).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    x = np.random.default_rng(0).permutation(fashion()["x"])
    test, train = np.split(x, [len(x) // 10])
    found = {"nnkit": with_nnkit, "torch": with_torch}
    values = {name: [run(train, test, options.epochs, seed) for seed in range(options.seeds)] for name, run in found.items()}
    for name, numbers in values.items():
        spread = np.std(numbers, ddof=1) if len(numbers) > 1 else math.nan
        print(f"{name:6} " + " ".join(f"{number:8.2f}" for number in numbers) + f"   mean {np.mean(numbers):.2f}, standard deviation {spread:.2f}")
    print(f"difference of the means: {np.mean(values['nnkit']) / np.mean(values['torch']) - 1:+.2%}")


if __name__ == "__main__":
    main()
