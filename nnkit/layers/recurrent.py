"""SimpleRNN, LSTM, GRU. Cells: recurrent_cpu.py; what takes them through time: prims/recurrent.py and prims/recurrent_cpu.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from nnkit.initializers import Initializer, Zeros, initializer_field
from nnkit.layers.activation import ActivationFunction
from nnkit.layers.base import Layer, Parameter, Shape
from nnkit.layers.dropout import drop
from nnkit.prims.recurrent import ACTIVATIONS, Cell, Pass
from nnkit.prims.walk import Walk
from nnkit.regularizers import ActivityRegularizer, Regularizer
from nnkit.spec import article, base, boolean, child, integer, real, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["GRU", "LSTM", "Recurrent", "SimpleRNN"]


def cell_activation(default: str) -> Any:
    """A field for an activation whose derivative follows from its value: a cell keeps nothing else for the way back."""
    def check(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
        if _code(value) is None:
            raise ValueError(f"{type(instance).__name__}: {attribute.name} must be {article('activation')} whose derivative follows from its value "
                             f"({', '.join(ACTIVATIONS)}), received {value!r}")
    field = child("activation", default=default)
    return attrs.field(default=default, converter=field.converter, validator=[field._validator, check])


def _code(activation: ActivationFunction) -> int | None:
    """The activation's place in ACTIVATIONS; None for others, of which some have no kernel of their own."""
    named = activation.module == ActivationFunction.module and type(activation).kernel is not ActivationFunction.kernel
    return ACTIVATIONS.index(activation.kernel) if named and activation.kernel in ACTIVATIONS else None


def with_state(inputs: tuple[Any, ...], initial_state: Any) -> tuple[Any, ...]:
    """The inputs of a call, also as one list, then those of the initial state: a tensor, a list of them, or None."""
    states = () if initial_state is None else tuple(initial_state) if isinstance(initial_state, (list, tuple)) else (initial_state,)
    given = tuple(inputs[0]) if len(inputs) == 1 and isinstance(inputs[0], (list, tuple)) else inputs
    return (*given, *states)


@spec()
class UnitForgetBias(Initializer):
    """Of an LSTM's bias (4 units): 1 for the forget gate, the second quarter, and what `initializer` says elsewhere.

    Jozefowicz, Zaremba and Sutskever, An empirical exploration of recurrent network architectures, ICML 2015, section 2.2.
    """

    initializer: Initializer = initializer_field(default="zeros")

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """First values of a parameter: float64, of that shape."""
        units = shape[0] // 4
        values = np.array(self.initializer.values(shape, rng), np.float64)
        values[units:2 * units] = 1.0
        return values


@base
class Recurrent(Layer):
    """Base of the recurrent layers: a state goes from step to step of a sequence.

    units: U, the size of the state, at least 1. Fields that the layers share:
    use_bias: whether there are biases, default True. kernel_initializer ("glorot_uniform"), recurrent_initializer ("orthogonal"), bias_initializer
    ("zeros"): how the parameters start.
    return_sequences: the output of every step, (N, T, units), not of the last alone, (N, units); default False.
    return_state: also the state at the end, as further outputs (N, units); default False.
    go_backwards: take the steps from the last to the first; outputs come in the order in which they are made; default False.
    stateful: begin with the state in which the same row of the batch before ended; the Input must name a batch_size; default False. Gradients do not
    go from batch to batch: long sequences are cut into pieces, which is truncated backpropagation through time. `Model.reset_states` begins anew.
    dropout: of the inputs, one mask for all steps; recurrent_dropout: of the state on its way into the recurrent kernel, one mask for all steps
    and gates (Gal and Ghahramani, NIPS 2016; Keras' recurrent masks differ from gate to gate). seed: of both, as in `Dropout`.
    kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer: penalties.

    Input x (N, T, features), T at least 1; then, if wanted, the initial state, (N, units) each: LSTM(8)(x, initial_state=[h, c]); default 0. Of steps
    that are masked (see `Masking`, `Embedding`) the state and the output stay as they were, at whatever place they lie.
    activation, recurrent_activation: any whose derivative follows from its value; tanh and sigmoid have kernels of their own and are fastest.
    """

    arity: ClassVar[tuple[int, int | None]] = (1, 2)
    gates: ClassVar[int] = 1
    state_names: ClassVar[tuple[str, ...]] = ("hidden_state",)

    units: int = integer(low=1)
    activation: ActivationFunction = cell_activation("tanh")
    use_bias: bool = boolean(default=True)
    kernel_initializer: Initializer = initializer_field(default="glorot_uniform")
    recurrent_initializer: Initializer = initializer_field(default="orthogonal")
    bias_initializer: Initializer = initializer_field(default="zeros")
    kernel_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)
    recurrent_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)
    bias_regularizer: Regularizer | None = child("regularizer", default=None, none=True, kw_only=True)
    activity_regularizer: ActivityRegularizer | None = child("activity_regularizer", default=None, none=True, kw_only=True)
    dropout: float = real(default=0.0, low=0, high=1, high_open=True, kw_only=True)
    recurrent_dropout: float = real(default=0.0, low=0, high=1, high_open=True, kw_only=True)
    seed: int | None = integer(default=None, low=0, none=True, kw_only=True)
    return_sequences: bool = boolean(default=False, kw_only=True)
    return_state: bool = boolean(default=False, kw_only=True)
    go_backwards: bool = boolean(default=False, kw_only=True)
    stateful: bool = boolean(default=False, kw_only=True)

    def __call__(self, *inputs: Any, initial_state: Any = None) -> Any:
        """As for any layer; initial_state: a tensor, or a list of them, for the state before the first step."""
        return super().__call__(*with_state(inputs, initial_state))

    @property
    def output_count(self) -> int:
        """The output, and the states."""
        return 1 + len(self.state_names) * self.return_state

    def output_shapes(self, *shapes: Shape) -> tuple[Shape, ...]:
        """(T, units) or (units,), and the states'. Raises ValueError where x is no sequence or a state does not fit."""
        x, *states = shapes
        name = type(self).__name__
        if len(x) != 2 or 0 in x:
            raise ValueError(f"{name} must have samples of shape (steps, features), both at least 1, received {x}")
        if states and (len(states) != len(self.state_names) or any(state != (self.units,) for state in states)):
            count, received = len(self.state_names), " and ".join(map(str, states))
            raise ValueError(f"{name}: initial_state must be {count} tensor{'s' * (count > 1)} of shape ({self.units},), received {received}")
        if states and self.stateful:
            raise ValueError(f"{name}: a stateful layer takes no initial_state: it begins where the batch before ended")
        first = (x[0], self.units) if self.return_sequences else (self.units,)
        return (first, *((self.units,) for _ in self.state_names * self.return_state))

    def output_shape(self, *shapes: Shape) -> Shape:
        """The shape of the first output."""
        return self.output_shapes(*shapes)[0]

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """kernel (features, gates units), recurrent_kernel (units, gates units), bias."""
        width = self.gates * self.units
        found = {"kernel": Parameter((shapes[0][-1], width), self.kernel_initializer, regularizer=self.kernel_regularizer),
                 "recurrent_kernel": Parameter((self.units, width), self.recurrent_initializer, regularizer=self.recurrent_regularizer)}
        if self.use_bias:
            found["bias"] = Parameter(self._bias_shape(), self._bias_start(), regularizer=self.bias_regularizer)
        return found

    def states(self, batch: int, *shapes: Shape) -> Mapping[str, Parameter]:
        """The state of every row, where it goes on from batch to batch."""
        kept = {name: Parameter((batch, self.units), Zeros(), trainable=False, is_state=True) for name in self.state_names}
        return kept if self.stateful else {}

    def lower(self, g: Builder, *xs: Buffer) -> Buffer | tuple[Buffer, ...]:
        """The way through time; backward the gates' gradients, then those of the kernels and of x."""
        mask = g.mask()
        ys = self.lower_pass(g, xs[0], xs[1:], mask)
        if mask is not None and self.return_sequences and self.go_backwards:
            turned = g.buffer("mask", *mask.shape)
            g.step("layers.recurrent.reverse_steps", [turned], [mask], rows=mask.shape[0])
            mask = turned
        g.set_masks(mask if self.return_sequences else None, *(None,) * (len(ys) - 1))
        return ys if self.return_state else ys[0]

    def lower_pass(self, g: Builder, x: Buffer, start: tuple[Buffer, ...], mask: Buffer | None, *, prefix: str = "", aligned: bool = False,
                   zero_masked: bool = False) -> tuple[Buffer, ...]:
        """Emit one pass, with parameters whose names begin with `prefix`; returns the output and, where they are wanted, the states."""
        x = drop(g, x, self.dropout, (None, 1, None), self.seed)
        N, T, _ = x.shape
        kind: Any = Walk if g.backend == "cuda" else Pass
        way = kind(self._cell(), x, self.units, g.training, self.go_backwards, aligned, self.return_sequences, zero_masked)
        factors = self._recurrent_mask(g, N)
        kept: list[Buffer] = [g.parameter(prefix + name) for name in self.state_names] if self.stateful else []
        nowhere: list[Buffer | None] = [None] * len(self.state_names)
        ends = [g.buffer(name, N, self.units) if self.return_state or kept else None for name in self.state_names]
        y = g.buffer("y", *((N, T, self.units) if self.return_sequences else (N, self.units)))
        weights = [g.parameter(prefix + "kernel"), g.parameter(prefix + "recurrent_kernel")]
        bias = g.parameter(prefix + "bias") if self.use_bias else None
        room: list[Buffer | None] = [None] * (2 - len(self.state_names))
        begin: list[Buffer | None] = [*(kept or start or nowhere), *room]
        writes: list[Buffer | None] = [y.rows(len(y.shape) - 1), *ends, *room]
        memory = way.run(g, writes, weights, bias, begin, mask, factors)
        if g.mode != "gradients":
            for state, end in zip(kept, ends, strict=False):
                assert end is not None
                g.step("prims.recurrent.keep_state", updates=[state], reads=[end])
        ys = (y, *(end for end in ends if end is not None and self.return_state))

        def backward(dy: Buffer | None, *dends: Buffer | None) -> tuple[Buffer | None, ...]:
            dstart = [g.buffer(f"d{name}", N, self.units) for name in self.state_names[:len(start)]]
            given = [dy.rows(len(dy.shape) - 1) if dy is not None else None, *(dends or nowhere), *room]
            way.run_back(g, memory, [*(dstart or nowhere), *room], given, weights[1])
            dbias = g.gradient(prefix + "bias") if self.use_bias else None
            way.weight_gradients(g, memory, g.gradient(prefix + "kernel"), g.gradient(prefix + "recurrent_kernel"), dbias)
            dx = g.buffer("dx", *x.shape)
            way.input_gradient(g, memory, dx, weights[0])
            return (dx, *dstart)
        g.on_backward(ys, [x, *start], backward)
        return (g.penalize(y, self.activity_regularizer), *ys[1:])

    def _recurrent_mask(self, g: Builder, N: int) -> Buffer | None:
        """The factors of h on its way into the recurrent kernel: 0 or 1 / (1 - recurrent_dropout)."""
        rate = self.recurrent_dropout
        if not g.training or rate == 0:
            return None
        factors = g.buffer("recurrent_mask", N, self.units)
        scalars = (rate, 1 / (1 - rate), g.stream(), -1 if self.seed is None else self.seed)
        g.step("layers.dropout.dropout_mask", [factors], [g.state("counters")], scalars=scalars, rows=N)
        return factors

    def _bias_shape(self) -> Shape:
        return (self.gates * self.units,)

    def _bias_start(self) -> Initializer:
        return self.bias_initializer

    def _cell(self) -> Cell:
        raise TypeError(f"{type(self).__name__} does not say what its cell is")

    def _cell_of(self, name: str, kept: int, **fields: Any) -> Cell:
        """The cell of kernels that begin with `name`, with the layer's activations."""
        inner, gate = self.activation, getattr(self, "recurrent_activation", None)
        codes = (_code(inner) or 0, 0 if gate is None else _code(gate) or 0)
        first, second = ((part.scalars()[:1] or (0.0,))[0] if part is not None else 0.0 for part in (inner, gate))
        usual = inner.kernel == "tanh" and (gate is None or gate.kernel == "sigmoid")
        return Cell(kernel=f"layers.recurrent.{name}{'' if usual else '_any'}", gates=self.gates, kept=kept, cells=len(self.state_names) == 2,
                    codes=codes, constants=(first, second), **fields)


@spec()
class SimpleRNN(Recurrent):
    """h = activation(x W + b + h' R), h' the state before (Elman, Finding structure in time, Cognitive Science 14, 1990).

    activation: default tanh. use_bias: whether there is a b. kernel_initializer ("glorot_uniform"), recurrent_initializer ("orthogonal"),
    bias_initializer ("zeros"): how kernel W (features, units), recurrent_kernel R (units, units) and bias b (units,) start. Else see `Recurrent`.

    >>> SimpleRNN(8, return_sequences=True).output_shape((5, 3))
    (5, 8)
    """

    def _cell(self) -> Cell:
        return self._cell_of("simple_rnn", 1, into=0)


@base
class Gated(Recurrent):
    """Base of the layers whose cells have gates: these have an activation of their own, recurrent_activation."""

    recurrent_activation: ActivationFunction = cell_activation("sigmoid")
    use_bias: bool = boolean(default=True)               # again, as what follows, so as to come after recurrent_activation
    kernel_initializer: Initializer = initializer_field(default="glorot_uniform")
    recurrent_initializer: Initializer = initializer_field(default="orthogonal")
    bias_initializer: Initializer = initializer_field(default="zeros")


@spec()
class LSTM(Gated):
    """i, f, o = recurrent_activation(x W + b + h' R), u = activation(x W + b + h' R), each with its own part of W, b and R; c = f c' + i u;
    h = o activation(c). h', c': the state before.

    W (features, 4 units), R (units, 4 units) and b (4 units,) hold the parts in Keras' order: i, f, u, o (PyTorch has the same and two biases; in
    ONNX it is i, o, f, u). unit_forget_bias: b starts at 1 for f; default True. activation: default tanh, recurrent_activation: sigmoid. The other
    fields are those of `SimpleRNN` and `Recurrent`. The states are h and c.
    Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9, 1997; with f: Gers, Schmidhuber and Cummins 2000.

    >>> [shape for shape in LSTM(8, return_state=True).output_shapes((5, 3))]
    [(8,), (8,), (8,)]
    """

    arity: ClassVar[tuple[int, int | None]] = (1, 3)
    gates: ClassVar[int] = 4
    state_names: ClassVar[tuple[str, ...]] = ("hidden_state", "cell_state")

    unit_forget_bias: bool = boolean(default=True)

    def _bias_start(self) -> Initializer:
        return UnitForgetBias(self.bias_initializer) if self.unit_forget_bias else self.bias_initializer

    def _cell(self) -> Cell:
        return self._cell_of("lstm", 4, into=3)


@spec()
class GRU(Gated):
    """z, r = recurrent_activation(x W + b + h' R + b'), u = activation(x W + b + r (h' R + b')), each with its own part of W, b, R and b';
    h = z h' + (1 - z) u. h': the state before.

    reset_after: as above (default; the form of cuDNN and PyTorch), the bias is (2, 3 units): b, then b'. If False, u = activation(x W + b +
    (r h') R), and the bias is (3 units,): the form of Cho et al., Learning phrase representations using RNN encoder-decoder for statistical machine
    translation, EMNLP 2014, equations 5 to 8.
    W (features, 3 units) and R (units, 3 units) hold the parts in the order z, r, u (PyTorch: r, z, u). activation: default tanh,
    recurrent_activation: sigmoid. The other fields are those of `SimpleRNN` and `Recurrent`.

    >>> GRU(8).parameters((5, 3))["bias"].shape
    (2, 24)
    """

    gates: ClassVar[int] = 3

    reset_after: bool = boolean(default=True)

    def _bias_shape(self) -> Shape:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def _cell(self) -> Cell:
        return self._cell_of("gru", 4, into=3 if self.reset_after else 2, of=-1 if self.reset_after else 3, after=self.reset_after)
