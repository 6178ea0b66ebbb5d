"""The test ELBO of a variational autoencoder beside the same network in PyTorch: same data, epochs, optimizer, initialisation rule; several seeds.

    python benchmarks/elbo.py --epochs 10 --seeds 5

needs PyTorch and nnkit in one environment. Data: `workloads.fashion` (Fashion-MNIST where NNKIT_DATA names a folder that holds it), the last tenth
for the test. Printed: -ELBO in nats for each image, mean over the test images, one draw of the code for each.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import nnkit

sys.path.append(str(Path(__file__).resolve().parent / "peers"))
from workloads import fashion

PIXELS, HIDDEN, LATENT, BATCH = 784, 400, 20, 128


def with_nnkit(train: np.ndarray, test: np.ndarray, epochs: int, seed: int) -> float:
    model = nnkit.compile(nnkit.models.vae(PIXELS, (HIDDEN,), LATENT), optimizer="adam", loss="binary_crossentropy", seed=seed)
    model.fit(train, train, batch_size=BATCH, epochs=epochs, verbose=0)
    return PIXELS * model.evaluate(test, test)["loss"]


class VAE(nn.Module):
    """Layers start as nnkit's and Keras' do: Glorot uniform, zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mean, self.log_variance = nn.Linear(PIXELS, HIDDEN), nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)
        self.decoder, self.pixels = nn.Linear(LATENT, HIDDEN), nn.Linear(HIDDEN, PIXELS)
        for layer in self.children():
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """-ELBO for each number of a sample, averaged over the batch."""
        h = torch.relu(self.encoder(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        logits = self.pixels(torch.relu(self.decoder(z)))
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / x.numel()
        return nn.functional.binary_cross_entropy_with_logits(logits, x) + divergence


def with_torch(train: np.ndarray, test: np.ndarray, epochs: int, seed: int) -> float:
    torch.manual_seed(seed)
    model, x = VAE(), torch.from_numpy(train)
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-7)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            model(x[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return PIXELS * model(torch.from_numpy(test)).item()


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
