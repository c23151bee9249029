"""Submits jobs by every way there is, and writes down what it was told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from random import Random
from typing import Any

import httpx2

from taskforge import TaskForge
from taskforge.domain.jobs import JobDraft
from taskforge.errors import Unavailable
from tests.support.ledger import Ledger

UNKNOWN = "database.commit_unknown"
AWAY_SECONDS = 60.0
BATCH = 100
_QUEUE_OF = {"work": "busy", "nap": "naps", "doomed": "quiet"}


class Unknown(Exception):
    """Nobody knows whether it was stored."""


class Refused(Exception):
    """Nothing was stored, and we were told so."""


class Producer:
    """`submit_mixed` returns when every job of it is acknowledged, or, without a key, in doubt for good."""

    def __init__(self, ledger: Ledger, *, dsn: str, url: str, token: str, rng: Random) -> None:
        self.ledger = ledger
        self.submitted = 0
        self.repeats = 0
        self.refusals: dict[str, int] = {}
        self._rng = rng
        self._requests = 0
        self._forge = TaskForge(database_url=dsn)
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(45.0, connect=5.0),
        )

    async def close(self) -> None:
        await self._http.aclose()
        await self._forge.close()

    async def submit_mixed(self, count: int) -> None:
        """One in twenty one by one through HTTP and as many directly, the others in batches of both kinds; a few that
        take long, and one that fails for good."""
        singles, naps = count // 20, count // 50
        work = [
            lambda k=number % 2 == 0, h=number % 4 < 2: self._send(1, by_http=h, is_keyed=k)
            for number in range(2 * singles)
        ]
        left = count - 2 * singles - naps - 1
        for number in range(-(-left // BATCH)):
            size = min(BATCH, left - number * BATCH)
            is_http = number % 3 != 2
            is_keyed = is_http and number % 4 == 0
            work.append(lambda n=size, h=is_http, k=is_keyed: self._send(n, by_http=h, is_keyed=k))
        work.append(lambda: self._send(naps, by_http=False, is_keyed=False, job_type="nap"))
        work.append(lambda: self._send(1, by_http=True, is_keyed=True, job_type="doomed"))
        self._rng.shuffle(work)
        todo = iter(work)

        async def one_after_the_other() -> None:
            for one in todo:
                await one()

        await asyncio.gather(*(one_after_the_other() for _ in range(16)))

    async def _send(self, size: int, *, by_http: bool, is_keyed: bool, job_type: str = "work") -> None:
        priority = self._rng.choice((3, 5, 9))
        drafts = [self._draft(job_type, priority, is_keyed) for _ in range(size)]
        await self._until_known(drafts, by_http=by_http)

    def _draft(self, job_type: str, priority: int, is_keyed: bool) -> JobDraft:
        self.submitted += 1
        payload: dict[str, Any] = {"n": self.submitted}
        if job_type == "work":
            payload["seconds"] = round(self._rng.random() * 0.01, 4)
            payload["fails"] = int(self._rng.random() < 0.05)
        elif job_type == "nap":
            payload["seconds"] = 0.5
        return JobDraft(
            queue_name=_QUEUE_OF[job_type],
            job_type=job_type,
            payload=json.dumps(payload).encode(),
            priority=priority,
            idempotency_key=f"key-{self.submitted}" if is_keyed else None,
        )

    async def _until_known(self, drafts: Sequence[JobDraft], *, by_http: bool) -> None:
        """What was refused is sent again as it is; what is in doubt only if it has a key."""
        send = self._by_http if by_http else self._directly
        is_keyed = drafts[0].idempotency_key is not None
        self._requests += 1
        request = f"request-{self._requests}"
        async with asyncio.timeout(AWAY_SECONDS):
            while True:
                try:
                    ids = await send(drafts)
                except Unknown:
                    await self.ledger.maybe(request, [draft.payload for draft in drafts])
                    if not is_keyed:
                        return
                    self.repeats += 1
                except Refused:
                    pass
                else:
                    assert len(ids) == len(drafts)
                    await self.ledger.acked(
                        (job_id, draft.payload) for job_id, draft in zip(ids, drafts, strict=True)
                    )
                    return
                await asyncio.sleep(0.05 + 0.2 * self._rng.random())

    async def _by_http(self, drafts: Sequence[JobDraft]) -> list[str]:
        items = [_item(draft) for draft in drafts]
        path = "/api/v1/jobs" if len(drafts) == 1 else "/api/v1/jobs/batch"
        body = items[0] if len(drafts) == 1 else b"[" + b",".join(items) + b"]"
        try:
            answer = await self._http.post(path, content=body, headers={"Content-Type": "application/json"})
        except httpx2.ConnectError as error:
            raise Refused from error
        except httpx2.TransportError as error:
            raise Unknown from error
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            self._refused(answer.json()["code"])
        assert answer.status_code in (200, 201), f"{answer.status_code} {answer.text}"
        told = answer.json()
        return [told["id"]] if len(drafts) == 1 else [item["id"] for item in told["data"]]

    async def _directly(self, drafts: Sequence[JobDraft]) -> list[str]:
        client = await self._forge.client()
        try:
            return await client.submit(drafts[0], [draft.payload for draft in drafts])
        except Unavailable as error:
            self._refused(error.code)
        raise AssertionError("unreachable")

    def _refused(self, code: str) -> None:
        self.refusals[code] = self.refusals.get(code, 0) + 1
        if code == UNKNOWN:
            raise Unknown
        raise Refused


def _item(draft: JobDraft) -> bytes:
    fields: dict[str, Any] = {
        "queue_name": draft.queue_name,
        "job_type": draft.job_type,
        "priority": draft.priority,
    }
    if draft.idempotency_key is not None:
        fields["idempotency_key"] = draft.idempotency_key
    return json.dumps(fields).encode()[:-1] + b', "payload": ' + draft.payload + b"}"
