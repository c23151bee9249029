"""What a run produces: named figures with their unit, what was asked of them, and the cost of a job."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from msgspec import Struct


class Cost(Struct, frozen=True):
    """Per job: CPU microseconds of each process, WAL bytes, commits."""

    cpu_us: dict[str, float]
    wal_bytes: float
    commits: float


class Figure(Struct, frozen=True):
    """One row of the table. `ceiling` is COPY in the same run, in jobs a second; `asked` is what must be shown."""

    name: str
    value: float
    unit: str
    asked: str
    is_met: bool | None
    runs: list[float]
    ceiling: float | None = None
    cost: Cost | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.ceiling is None else self.value / self.ceiling


def against_ceiling(
    name: str,
    runs: Sequence[float],
    ceilings: Sequence[float],
    *,
    least: float,
    cost: Cost | None = None,
    note: str = "",
) -> Figure:
    """Jobs a second beside COPY: medians of both, met when their ratio is at least `least`."""
    value, ceiling = statistics.median(runs), statistics.median(ceilings)
    return Figure(
        name,
        value,
        "jobs/s",
        f">= {least:g} x COPY",
        value / ceiling >= least,
        [round(run, 1) for run in runs],
        ceiling,
        cost,
        note,
    )


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
