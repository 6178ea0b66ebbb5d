"""PyTorch on a GPU, its data set there already: eager, compiled with "reduce-overhead", and its own training step in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peer_torch import activations, network, optimizers
from torch import nn
from worker import Job, serve
from workloads import LABELLED, RATE, WORKS, kernels_of, on_a_gpu

torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False      # float32 products, as nnkit's
GPU = "cuda"
LOOKED_AT = 4096                                         # samples whose loss is computed at once
DECAY = 5e-4                                             # of the GCN's first kernel

Step = Callable[[torch.Tensor], None]


def wait() -> None:
    torch.cuda.synchronize()


def graphed(step: Step, batch: torch.Tensor) -> Step:
    """The step on a batch of always the same size, captured once and replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):                               # what is set up the first time must not be captured
            step(batch)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(batch)

    def replay(samples: torch.Tensor) -> None:
        batch.copy_(samples)
        graph.replay()
    return replay


def optimizer_of(parameters: Any, peer: str, rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, rate, fused=True, capturable=peer == "torch-cuda-graph")


def step_of(loss_of: Callable[[torch.Tensor], torch.Tensor], optimizer: torch.optim.Optimizer, peer: str, samples: torch.Tensor) -> tuple[Step, Step]:
    """A training step on samples by their numbers: of as many as here, in the peer's form, and of any number, eagerly."""
    step_loss = torch.compile(loss_of, mode="reduce-overhead") if peer == "torch-cuda-compile" else loss_of

    def eager(samples: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        step_loss(samples).backward()
        optimizer.step()
    return graphed(eager, samples) if peer == "torch-cuda-graph" else eager, eager


def training(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    """An epoch is all whole batches in a new order, then the rest, eagerly."""
    model = network(work, arrays).to(GPU)
    x = torch.from_numpy(arrays["x"])
    x = (x.movedim(-1, 1).contiguous() if x.ndim > 3 else x).to(GPU)             # images
    y = torch.from_numpy(arrays["y"]).to(GPU)
    y = y.long() if work in LABELLED else y.reshape(len(x), -1)
    entropy = nn.CrossEntropyLoss() if work in LABELLED else nn.BCEWithLogitsLoss()
    batch_size = WORKS[work].batch_size
    optimizer = torch.optim.SGD(model.parameters(), RATE, fused=True) if work.startswith("vgg16") else optimizer_of(model.parameters(), peer, 1e-3)
    step, eager = step_of(lambda samples: entropy(model(x[samples]), y[samples]), optimizer, peer, torch.arange(batch_size, device=GPU))

    def epochs(n: int) -> None:
        for _ in range(n):
            for samples in torch.randperm(len(x), device=GPU).split(batch_size):
                (step if len(samples) == batch_size else eager)(samples)
        wait()

    def loss() -> float:
        with torch.no_grad():
            parts = [entropy(model(rows), targets) * len(rows) for rows, targets in zip(x.split(LOOKED_AT), y.split(LOOKED_AT), strict=True)]
        return sum(parts).item() / len(x)
    return Job({"epoch": epochs}, loss)


class GCN(nn.Module):
    """Two graph convolutions with given kernels, on Cora. The adjacency in compressed rows, the features dense."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.from_numpy(kernel.copy())) for kernel in kernels_of(arrays))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(kernel.shape[1])) for kernel in (self.first, self.second))
        nodes = len(arrays["y"])
        ends = torch.cat([torch.from_numpy(arrays["edges"]).long(), torch.arange(nodes).expand(2, -1)], 1)
        scale = torch.bincount(ends[0], minlength=nodes).float().rsqrt()
        adjacency = torch.sparse_coo_tensor(ends, scale[ends[0]] * scale[ends[1]], (nodes, nodes)).coalesce().to_sparse_csr().to(GPU)
        starts, columns, values = (torch.from_numpy(arrays[name]) for name in ("starts", "columns", "values"))
        self.x = torch.sparse_csr_tensor(starts, columns.long(), values, (nodes, len(self.first))).to_dense().to(GPU)

        class Aggregate(torch.autograd.Function):
            """A h; A is symmetric, so its gradient is A dy, and nothing is turned at run time."""

            @staticmethod
            def forward(context: Any, h: torch.Tensor) -> torch.Tensor:
                return torch.sparse.mm(adjacency, h)

            @staticmethod
            def backward(context: Any, dy: torch.Tensor) -> torch.Tensor:
                return torch.sparse.mm(adjacency, dy)
        self.aggregate = Aggregate.apply

    def forward(self) -> torch.Tensor:
        h = nn.functional.dropout(self.x, 0.5, self.training) @ self.first
        h = nn.functional.dropout(torch.relu(self.aggregate(h) + self.biases[0]), 0.5, self.training)
        return self.aggregate(h @ self.second) + self.biases[1]


def graph_training(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    """An epoch is one step."""
    model = GCN(arrays).to(GPU)
    y, training = (torch.from_numpy(arrays[name]).long().to(GPU) for name in ("y", "training"))
    others = [model.second, *model.biases]
    optimizer = optimizer_of([{"params": [model.first], "weight_decay": DECAY}, {"params": others}], peer, 0.01)

    def loss_of(nodes: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model()[nodes], y[nodes])
    model.eval()
    with torch.no_grad():
        checks = {"probabilities": torch.softmax(model()[:64], 1).cpu().numpy()}
    model.train()
    step, _ = step_of(loss_of, optimizer, peer, training.clone())

    def epochs(n: int) -> None:
        for _ in range(n):
            step(training)
        wait()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            value = loss_of(training) + DECAY / 2 * model.first.square().sum()
        model.train()
        return value.item()
    return Job({"epoch": epochs}, loss, checks)


def kernels(work: str, arrays: dict[str, np.ndarray]) -> Job:
    """`activations` and `optimizers` on the GPU; n calls are asked for at once, and waited for once."""
    made = {"activations": activations, "optimizers": optimizers}[work]
    return made({name: on_a_gpu(array) for name, array in arrays.items()}, GPU, lambda last: wait())


def prepare(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    if GPU == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} sees no NVIDIA GPU")
    if work in ("activations", "optimizers"):
        return kernels(work, arrays)
    return graph_training(work, arrays, peer) if work == "gcn" else training(work, arrays, peer)


if __name__ == "__main__":
    serve(prepare)
