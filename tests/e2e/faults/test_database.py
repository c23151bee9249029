"""A database that is killed, stopped, halted, cut off or full: clear answers meanwhile, nothing half done, and back."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import asyncpg
import httpx2
import pytest

from tests.chaos.producer import Producer
from tests.chaos.proxy import COMMITTED, proxied
from tests.chaos.rig import LOGIN, Rig, open_rig, send_to_all
from tests.support.ledger import Ledger, check
from tests.support.waiting import until

TTL = 2.0
JOB = {"queue_name": "busy", "job_type": "work", "payload": {"n": 1, "seconds": 0, "fails": 0}}
DEADLINE = 13.0


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with open_rig(ttl=TTL, is_durable=False) as rig:
        yield rig


def assert_unavailable(answer: httpx2.Response, *codes: str) -> None:
    assert answer.status_code == 503, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["code"] in codes


async def _accepted(http: httpx2.AsyncClient, key: str) -> bool:
    answer = await http.post("/api/v1/jobs", json=JOB | {"idempotency_key": key})
    return answer.status_code in (200, 201)


async def _ended(http: httpx2.AsyncClient, job_id: str) -> bool:
    answer = await http.get(f"/api/v1/jobs/{job_id}")
    return answer.status_code == 200 and answer.json()["state"] == "succeeded"


async def _terminate_somebody(rig: Rig, rng: Random) -> None:
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        connection = await rig.connect()
        try:
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1"
                " order by state <> 'active', random() limit $2",
                LOGIN,
                rng.randint(1, 3),
            )
        finally:
            await connection.close()


async def _stop_and_start(rig: Rig, rng: Random) -> None:
    await rig.stop_database(signal.SIGQUIT)
    await rig.start_database()
    await asyncio.sleep(rng.random())


@pytest.mark.parametrize(("harm", "times"), [(_terminate_somebody, 60), (_stop_and_start, 4)])
async def test_under_load_every_promise_survives(rig: Rig, harm, times: int) -> None:
    seed = Random().randrange(1_000_000)
    print(f"seed {seed}")
    rng = Random(seed)
    await rig.start_server()
    await rig.create_queues()
    await rig.registered(rig.start_worker())
    ledger = Ledger(rig.folder / "ledger")
    producer = Producer(ledger, dsn=rig.dsn, url=rig.url, token=rig.token, rng=rng)
    submitting = asyncio.create_task(producer.submit_mixed(2_000))
    for _ in range(times):
        await harm(rig, rng)
        if submitting.done():
            await submitting
            submitting = asyncio.create_task(producer.submit_mixed(1_000))
    await submitting
    await producer.close()
    await rig.at_rest(timeout=30.0)
    connection = await rig.connect()
    found = await check(connection, ledger=ledger.path, diaries=rig.diaries)
    await connection.close()
    ledger.close()
    print(f"{found.acked} acknowledged, {found.maybe} in doubt, refusals {producer.refusals}")
    assert found.wrong() == {}
    assert producer.refusals, "nothing was interrupted, so nothing was shown"


async def test_a_lost_answer_to_a_commit_is_a_503_that_says_so_and_the_batch_is_there_or_not(
    rig: Rig,
) -> None:
    async with proxied(rig.dsn) as proxy, asyncio.timeout(15):
        await rig.start_server(dsn=proxy.dsn)
        await rig.create_queues()
        async with rig.http() as http:
            assert await _accepted(http, "first")
            proxy.lose_answer(COMMITTED)
            batch = [JOB | {"idempotency_key": f"k-{i}"} for i in range(100)]
            answer = await http.post("/api/v1/jobs/batch", json=batch)
            assert_unavailable(answer, "database.commit_unknown")
            answer = await http.post("/api/v1/jobs/batch", json=batch)
            assert answer.status_code == 201
            assert (answer.json()["created"], answer.json()["replayed"]) == (0, 100)


async def test_a_database_that_is_down_is_a_503_at_once_and_all_recovers_by_itself(rig: Rig) -> None:
    await rig.start_server()
    await rig.create_queues()
    rig.start_worker()
    async with rig.http() as http:
        assert await _accepted(http, "first")
        await until(lambda: list(rig.diaries.glob("*.diary")), timeout=20.0)
        await rig.stop_database(signal.SIGINT)
        began = time.monotonic()
        for method, path, body in (
            ("POST", "/api/v1/jobs", JOB),
            ("POST", "/api/v1/jobs/batch", [JOB] * 10),
            ("GET", "/api/v1/jobs/1", None),
            ("GET", "/api/v1/jobs", None),
            ("GET", "/api/v1/queues", None),
            ("POST", "/api/v1/queues/busy/pause", None),
            ("GET", "/readyz", None),
        ):
            assert_unavailable(await http.request(method, path, json=body), "database.unavailable")
        assert (await http.get("/healthz")).status_code == 200
        assert time.monotonic() - began < 3.0
        await rig.start_database()
        back = time.monotonic()
        await until(lambda: _accepted(http, "after"))
        answer = await http.post("/api/v1/jobs", json=JOB)
        await until(lambda: _ended(http, answer.json()["id"]))
        assert time.monotonic() - back < 10.0
        assert (await http.get("/readyz")).status_code == 200


async def test_a_halted_database_is_a_503_within_the_deadline_and_all_goes_on_afterwards(rig: Rig) -> None:
    await rig.start_server()
    await rig.create_queues()
    rig.start_worker()
    async with rig.http(timeout=30.0) as http:
        assert await _accepted(http, "first")
        await until(lambda: list(rig.diaries.glob("*.diary")), timeout=20.0)
        halted = rig.halt_database()
        try:
            began = time.monotonic()
            requests = asyncio.gather(
                http.post("/api/v1/jobs", json=JOB | {"idempotency_key": "halted"}),
                http.post("/api/v1/jobs/batch", json=[JOB] * 10),
                http.get("/api/v1/queues"),
                http.get("/readyz"),
            )
            assert (await http.get("/healthz")).status_code == 200
            answers = await requests
            took = time.monotonic() - began
        finally:
            send_to_all(halted, signal.SIGCONT)
        for answer in answers:
            assert_unavailable(answer, "database.unavailable", "database.commit_unknown")
        assert took < DEADLINE
        await until(lambda: _accepted(http, "halted"))
        answer = await http.post("/api/v1/jobs", json=JOB)
        await until(lambda: _ended(http, answer.json()["id"]))


async def test_a_halted_postmaster_holds_up_nobody_who_is_connected(rig: Rig) -> None:
    await rig.start_server()
    await rig.create_queues()
    async with rig.http() as http:
        assert await _accepted(http, "first")
        os.kill(rig.postmaster, signal.SIGSTOP)
        try:
            answer = await asyncio.wait_for(http.post("/api/v1/jobs", json=JOB), DEADLINE)
        finally:
            os.kill(rig.postmaster, signal.SIGCONT)
        assert answer.status_code == 201


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o711)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=192m,mode=711", "taskforge-test", str(folder)],
        capture_output=True,
        timeout=10,
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount a small disk"
)
async def test_a_full_disk_refuses_submits_and_loses_nothing_that_was_acknowledged() -> None:
    options = {"max_wal_size": "64MB", "min_wal_size": "32MB"}
    async with open_rig(ttl=TTL, is_durable=False, options=options, prepare=small_disk) as rig:
        await rig.start_server()
        await rig.create_queues()
        # Text that hardly compresses, or the disk would take it for ever.
        batch = [{**JOB, "payload": {"n": 1, "text": os.urandom(2_000).hex()}}] * 500
        body = json.dumps(batch).encode()
        acked: list[int] = []
        async with rig.http() as http:
            filler = rig.folder / "db" / "filler"
            free = shutil.disk_usage(filler.parent).free
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free - 8 * 1024 * 1024)
            codes = []
            for _ in range(40):
                answer = await http.post(
                    "/api/v1/jobs/batch", content=body, headers={"Content-Type": "application/json"}
                )
                if answer.status_code == 201:
                    acked += [int(item["id"]) for item in answer.json()["data"]]
                else:
                    assert_unavailable(
                        answer, "database.disk_full", "database.unavailable", "database.commit_unknown"
                    )
                    codes.append(answer.json()["code"])
                    if len(codes) == 3:
                        break
            assert codes, "the disk did not fill up"
            print(f"{len(acked)} acknowledged, then {codes}")
            filler.unlink()
            await rig.start_database()
            await until(lambda: _accepted(http, "after"), timeout=20.0)
            admin = await rig.connect()
            stored = {
                row["id"] for row in await admin.fetch("select id from jobs where length(payload) > 1000")
            }
            assert stored >= set(acked)
            assert len(stored) % 500 == 0
            assert await admin.fetchval("select count_below_floors()") == 0
            await admin.close()
