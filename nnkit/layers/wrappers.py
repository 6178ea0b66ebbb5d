"""Layers around layers: Bidirectional, TimeDistributed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from nnkit.layers.base import Layer, Parameter, Shape, flagged
from nnkit.layers.merge import Add, Average, Concatenate, Multiply
from nnkit.layers.recurrent import Recurrent, with_state
from nnkit.spec import is_of_family, spec

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["Bidirectional", "TimeDistributed"]

MERGES: Mapping[str, Layer] = {"concat": Concatenate(), "sum": Add(), "mul": Multiply(), "ave": Average()}


def _check_recurrent(instance: Any, attribute: Any, value: Any) -> None:
    optional = attribute.name == "backward_layer"
    if not (isinstance(value, Recurrent) or (optional and value is None)):
        rule = "SimpleRNN, an LSTM or a GRU" + (" or None" if optional else "")
        raise ValueError(f"Bidirectional: {attribute.name} must be a {rule}, received {value!r}")


def _check_merge(instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and not (isinstance(value, str) and value in MERGES):
        raise ValueError(f"Bidirectional: merge_mode must be one of {', '.join(map(repr, MERGES))} or None, received {value!r}")


@spec()
class Bidirectional(Layer):
    """A recurrent layer and another of its kind that goes backwards; their outputs side by side ("concat"), or what else merge_mode says.

    layer: a SimpleRNN, LSTM or GRU. merge_mode: "concat" (default), "sum", "mul", "ave", or None for two outputs. backward_layer: the other layer,
    with the other go_backwards and the same stateful, return_sequences and return_state; default: as `layer`.
    The outputs of both lie where their inputs lie (in Keras, around a layer that goes backwards, from the last step to the first); masked steps give
    0 where return_sequences is on. With return_state the states follow, forward then backward. Parameters are named "forward_lstm/kernel",
    "backward_lstm/kernel", ... Input as for `layer`; an initial_state is that of the layer, then of the other.
    Schuster and Paliwal, Bidirectional recurrent neural networks, IEEE Transactions on Signal Processing 45, 1997.

    >>> from nnkit import LSTM
    >>> Bidirectional(LSTM(8)).output_shape((5, 3))
    (16,)
    """

    arity: ClassVar[tuple[int, int | None]] = (1, 5)

    layer: Recurrent = attrs.field(validator=_check_recurrent)
    merge_mode: str | None = attrs.field(default="concat", validator=_check_merge)
    backward_layer: Recurrent | None = attrs.field(default=None, validator=_check_recurrent, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Refuse two layers that do not fit together."""
        ahead, back = self.layer, self.other
        if ahead.go_backwards == back.go_backwards:
            raise ValueError(f"Bidirectional: of layer and backward_layer one must have go_backwards, received {ahead.go_backwards} for both")
        for name in ("stateful", "return_sequences", "return_state", "units"):
            if getattr(ahead, name) != getattr(back, name):
                raise ValueError(f"Bidirectional: {name} must be the same for layer and backward_layer, "
                                 f"received {getattr(ahead, name)} and {getattr(back, name)}")
        if len(ahead.state_names) != len(back.state_names):
            raise ValueError(f"Bidirectional: layer and backward_layer must have as many states, received {ahead!r} and {back!r}")

    def __call__(self, *inputs: Any, initial_state: Any = None) -> Any:
        """As for a recurrent layer; initial_state: of the layer, then of the one that goes backwards."""
        return super().__call__(*with_state(inputs, initial_state))

    @property
    def other(self) -> Recurrent:
        """The layer that goes the other way."""
        return self.backward_layer or attrs.evolve(self.layer, go_backwards=not self.layer.go_backwards)

    @property
    def stateful(self) -> bool:
        """Whether both layers go on from batch to batch."""
        return self.layer.stateful

    def _both(self) -> list[tuple[str, Recurrent]]:
        """The two layers, each with what its parameters' names begin with."""
        from nnkit.tensors import own_name

        return [(f"{way}_{own_name(layer)}/", layer) for way, layer in (("forward", self.layer), ("backward", self.other))]

    @property
    def output_count(self) -> int:
        """One output or two, and the states of both."""
        return 1 + (self.merge_mode is None) + 2 * (self.layer.output_count - 1)

    def output_shapes(self, *shapes: Shape) -> tuple[Shape, ...]:
        """Those of the layer, merged; then the states'."""
        x, *states = shapes
        half = len(states) // 2
        if len(states) % 2:
            raise ValueError(f"Bidirectional: initial_state must be of both layers, {2 * len(self.layer.state_names)} in all, received {len(states)}")
        (first, *ahead), (second, *back) = self.layer.output_shapes(x, *states[:half]), self.other.output_shapes(x, *states[half:])
        merged = (first, second) if self.merge_mode is None else (MERGES[self.merge_mode].output_shape(first, second),)
        return (*merged, *ahead, *back)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The shape of the first output."""
        return self.output_shapes(*shapes)[0]

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """Those of both layers."""
        return {prefix + name: flagged(parameter, layer) for prefix, layer in self._both() for name, parameter in layer.parameters(shapes[0]).items()}

    def states(self, batch: int, *shapes: Shape) -> Mapping[str, Parameter]:
        """Those of both layers."""
        return {prefix + name: state for prefix, layer in self._both() for name, state in layer.states(batch, shapes[0]).items()}

    def lower(self, g: Builder, *xs: Buffer) -> tuple[Buffer, ...] | Buffer:
        """Both passes, then the merge."""
        x, *start = xs
        half, mask = len(start) // 2, g.mask()
        sequences = self.layer.return_sequences
        made = [layer.lower_pass(g, x, tuple(own), mask, prefix=prefix, aligned=True, zero_masked=sequences)
                for (prefix, layer), own in zip(self._both(), (start[:half], start[half:]), strict=True)]
        (first, *ahead), (second, *back) = made
        merged = (first, second) if self.merge_mode is None else (MERGES[self.merge_mode].lower(g, first, second),)
        ys = (*merged, *ahead, *back)
        kept = [mask if sequences else None] * len(merged)
        g.set_masks(*kept, *(None,) * (len(ys) - len(merged)))
        return ys if len(ys) > 1 else ys[0]


def _check_layer(instance: Any, attribute: Any, value: Any) -> None:
    if not is_of_family(value, "layer") or is_of_family(value, "network") or value.arity[0] != 1 or value.output_count != 1:
        raise ValueError(f"TimeDistributed: layer must be a layer of one input and one output, received {value!r}")
    if getattr(value, "stateful", False):
        raise ValueError(f"TimeDistributed: layer must not be stateful, received {value!r}: the rows of its batches are steps")


@spec()
class TimeDistributed(Layer):
    """The same layer at every time step: y[n, t] = layer(x[n, t]).

    layer: of one input and one output; its parameters are shared by all steps. Input (N, T, ...), output (N, T, ...); a mask is handed on. What the
    layer takes over the batch, such as the statistics of BatchNormalization, it takes over all samples and steps.
    Layers that work along the last axis alone, such as Dense, do the same without it.

    >>> from nnkit import Flatten
    >>> TimeDistributed(Flatten()).output_shape((5, 2, 3))
    (5, 6)
    """

    keeps_mask: ClassVar[bool] = True

    layer: Layer = attrs.field(validator=_check_layer)

    def output_shape(self, *shapes: Shape) -> Shape:
        """(T, ...) of what the layer makes of a step. Raises ValueError where there are no steps."""
        if not shapes[0]:
            raise ValueError("TimeDistributed must have samples of shape (steps, ...), received ()")
        return (shapes[0][0], *self.layer.output_shape(shapes[0][1:]))

    @property
    def index_limit(self) -> int | None:
        """The layer's."""
        return self.layer.index_limit

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """The layer's."""
        return {name: flagged(parameter, self.layer) for name, parameter in self.layer.parameters(shapes[0][1:]).items()}

    def lower(self, g: Builder, *xs: Buffer) -> Buffer:
        """The layer's steps, for N T samples."""
        (x,) = xs
        layer = self.layer if self.trainable else attrs.evolve(self.layer, trainable=False)
        y = g.with_masks((), lambda: layer.lower(g, x.reshaped(x.shape[0] * x.shape[1], *x.shape[2:])))
        g.set_masks(g.mask())
        return y.reshaped(*x.shape[:2], *y.shape[1:])
