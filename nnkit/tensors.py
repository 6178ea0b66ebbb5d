"""What layers are called on: `Input`s, and the symbolic tensors that come out.

    x = Input((20,))
    h = Dense(64, activation="relu")(x)

A tensor names a call and one of its outputs, and knows its shape; it holds no numbers. `Network` (network.py) collects the calls that its outputs
depend on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import attrs

from nnkit.layers.base import Layer, Shape, snake_case
from nnkit.spec import boolean, integer, shape_of, spec

__all__ = ["Call", "GraphInput", "Input", "Tensor", "as_tensors", "call", "key_of", "output_shapes", "own_name", "path_to"]


@spec()
class Input(Layer):
    """Where data enters. shape: of one sample, without the batch dimension; every entry at least 0. It can be used as a tensor itself.

    batch_size: samples of every batch, at least 1, for networks that keep a state of each of its rows (`stateful`); default None: any number.
    sparse: whether data comes as a SciPy sparse matrix, shape (features,), and stays one: the first layer multiplies it as it is. For the features of
    the nodes in a network with a `GraphInput`; default False.
    What an `Embedding` takes from it are whole numbers, so the input's are int32 then; otherwise they are of the model's dtype.

    >>> Input((28, 28, 1)).shape
    (28, 28, 1)
    """

    arity: ClassVar[tuple[int, int | None]] = (0, 0)

    shape: Shape = shape_of(low=0)
    batch_size: int | None = integer(default=None, low=1, none=True)
    sparse: bool = boolean(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Refuse sparse samples that are no rows of a matrix."""
        if self.sparse and len(self.shape) != 1:
            raise ValueError(f"Input: shape must be (features,) where sparse is True, received {self.shape!r}")

    @property
    def kind(self) -> str:
        """What the data is: "numbers", "sparse" or "graph"."""
        return "sparse" if self.sparse else "numbers"

    def output_shape(self, *shapes: Shape) -> Shape:
        """The declared shape."""
        return self.shape


def _check_default(instance: Any, attribute: Any, value: object) -> None:
    if value != attribute.default:
        raise ValueError(f"GraphInput: {attribute.name} must be {attribute.default}, received {value!r}")


@spec()
class GraphInput(Input):
    """Where a graph enters: which nodes are neighbours, with weights of the edges. Graph layers take it as their second input.

    In a network that has one, every other Input holds a row for each node of the graph (but for pairs of nodes, see `EdgeDot`). A model takes the
    graph as a `nnkit.graph.Adjacency`, or as anything that makes one: a SciPy sparse matrix, edges (2, E), a NetworkX graph. All of it is one batch.

    >>> x, a = Input((16,)), GraphInput()
    >>> x.shape, a.shape
    ((16,), ())
    """

    shape: Shape = attrs.field(default=(), validator=_check_default, kw_only=True)
    batch_size: int | None = attrs.field(default=None, validator=_check_default, kw_only=True)
    sparse: bool = attrs.field(default=False, validator=_check_default, kw_only=True)

    @property
    def kind(self) -> str:
        """A graph."""
        return "graph"


# Symbolic tensors.

@attrs.frozen(eq=False)
class Call:
    """One call of a layer on tensors. Compared by identity: two calls of one layer are two places in a network."""

    layer: Layer
    inputs: tuple[Tensor, ...]


@attrs.frozen(eq=False, repr=False)
class Tensor:
    """What a layer returns when it is called on tensors: output `index` of a call, with the shape of one sample. It holds no numbers."""

    call: Call
    index: int
    shape: Shape

    def __repr__(self) -> str:
        return f"<Tensor {path_to(self)} of shape {self.shape}>"

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"a {self!r} cannot be unpacked: it is one output of a layer")


def as_tensors(values: Any, what: str) -> tuple[Tensor, ...]:
    """Tensors and Inputs, one or a list of them, as tensors. Raises TypeError for anything else."""
    items = tuple(values) if isinstance(values, (list, tuple)) else (values,)
    tensors = tuple(Tensor(Call(item, ()), 0, item.shape) if isinstance(item, Input) else item for item in items)
    for item in tensors:
        if not isinstance(item, Tensor):
            raise TypeError(f"{what} must be Inputs or what layers return when they are called on them, received {item!r}")
    return tensors


def call(layer: Layer, inputs: tuple[Any, ...]) -> Tensor | tuple[Tensor, ...]:
    """What `layer(*inputs)` returns: a tensor, or a tuple of them where there are several outputs. Raises TypeError, ValueError."""
    if len(inputs) == 1 and isinstance(inputs[0], (list, tuple)):
        inputs = tuple(inputs[0])
    tensors = as_tensors(inputs, f"the inputs of {type(layer).__name__}")
    shapes = output_shapes(layer, tuple(tensor.shape for tensor in tensors), [path_to(tensor) for tensor in tensors])
    made = Call(layer, tensors)
    outputs = tuple(Tensor(made, index, shape) for index, shape in enumerate(shapes))
    return outputs if len(outputs) > 1 else outputs[0]


def key_of(call: Call) -> int:
    """What tells calls apart: the call itself; of an Input, which stands for itself, the Input."""
    return id(call.layer) if isinstance(call.layer, Input) else id(call)


def path_to(tensor: Tensor) -> str:
    """The layers from an input to a tensor, always by their first input: "input -> dense -> add"."""
    layers: list[Layer] = []
    at: Call | None = tensor.call
    while at is not None:
        layers.append(at.layer)
        at = at.inputs[0].call if at.inputs else None
    shown = [layers[-1], None, *layers[2::-1]] if len(layers) > 5 else layers[::-1]
    return " -> ".join("..." if layer is None else own_name(layer) for layer in shown)


def own_name(layer: Layer) -> str:
    """The layer's name, or what it is numbered by."""
    return layer.name or snake_case(type(layer).__name__)


def output_shapes(layer: Layer, shapes: tuple[Shape, ...], paths: Sequence[str]) -> tuple[Shape, ...]:
    """The shapes of a layer's outputs, once it has been checked that it takes these inputs. Raises ValueError with the paths of the inputs."""
    least, most = layer.arity
    fault = f"layer {own_name(layer)!r} cannot take {' and '.join(paths) or 'nothing'}"
    if len(shapes) < least or (most is not None and len(shapes) > most):
        wanted = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{fault}: it needs {wanted} input{'s' * (wanted != '1')}, received {len(shapes)}")
    try:
        found = layer.output_shapes(*shapes)
        layer.parameters(*shapes)
        return found
    except ValueError as error:
        raise ValueError(f"{fault}: {error}") from None
