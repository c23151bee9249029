"""The duty that sends webhooks: takes what is due, signs it, sends it, writes down how it went.

Any number of processes may run it; a delivery is one sender's until its lease is over. One that dies in between leaves
it to be sent again, with the same id, so a receiver that keeps ids sees each message once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from random import Random
from uuid import UUID

import structlog

from taskforge.domain import webhooks as rules
from taskforge.egress import Answer, Egress, EgressDenied, EgressFailed
from taskforge.errors import TaskForgeError
from taskforge.postgres import webhooks
from taskforge.postgres.webhooks import Delivery
from taskforge.services.core import Core

_log = structlog.get_logger(__name__)

MAX_UNDER_WAY = 64
MAX_PER_TENANT = 16
_LEASE = timedelta(seconds=60)
_PATIENCE = timedelta(seconds=rules.PATIENCE_SECONDS)
_LOOK_SECONDS = 0.5
_WITHOUT_SECRET_SECONDS = 300.0
_GONE = 410


class WebhookSender:
    def __init__(self, core: Core, *, egress: Egress | None = None, rng: Random | None = None) -> None:
        self._core = core
        self._egress = egress
        self._rng = rng or Random()

    async def run_once(self) -> None:
        """Send until nothing is due and nothing under way."""
        under_way: dict[asyncio.Task[None], UUID] = {}
        try:
            while True:
                room = MAX_UNDER_WAY - len(under_way)
                for delivery in await self._claim(room, Counter(under_way.values())):
                    task = asyncio.create_task(self._deliver(delivery), name="webhook")
                    under_way[task] = delivery.tenant_id
                if not under_way:
                    return
                done, _ = await asyncio.wait(
                    under_way, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    del under_way[task]
                    task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _claim(self, room: int, under_way: Counter[UUID]) -> list[Delivery]:
        if room <= 0:
            return []
        return await webhooks.claim(
            self._core.database,
            limit=room,
            per_tenant=MAX_PER_TENANT,
            under_way=under_way,
            lease=_LEASE,
            patience=_PATIENCE,
        )

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._attempt(delivery)
        except TaskForgeError as error:
            # Not written down: its lease ends, and it is sent once more.
            _log.warning("webhook.unsettled", delivery_id=delivery.delivery_id, error=error.code)

    async def _attempt(self, delivery: Delivery) -> None:
        if not delivery.keys:
            await self._again(delivery, None, "no_secret", at_least=_WITHOUT_SECRET_SECONDS, blames=False)
            return
        try:
            answer = await self._send(delivery)
        except EgressDenied as error:
            await self._give_up(delivery, None, f"egress_denied: {error}", blames=False)
        except EgressFailed as error:
            await self._again(delivery, None, error.reason, blames=True)
        else:
            await self._judge(delivery, answer)

    async def _send(self, delivery: Delivery) -> Answer:
        if self._egress is None:
            self._egress = Egress(self._core.egress)
        body = body_of(delivery)
        message = rules.message_id(delivery.delivery_id)
        timestamp = int(self._core.clock.now().timestamp())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "TaskForge-Webhooks/1",
            "Accept-Encoding": "identity",
            "webhook-id": message,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(
                rules.sign(key, message=message, timestamp=timestamp, body=body) for key in delivery.keys
            ),
        }
        return await self._egress.post(delivery.url, body, headers)

    async def _judge(self, delivery: Delivery, answer: Answer) -> None:
        if 200 <= answer.status < 300:
            await webhooks.settle(
                self._core.database,
                delivery,
                is_delivered=True,
                status=answer.status,
                error=None,
                retry_in=None,
                blames=False,
            )
        elif answer.status == _GONE:
            await self._give_up(delivery, answer.status, "gone", blames=False)
        else:
            reason = "redirect" if 300 <= answer.status < 400 else "status"
            await self._again(delivery, answer.status, reason, asked=answer.retry_after, blames=True)

    async def _again(
        self,
        delivery: Delivery,
        status: int | None,
        reason: str,
        *,
        asked: float | None = None,
        at_least: float = 0.0,
        blames: bool,
    ) -> None:
        age = (self._core.clock.now() - delivery.since).total_seconds()
        delay = rules.next_delay(delivery.attempt, age_seconds=age, asked=asked, rng=self._rng)
        if delay is None:
            await self._give_up(delivery, status, reason, blames=blames)
            return
        await webhooks.settle(
            self._core.database,
            delivery,
            is_delivered=False,
            status=status,
            error=reason,
            retry_in=max(delay, at_least),
            blames=blames,
        )

    async def _give_up(self, delivery: Delivery, status: int | None, reason: str, *, blames: bool) -> None:
        _log.warning(
            "webhook.given_up",
            delivery_id=delivery.delivery_id,
            event_type=delivery.event,
            attempts=delivery.attempt,
            status=status,
            reason=reason,
        )
        await webhooks.settle(
            self._core.database,
            delivery,
            is_delivered=False,
            status=status,
            error=reason,
            retry_in=None,
            blames=blames,
        )


def body_of(delivery: Delivery) -> bytes:
    """The same bytes in every attempt."""
    data = delivery.data
    if delivery.result is not None:
        data = data.rstrip()[:-1] + b',"result":' + delivery.result + b"}"
    at = delivery.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()
    return b'{"type":"%b","timestamp":"%b","data":%b}' % (delivery.event.encode(), at, data)
