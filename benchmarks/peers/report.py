"""What the driver prints: Markdown tables of times and ratios."""

from __future__ import annotations

import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workloads import WORKS, Work, traffic


@dataclass
class Result:
    """What one peer showed on one piece of work: seconds per repetition, by item and round."""

    peer: str
    times: dict[str, list[float]] = field(default_factory=dict)
    loss: float | None = None
    checks: dict[str, list[float]] = field(default_factory=dict)
    megabytes: float | None = None
    problem: str = ""
    note: str = ""

    def add(self, answer: dict[str, Any]) -> None:
        for item, seconds in answer["times"].items():
            self.times.setdefault(item, []).append(seconds)
        self.megabytes = answer.get("megabytes")


def processor() -> str:
    """The processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def ratio(result: Result, item: str, base: Result | None) -> str:
    """How many times nnkit's time the peer needs: the median over the rounds, each round's two times divided by each other."""
    if base is None or item not in base.times or result is base:
        return ""
    return f"{statistics.median(a / b for a, b in zip(result.times[item], base.times[item], strict=False)):.3g}"


def goal(work: Work, peer: str, item: str) -> str:
    if (peer, item) in work.limits:
        return f"at most {duration(work.limits[peer, item])}"
    return f"at least {work.targets[peer]:g}" if peer in work.targets else ""


def table(name: str, results: list[Result]) -> str:
    """One Markdown table with a heading."""
    work = WORKS[name]
    base = next((result for result in results if result.peer in ("nnkit", "nnkit-cuda") and not result.problem), None)
    if name in ("activations", "optimizers"):
        rows = bandwidths(name, results, base)
    else:
        rows = ["| peer | | best | median | times nnkit's | to reach | loss | peak MB |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
        for result in results:
            for item, seconds in result.times.items():
                loss = "" if result.loss is None else f"{result.loss:.3f}"
                memory = "" if result.megabytes is None else f"{result.megabytes:.0f}"
                cells = (result.peer, item, duration(min(seconds)), duration(statistics.median(seconds)), ratio(result, item, base),
                         goal(work, result.peer, item), loss, memory)
                rows.append("| " + " | ".join(cells) + " |")
    rows += [f"\n{result.peer}: {result.note}" for result in results if result.note]
    rows += [f"\n{result.peer}: {result.problem}; not timed" for result in results if result.problem]
    return f"**{name}**: {work.title}; one {work.unit}\n\n" + "\n".join(rows) + "\n"


def bandwidths(work: str, results: list[Result], base: Result | None) -> list[str]:
    """One row for each item: every peer's time and GB/s, and nnkit's share of the copy bandwidth that the same run reached."""
    good = [result for result in results if not result.problem]
    copies = [bandwidth(work, "copy", result) for result in good if "copy" in result.times]
    heading = "| item | " + " | ".join(f"{result.peer} median | GB/s" for result in good) + " | torch / nnkit | share of copy |"
    rows = [heading, "| --- " * (heading.count("|") - 1) + "|"]
    for item in dict.fromkeys(item for result in good for item in result.times):
        cells = [item]
        for result in good:
            there = item in result.times
            cells += [duration(statistics.median(result.times[item])), f"{bandwidth(work, item, result) / 1e9:.1f}"] if there else ["", ""]
        torch = next((result for result in good if result.peer in ("torch", "torch-cuda") and item in result.times), None)
        cells.append(ratio(torch, item, base) if torch else "")
        share = base is not None and item in base.times and copies
        cells.append(f"{bandwidth(work, item, base) / max(copies):.0%}" if share and base else "")
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def bandwidth(work: str, item: str, result: Result) -> float:
    """Bytes per second, of the median time. Peers on a GPU have larger arrays."""
    return traffic(work, item, gpu="-cuda" in result.peer) / statistics.median(result.times[item])
