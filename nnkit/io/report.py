"""What became of every parameter when it was looked for by name in a file or in another model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np

if TYPE_CHECKING:
    from nnkit.nodes import Graph

__all__ = ["FormatError", "Report", "compare", "source_name", "source_names"]

Shape = tuple[int, ...]

SHOWN = 10                                               # names that a message or a printed report lists of each kind


class FormatError(ValueError):
    """A file is not what it must be: damaged, cut short, of another format or version, or asking for what no data needs."""


@attrs.frozen
class Report:
    """Names of parameters, as the model has them; of `unused` as the source has them.

    copied: found, and of the same shape. missing: not found. different: found with another shape, as (name, the model's shape, the shape found);
    they stay as they were. unused: what the source holds and nothing took. Prints as a table.
    """

    copied: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    different: tuple[tuple[str, Shape, Shape], ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every parameter of the model was copied."""
        return not self.missing and not self.different

    def __str__(self) -> str:
        lines = [f"copied {len(self.copied)} parameters"]
        lines += _listed("missing in the source", self.missing)
        lines += _listed("of another shape", [f"{name}: {own} here, {found} there" for name, own, found in self.different])
        lines += _listed("not used", self.unused)
        return "\n".join(lines)

    def check(self, what: str) -> None:
        """Raise ValueError where the report is not complete, with the first names; what: the source in the message."""
        if self.complete:
            return
        faults = [f"{name} of shape {own} has shape {found} there" for name, own, found in self.different]
        faults += [f"{name} is not there" for name in self.missing]
        rest = f", and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        spare = f"; not used: {', '.join(self.unused[:SHOWN])}{', ...' if len(self.unused) > SHOWN else ''}" if self.unused else ""
        raise ValueError(f"{what} does not fit the network: {'; '.join(faults[:SHOWN])}{rest}{spare}")


def _listed(title: str, names: Sequence[str]) -> list[str]:
    more = [f"  ... and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [f"{title}: {len(names)}", *(f"  {name}" for name in names[:SHOWN]), *more] if names else []


def compare(own: Mapping[str, Shape], found: Mapping[str, np.ndarray], unused: Iterable[str] = ()) -> Report:
    """The report for own parameters (name -> shape) of which `found` holds arrays by the same names."""
    there = {name: tuple(found[name].shape) for name in own if name in found}
    return Report(copied=tuple(name for name, shape in there.items() if shape == own[name]),
                  missing=tuple(name for name in own if name not in there),
                  different=tuple((name, own[name], shape) for name, shape in there.items() if shape != own[name]),
                  unused=tuple(unused))


def source_name(layer: str, names: Mapping[str, str] | None) -> str:
    """What the source calls a layer.

    names: the layer's own name -> the source's, also as patterns in which one `*` stands for the same text on both sides ("base/*" -> "*"). Names
    that stand there whole come first, then patterns in their order; a layer that none fits has the same name in the source.
    """
    names = names or {}
    if layer in names:
        return names[layer]
    for pattern, other in names.items():
        if pattern.count("*") == 1:
            fitting = re.fullmatch("(.*)".join(map(re.escape, pattern.split("*"))), layer)
            if fitting:
                return other.replace("*", fitting[1])
    return layer


def source_names(graph: Graph, names: Mapping[str, str] | None) -> dict[str, str]:
    """For each parameter of a graph its name in a source that calls parameters as nnkit does: that of the layer, see `source_name`, and its own."""
    found = {}
    for node in graph.nodes:
        declared = {**node.layer.parameters(*node.input_shapes), **node.layer.states(1, *node.input_shapes)}
        found.update({f"{node.name}/{own}": f"{source_name(node.name, names)}/{own}" for own in declared})
    return found
