"""Shares of tenants and keys: who waits gets his weight's part of what is claimed, whatever the others have waiting."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from taskforge.domain.leases import Lease, RegisterWorker
from taskforge.domain.queues import QueueDraft
from taskforge.domain.terms import JobTerms
from taskforge.postgres import limits
from taskforge.services import leases, queues
from tests.support.engine import Engine, Worker, report, succeeded
from tests.support.waiting import until


async def shared_worker(engine: Engine) -> Worker:
    worker = RegisterWorker("operator", ("default",), is_shared=True)
    made = await leases.register(engine.core, engine.ctx, worker)
    return made.worker_id, made.queue_ids


async def tenants(engine: Engine, count: int) -> list[Engine]:
    return [await engine.stranger("default") for _ in range(count)]


async def claim(engine: Engine, worker: Worker, want: int) -> list[Lease]:
    queue_ids = await leases.serve(engine.core, worker[0], ["default"])
    return await leases.claim(engine.core, worker[0], queue_ids, want=want)


async def weigh(engine: Engine, tenant: Engine, weight: float) -> None:
    await limits.weigh_tenant(engine.core.database, tenant.ctx.tenant_id, weight)


def by_tenant(found: list[Lease]) -> Counter[Any]:
    return Counter(lease.tenant_id for lease in found for _ in lease.ids)


async def test_a_flood_of_one_tenant_does_not_hold_up_the_job_of_another(engine: Engine) -> None:
    """B's job is in the very next claim, whatever A has waiting."""
    a, b = await tenants(engine, 2)
    for _ in range(5):
        await a.submit(1_000)
    worker = await shared_worker(engine)
    for _ in range(20):
        [job] = await b.submit(1)
        found = await claim(engine, worker, 2)
        assert job in [job_id for lease in found for job_id in lease.ids]
        await engine.finish(worker, *(report(lease, succeeded) for lease in found))


async def test_even_claims_for_one_job_reach_everybody_within_a_round(engine: Engine) -> None:
    many = await tenants(engine, 5)
    for tenant in many:
        await tenant.submit(50)
    worker = await shared_worker(engine)
    served: Counter[Any] = Counter()
    for _ in range(20):
        served += by_tenant(await claim(engine, worker, 1))
    assert set(served.values()) == {4}


@pytest.mark.parametrize("seed", range(3))
async def test_tenants_are_served_by_their_weights(engine: Engine, seed: int) -> None:
    rng = Random(seed)
    many = await tenants(engine, 4)
    weights = [rng.choice((0.5, 1, 2, 3)) for _ in many]
    for tenant, weight in zip(many, weights, strict=True):
        await tenant.submit(1_000)
        await weigh(engine, tenant, weight)
    worker = await shared_worker(engine)
    served: Counter[Any] = Counter()
    for _ in range(30):
        served += by_tenant(await claim(engine, worker, rng.randrange(1, 30)))
    total = served.total()
    for tenant, weight in zip(many, weights, strict=True):
        due = total * weight / sum(weights)
        assert abs(served[tenant.ctx.tenant_id] - due) <= 3, (served, weights)


@pytest.mark.parametrize("seed", range(3))
async def test_keys_are_served_by_their_weights(engine: Engine, seed: int) -> None:
    rng = Random(seed)
    await queues.create(engine.core, engine.ctx, QueueDraft(name="q"))
    weights = {f"k{n}": rng.choice((0.5, 1, 2, 3)) for n in range(4)}
    for key, weight in weights.items():
        await engine.submit(1_000, queue_name="q", terms=JobTerms(concurrency_key=key))
        await engine.admin.execute("update limits set weight = $2 where key = $1", key, weight)
    worker = await engine.register("q")
    served: Counter[str] = Counter()
    for _ in range(30):
        for lease in await leases.claim(engine.core, *worker, want=rng.randrange(1, 30)):
            assert lease.options is not None and lease.options[0] is not None
            assert lease.options[0].terms is not None and lease.options[0].terms.concurrency_key is not None
            served[lease.options[0].terms.concurrency_key] += len(lease.ids)
    total = served.total()
    for key, weight in weights.items():
        due = total * weight / sum(weights.values())
        assert abs(served[key] - due) <= 2 * max(30, total / 20), (served, weights)


async def test_what_a_tenant_does_not_use_goes_to_the_others(engine: Engine) -> None:
    a, b = await tenants(engine, 2)
    await a.submit(100)
    await b.submit(3)
    worker = await shared_worker(engine)
    assert by_tenant(await claim(engine, worker, 50)) == {a.ctx.tenant_id: 47, b.ctx.tenant_id: 3}


async def test_a_tenant_that_was_idle_does_not_come_back_with_all_it_has_missed(engine: Engine) -> None:
    a, b = await tenants(engine, 2)
    await a.submit(1_000)
    worker = await shared_worker(engine)
    for _ in range(10):
        await claim(engine, worker, 20)
    await b.submit(1_000)
    served = by_tenant(await claim(engine, worker, 20))
    assert served == {a.ctx.tenant_id: 10, b.ctx.tenant_id: 10}


async def test_the_priority_of_queues_counts_within_a_tenant_only(engine: Engine) -> None:
    a, b = await tenants(engine, 2)
    await engine.admin.execute("update queues set priority = 100 where tenant_id = $1", a.ctx.tenant_id)
    await a.submit(100)
    await b.submit(100)
    served = by_tenant(await claim(engine, await shared_worker(engine), 10))
    assert served == {a.ctx.tenant_id: 5, b.ctx.tenant_id: 5}


async def test_the_limit_of_a_tenant_holds_on_shared_workers(engine: Engine) -> None:
    a, b = await tenants(engine, 2)
    await a.submit(100)
    await b.submit(100)
    worker = await shared_worker(engine)
    await engine.admin.execute("select limit_tenant($1, 3)", a.ctx.tenant_id)
    served: Counter[Any] = Counter()

    async def has_served() -> bool:
        served.update(by_tenant(await claim(engine, worker, 5)))
        return served[a.ctx.tenant_id] > 0

    await until(has_served)  # not before it is known that nobody claims who has not heard of the limit
    served.update(by_tenant(await claim(engine, worker, 50)))
    assert served[a.ctx.tenant_id] == 3
    assert served[b.ctx.tenant_id] > 0
    assert await limits.count_drift(engine.core.database) == 0


async def test_an_ordinary_worker_is_handed_its_own_tenants_jobs_although_it_names_others(
    engine: Engine,
) -> None:
    [a] = await tenants(engine, 1)
    await a.submit(5)
    worker = await engine.register()
    ids = await leases.serve(engine.core, worker[0], ["default"])
    assert await leases.claim(engine.core, worker[0], ids, want=10) == []
