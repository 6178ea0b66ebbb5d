"""PyTorch on a GPU, its data set there already: eager, compiled with "reduce-overhead", and its own training step in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from peer_torch import activations, network, optimizers
from torch import nn
from worker import Job, serve
from workloads import LABELLED, WORKS, on_a_gpu

torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False      # float32 products, as nnkit's
GPU = "cuda"

Step = Callable[[torch.Tensor], None]


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


def training(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    """An epoch is all whole batches in a new order, then the rest, eagerly."""
    model = network(work, arrays).to(GPU)
    x = torch.from_numpy(arrays["x"])
    x = (x.movedim(-1, 1).contiguous() if x.ndim > 2 else x).to(GPU)
    y = torch.from_numpy(arrays["y"]).to(GPU)
    y = y.long() if work in LABELLED else y.reshape(len(x), -1)
    entropy = nn.CrossEntropyLoss() if work in LABELLED else nn.BCEWithLogitsLoss()
    batch_size = WORKS[work].batch_size
    optimizer = torch.optim.Adam(model.parameters(), fused=True, capturable=peer == "torch-cuda-graph")

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return entropy(model(x), y)
    step_loss = torch.compile(loss_of, mode="reduce-overhead") if peer == "torch-cuda-compile" else loss_of

    def eager(samples: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        step_loss(x[samples], y[samples]).backward()
        optimizer.step()
    step = graphed(eager, torch.arange(batch_size, device=GPU)) if peer == "torch-cuda-graph" else eager

    def epochs(n: int) -> None:
        for _ in range(n):
            for samples in torch.randperm(len(x), device=GPU).split(batch_size):
                (step if len(samples) == batch_size else eager)(samples)
        torch.cuda.synchronize()

    def loss() -> float:
        with torch.no_grad():
            return loss_of(x, y).item()
    return Job({"epoch": epochs}, loss)


def done(last: object = None) -> None:
    """Wait for all that was asked of the device."""
    if GPU == "cuda":
        torch.cuda.synchronize()


def kernels(work: str, arrays: dict[str, np.ndarray]) -> Job:
    """`activations` and `optimizers` on the GPU; n calls are asked for at once, and waited for once."""
    made = {"activations": activations, "optimizers": optimizers}[work]
    given = {name: on_a_gpu(array) for name, array in arrays.items()}
    return made(given, GPU, done)


def prepare(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    if GPU == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} sees no NVIDIA GPU")
    return kernels(work, arrays) if work in ("activations", "optimizers") else training(work, arrays, peer)


if __name__ == "__main__":
    serve(prepare)
