"""Random recurrent layers with data, a function of (seed, number), and the same in PyTorch and Keras.

SimpleRNN, LSTM and GRU, alone and Bidirectional: all forms, activations, outputs, initial states, directions and masks. N batch, T steps, I inputs,
U units. PyTorch's layers have no masks, few activations and one form of GRU; Keras has all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

import nnkit
from helpers import Rig, parts
from nnkit.layers.base import Shape
from nnkit.layers.recurrent import Recurrent
from parity_draw import Generator, chance, number, pick

__all__ = ["DrawnRecurrent", "draw_recurrent", "in_keras", "in_nnkit", "in_torch", "torch_takes"]

UNITS, INPUTS = (1, 2, 3, 5, 7, 16, 17, 33, 49, 64), (1, 2, 3, 5, 8, 17, 50)
BATCHES = (1, 2, 7, 8, 9, 16, 17, 31, 32, 37)            # around groups of 8 and 16 rows, of which there are 16 from 32 on
STEPS, LONG = (1, 2, 3, 5, 8, 9, 13), (63, 64, 65, 130)  # around blocks of at most 64 steps in prediction
PADDINGS = ("left", "right", "middle", "some rows whole", "all rows whole", "anywhere")

Values = dict[str, np.ndarray]


@attrs.frozen
class DrawnRecurrent:
    """A layer, the shape of its samples, the batch, whether it is given initial states, and where steps are padded (None: nowhere)."""

    seed: int
    number: int
    layer: Any
    shape: Shape
    batch: int
    starts: bool
    padding: str | None

    def __str__(self) -> str:
        """What a failed test shows."""
        return f"{self.number}: {self.layer!r} {self.shape} N={self.batch} starts={self.starts} {self.padding}".replace(" ", "")

    @property
    def inner(self) -> Recurrent:
        """The layer itself, or what is inside of Bidirectional."""
        return self.layer.layer if isinstance(self.layer, nnkit.Bidirectional) else self.layer

    @property
    def states(self) -> int:
        """How many initial states it takes."""
        return self.starts * len(self.inner.state_names) * (1 + isinstance(self.layer, nnkit.Bidirectional))

    @property
    def network(self) -> nnkit.Network:
        """x, then the initial states; Masking where there is padding; all outputs."""
        x, states = nnkit.Input(self.shape), [nnkit.Input((self.inner.units,)) for _ in range(self.states)]
        read = nnkit.Masking()(x) if self.padding else x
        return nnkit.Network([x, *states], self.layer(read, initial_state=states or None))

    def values(self, shape: Shape, stream: int, scale: float = 1.0) -> np.ndarray:
        """Normal numbers, rounded to float32, kept in float64."""
        rng = np.random.default_rng([self.seed, self.number, 1, stream])
        return (scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)

    def parameters(self) -> Values:
        """By the layer's own names; kernels small enough for activities near 1: far out tanh is flat and 1 - y^2 has lost its digits, and what has
        no bounds multiplies its roundings from step to step."""
        declared = self.layer.parameters(self.shape)
        scale = 0.8 if self.inner.activation == nnkit.Tanh() else 0.4
        return {name: self.values(parameter.shape, 10 + stream, scale * parameter.shape[0] ** -0.5 if "kernel" in name else 0.5)
                for stream, (name, parameter) in enumerate(declared.items())}

    def mask(self) -> np.ndarray | None:
        """True for the steps that count."""
        if self.padding is None:
            return None
        rng = np.random.default_rng([self.seed, self.number, 2])
        N, T = self.batch, self.shape[0]
        mask, t, count = np.ones((N, T), bool), np.arange(T), rng.integers(0, T + 1, (N, 1))
        if self.padding == "left":
            mask = t >= count
        elif self.padding == "right":
            mask = t < count
        elif self.padding == "middle":
            mask = ~((t >= T // 3) & (t < T // 3 + 1 + T // 4)) | (count > T // 2)
        elif self.padding == "anywhere":
            mask = rng.random((N, T)) < 0.6
        elif self.padding == "some rows whole":
            mask[rng.random(N) < 0.5] = False
        else:
            mask[:] = False
        return mask

    def data(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """(x and the initial states), (the gradient of each output). Padded steps of x are 0."""
        mask, x = self.mask(), self.values((self.batch, *self.shape), 0)
        if mask is not None:
            x = x * mask[:, :, None]
        states = [self.values((self.batch, self.inner.units), 1 + k, 0.5) for k in range(self.states)]
        shapes = self.network.graph().output_shapes
        return (x, *states), tuple(self.values((self.batch, *shape), 5 + k) for k, shape in enumerate(shapes))


def activations(rng: Generator, steps: int) -> dict[str, Any]:
    """The usual ones mostly; what has no bounds only where there are few steps."""
    if chance(rng, 0.6):
        return {}
    bounded = [nnkit.Sigmoid(), nnkit.Softsign(), nnkit.HardSigmoid(), nnkit.Tanh()]
    free = [nnkit.ReLU(), nnkit.Linear(), nnkit.ELU(number(rng, 0.3, 1.5)), nnkit.SELU(), nnkit.LeakyReLU(number(rng, 0.1, 0.5)), nnkit.Softplus()]
    return {"activation": pick(rng, bounded + free if steps < 10 else bounded), "recurrent_activation": pick(rng, bounded)}


def draw_recurrent(seed: int, number: int) -> DrawnRecurrent:
    """The layer of that number; classes take turns."""
    rng = np.random.default_rng([seed, number, 0])
    cls = (nnkit.SimpleRNN, nnkit.LSTM, nnkit.GRU)[number % 3]
    steps = pick(rng, LONG) if chance(rng, 0.1) else pick(rng, STEPS)
    fields = activations(rng, steps)
    if cls is nnkit.SimpleRNN:
        fields.pop("recurrent_activation", None)
    if cls is nnkit.GRU:
        fields["reset_after"] = chance(rng, 0.5)
    fields |= {name: chance(rng, 0.5) for name in ("return_sequences", "return_state", "go_backwards")} | {"use_bias": chance(rng, 0.75)}
    layer: Any = cls(pick(rng, UNITS if steps < 50 else UNITS[:7]), **fields)
    if chance(rng, 0.3):
        layer = nnkit.Bidirectional(layer, merge_mode=pick(rng, ["concat", "sum", "mul", "ave", None]))
    padding = pick(rng, PADDINGS) if chance(rng, 0.45) else None
    return DrawnRecurrent(seed, number, layer, (steps, pick(rng, INPUTS)), pick(rng, BATCHES), chance(rng, 0.5), padding)


# Each library's outputs and gradients by name: "y0", "y1", ..., then "x" and "s0", "s1", ... for x and the initial states, and the parameters.

def named(ys: Any, dxs: Any, gradients: Mapping[str, np.ndarray]) -> Values:
    """All results of a run."""
    x, *states = dxs
    return {**{f"y{k}": y for k, y in enumerate(ys)}, "x": x, **{f"s{k}": dx for k, dx in enumerate(states)}, **gradients}


def in_nnkit(drawn: DrawnRecurrent, dtype: str, *, threads: int = 1, debug: bool = False) -> tuple[Values, tuple[np.ndarray, ...]]:
    """Results in training, and the outputs of prediction."""
    network = drawn.network
    prefix = network.graph().nodes[-1].name + "/"
    rig = Rig(network, {prefix + name: values for name, values in drawn.parameters().items()}, drawn.batch, dtype=dtype, threads=threads, debug=debug)
    xs, dys = drawn.data()
    found = rig.run(xs, dys)
    results = named(parts(found.y), parts(found.dx), {name.removeprefix(prefix): gradient for name, gradient in found.gradients.items()})
    return results, parts(rig.predict(xs))


# PyTorch.

def torch_takes(drawn: DrawnRecurrent) -> bool:
    """Whether PyTorch has the layer."""
    layer = drawn.inner
    usual = layer.activation == nnkit.Tanh() or (isinstance(layer, nnkit.SimpleRNN) and layer.activation == nnkit.ReLU())
    return drawn.padding is None and usual and getattr(layer, "recurrent_activation", nnkit.Sigmoid()) == nnkit.Sigmoid() and getattr(
        layer, "reset_after", True)


def torch_weights(layer: Recurrent, p: Mapping[str, Any]) -> list[Any]:
    """PyTorch's weight_ih, weight_hh, and its two biases: transposed, a GRU's gates in the order r, z, u."""
    import torch

    def ordered(w: Any) -> Any:
        gates = list(w.split(layer.units, dim=-1))
        return torch.cat([gates[k] for k in ((1, 0, 2) if isinstance(layer, nnkit.GRU) else range(layer.gates))], dim=-1)
    found = [ordered(p["kernel"]).T, ordered(p["recurrent_kernel"]).T]
    if layer.use_bias:
        first, second = p["bias"] if isinstance(layer, nnkit.GRU) else (p["bias"], torch.zeros_like(p["bias"]))
        found += [ordered(first), ordered(second)]
    return [w.contiguous() for w in found]


def torch_layer(layer: Recurrent, p: Mapping[str, Any], x: Any, starts: list[Any], aligned: bool) -> tuple[Any, ...]:
    """The layer's output and states, by PyTorch's own functions."""
    import torch

    x = x.flip(1) if layer.go_backwards else x
    states = [state[None] for state in starts or [x.new_zeros(len(x), layer.units)] * len(layer.state_names)]
    options = (layer.use_bias, 1, 0.0, False, False, True)         # layers, dropout, training, bidirectional, batch first
    weights = torch_weights(layer, p)
    if isinstance(layer, nnkit.LSTM):
        y, *ends = torch.lstm(x, states, weights, *options)
    elif isinstance(layer, nnkit.GRU):
        y, *ends = torch.gru(x, states[0], weights, *options)
    else:
        run = torch.rnn_relu if layer.activation == nnkit.ReLU() else torch.rnn_tanh
        y, *ends = run(x, states[0], weights, *options)
    first = y if layer.return_sequences else y[:, -1]
    first = first.flip(1) if layer.return_sequences and aligned and layer.go_backwards else first
    return (first, *(end[0] for end in ends)) if layer.return_state else (first,)


def in_torch(drawn: DrawnRecurrent) -> Values:
    """Results by PyTorch's layers, in float64."""
    import torch

    xs, dys = drawn.data()
    x, *starts = inputs = [torch.tensor(values, requires_grad=True) for values in xs]
    p = {name: torch.tensor(values, requires_grad=True) for name, values in drawn.parameters().items()}
    if isinstance(drawn.layer, nnkit.Bidirectional):
        half, made = len(starts) // 2, []
        for way, layer, own in (("forward", drawn.layer.layer, starts[:half]), ("backward", drawn.layer.other, starts[half:])):
            mine = {name.split("/")[1]: values for name, values in p.items() if name.startswith(way)}
            made.append(torch_layer(layer, mine, x, own, True))
        (a, *ahead), (b, *back) = made
        merged = {"concat": lambda: (torch.cat([a, b], -1),), "sum": lambda: (a + b,), "mul": lambda: (a * b,), "ave": lambda: ((a + b) / 2,),
                  None: lambda: (a, b)}[drawn.layer.merge_mode]()
        ys = (*merged, *ahead, *back)
    else:
        ys = torch_layer(drawn.layer, p, x, starts, False)
    return _torch_results(ys, dys, inputs, p)


def _torch_results(ys: Any, dys: Any, inputs: list[Any], p: Mapping[str, Any]) -> Values:
    import torch

    loss = sum((y * torch.tensor(dy)).sum() for y, dy in zip(ys, dys, strict=True))
    found = torch.autograd.grad(loss, [*inputs, *p.values()], allow_unused=True, materialize_grads=True)
    gradients = [gradient.numpy() for gradient in found]
    return named([y.detach().numpy() for y in ys], gradients[:len(inputs)], dict(zip(p, gradients[len(inputs):], strict=True)))


# Keras.

def keras_layer(spec: Any) -> Any:
    """The Keras layer of a spec. Bidirectional copies layers by their fields, which may hold no functions: activations come afterwards."""
    from parity_keras import keras

    if isinstance(spec, nnkit.Bidirectional):
        layer = keras.layers.Bidirectional(plain_layer(spec.layer), merge_mode=spec.merge_mode, backward_layer=plain_layer(spec.other))
        activate(layer.forward_layer, spec.layer)
        activate(layer.backward_layer, spec.other)
    else:
        layer = plain_layer(spec)
        activate(layer, spec)
    return layer


def plain_layer(spec: Recurrent) -> Any:
    """With Keras' own activations."""
    import parity_keras

    given = {name: value for name, value in parity_keras.arguments(spec).items() if "activation" not in name}
    return getattr(parity_keras.keras.layers, type(spec).__name__)(**given)


def activate(layer: Any, spec: Recurrent) -> None:
    """Give a Keras layer the spec's activations."""
    import parity_keras

    for name in {"activation", "recurrent_activation"} & {field.name for field in attrs.fields(type(spec))}:
        setattr(layer.cell, name, parity_keras.function(getattr(spec, name)))


def in_keras(drawn: DrawnRecurrent) -> Values:
    """Results by Keras on PyTorch, in float64. Skips the test where one of them is missing."""
    from parity_keras import keras, torch

    xs, dys = drawn.data()
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        layer = keras_layer(drawn.layer)
        layer.build(xs[0].shape)
        ours = drawn.parameters()
        variables = [variable for variable in layer.weights if "seed" not in variable.path]
        assert [tuple(variable.shape) for variable in variables] == [values.shape for values in ours.values()]
        for variable, values in zip(variables, ours.values(), strict=True):
            variable.assign(values)
        x, *starts = inputs = [torch.tensor(values, requires_grad=True) for values in xs]
        mask = drawn.mask()
        made = layer(x, initial_state=starts or None, mask=None if mask is None else torch.tensor(mask))
        ys = tuple(made) if isinstance(made, (list, tuple)) else (made,)
        if isinstance(drawn.layer, nnkit.Bidirectional) and drawn.inner.go_backwards and drawn.inner.return_sequences:
            last = 1 + (drawn.layer.merge_mode is None)  # around a layer that goes backwards Keras' outputs come from the last step to the first
            ys = (*(y.flip(1) for y in ys[:last]), *ys[last:])
        return _torch_results(ys, dys, inputs, dict(zip(ours, (variable.value for variable in variables), strict=True)))
    finally:
        keras.config.set_floatx(before)
