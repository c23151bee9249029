"""Webhooks are queued with the end they tell of, sent signed until they arrive, and hold up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random
from typing import Any

import msgspec
import pytest

from taskforge.domain.batches import BatchDraft, Callback, CallbackHook, Callbacks
from taskforge.domain.egress import EgressPolicy, policy
from taskforge.domain.queues import QueueChange
from taskforge.domain.terms import JobTerms, Webhook
from taskforge.domain.webhooks import DeliveryState, DeliveryView, secret_key
from taskforge.egress import Egress
from taskforge.errors import Conflict, NotFound
from taskforge.postgres import maintenance
from taskforge.runtime import webhook_sender
from taskforge.runtime.webhook_sender import WebhookSender
from taskforge.services import batches, dead_letters, queues, webhooks
from taskforge.webhooks import SignatureInvalid, verify
from tests.support.endpoint import Endpoint, endpoint, status
from tests.support.engine import Engine, failed, report, succeeded
from tests.support.waiting import until

LOOPBACK = policy(["127.0.0.1"], ports=["443"], allows_http=False)


@pytest.fixture
async def secret(engine: Engine) -> str:
    return (await webhooks.create_secret(engine.core, engine.ctx)).text


@pytest.fixture
async def server() -> AsyncIterator[Endpoint]:
    async with endpoint() as made:
        yield made


async def send(engine: Engine, rules: EgressPolicy = LOOPBACK) -> None:
    await WebhookSender(engine.core, egress=Egress(rules), rng=Random(1)).run_once()


async def end_one(engine: Engine, outcome: Any, **fields: Any) -> int:
    [job_id] = await engine.submit(1, **fields)
    worker = await engine.register()
    for lease in await engine.claim(worker, 10):
        await engine.finish(worker, report(lease, outcome))
    return job_id


async def deliveries(engine: Engine, state: DeliveryState | None = None) -> list[DeliveryView]:
    return (await webhooks.list_deliveries(engine.core, engine.ctx, state=state, limit=100)).data


async def make_due(engine: Engine) -> None:
    await engine.admin.execute("update deliveries set due_at = now() where state = 1")
    await engine.admin.execute("update webhook_endpoints set retry_at = now()")


def hooked(url: str, **options: Any) -> JobTerms:
    return JobTerms(webhook=Webhook(url, **options))


async def test_a_job_tells_how_it_ended_signed_with_the_tenants_secret(
    engine: Engine, server: Endpoint, secret: str
) -> None:
    job_id = await end_one(engine, failed, terms=hooked(server.url), tags=("t",))
    await send(engine)
    [received] = server.received
    verify(received.headers, received.body, [secret])
    said = msgspec.json.decode(received.body)
    assert said["type"] == "job.failed"
    assert said["data"]["id"] == str(job_id)
    assert said["data"]["error"] == {"error_class": "ValueError", "message": "no"}
    assert (said["data"]["queue_name"], said["data"]["attempt"], said["data"]["tags"]) == (
        "default",
        1,
        ["t"],
    )
    assert "result" not in said["data"]
    [delivery] = await deliveries(engine)
    assert (delivery.state, delivery.status, delivery.attempts) == ("delivered", 200, 1)
    assert received.headers["webhook-id"] == f"msg_{delivery.id}"


async def test_a_result_is_told_when_it_is_asked_for_and_small(
    engine: Engine, server: Endpoint, secret: str
) -> None:
    await end_one(engine, succeeded, terms=hooked(server.url, include_result=True))
    await send(engine)
    assert msgspec.json.decode(server.received[0].body)["data"]["result"] == "done"


async def test_only_the_events_that_were_asked_for_are_told(engine: Engine, secret: str) -> None:
    await end_one(engine, succeeded, terms=hooked("https://example.com/", events=("failed",)))
    assert await deliveries(engine) == []
    await end_one(engine, failed, terms=hooked("https://example.com/", events=("failed",)))
    assert [delivery.event for delivery in await deliveries(engine)] == ["job.failed"]


async def test_a_job_cancelled_or_lost_with_its_worker_is_told_of_too(engine: Engine) -> None:
    [job_id] = await engine.submit(1, terms=hooked("https://example.com/"))
    await engine.cancel(job_id)
    await engine.submit(1, terms=hooked("https://example.com/"), max_attempts=1)
    worker = await engine.register()
    await engine.claim(worker, 1)
    await engine.expire(worker)
    await engine.reap()
    assert [delivery.event for delivery in await deliveries(engine)] == ["job.failed", "job.cancelled"]


async def test_a_queue_tells_of_all_its_jobs_from_the_moment_it_is_set_until_it_is_not(
    engine: Engine,
) -> None:
    hook = Webhook("https://example.com/queue")
    await end_one(engine, succeeded)
    await queues.update(engine.core, engine.ctx, "default", QueueChange(webhook=hook))
    job_id = await end_one(engine, succeeded)
    both = await end_one(engine, succeeded, terms=hooked("https://example.com/queue"))
    await queues.update(engine.core, engine.ctx, "default", QueueChange(webhook=None))
    await end_one(engine, succeeded)
    assert [(d.subject, d.url) for d in await deliveries(engine)] == [
        (str(both), hook.url),
        (str(job_id), hook.url),
    ]


async def test_a_batch_tells_how_it_went(engine: Engine, server: Endpoint, secret: str) -> None:
    made = await batches.create(
        engine.core,
        engine.ctx,
        BatchDraft("b", Callbacks(on_complete=Callback(webhook=CallbackHook(server.url)))),
    )
    await batches.seal(engine.core, engine.ctx, int(made.id))
    await send(engine)
    said = msgspec.json.decode(server.received[0].body)
    assert (said["type"], said["data"]["id"], said["data"]["state"]) == (
        "batch.complete",
        made.id,
        "succeeded",
    )


async def test_a_job_that_fails_again_after_a_redrive_is_told_of_again(engine: Engine) -> None:
    await end_one(engine, failed, terms=hooked("https://example.com/"))
    await dead_letters.redrive(engine.core, engine.ctx, "default")
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    await engine.finish(worker, report(lease, succeeded))
    assert [d.event for d in await deliveries(engine)] == ["job.succeeded", "job.failed"]


async def test_an_end_that_is_rolled_back_tells_nobody(engine: Engine) -> None:
    await engine.submit(1, terms=hooked("https://example.com/"))
    worker = await engine.register()
    [lease] = await engine.claim(worker)
    async with engine.gate("deliveries"):
        ending = asyncio.create_task(engine.finish(worker, report(lease, succeeded)))
        await engine.blocked(1)
        await engine.admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and wait_event_type = 'Lock'"
        )
        await asyncio.gather(ending, return_exceptions=True)
    assert await deliveries(engine) == []
    await engine.finish(worker, report(lease, succeeded))
    assert len(await deliveries(engine)) == 1


async def test_while_secrets_are_exchanged_messages_bear_the_signatures_of_both(
    engine: Engine, server: Endpoint, secret: str
) -> None:
    new = await webhooks.create_secret(engine.core, engine.ctx)
    with pytest.raises(Conflict, match="retire one"):
        await webhooks.create_secret(engine.core, engine.ctx)
    await end_one(engine, succeeded, terms=hooked(server.url))
    await send(engine)
    for known in (secret, new.text):
        verify(server.received[0].headers, server.received[0].body, [known])
    [_, old] = await webhooks.list_secrets(engine.core, engine.ctx)
    await webhooks.retire_secret(engine.core, engine.ctx, int(old.id))
    await end_one(engine, succeeded, terms=hooked(server.url))
    await send(engine)
    verify(server.received[1].headers, server.received[1].body, [new.text])
    with pytest.raises(SignatureInvalid):
        verify(server.received[1].headers, server.received[1].body, [secret])


async def test_without_a_secret_nothing_is_sent_and_nothing_is_lost(engine: Engine, server: Endpoint) -> None:
    await end_one(engine, succeeded, terms=hooked(server.url))
    await send(engine)
    [waiting] = await deliveries(engine)
    assert (waiting.state, waiting.error, server.connections) == ("waiting", "no_secret", 0)
    await webhooks.create_secret(engine.core, engine.ctx)
    await send(engine)
    assert [d.state for d in await deliveries(engine)] == ["delivered"]


@pytest.mark.parametrize("code", [301, 400, 404, 429, 500, 503])
async def test_an_answer_that_is_no_success_is_tried_again_later_with_the_same_id(
    engine: Engine, secret: str, code: int
) -> None:
    async with endpoint(status(code)) as server:
        await end_one(engine, succeeded, terms=hooked(server.url))
        await send(engine)
        [delivery] = await deliveries(engine)
        assert (delivery.state, delivery.status, delivery.attempts) == ("waiting", code, 1)
        assert delivery.due_at is not None and delivery.due_at > delivery.created_at + timedelta(seconds=2)
        server.answer = status(204, body=b"")
        await make_due(engine)
        await send(engine)
        one, two = server.received
    assert one.headers["webhook-id"] == two.headers["webhook-id"] and one.body == two.body
    assert [d.state for d in await deliveries(engine)] == ["delivered"]


async def test_an_endpoint_that_is_gone_is_not_asked_again(engine: Engine, secret: str) -> None:
    async with endpoint(status(410)) as server:
        await end_one(engine, succeeded, terms=hooked(server.url))
        await send(engine)
    [delivery] = await deliveries(engine, DeliveryState.FAILED)
    assert delivery.error == "gone"


async def test_a_closed_address_is_given_up_visibly_and_can_be_sent_again(
    engine: Engine, server: Endpoint, secret: str
) -> None:
    await end_one(engine, succeeded, terms=hooked(server.url))
    await send(engine, EgressPolicy())
    [delivery] = await deliveries(engine, DeliveryState.FAILED)
    assert (delivery.error or "").startswith("egress_denied") and server.connections == 0
    await webhooks.redeliver(engine.core, engine.ctx, int(delivery.id))
    await send(engine)
    assert [d.state for d in await deliveries(engine)] == ["delivered"]


async def test_a_name_that_leads_inside_is_not_followed(
    engine: Engine, server: Endpoint, secret: str
) -> None:
    async def inside(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    open_wide = EgressPolicy(ports=frozenset({server.port}), allows_http=True)
    await end_one(engine, succeeded, terms=hooked(f"http://hooks.example.com:{server.port}/"))
    await WebhookSender(engine.core, egress=Egress(open_wide, resolver=inside)).run_once()
    [delivery] = await deliveries(engine)
    assert (delivery.state, server.connections) == ("failed", 0)
    assert delivery.error == "egress_denied: the host has an address that is not a public address"


async def test_a_message_is_given_up_after_three_days(engine: Engine, secret: str) -> None:
    async with endpoint(status(500)) as server:
        await end_one(engine, succeeded, terms=hooked(server.url))
        await engine.admin.execute("update deliveries set created_at = now() - interval '73 h'")
        await send(engine)
        assert [d.state for d in await deliveries(engine)] == ["failed"]
        [delivery] = await deliveries(engine)
        await webhooks.redeliver(engine.core, engine.ctx, int(delivery.id))
        await send(engine)
    assert [d.state for d in await deliveries(engine)] == ["waiting"], "its patience begins anew"


async def test_an_endpoint_that_fails_all_the_time_is_asked_by_one_at_a_time_and_the_rest_follow_its_recovery(
    engine: Engine, secret: str
) -> None:
    async with endpoint(status(500)) as server:
        await end_one(engine, succeeded, terms=hooked(server.url))
        for _ in range(6):
            await make_due(engine)
            await send(engine)
        asked = server.connections
        await engine.submit(30, terms=hooked(server.url))
        worker = await engine.register()
        for lease in await engine.claim(worker, 30):
            await engine.finish(worker, report(lease, succeeded))
        await send(engine)
        assert server.connections == asked
        await engine.admin.execute("update webhook_endpoints set retry_at = now()")
        await engine.admin.execute("update deliveries set due_at = now() where state = 1")
        server.answer = status(200)
        await send(engine)
    assert {d.state for d in await deliveries(engine)} == {"delivered"}


async def test_two_senders_at_once_send_each_message_once(engine: Engine, other: Engine, secret: str) -> None:
    async with endpoint() as server:
        await engine.submit(100, terms=hooked(server.url))
        worker = await engine.register()
        for lease in await engine.claim(worker, 100):
            await engine.finish(worker, report(lease, succeeded))
        await asyncio.gather(send(engine), send(other))
        ids = [received.headers["webhook-id"] for received in server.received]
    assert (len(ids), len(set(ids))) == (100, 100)


async def test_a_sender_that_died_leaves_its_message_to_be_sent_again(engine: Engine, secret: str) -> None:
    async def never(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with endpoint(never) as server:
        await end_one(engine, succeeded, terms=hooked(server.url))
        dying = asyncio.create_task(send(engine))
        await until(lambda: server.connections)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        server.answer = status(200)
        await send(engine)
        assert server.connections == 1, "it is leased still"
        await make_due(engine)
        await send(engine)
    assert [(d.state, d.attempts) for d in await deliveries(engine)] == [("delivered", 2)]


async def test_a_tenant_with_a_slow_endpoint_does_not_hold_up_another(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setattr(webhook_sender, "MAX_UNDER_WAY", 8)
    monkeypatch.setattr(webhook_sender, "MAX_PER_TENANT", 2)
    release = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(status(200))

    stranger = await engine.stranger("default")
    await webhooks.create_secret(stranger.core, stranger.ctx)
    async with endpoint(slow) as bad, endpoint() as good:
        for e, url in ((engine, bad.url), (stranger, good.url)):
            await e.submit(20, terms=hooked(url))
            worker = await e.register()
            for lease in await e.claim(worker, 20):
                await e.finish(worker, report(lease, succeeded))
        sending = asyncio.create_task(send(engine))
        await until(lambda: len(good.received) == 20)
        assert bad.connections == 2
        release.set()
        await sending
        assert len(bad.received) == 20


async def test_the_agenda_says_when_the_next_message_is_due(engine: Engine, secret: str) -> None:
    assert "webhooks" not in (await maintenance.survey(engine.core.database)).duties
    await end_one(engine, succeeded, terms=hooked("https://example.com/"))
    assert (await maintenance.survey(engine.core.database)).duties["webhooks"] <= 0


async def test_another_tenants_messages_and_secrets_do_not_exist(engine: Engine, secret: str) -> None:
    await end_one(engine, succeeded, terms=hooked("https://example.com/"))
    [delivery] = await deliveries(engine)
    [mine] = await webhooks.list_secrets(engine.core, engine.ctx)
    stranger = await engine.stranger("default")
    assert await deliveries(stranger) == [] == await webhooks.list_secrets(stranger.core, stranger.ctx)
    for verb, number in (
        (webhooks.get_delivery, delivery.id),
        (webhooks.redeliver, delivery.id),
        (webhooks.retire_secret, mine.id),
    ):
        with pytest.raises(NotFound):
            await verb(stranger.core, stranger.ctx, int(number))


async def test_a_secret_is_kept_apart_from_what_can_be_read_of_it(engine: Engine, secret: str) -> None:
    [view] = await webhooks.list_secrets(engine.core, engine.ctx)
    assert secret.endswith(view.hint) and len(view.hint) == 4
    stored = await engine.admin.fetchval("select key from webhook_keys")
    assert stored == secret_key(secret)
