"""Timings that alternate, and tables of them for a terminal and for docs/results."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Findings:
    """One table."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Took:
    """Seconds of one call."""

    wall: float
    cpu: float


def timed(call: Callable[[], Any]) -> Took:
    """Wall-clock and CPU seconds, child processes that end in the call included."""
    before, start = _cpu_seconds(), time.perf_counter()
    call()
    return Took(time.perf_counter() - start, _cpu_seconds() - before)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def alternating(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[Took]]:
    """Every side once a round, so that whatever else the machine does hits all of them."""
    taken = [{name: timed(side) for name, side in sides.items()} for _ in range(rounds)]
    return {name: [one[name] for one in taken] for name in sides}


def spread(values: list[float], digits: int = 2) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} – {max(values):,.{digits}f})"


def as_table(findings: Findings) -> Table:
    table = Table(*findings.header, title=findings.title)
    for row in findings.rows:
        table.add_row(*row)
    return table


def as_markdown(findings: Findings) -> str:
    rows = [findings.header, ["---"] * len(findings.header), *findings.rows]
    return f"{findings.title}:\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
