"""Who runs the maintenance loops."""

from __future__ import annotations

from taskforge.services import leases
from tests.support.engine import Engine


async def test_the_oldest_worker_is_elected_until_it_misses_two_beats(engine: Engine) -> None:
    (first, _), (second, _) = await engine.register(), await engine.register()
    assert (await leases.heartbeat(engine.core, first)).maintain
    assert not (await leases.heartbeat(engine.core, second)).maintain
    await engine.admin.execute(
        "update taskforge.workers set expires_at = expires_at - interval '5.1 s' where worker_id = $1", first
    )
    assert (await leases.heartbeat(engine.core, second)).maintain
    assert (await leases.heartbeat(engine.core, first)).alive
