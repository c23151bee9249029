"""Runs the cases one after another, prints the table, writes the JSON."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from taskforge.bench import age, hanging, http, idle, latency, limits, promotion, throughput
from taskforge.bench.cluster import Cluster, cluster
from taskforge.bench.figures import Figure
from taskforge.bench.processes import quiet

Case = Callable[[Cluster, "Sizes"], Awaitable[list[Figure]]]


class Sizes(msgspec.Struct, frozen=True):
    """How much work a run measures; `quick` trades steadiness for time."""

    jobs: int = 500_000
    runs: int = 3
    backlog: int = 5_000_000
    extents: int = 200_000
    requests: int = 30_000
    latencies: int = 1_000
    idle_seconds: float = 30.0
    due: int = 1_000_000


QUICK = Sizes(
    jobs=100_000,
    runs=1,
    backlog=200_000,
    extents=20_000,
    requests=5_000,
    latencies=200,
    idle_seconds=5.0,
    due=50_000,
)


async def _produce_and_work(database: Cluster, sizes: Sizes) -> list[Figure]:
    return [await throughput.produce_and_work(database, count=sizes.jobs, runs=sizes.runs)]


async def _work_off(database: Cluster, sizes: Sizes) -> list[Figure]:
    return [await throughput.work_off(database, count=sizes.jobs, runs=sizes.runs)]


async def _http_batch(database: Cluster, sizes: Sizes) -> list[Figure]:
    return [await http.batches(database, count=sizes.jobs, runs=sizes.runs)]


async def _http_single(database: Cluster, sizes: Sizes) -> list[Figure]:
    return await http.singles(database, requests=sizes.requests, runs=sizes.runs)


async def _latency(database: Cluster, sizes: Sizes) -> list[Figure]:
    return await latency.latencies(database, samples=sizes.latencies, runs=sizes.runs)


async def _idle(database: Cluster, sizes: Sizes) -> list[Figure]:
    return await idle.idle(database, seconds=sizes.idle_seconds)


async def _snapshot(database: Cluster, sizes: Sizes) -> list[Figure]:
    return [await age.held_snapshot(database, extents=sizes.extents, runs=sizes.runs)]


async def _deep(database: Cluster, sizes: Sizes) -> list[Figure]:
    return await age.deep_backlog(database, waiting=sizes.backlog, runs=sizes.runs)


async def _promotion(database: Cluster, sizes: Sizes) -> list[Figure]:
    return await promotion.promotion(database, count=sizes.due, runs=sizes.runs)


async def _hanging(database: Cluster, sizes: Sizes) -> list[Figure]:
    return await hanging.hanging(database, count=sizes.jobs // 5, runs=sizes.runs)


async def _limits(database: Cluster, sizes: Sizes) -> list[Figure]:
    return await limits.limited(database, count=sizes.jobs // 5, seconds=5, runs=1)


async def _fairness(database: Cluster, sizes: Sizes) -> list[Figure]:
    return await limits.fairness(database, flood=sizes.jobs // 5, samples=sizes.latencies // 4, runs=1)


CASES: dict[str, Case] = {
    "end-to-end": _produce_and_work,
    "backlog": _work_off,
    "http-batch": _http_batch,
    "http-single": _http_single,
    "latency": _latency,
    "idle": _idle,
    "snapshot": _snapshot,
    "deep": _deep,
    "promotion": _promotion,
    "hanging": _hanging,
    "limits": _limits,
    "fairness": _fairness,
}


class Report(msgspec.Struct):
    taken_at: datetime
    machine: str
    postgresql: str
    seconds: float
    figures: list[Figure]


async def measure(names: list[str], sizes: Sizes, *, admin_dsn: str | None = None) -> Report:
    """Every named case on a fresh server of its own, so that none inherits what another has left waiting."""
    started = time.monotonic()
    figures: list[Figure] = []
    version = ""
    for name in names:
        sys.stderr.write(f"measuring {name} ...\n")
        async with cluster(admin_dsn) as database:
            os.environ["DATABASE_URL"] = database.dsn
            version = database.version
            figures += await CASES[name](database, sizes)
    return Report(datetime.now(UTC), machine(), version, time.monotonic() - started, figures)


def machine() -> str:
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else platform.machine()
    system = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores, {model}, {system}, Python {platform.python_version()}"


def show(report: Report, console: Console) -> None:
    table = Table(title=f"{report.machine}; PostgreSQL {report.postgresql}", title_justify="left")
    for column in ("figure", "value", "COPY", "ratio", "asked", "met", "cost of a job"):
        table.add_column(column)
    for figure in report.figures:
        table.add_row(
            figure.name,
            f"{figure.value:,.2f} {figure.unit}"
            if figure.value < 100
            else f"{figure.value:,.0f} {figure.unit}",
            "" if figure.ceiling is None else f"{figure.ceiling:,.0f}",
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            figure.asked,
            {True: "yes", False: "NO", None: ""}[figure.is_met],
            _cost(figure),
        )
    console.print(table)


def _cost(figure: Figure) -> str:
    if figure.cost is None:
        return figure.note
    cpu = ", ".join(f"{name} {us:.1f} us" for name, us in figure.cost.cpu_us.items())
    return f"{cpu}, WAL {figure.cost.wal_bytes:.0f} B, {figure.cost.commits:.4f} commits {figure.note}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="taskforge bench", description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"which of: {', '.join(CASES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small and unsteady, to see that it runs")
    parser.add_argument("--runs", type=int, help="runs behind each median")
    parser.add_argument("--output", type=Path, default=Path("bench.json"), help="where the JSON goes")
    parser.add_argument("--json", action="store_true", help="print the JSON in place of the table")
    parser.add_argument(
        "--database-url", help="measure on this server (a superuser's URL) in place of a fresh one"
    )
    options = parser.parse_args()
    names = options.cases or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"no case {unknown[0]!r}; there are: {', '.join(CASES)}")
    sizes = QUICK if options.quick else Sizes()
    if options.runs:
        sizes = msgspec.structs.replace(sizes, runs=options.runs)
    quiet()
    report = uvloop.run(measure(names, sizes, admin_dsn=options.database_url))
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=2)
    options.output.write_bytes(encoded + b"\n")
    if options.json:
        sys.stdout.write(encoded.decode() + "\n")
    else:
        show(report, Console(width=180))
