"""Laws of limits (E8) under random load: what is leased never passes a limit, every slot comes back, every job ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from taskforge.domain.leases import Lease
from taskforge.domain.limits import KeyPolicy
from taskforge.domain.queues import QueueChange, QueueDraft
from taskforge.domain.terms import JobTerms
from taskforge.postgres import limits
from taskforge.services import leases, queues
from taskforge.services import limits as services
from tests.support.engine import Engine, Failed, Worker, released, report, succeeded

QUEUES = ("a", "b")
KEYS = ("x", "y", "z")


def retried(job_id: int) -> Failed:
    return Failed(job_id, 10, 20, "ValueError", "no", "trace", 0.0)


class Load:
    """A ledger of what is leased, kept outside the database, beside the limits in force."""

    def __init__(self, engine: Engine, rng: Random) -> None:
        self.engine = engine
        self.rng = rng
        self.most: dict[Any, int | None] = {"a": 4, "b": None, ("a", None): 2, ("b", None): 3}
        self.held: list[tuple[Worker, Lease]] = []
        self.workers: list[Worker] = []
        self.submitted: set[int] = set()
        self.ended: Counter[int] = Counter()
        self.full = 0

    async def begin(self) -> None:
        for name in QUEUES:
            draft = QueueDraft(
                name=name,
                max_concurrency=self.most[name],
                key_max_concurrency=self.most[name, None],
                max_attempts=100,
            )
            await queues.create(self.engine.core, self.engine.ctx, draft)
        for _ in range(4):
            self.workers.append(await self.engine.register(*QUEUES))

    def key(self, lease: Lease) -> str | None:
        option = lease.options[0] if lease.options else None
        return option.terms.concurrency_key if option and option.terms else None

    def running(self) -> Counter[Any]:
        found: Counter[Any] = Counter()
        for _, lease in self.held:
            found[lease.queue_name] += len(lease.ids)
            if (key := self.key(lease)) is not None:
                found[lease.queue_name, key] += len(lease.ids)
        return found

    def limit(self, of: Any) -> int | None:
        own = self.most.get(of)
        return own if own is not None or isinstance(of, str) else self.most[of[0], None]

    async def step(self) -> None:
        await self.rng.choice(
            (
                self.submit,
                self.claim,
                self.claim,
                self.claim,
                self.finish,
                self.finish,
                self.crash,
                self.change,
            )
        )()

    async def submit(self) -> None:
        key = self.rng.choice((None, *KEYS))
        self.submitted.update(
            await self.engine.submit(
                self.rng.randrange(1, 6),
                queue_name=self.rng.choice(QUEUES),
                priority=self.rng.randrange(10),
                terms=None if key is None else JobTerms(concurrency_key=key),
                max_attempts=100,
            )
        )

    async def claim(self) -> None:
        """Several at once; none may start beyond a limit."""
        before = self.running()
        chosen = self.rng.sample(self.workers, k=self.rng.randrange(1, 4))
        found = await asyncio.gather(
            *(
                leases.claim(
                    self.engine.core,
                    *worker,
                    want=self.rng.randrange(1, 8),
                    startable=self.rng.randrange(0, 8),
                )
                for worker in chosen
            )
        )
        for worker, taken in zip(chosen, found, strict=True):
            self.held += [(worker, lease) for lease in taken]
        for of, count in self.running().items():
            limit = self.limit(of)
            if count > before[of] and limit is not None:
                assert count <= limit, (of, count, limit)
                self.full += count == limit

    async def finish(self) -> None:
        """Some of what is held, as it ends in life, while somebody else claims."""
        if not self.held:
            return
        worker, lease = self.held.pop(self.rng.randrange(len(self.held)))
        make = self.rng.choice((succeeded, succeeded, retried, released))
        stale = await self.engine.finish(worker, report(lease, make))
        assert stale == []
        if make is succeeded:
            self.ended.update(lease.ids)
        await self.engine.promote()

    async def crash(self) -> None:
        worker = self.rng.choice(self.workers)
        await self.engine.expire(worker)
        await self.engine.reap()
        late = [lease for holder, lease in self.held if holder is worker]
        self.held = [(holder, lease) for holder, lease in self.held if holder is not worker]
        for lease in late[:1]:
            await self.engine.finish(worker, report(lease, succeeded))  # too late: it gives nothing back
        self.workers[self.workers.index(worker)] = await self.engine.register(*QUEUES)

    async def change(self) -> None:
        name = self.rng.choice(QUEUES)
        most = self.rng.choice((None, 1, 3, 6))
        what = self.rng.randrange(3)
        if what == 0:
            self.most[name] = most
            await queues.update(self.engine.core, self.engine.ctx, name, QueueChange(max_concurrency=most))
        elif what == 1:
            self.most[name, None] = most
            await queues.update(
                self.engine.core, self.engine.ctx, name, QueueChange(key_max_concurrency=most)
            )
        else:
            key = self.rng.choice(KEYS)
            self.most[name, key] = most
            policy = KeyPolicy(weight=self.rng.choice((0.5, 1, 4)), max_concurrency=most)
            await services.set_key(self.engine.core, self.engine.ctx, name, key, policy)

    async def drain(self) -> None:
        """Whatever the limits are, everything ends: no slot is lost, no key is forgotten."""
        for _, lease in self.held:
            self.ended.update(lease.ids)
        for worker, lease in self.held:
            assert await self.engine.finish(worker, report(lease, succeeded)) == []
        self.held.clear()
        async with asyncio.timeout(60):
            while len(self.ended) < len(self.submitted):
                await self.engine.promote()
                for worker in self.workers:
                    for lease in await leases.claim(self.engine.core, *worker, want=50, startable=50):
                        assert await self.engine.finish(worker, report(lease, succeeded)) == []
                        self.ended.update(lease.ids)


@pytest.mark.parametrize("seed", range(6))
async def test_no_limit_is_passed_and_everything_ends(engine: Engine, seed: int) -> None:
    load = Load(engine, Random(seed))
    await load.begin()
    for _ in range(120):
        await load.step()
    assert load.full > 5, "limits were hardly ever reached: this proved nothing"
    await load.drain()
    assert set(load.ended) == load.submitted
    assert set(load.ended.values()) == {1}
    assert await limits.count_drift(engine.core.database) == 0
    assert await engine.admin.fetchval("select coalesce(sum(in_use), 0) from limits") == 0


BASE = datetime(2026, 1, 1, tzinfo=UTC)
RATE = """select room, opens_at, heads, counts from count_rate($1, $2, $3, $4, $5)"""


@pytest.mark.parametrize("seed", range(20))
async def test_no_window_of_a_rate_sees_more_than_its_limit(engine: Engine, seed: int) -> None:
    """Against a ledger of every start: never one too many, and no longer shut than a slice beyond what is needed."""
    rng = Random(seed)
    windows = [
        (rng.randrange(1, 30), rng.choice((0.1, 1, 7.5, 60, 3_600))) for _ in range(rng.randrange(1, 4))
    ]
    text = "[" + ",".join(f'{{"limit": {n}, "per_seconds": {s}}}' for n, s in windows) + "]"
    now, starts = 0.0, list[float]()
    heads = counts = None
    for _ in range(80):
        now += rng.choice((0.0, 0.001, 0.02, 0.5, 3, 40)) * rng.random()
        at = BASE + timedelta(seconds=now)
        now = (at - BASE).total_seconds()
        row = await engine.admin.fetchrow(RATE, text, 0, at, heads, counts)
        for limit, seconds in windows:
            inside = sum(start > now - seconds for start in starts)
            assert min(row["room"], limit) <= limit - inside
        if row["room"] == 0:
            assert row["opens_at"] > at
            # Shut for a reason: a little more than one of its windows back, it was used up.
            assert any(
                sum(start > now - seconds * 1.05 - 1e-6 for start in starts) >= limit
                for limit, seconds in windows
            )
            reopened = await engine.admin.fetchrow(
                RATE, text, 0, row["opens_at"], row["heads"], row["counts"]
            )
            assert reopened["room"] > 0
        started = rng.randrange(0, row["room"] + 1)
        row = await engine.admin.fetchrow(RATE, text, started, at, row["heads"], row["counts"])
        heads, counts = row["heads"], row["counts"]
        starts += [now] * started
    assert starts


async def test_a_rate_survives_a_clock_that_goes_back(engine: Engine) -> None:
    text = '[{"limit": 2, "per_seconds": 10}]'
    row = await engine.admin.fetchrow(RATE, text, 2, BASE + timedelta(seconds=100), None, None)
    back = await engine.admin.fetchrow(RATE, text, 0, BASE, row["heads"], row["counts"])
    assert back["room"] == 0
    later = await engine.admin.fetchrow(
        RATE, text, 0, BASE + timedelta(seconds=111), back["heads"], back["counts"]
    )
    assert later["room"] == 2
