"""A plan and a network as text: the table of steps, the graph in DOT, the summary of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnkit.plan.arena import in_arena
from nnkit.plan.plan import CHIP, Buffer, Plan, Step

if TYPE_CHECKING:
    from nnkit.nodes import Graph

__all__ = ["dot", "summary_text", "table"]

COLUMNS = ("step", "group", "phase", "layer", "kernel", "writes", "reads", "scratch", "tasks", "FLOPs", "bytes", "arena")


def columns(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Rows of cells as lines of aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(row)).rstrip() for row in rows]


def quantity(value: int) -> str:
    """A count with a thousands separator, or nothing for 0."""
    return f"{value:,}" if value else ""


def shape_text(buffer: Buffer) -> str:
    """name[shape]; n: as many rows as the caller's array has. A dash for an array that is not there, such as the bias of a layer without one."""
    if not buffer.size and buffer.role != "external":
        return "-"
    return f"{buffer.name}[{'x'.join('n' if d == 0 and buffer.role == 'external' else str(d) for d in buffer.shape)}]"


def places(plan: Plan, step: Step) -> str:
    """Where in the arena, or on chip, what the step writes lies, then its scratch; and whose memory it takes over."""
    found = []
    for buffer in step.writes + step.scratch:
        if buffer.size and (in_arena(buffer) or buffer.role in CHIP):
            storage = plan.storage(buffer.name)
            at = f"chip {plan.chip[storage]:#x}" if buffer.role in CHIP else f"{plan.offsets.get(storage, 0):#x}"
            found.append(at + (f" in place of {storage}" if storage != buffer.name else ""))
    return " ".join(found)


def table(plan: Plan) -> str:
    """Every step with its kernel, buffers, tasks, cost and places, then the totals. Of a plan for a device with its launch and its lane in that."""
    groups = "launches" if plan.lanes else "groups"
    rows: list[Sequence[str]] = [tuple("launch.lane" if plan.lanes and name == "group" else name for name in COLUMNS)]
    for group, (start, stop) in enumerate(plan.group_bounds()):
        for index in range(start, stop):
            step = plan.steps[index]
            lane = f".{sum(start < first <= index for first in plan.lanes)}" if plan.lanes else ""
            rows.append((str(index), f"{group}{lane}", step.phase, step.layer, step.kernel,
                         " ".join(map(shape_text, step.writes + step.updates)), " ".join(map(shape_text, step.reads)),
                         " ".join(map(shape_text, step.scratch)), str(step.tasks), quantity(step.flops), quantity(step.nbytes), places(plan, step)))
    saved = plan.separate_bytes - plan.arena_bytes
    external = f"; arrays of the caller {plan.external_bytes:,} bytes" if plan.external_bytes else ""
    share = f" ({saved / plan.separate_bytes:.0%} saved by sharing)" if plan.separate_bytes else ""
    chip = f"; shared memory of a block {plan.chip_bytes:,} bytes" if plan.chip_bytes else ""
    return "\n".join([
        f"plan {plan.mode}, batch {plan.batch}, {plan.dtype}: {len(plan.steps)} steps in {len(plan.groups)} {groups}",
        *columns(rows, right=frozenset({0, 1, 8, 9, 10})),
        f"FLOPs per step {plan.flops:,}; arena {plan.arena_bytes:,} bytes{share}{chip}{external}",
    ])


def dot(plan: Plan) -> str:
    """The plan in the DOT language: steps as boxes in clusters of their groups, buffers as edges."""
    lines = ["digraph plan {", "  rankdir=TB; node [shape=box, fontname=monospace];"]
    writer: dict[str, int] = {}
    for group, (start, stop) in enumerate(plan.group_bounds()):
        lines.append(f"  subgraph cluster_{group} {{ label=\"group {group}, {plan.steps[start].tasks} tasks\";")
        for index in range(start, stop):
            step = plan.steps[index]
            lines.append(f"    s{index} [label=\"{step.kernel.rpartition('.')[2]}\\n{step.layer} {step.phase}\\n{step.flops:,} FLOPs\"];")
        lines.append("  }")
    for index, step in enumerate(plan.steps):
        for buffer in step.reads + step.updates:
            if buffer.name in writer and buffer.size:
                lines.append(f"  s{writer[buffer.name]} -> s{index} [label=\"{shape_text(buffer)} {buffer.nbytes:,} B\"];")
        for buffer in step.writes + step.updates:
            if buffer.size:                              # one that is not there bears another's name
                writer[buffer.name] = index
    return "\n".join([*lines, "}"])


def summary_text(graph: Graph) -> str:
    """The layers with output shapes and numbers of parameters, then the totals; states that layers keep are no parameters."""
    rows: list[Sequence[str]] = [("layer", "type", "output shape", "parameters")]
    declared = {name: parameter for name, parameter in graph.parameters().items() if not parameter.is_state}
    counted: set[str] = set()
    for node in graph.nodes:
        own = [f"{node.name}/{name}" for name in node.layer.parameters(*node.input_shapes)]
        count = sum(declared[name].size for name in own if name not in counted)
        counted.update(own)
        frozen = "" if node.layer.trainable or not own else " (frozen)"
        rows.append((node.name, type(node.layer).__name__, " ".join(str((None, *shape)) for shape in node.shapes), f"{count:,}{frozen}"))
    total = sum(parameter.size for parameter in declared.values())
    trainable = sum(parameter.size for parameter in declared.values() if parameter.trainable)
    lines = columns(rows, right=frozenset({3}))
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:], rule, f"parameters: {total:,}, trainable {trainable:,}, not trainable {total - trainable:,}"])
