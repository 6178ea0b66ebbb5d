"""What a layer is: a spec that knows its output's shape, its parameters, and how it lowers itself into steps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from nnkit.spec import Spec, base

if TYPE_CHECKING:
    from nnkit.initializers import Initializer
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer
    from nnkit.regularizers import Regularizer

__all__ = ["Layer", "Parameter"]

Shape = tuple[int, ...]
Form = tuple[str | None, bool]                          # see nnkit.graph.Adjacency.form


def snake_case(name: str) -> str:
    """Keras' default name of a class: PReLU -> p_re_lu, LayerNormalization -> layer_normalization."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


@attrs.frozen
class Parameter:
    """A declared parameter: its shape, how it starts, whether training changes it, its penalty, and whether it is a state: see `Layer.states`.

    rowwise: a batch reads some of its rows and nothing else of it, and the layer says which: see `Builder.touched`.
    The graph adds what is true of the layer: frozen (training would change it, but the layer is frozen; then trainable is False), and the factor by
    which its learning rate is multiplied.
    """

    shape: Shape
    initializer: Initializer
    trainable: bool = True
    regularizer: Regularizer | None = None
    is_state: bool = False
    rowwise: bool = False
    frozen: bool = False
    learning_rate_factor: float = 1.0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def flagged(parameter: Parameter, layer: Layer) -> Parameter:
    """The parameter with what is true of its layer: whether that is frozen, and its learning rate. Of nested layers first that of the inner one."""
    factor = parameter.learning_rate_factor * layer.learning_rate_factor
    if layer.trainable:
        return parameter if factor == 1 else attrs.evolve(parameter, learning_rate_factor=factor)
    return attrs.evolve(parameter, trainable=False, frozen=parameter.frozen or parameter.trainable, learning_rate_factor=factor)


def _check_name(instance: Any, attribute: Any, value: object) -> None:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", value)):
        raise ValueError(f"{type(instance).__name__}: name must be made of letters, digits, '_', '.' and '-', received {value!r}")


def _check_trainable(instance: Any, attribute: Any, value: object) -> None:
    if type(value) is not bool:
        raise ValueError(f"{type(instance).__name__}: trainable must be True or False, received {value!r}")


def _as_factor(value: Any) -> Any:
    return float(value) if type(value) is int else value


def _check_factor(instance: Any, attribute: Any, value: object) -> None:
    if type(value) is not float or not 0 < value < math.inf:
        raise ValueError(f"{type(instance).__name__}: learning_rate_factor must be a finite number greater than 0, received {value!r}")


@base
class Layer(Spec):
    """Base of all layers.

    name: of the layer in the network and in its parameters' names; by default the class name in snake case, numbered.
    trainable: False freezes the layer: its parameters stay as they are.
    learning_rate_factor: the layer's learning rate is this times the optimizer's, greater than 0; default 1. Of layers in a nested network it is
    multiplied by that of the network.
    Shapes here are without the batch dimension. arity: fewest and most inputs that the layer takes (None: any number).
    is_view: the output is the input's memory, seen with another shape. keeps_mask: the output's time steps (axis 1) are those of the input, so the
    input's mask is the output's, too; with several inputs, a step counts where it counts in all of them.
    graph_at: which input is a graph; None: none is. pairs_at: which input holds numbers of nodes. to_samples: the output has a row for each sample
    (graph, pair of nodes), no longer one for each node.
    """

    family: ClassVar[str] = "layer"
    arity: ClassVar[tuple[int, int | None]] = (1, 1)
    is_view: ClassVar[bool] = False
    keeps_mask: ClassVar[bool] = False
    graph_at: ClassVar[int | None] = None
    pairs_at: ClassVar[int | None] = None
    to_samples: ClassVar[bool] = False

    name: str | None = attrs.field(default=None, kw_only=True, validator=_check_name)
    trainable: bool = attrs.field(default=True, kw_only=True, validator=_check_trainable)
    learning_rate_factor: float = attrs.field(default=1.0, kw_only=True, validator=_check_factor, converter=_as_factor)

    def __call__(self, *inputs: Any) -> Any:
        """The layer's output as a symbolic tensor, for inputs (tensors or Inputs, also as one list) of a network that is being declared.

        Every call of one layer uses the same parameters. Raises TypeError and ValueError where it cannot take the inputs.
        """
        from nnkit.tensors import call

        return call(self, inputs)

    def output_shape(self, *shapes: Shape) -> Shape:
        """The output's shape for inputs of these shapes. Raises ValueError where the layer cannot take them."""
        return shapes[0]

    def output_shapes(self, *shapes: Shape) -> tuple[Shape, ...]:
        """The shapes of all outputs; mostly there is one."""
        return (self.output_shape(*shapes),)

    @property
    def output_count(self) -> int:
        """How many outputs there are."""
        return 1

    @property
    def index_limit(self) -> int | None:
        """Of a layer that takes its input as indices: the number below which they must lie. None: it takes numbers."""
        return None

    @property
    def takes_sparse(self) -> bool:
        """Whether the first input may be a sparse matrix, `Input(..., sparse=True)`."""
        return self.keeps_sparse

    @property
    def keeps_sparse(self) -> bool:
        """Whether of a sparse matrix the output is one, too."""
        return False

    @property
    def form(self) -> Form | None:
        """How a layer with a graph wants the adjacency: (normalization, whether nodes are their own neighbours). None: it needs none."""
        return None

    def states(self, batch: int, *shapes: Shape) -> Mapping[str, Parameter]:
        """What the layer keeps of each row from one batch to the next, as parameters that no optimizer changes; nothing for most."""
        return {}

    def parameters(self, *shapes: Shape) -> Mapping[str, Parameter]:
        """The layer's parameters by name, for inputs of these shapes."""
        return {}

    def lower(self, g: Builder, *xs: Buffer) -> Buffer | tuple[Buffer, ...]:
        """Emit the forward steps, hand the backward steps to `g.on_backward`; returns the output, or a tuple of them where there are several."""
        raise TypeError(f"{type(self).__name__} does not say how it lowers itself")
