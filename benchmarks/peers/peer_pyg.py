"""PyTorch Geometric's side. `pyg` is eager with dense features, as its examples write it; `pyg-compile` compiles loss and gradient of the same.

`pyg-sparse` keeps the features as a torch.sparse matrix in compressed rows, which torch.sparse.mm takes in place of the Linear, and the edges as
indices: of PyTorch's own sparse forms the fastest pair. With features by coordinates, or the adjacency in either form, an epoch takes 1.3 times as
long and more. (torch_sparse comes without a built package for this version of PyTorch.)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch_geometric.nn import GCNConv
from worker import Job, serve, threads
from workloads import kernels_of

torch.set_num_threads(threads())
torch.manual_seed(0)
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")


class SparseLinear(nn.Module):
    """The product of a sparse matrix with a weight (inputs, outputs)."""

    def __init__(self, kernel: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(kernel.copy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sparse.mm(x, self.weight)


class GCN(nn.Module):
    """Two graph convolutions with given kernels."""

    def __init__(self, arrays: dict[str, np.ndarray], rate: float, is_sparse: bool) -> None:
        super().__init__()
        kernels = kernels_of(arrays)
        self.rate = rate
        self.convolutions = nn.ModuleList(GCNConv(*kernel.shape, cached=True) for kernel in kernels)
        with torch.no_grad():
            for convolution, kernel in zip(self.convolutions, kernels, strict=True):
                convolution.lin.weight.copy_(torch.from_numpy(kernel.T))
        if is_sparse:
            self.convolutions[0].lin = SparseLinear(kernels[0])

    def dropped(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, self.rate, self.training) if self.rate else x

    def forward(self, features: Callable[[GCN], torch.Tensor], edges: torch.Tensor) -> torch.Tensor:
        first, second = self.convolutions
        return second(self.dropped(torch.relu(first(features(self), edges))), edges)


def features_of(arrays: dict[str, np.ndarray], is_sparse: bool) -> Callable[[GCN], torch.Tensor]:
    """A function that gives the features with the model's dropout: of sparse ones on their values alone."""
    if "x" in arrays:
        x = torch.from_numpy(arrays["x"])
        return lambda model: model.dropped(x)
    starts, columns, values = (torch.from_numpy(arrays[name]) for name in ("starts", "columns", "values"))
    starts, columns, shape = starts.int(), columns.int(), (len(arrays["y"]), len(arrays["kernel1"]))
    if is_sparse:
        return lambda model: torch.sparse_csr_tensor(starts, columns, model.dropped(values), shape, check_invariants=False)
    dense = torch.sparse_csr_tensor(starts, columns, values, shape).to_dense()
    return lambda model: model.dropped(dense)


def prepare(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    on_cora, is_sparse, compiled = work == "gcn", peer == "pyg-sparse", peer == "pyg-compile"
    decay = 5e-4 if on_cora else 0.0
    model, features = GCN(arrays, 0.5 if on_cora else 0.0, is_sparse), features_of(arrays, is_sparse)
    edges, y, training = (torch.from_numpy(arrays[name]).long() for name in ("edges", "y", "training"))
    kernel, *others = model.convolutions[0].lin.weight, model.convolutions[0].bias, *model.convolutions[1].parameters()
    optimizer = torch.optim.Adam([{"params": [kernel], "weight_decay": decay}, {"params": others}], lr=0.01, fused=compiled or None)
    every = len(training) == len(y)

    def loss_of() -> torch.Tensor:
        z = model(features, edges)
        return nn.functional.cross_entropy(z, y) if every else nn.functional.cross_entropy(z[training], y[training])

    model.eval()
    with torch.no_grad():
        checks = {"probabilities": torch.softmax(model(features, edges)[:64], 1).numpy()}
    model.train()
    step_loss = torch.compile(loss_of) if compiled else loss_of

    def epochs(n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad(set_to_none=True)
            step_loss().backward()
            optimizer.step()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            value = loss_of() + decay / 2 * kernel.square().sum()
        model.train()
        return value.item()

    return Job({"epoch": epochs}, loss, checks)


if __name__ == "__main__":
    serve(prepare)
