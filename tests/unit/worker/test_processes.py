from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from taskforge.domain.leases import Failed, Snoozed
from taskforge.errors import ConfigurationError
from taskforge.worker.handlers import Mode, make_handler, resolve
from tests.unit.worker import handlers_elsewhere as elsewhere


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def running(rig, *functions: Callable[..., object]):
    async with rig(*functions, mode=Mode.PROCESS, concurrency=1) as r:
        yield r


async def test_results_arguments_and_context_cross_the_pipe(rig, lease) -> None:
    async with running(rig, elsewhere.double, elsewhere.double_async, elsewhere.who, elsewhere.chatty) as r:
        doubled, also, who, chatty = await r.run(
            lease("double", [b'{"n":21}']),
            lease("double_async", [b'{"n":4}'], first_id=2),
            lease("who", first_id=3, attempt=2),
            lease("chatty", first_id=4),
        )
    assert (doubled.result, also.result, chatty.result) == (b"42", b"8", b'"fine"')
    assert who.result.endswith(b',"3",2,true]')
    assert not who.result.startswith(b"[%d," % os.getpid())


async def test_failures_and_answers_cross_the_pipe(rig, lease) -> None:
    async with running(rig, elsewhere.fail, elsewhere.snooze, elsewhere.double) as r:
        failed, snoozed, invalid = await r.run(
            lease("fail"), lease("snooze", first_id=2), lease("double", [b'{"n":"x"}'], first_id=3)
        )
    assert (failed.error_class, failed.message) == ("ValueError", "over there")
    assert "over there" in failed.traceback
    assert isinstance(snoozed, Snoozed)
    assert invalid.error_class == "payload.invalid"


async def test_a_process_is_kept_and_killed_at_its_job_s_timeout(rig, lease) -> None:
    async with running(rig, elsewhere.who, elsewhere.hang) as r:
        first, second, late, fresh = await r.run(
            lease("who"),
            lease("who", first_id=2),
            lease("hang", first_id=3, timeout=0.01),
            lease("who", first_id=4),
        )
        pids = [int(o.result[1:].split(b",")[0]) for o in (first, second, fresh)]
        assert late.error_class == "JobTimeout"
        assert pids[0] == pids[1] != pids[2]
    assert not is_alive(pids[0])
    assert not is_alive(pids[2])


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (elsewhere.die, "the process was killed by signal 9"),
        (elsewhere.leave, "the process exited with code 9"),
    ],
)
async def test_a_crash_is_a_failed_attempt_of_its_own_class(rig, lease, fn, message: str) -> None:
    async with running(rig, fn, elsewhere.double) as r:
        crashed, fine = await r.run(lease(fn.__name__), lease("double", [b'{"n":1}'], first_id=2))
    assert isinstance(crashed, Failed)
    assert (crashed.error_class, crashed.message) == ("ProcessCrashed", message)
    assert crashed.retry_in is not None
    assert fine.result == b"2"


async def test_a_cancelled_job_s_process_is_killed(rig, lease) -> None:
    async with running(rig, elsewhere.hang) as r:
        task = asyncio.create_task(r.run(lease("hang")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert r.slots.running == 1
        r.slots.cancel([1])
        [outcome] = await task
    assert outcome.reason == "cancelled on request"


def test_a_local_function_cannot_run_in_a_process() -> None:
    def local() -> None: ...

    with pytest.raises(ConfigurationError, match="module level"):
        make_handler(local, job_type="local", mode=Mode.PROCESS)


def test_a_script_is_found_by_its_path(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text("def job():\n    return __name__\nif __name__ == '__main__':\n    raise SystemExit\n")
    assert resolve(f"{script}:job")() == "__taskforge_main__"
