"""Workers and the database are killed while jobs are submitted and worked; then every promise is looked up."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from random import Random

import pytest
from msgspec import Struct

from taskforge.cli.failures import UNAVAILABLE
from tests.chaos.producer import Producer
from tests.chaos.rig import LOGIN, Process, Rig, open_rig, send_to_all
from tests.support.ledger import Ledger, Note, check, read_diaries
from tests.support.waiting import until

FACTOR = float(os.environ.get("TASKFORGE_CHAOS_FACTOR", "1"))
ROUNDS = round(50 * FACTOR)
JOBS_PER_ROUND = 1_000
ROUNDS_UNDER_WAY = 2
DATABASE_DEATHS = max(1, round(3 * FACTOR))
WORKERS = 3
TTL = 10.0
STOPPED_SECONDS = TTL + 3.0
WORK_GOES_ON = 12.0
DATABASE_BACK = 10.0


class Death(Struct):
    """Of one worker; with its heartbeat, when the whole machine is to be gone."""

    pid: int
    at: float
    with_heartbeat: bool


class Outage(Struct):
    died: float
    back: float = 0.0


class Killer:
    """Keeps `WORKERS` workers running and kills them; what it did is for the figures."""

    def __init__(self, rig: Rig, rng: Random) -> None:
        self.rig = rig
        self.rng = rng
        self.workers: list[Process] = [rig.start_worker() for _ in range(WORKERS)]
        self.deaths: list[Death] = []
        self.outages: list[Outage] = []
        self.stops = 0
        self.cuts = 0

    async def kill_one(self) -> None:
        """A worker that has begun to work, at a random moment."""
        busy = await until(self._busy, timeout=30.0)
        assert isinstance(busy, list)
        await asyncio.sleep(self.rng.random() * 0.3)
        victim = self.rng.choice(busy)
        with_heartbeat = len(self.deaths) % 10 == 4
        heartbeats = victim.children() if with_heartbeat else []
        self.deaths.append(Death(victim.pid, time.time(), with_heartbeat))
        send_to_all([*heartbeats, victim.pid], signal.SIGKILL)
        await victim.kill()
        self.workers[self.workers.index(victim)] = self.rig.start_worker()

    async def tend(self) -> None:
        """As whoever supervises workers does: those that found no database when they started are started again."""
        for number, worker in enumerate(self.workers):
            if not worker.is_running:
                code = await worker.ended()
                assert code == UNAVAILABLE, f"{code}: {worker.log.read_text()}"
                self.workers[number] = self.rig.start_worker()

    async def _busy(self) -> list[Process]:
        await self.tend()
        return [w for w in self.workers if (self.rig.diaries / f"{w.pid}.diary").exists()]

    async def kill_database(self) -> None:
        outage = Outage(time.time())
        self.outages.append(outage)
        await self.rig.kill_database(with_backends=len(self.outages) % 2 == 0)
        await self.rig.database_returns()
        outage.back = time.time()

    async def cut_one(self) -> None:
        """A connection to the database, whatever it is doing."""
        connection = await self.rig.connect()
        try:
            pids = await connection.fetch("select pid from pg_stat_activity where usename = $1", LOGIN)
            await connection.execute("select pg_terminate_backend($1)", self.rng.choice(pids)["pid"])
        finally:
            await connection.close()
        self.cuts += 1

    async def stop_and_go(self, over: asyncio.Event) -> None:
        """A worker more, which is halted for longer than its time to live, goes on, and is halted again."""
        worker = self.rig.start_worker("naps", concurrency=5, prefetch=5)
        while not over.is_set():
            await until((self.rig.diaries / f"{worker.pid}.diary").exists, timeout=30.0)
            worker.send(signal.SIGSTOP)
            self.stops += 1
            await _unless(over, STOPPED_SECONDS)
            worker.send(signal.SIGCONT)
            await _unless(over, 2.0)
        self.workers.append(worker)


async def _unless(over: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await over.wait()
    except TimeoutError:
        pass


@pytest.mark.timeout(240 + 150 * FACTOR)
async def test_nothing_is_lost_or_done_twice_while_workers_and_the_database_are_killed() -> None:
    seed = int(os.environ.get("TASKFORGE_CHAOS_SEED", "0")) or Random().randrange(1, 1_000_000)
    print(f"\nseed {seed} (TASKFORGE_CHAOS_SEED)")
    began = time.monotonic()
    async with open_rig(ttl=TTL) as rig:
        server = await rig.start_server()
        await rig.create_queues()
        ledger = Ledger(rig.folder / "ledger")
        producer = Producer(ledger, dsn=rig.dsn, url=rig.url, token=rig.token, rng=Random(seed))
        killer = Killer(rig, Random(seed + 1))
        server_deaths: list[float] = []
        submitting: list[asyncio.Task[None]] = []
        over = asyncio.Event()
        stopping = asyncio.create_task(killer.stop_and_go(over))
        database_rounds = {round(ROUNDS * (i + 0.5) / DATABASE_DEATHS) for i in range(DATABASE_DEATHS)}
        server_rounds = {round(ROUNDS * (i + 0.8) / DATABASE_DEATHS) for i in range(DATABASE_DEATHS)}
        try:
            for number in range(ROUNDS):
                submitting.append(asyncio.create_task(producer.submit_mixed(JOBS_PER_ROUND)))
                if number in database_rounds:
                    await killer.kill_database()
                if number in server_rounds:
                    server_deaths.append(time.time())
                    await server.kill()
                    server = await rig.start_server()
                await killer.kill_one()
                await killer.cut_one()
                if len(submitting) > ROUNDS_UNDER_WAY:
                    await submitting.pop(0)
            await asyncio.gather(*submitting)
            over.set()
            await stopping
            worked = time.monotonic() - began
            await rig.at_rest(timeout=120.0)
            await killer.tend()
            assert [await _drained(worker) for worker in killer.workers] == [0] * len(killer.workers)
        finally:
            for task in (stopping, *submitting):
                task.cancel()
            await asyncio.gather(stopping, *submitting, return_exceptions=True)
            await producer.close()
            ledger.close()
        connection = await rig.connect()
        try:
            found = await check(connection, ledger=ledger.path, diaries=rig.diaries)
            queues = (await rig.health()).values()
            lost = {
                (row["job_id"], row["fence"]): row["finished_at"].timestamp()
                for row in await connection.fetch(
                    "select job_id, fence, finished_at from attempts where kind = 2"
                )
            }
            dead = await connection.fetchval("select count(*) from outcomes where state = 2")
        finally:
            await connection.close()
        notes = read_diaries(rig.diaries)
        elections = [Outage(at, at + TTL) for at in server_deaths]
        backs = [
            _given_back(death, notes, lost, killer.outages + (elections if death.with_heartbeat else []))
            for death in killer.deaths
        ]
        raw = max(_given_back(death, notes, lost, []) or 0.0 for death in killer.deaths)
        back = [seconds for seconds in backs if seconds is not None]
        goes_on = [_next_start(death, notes, killer.outages) for death in killer.deaths]
        progress = [_progress_after(outage, notes) for outage in killer.outages]
        print(
            f"{producer.submitted} jobs submitted: {found.acked} acknowledged, {found.maybe} in doubt"
            f" ({found.maybe_present} of them stored), {producer.repeats} repeated with their key,"
            f" refusals {producer.refusals}\n"
            f"{len(killer.deaths)} workers killed, {killer.stops} stops of a worker beyond its time to live,"
            f" {len(killer.outages)} deaths of the database, {len(server_deaths)} of the server,"
            f" {killer.cuts} connections cut\n"
            f"{found.starts} starts, {found.explained} ended by a recorded failure or loss,"
            f" {found.stale_refused} stale reports refused\n"
            f"after a worker's death its jobs could be claimed again in {statistics.median(back):.2f} s (median),"
            f" {max(back):.2f} s (longest; {raw:.2f} s with all setbacks);"
            f" work went on after {max(goes_on):.2f} s at the latest\n"
            f"database back after {[round(o.back - o.died, 2) for o in killer.outages]} s,"
            f" first start after that {[round(p, 2) for p in progress]} s\n"
            f"{worked:.0f} s of submitting, {time.monotonic() - began:.0f} s in all"
        )
        assert found.wrong() == {}
        assert max(back) <= WORK_GOES_ON
        assert max(goes_on) <= WORK_GOES_ON
        assert max(progress) <= DATABASE_BACK
        assert lost, "nothing was interrupted, so nothing was shown"
        for queue in queues:
            assert {queue[k] for k in ("pending", "scheduled", "retrying", "processing")} == {0}
        assert sum(queue["dead_letters"] for queue in queues) == dead


def _after(death: Death, done: float, setbacks: list[Outage]) -> float:
    """Seconds from the death to `done`. A setback that begins in between starts the clock again when it is over.

    Those are the times without a database. For a worker lost with its heartbeat, whose jobs only the reaper can give
    back, also the time to live of a server that died: after that another process is elected to reap.
    """
    since = death.at
    for setback in sorted(setbacks, key=lambda s: s.died):
        if setback.back > since and setback.died < done:
            since = setback.back
    return max(0.0, done - since)


def _given_back(
    death: Death, notes: list[Note], lost: dict[tuple[int, int], float], setbacks: list[Outage]
) -> float | None:
    """Seconds until the last of the jobs that were running in the worker could be claimed again; None if none ran."""
    runs = {(note.job_id, note.fence) for note in notes if note.pid == death.pid}
    times = [lost[run] for run in runs if run in lost]
    return _after(death, max(times), setbacks) if times else None


def _next_start(death: Death, notes: list[Note], setbacks: list[Outage]) -> float:
    """Seconds until any job was started, by whomever."""
    after = [note.at for note in notes if note.phase == "start" and note.at > death.at]
    return _after(death, min(after, default=death.at), setbacks)


def _progress_after(outage: Outage, notes: list[Note]) -> float:
    return min(note.at for note in notes if note.phase == "start" and note.at > outage.back) - outage.back


async def _drained(worker: Process) -> int:
    worker.send(signal.SIGTERM)
    return await worker.ended()
