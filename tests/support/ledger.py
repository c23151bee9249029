"""What producers were promised and what handlers did, kept outside the database, and the check of one by the other.

The producer's file is synced after every acknowledgement; a handler's process appends to a file of its own. An outcome
that nobody knows is written down as `maybe`: such a job may be there once, or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

AnyConnection = Any  # asyncpg's connections are generic only for type checkers
LOST_RUNNING, LOST_UNSTARTED = 2, 3


class Ledger:
    """The producer's side. A line: what is known, the job's id or `-`, its payload's hash, key or request, time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        self._written = 0
        self._synced = 0
        self._syncing = asyncio.Lock()

    async def acked(self, jobs: Iterable[tuple[str, bytes]]) -> None:
        """These jobs were acknowledged. Durable on return."""
        await self._write("ack", [(job_id, payload, "-") for job_id, payload in jobs])

    async def maybe(self, request: str, payloads: Iterable[bytes]) -> None:
        """Nobody knows whether these were stored. `request` is their key, or names the request that carried them."""
        await self._write("maybe", [("-", payload, request) for payload in payloads])

    def close(self) -> None:
        os.close(self._fd)

    async def _write(self, what: str, jobs: Sequence[tuple[str, bytes, str]]) -> None:
        now = time.time()
        lines = [
            f"{what} {job_id} {digest(payload)} {request} {now:.6f}\n" for job_id, payload, request in jobs
        ]
        os.write(self._fd, "".join(lines).encode())
        self._written += 1
        mine = self._written
        async with self._syncing:
            if self._synced < mine:
                upto = self._written
                await asyncio.to_thread(os.fsync, self._fd)
                self._synced = upto


class Diary:
    """A handler's side: one file for each process, every line one write."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}.diary"
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def note(self, phase: str, job_id: str, fence: int) -> None:
        os.write(self._fd, f"{phase} {job_id} {fence} {time.time():.6f}\n".encode())


class Note(Struct, frozen=True):
    """A line of a diary."""

    pid: int
    phase: str
    job_id: int
    fence: int
    at: float


def read_diaries(folder: Path) -> list[Note]:
    """Everything handlers wrote, in the order of time. A last line without its end was never written."""
    notes: list[Note] = []
    for path in folder.glob("*.diary"):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                phase, job_id, fence, at = line.split()
                notes.append(Note(int(path.stem), phase, int(job_id), int(fence), float(at)))
    return sorted(notes, key=lambda note: note.at)


class Findings(Struct):
    """What is wrong, by kind; all of them are empty after a sound run. The numbers are for people."""

    lost: list[int] = []
    changed: list[int] = []
    doubled: list[str] = []
    ghosts: list[int] = []
    torn: list[str] = []
    unended: list[int] = []
    started_twice: list[tuple[int, int]] = []
    unexplained: list[tuple[int, int]] = []
    uncharged: list[tuple[int, int]] = []
    effects_beside: list[tuple[int, int]] = []
    stale_accepted: list[tuple[int, int]] = []
    passed_over: list[tuple[int, int]] = []
    left_over: dict[str, int] = {}
    counts_differ: dict[str, tuple[int, int]] = {}

    acked: int = 0
    maybe: int = 0
    maybe_present: int = 0
    stored: int = 0
    starts: int = 0
    explained: int = 0
    stale_refused: int = 0

    def wrong(self) -> dict[str, Any]:
        """The kinds that are not empty, with a few examples each."""
        found = {}
        for name, value in structs.asdict(self).items():
            if isinstance(value, list) and value:
                found[name] = (len(value), value[:5])
            elif isinstance(value, dict) and value:
                found[name] = value
        return found


async def check(connection: AnyConnection, *, ledger: Path, diaries: Path) -> Findings:
    """Compare, once everything has come to rest. `connection` sees all tenants of a database used by this run only."""
    found = Findings()
    rows = await connection.fetch("select id, payload from jobs")
    stored = {row["id"]: digest(row["payload"]) for row in rows}
    outcomes = await connection.fetch("select id, fence, state from outcomes")
    attempts = await connection.fetch("select job_id, fence, kind from attempts")
    stale = await connection.fetch("select distinct job_id, fence from stale_reports")
    found.stored = len(stored)
    found.unended = sorted(stored.keys() - {row["id"] for row in outcomes})
    _check_promises(found, ledger, stored)
    fences = {(row["id"], row["fence"]) for row in outcomes}
    kinds = {(row["job_id"], row["fence"]): row["kind"] for row in attempts}
    _check_starts(found, read_diaries(diaries), fences, kinds)
    refused = {(row["job_id"], row["fence"]) for row in stale}
    found.stale_refused = len(refused)
    # The outcome of a last attempt that was lost carries the fence of the loss.
    found.stale_accepted = sorted(
        pair for pair in refused if pair in fences and kinds.get(pair) != LOST_RUNNING
    )
    last = dict(fences)
    found.passed_over = sorted(pair for pair in kinds if pair[1] > last.get(pair[0], pair[1]))
    await _check_rest(found, connection)
    return found


def _check_promises(found: Findings, ledger: Path, stored: dict[int, str]) -> None:
    acked: dict[int, str] = {}
    requests: defaultdict[str, set[str]] = defaultdict(set)
    for line in ledger.read_text().splitlines():
        what, job_id, payload, request, _ = line.split()
        if what == "ack":
            acked[int(job_id)] = payload
        else:
            requests[request].add(payload)
    promised = set(acked.values())
    present = Counter(stored.values())
    uncertain = {payload for payloads in requests.values() for payload in payloads} - promised
    found.acked, found.maybe = len(acked), len(uncertain)
    found.maybe_present = len(uncertain & present.keys())
    found.lost = sorted(job_id for job_id in acked if job_id not in stored)
    found.changed = sorted(i for i, payload in acked.items() if i in stored and stored[i] != payload)
    found.doubled = sorted(payload for payload, count in present.items() if count > 1)
    found.ghosts = sorted(i for i, payload in stored.items() if payload not in promised | uncertain)
    # A request is all or nothing.
    found.torn = sorted(
        request
        for request, payloads in requests.items()
        if 0 < len(payloads & present.keys()) < len(payloads)
    )


def _check_starts(
    found: Findings,
    notes: Sequence[Note],
    fences: set[tuple[int, int]],
    kinds: dict[tuple[int, int], int],
) -> None:
    starts = Counter((note.job_id, note.fence) for note in notes if note.phase == "start")
    effects = Counter((note.job_id, note.fence) for note in notes if note.phase == "effect")
    found.starts = starts.total()
    found.explained = sum(pair in kinds for pair in starts)
    found.started_twice = sorted(pair for pair, count in starts.items() if count > 1)
    found.unexplained = sorted(pair for pair in starts if pair not in fences and pair not in kinds)
    found.uncharged = sorted(pair for pair in starts if kinds.get(pair) == LOST_UNSTARTED)
    found.effects_beside = sorted(pair for pair in effects if pair not in starts or effects[pair] > 1)


async def _check_rest(found: Findings, connection: AnyConnection) -> None:
    """Nothing is held, waits, or lies where no claim would find it, and the running counts tell the truth."""
    for name, query in {
        "leases": "select count(*) from leases",
        "ready": "select count(*) from ready",
        "parked": "select count(*) from parked",
        "below floors": "select count_below_floors()",
        "idle in transaction": "select count(*) from pg_stat_activity where datname = current_database()"
        " and state like 'idle in transaction%' and state_change < now() - interval '1 s'",
    }.items():
        if count := await connection.fetchval(query):
            found.left_over[name] = count
    truth = await connection.fetchrow(
        "select (select count(*) from jobs) as submitted, 0 as ready, 0 as scheduled, 0 as retrying, 0 as leased,"
        " count(*) filter (where state = 1) as succeeded, count(*) filter (where state = 2) as failed,"
        " count(*) filter (where state = 3) as cancelled from outcomes"
    )
    for name, actual in truth.items():
        counted = await connection.fetchval(
            f"select coalesce((select sum({name}) from queue_totals), 0)"
            f" + coalesce((select sum({name}) from flow), 0)"
        )
        if counted != actual:
            found.counts_differ[name] = (int(counted), actual)


def digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()[:32]
