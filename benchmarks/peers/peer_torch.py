"""PyTorch's side. `torch` is eager, as its tutorials write it; `torch-compile` compiles loss and gradient and takes the fused optimizer.

Of convolutions, `torch` keeps images channels first, `torch-channels-last` is eager with PyTorch's memory format of that name, and the compiler of
`torch-compile` chooses the format itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from worker import Job, repeated, serve, threads
from workloads import CELLS, CLASSES, GATES, LABELLED, RATE, VGG16, WORKS, kernels_of

torch.set_num_threads(threads())
torch.manual_seed(0)


class VAE(nn.Module):
    """Logits of the reconstruction, mean and log-variance of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mean, self.log_variance = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = torch.relu(self.encoder(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.decoder(z), mean, log_variance


def bound(outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The negative evidence lower bound, a number for each pixel."""
    logits, mean, log_variance = outputs
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum() / x.numel()
    return nn.functional.binary_cross_entropy_with_logits(logits, x) + divergence


RECURRENT = {"simple_rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def gates(cell: str, weight: np.ndarray) -> torch.Tensor:
    """Kernels (inputs, gates units) and biases as PyTorch has them, (gates units, inputs); its GRU has the first two gates the other way round."""
    parts = torch.from_numpy(weight).movedim(-1, 0).chunk(GATES[cell])
    return torch.cat([parts[1], parts[0], parts[2]] if cell == "gru" else parts)


def set_recurrent(layer: nn.Module, cell: str, arrays: dict[str, np.ndarray]) -> None:
    """PyTorch has two biases in any case; only that of a GRU needs both."""
    given, again = arrays["bias"] if cell == "gru" else (arrays["bias"], np.zeros_like(arrays["bias"]))
    with torch.no_grad():
        for parameter, weight in zip(layer.parameters(), (arrays["kernel"], arrays["recurrent_kernel"], given, again), strict=True):
            parameter.copy_(gates(cell, weight))


class Reader(nn.Module):
    """Embedding, a recurrent layer, Dense of its last output or of all, with given weights."""

    def __init__(self, work: str, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        units, outputs = arrays["dense"].shape
        self.all_steps = work == "char_lstm"
        self.embedding = nn.Embedding(*arrays["embeddings"].shape)
        self.recurrent = RECURRENT[CELLS[work]](arrays["embeddings"].shape[1], units, batch_first=True)
        self.dense = nn.Linear(units, outputs)
        set_recurrent(self.recurrent, CELLS[work], arrays)
        set_kernel(self.dense, arrays["dense"])
        with torch.no_grad():
            self.embedding.weight.copy_(torch.from_numpy(arrays["embeddings"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, _ = self.recurrent(self.embedding(x))
        return self.dense(h).flatten(0, 1) if self.all_steps else self.dense(h[:, -1])


class LastStep(nn.Module):
    """An LSTM, and Dense 1 of its last output."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.recurrent, self.dense = nn.LSTM(inputs, units, batch_first=True), nn.Linear(units, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(self.recurrent(x)[0][:, -1])


def network(work: str, arrays: dict[str, np.ndarray]) -> nn.Module:
    if work in CELLS:
        return Reader(work, arrays)
    if work == "vae":
        return VAE()
    if work == "autoencoder":
        return nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 20))
    if work == "bigmlp":
        return nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    if work == "mlp4096":
        return nn.Sequential(nn.Linear(784, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10))
    if work == "vgg16_batch64":
        return vgg16(arrays)
    if work == "lstm256":
        return LastStep(64, 256)
    if work == "digits_cnn":
        return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 3**2, 128), nn.ReLU(), nn.Linear(128, 10))
    if work == "conv3d":
        return nn.Sequential(nn.Conv3d(1, 32, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(32 * 15**3, 128), nn.ReLU(), nn.Linear(128, 20))
    if work == "dropout":
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 1))
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32), nn.LeakyReLU(0.01), nn.Linear(32, 1))


def memory_format(peer: str, rank: int) -> torch.memory_format:
    """How arrays of that many axes lie in memory; they are (N, C, ...) in any case."""
    if peer != "torch-channels-last":
        return torch.contiguous_format
    return torch.channels_last if rank == 4 else torch.channels_last_3d


def channels_first(x: np.ndarray, peer: str) -> torch.Tensor:
    """Images (N, ..., C) as PyTorch names their axes, (N, C, ...)."""
    return torch.from_numpy(x).movedim(-1, 1).contiguous(memory_format=memory_format(peer, x.ndim))


def training(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    compiled = peer == "torch-compile"
    model = network(work, arrays)
    x = torch.from_numpy(arrays["x"])
    if x.ndim > 2:
        x, model = channels_first(arrays["x"], peer), model.to(memory_format=memory_format(peer, x.ndim))
    y = torch.from_numpy(arrays["y"]).long() if work in LABELLED else torch.from_numpy(arrays["y"]).reshape(len(x), -1)
    entropy = bound if work == "vae" else nn.CrossEntropyLoss() if work in LABELLED else nn.BCEWithLogitsLoss()
    batch_size = WORKS[work].batch_size
    optimizer = torch.optim.Adam(model.parameters(), fused=compiled or None)

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return entropy(model(x), y.flatten() if work == "char_lstm" else y)

    checks = first_batch(model, loss_of, x[:batch_size], y[:batch_size], CELLS[work]) if work in CELLS else {}
    step_loss = torch.compile(loss_of) if compiled else loss_of

    def epochs(n: int) -> None:
        for _ in range(n):
            for batch in torch.randperm(len(x)).split(batch_size):
                optimizer.zero_grad(set_to_none=True)
                step_loss(x[batch], y[batch]).backward()
                optimizer.step()

    def loss() -> float:
        model.eval()
        with torch.no_grad():
            value = loss_of(x, y).item()
        model.train()
        return value

    if not work.startswith("predict"):
        return Job({"epoch": epochs}, loss, checks)

    predict_one = torch.compile(model) if compiled else model
    row = arrays["x"][:1]

    def calls(n: int) -> None:
        with torch.inference_mode():
            for _ in range(n):
                torch.sigmoid(predict_one(torch.from_numpy(row))).numpy()

    return Job({"train": epochs, "call": calls}, loss, checks)


def first_batch(model: Reader, loss_of: Callable[..., torch.Tensor], x: torch.Tensor, y: torch.Tensor, cell: str) -> dict[str, np.ndarray]:
    """What it gives before training."""
    with torch.no_grad():
        z = model(x)
    recurrent, table = torch.autograd.grad(loss_of(x, y), [model.recurrent.weight_hh_l0, model.embedding.weight])
    probabilities = torch.softmax(z, 1) if model.all_steps else torch.sigmoid(z)
    return {"probabilities": probabilities.numpy(), "recurrent gradient": gates(cell, recurrent.T.numpy()).T.numpy(),
            "embeddings gradient": table.numpy()}


Wait = Callable[[object], object]                        # until the device has done what was asked for; gets the last result


def on_time(last: object) -> None:
    """Nothing to wait for: a CPU has done it."""


def activations(arrays: dict[str, np.ndarray], device: str = "cpu", wait: Wait = on_time) -> Job:
    """Every call writes into memory that is there already, as nnkit's do."""
    ops = torch.ops.aten
    x, dy = (torch.from_numpy(arrays[name]).to(device) for name in ("x", "dy"))
    y, dx, sigmoid, tanh = torch.empty_like(x), torch.empty_like(x), torch.sigmoid(x), torch.tanh(x)
    calls: dict[str, Callable[[], object]] = {
        "copy": lambda: y.copy_(x),
        "relu": lambda: torch.clamp_min(x, 0, out=y),
        "relu gradient": lambda: ops.threshold_backward.grad_input(dy, x, 0, grad_input=dx),
        "leaky_relu": lambda: ops.leaky_relu.out(x, 0.3, out=y),
        "leaky_relu gradient": lambda: ops.leaky_relu_backward.grad_input(dy, x, 0.3, False, grad_input=dx),
        "elu": lambda: ops.elu.out(x, 1, 1, 1, out=y),
        "elu gradient": lambda: ops.elu_backward.grad_input(dy, 1, 1, 1, False, x, grad_input=dx),
        "sigmoid": lambda: ops.sigmoid.out(x, out=y),
        "sigmoid gradient": lambda: ops.sigmoid_backward.grad_input(dy, sigmoid, grad_input=dx),
        "tanh": lambda: ops.tanh.out(x, out=y),
        "tanh gradient": lambda: ops.tanh_backward.grad_input(dy, tanh, grad_input=dx),
        "softplus": lambda: ops.softplus.out(x, 1, 20, out=y),
        "softplus gradient": lambda: ops.softplus_backward.grad_input(dy, x, 1, 20, grad_input=dx),
        "silu": lambda: ops.silu.out(x, out=y),
        "silu gradient": lambda: ops.silu_backward.grad_input(dy, x, grad_input=dx),
        "gelu": lambda: ops.gelu.out(x, out=y),
        "gelu gradient": lambda: ops.gelu_backward.grad_input(dy, x, grad_input=dx),
    }
    checks = {}
    for name, call in calls.items():
        call()
        checks[name] = (dx if name.endswith("gradient") else y)[:64].cpu().numpy().copy()
    return Job({name: repeated(call, wait) for name, call in calls.items()}, checks=checks)


def optimizers(arrays: dict[str, np.ndarray], device: str = "cpu", wait: Wait = on_time) -> Job:
    """The fused form where there is one: RMSprop has none, Adagrad on a GPU only in newer versions. The settings are Keras' defaults."""
    made: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": lambda p, **form: torch.optim.SGD(p, 0.01, **form),
        "sgd_momentum": lambda p, **form: torch.optim.SGD(p, 0.01, momentum=0.9, **form),
        "adagrad": lambda p, **form: torch.optim.Adagrad(p, 1e-3, initial_accumulator_value=0.1, eps=1e-7, **form),
        "rmsprop": lambda p, **form: torch.optim.RMSprop(p, 1e-3, alpha=0.9, eps=1e-7, foreach=True),
        "adam": lambda p, **form: torch.optim.Adam(p, 1e-3, eps=1e-7, **form),
        "adamw": lambda p, **form: torch.optim.AdamW(p, 1e-3, eps=1e-7, weight_decay=0.004, **form),
    }
    source = torch.from_numpy(arrays["parameters"]).to(device)
    target = source.clone()
    items, checks = {"copy": repeated(lambda: target.copy_(source), wait)}, {"copy": target[:64].cpu().numpy()}
    for name, make in made.items():
        parameters = source.clone().requires_grad_()
        parameters.grad = torch.from_numpy(arrays["gradients"]).to(device)
        optimizer = make([parameters], fused=True)
        try:
            optimizer.step()
        except RuntimeError:                             # refused before anything has changed
            optimizer = make([parameters], foreach=True)
            optimizer.step()
        checks[name] = parameters.detach()[:64].cpu().numpy().copy()
        items[name] = repeated(optimizer.step, wait)
    return Job(items, checks=checks)


def set_kernel(layer: nn.Module, kernel: np.ndarray) -> None:
    """The kernel (*window, inputs, outputs), a bias of 0 where there is one."""
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(kernel).movedim((-1, -2), (0, 1)))
        if layer.bias is not None:
            layer.bias.zero_()


def vgg16(arrays: dict[str, np.ndarray]) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for count, filters in VGG16:
        for _ in range(count):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(inplace=True)]
            channels = filters
        layers.append(nn.MaxPool2d(2))
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))
    weighted = [layer for layer in model if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer, kernel in zip(weighted, kernels_of(arrays), strict=True):
        set_kernel(layer, kernel)
    return model


def vgg16_forward(arrays: dict[str, np.ndarray], peer: str) -> Job:
    model = vgg16(arrays).eval().to(memory_format=memory_format(peer, 4))
    predict = torch.compile(model) if peer == "torch-compile" else model
    x = channels_first(arrays["x"], peer)

    def call() -> np.ndarray:
        with torch.inference_mode():
            return predict(x).numpy()

    return Job({"call": repeated(call)}, checks={"logits": call()})


def vgg16_train(arrays: dict[str, np.ndarray], peer: str) -> Job:
    compiled = peer == "torch-compile"
    model = vgg16(arrays).to(memory_format=memory_format(peer, 4))
    x, y = channels_first(arrays["x"], peer), torch.from_numpy(arrays["y"]).long()
    optimizer = torch.optim.SGD(model.parameters(), RATE, fused=compiled or None)

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(x), y)

    step_loss = torch.compile(loss_of) if compiled else loss_of

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = step_loss(x, y)
        loss.backward()
        optimizer.step()
        return loss.item()

    checks = {"loss": step(), "bias gradient": -model[0].bias.detach().numpy() / RATE}
    return Job({"step": repeated(step)}, checks=checks)


class ResNetBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(64, 64, window, padding=window // 2, bias=False) for window in (1, 3, 1))
        self.norms = nn.ModuleList(nn.BatchNorm2d(64, eps=1e-3, momentum=0.01) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.norms[0](self.convolutions[0](x)))
        h = torch.relu(self.norms[1](self.convolutions[1](h)))
        return torch.relu(self.norms[2](self.convolutions[2](h)) + x)


def layer(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    """Forward, then backward from a given gradient of the output, for input and parameters."""
    model: nn.Module
    if work == "lstm100":
        return lstm_layer(arrays, peer)
    if work == "resnet_block":
        model = ResNetBlock()
        convolutions = list(model.convolutions)
    else:
        model = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
        convolutions = [model]
    for convolution, kernel in zip(convolutions, kernels_of(arrays), strict=True):
        set_kernel(convolution, kernel if work == "resnet_block" else np.swapaxes(kernel, 2, 3))
    model = model.to(memory_format=memory_format(peer, 4))
    x, dy = (channels_first(arrays[name], peer) for name in ("x", "dy"))
    x.requires_grad_()
    wanted = [x, *model.parameters()]
    forward = torch.compile(model) if peer == "torch-compile" else model

    def step() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(forward(x), wanted, dy)

    dx, dkernel, *_ = step()
    checks = {"input gradient": dx.movedim(1, -1).numpy(), "kernel gradient": dkernel.movedim((0, 1), (-1, -2)).numpy()}
    return Job({"step": repeated(step)}, checks=checks)


def lstm_layer(arrays: dict[str, np.ndarray], peer: str) -> Job:
    model = nn.LSTM(100, 100, batch_first=True)
    set_recurrent(model, "lstm", arrays)
    x, dy = (torch.from_numpy(arrays[name]) for name in ("x", "dy"))
    x.requires_grad_()
    wanted = [x, *model.parameters()]
    forward = torch.compile(model) if peer == "torch-compile" else model

    def step() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(forward(x)[0], wanted, dy)

    dx, _, drecurrent, *_ = step()
    return Job({"step": repeated(step)}, checks={"input gradient": dx.numpy(), "kernel gradient": drecurrent.T.numpy()})


def prepare(work: str, arrays: dict[str, np.ndarray], peer: str) -> Job:
    if work == "activations":
        return activations(arrays)
    if work == "optimizers":
        return optimizers(arrays)
    if work == "vgg16_forward":
        return vgg16_forward(arrays, peer)
    if work == "vgg16_train":
        return vgg16_train(arrays, peer)
    if work in ("resnet_block", "depthwise", "lstm100"):
        return layer(work, arrays, peer)
    return training(work, arrays, peer)


if __name__ == "__main__":
    serve(prepare)
