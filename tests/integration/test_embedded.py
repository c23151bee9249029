"""The embedded server under everything that can happen to its users, its supervisor and itself."""

# ruff: noqa: ASYNC220, ASYNC221 - short commands of the system; nothing else runs in the loop

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import asyncpg
import pytest

from taskforge.errors import ConfigurationError, Unavailable
from taskforge.postgres import account as account_module
from taskforge.postgres.account import account_for_server, reachable_binaries
from taskforge.postgres.binaries import Binaries, locate_binaries
from taskforge.postgres.embedded import EmbeddedPostgres
from taskforge.postgres.supervisor import (
    exists,
    open_lock,
    postmaster_pid,
    processes_of,
    try_lock,
)

IS_ROOT = os.geteuid() == 0
PG_BIN = Path(os.environ["TASKFORGE_PG_BIN"]) if os.environ.get("TASKFORGE_PG_BIN") else None
PATHS = os.pathsep.join(path for path in sys.path if path)
USER = """
import asyncio, os, sys
from pathlib import Path
from taskforge.postgres.embedded import EmbeddedPostgres

async def main():
    chosen = os.environ.get("TASKFORGE_PG_BIN")
    server = EmbeddedPostgres(Path(sys.argv[1]), pg_bin=Path(chosen) if chosen else None)
    print(await server.start(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(main())
"""


class User:
    """A process that uses the server until it is told to leave, or killed."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def dsn(self) -> str:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), 60)
        assert line.startswith("postgresql://"), line
        return line.strip()

    async def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert await asyncio.to_thread(self.process.wait, 30) == 0

    async def kill(self) -> None:
        self.process.kill()
        await asyncio.to_thread(self.process.wait, 30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because a socket's path is; passable for the account that runs the server for root."""
    made = Path(tempfile.mkdtemp(prefix="tf-embedded-", dir="/tmp"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def data_dir(folder: Path, eventually: object) -> AsyncIterator[Path]:
    chosen = folder / "data"
    yield chosen
    await eventually(lambda: is_down(chosen), 30)  # type: ignore[operator]


@pytest.fixture
def users(data_dir: Path) -> Iterator[Callable[[], User]]:
    made: list[User] = []

    def make() -> User:
        made.append(User(data_dir))
        return made[-1]

    yield make
    for user in made:
        user.close()


def embedded(data_dir: Path, **more: object) -> EmbeddedPostgres:
    return EmbeddedPostgres(data_dir, pg_bin=PG_BIN, **more)  # type: ignore[arg-type]


def cluster(data_dir: Path) -> Path:
    return data_dir / "postgres" / "data"


def supervisor_pid(data_dir: Path) -> int:
    return int((data_dir / "supervisor").read_text().split()[0])


def postmaster(data_dir: Path) -> int:
    pid = postmaster_pid(cluster(data_dir))
    assert pid is not None
    return pid


def is_down(data_dir: Path) -> bool:
    if not (data_dir / "supervisor").exists():
        return True
    descriptor = open_lock(data_dir / "supervisor")
    try:
        return try_lock(descriptor, 2) and not processes_of(cluster(data_dir))
    finally:
        os.close(descriptor)


def is_down_cleanly(data_dir: Path) -> bool:
    return is_down(data_dir) and (data_dir / "postgres.log").read_text().rstrip().endswith(
        "database system is shut down"
    )


async def run(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_six_simultaneous_first_starters_share_one_server(users, data_dir) -> None:
    six = [users() for _ in range(6)]
    dsns = await asyncio.gather(*(user.dsn() for user in six))
    assert len(set(dsns)) == 1
    pids = {await run(dsn, "select pg_read_file('postmaster.pid')") for dsn in dsns}
    assert len(pids) == 1
    assert (data_dir / "postgres.log").read_text().count("ready to accept connections") == 1


async def test_server_stops_cleanly_when_all_users_left(users, data_dir, eventually) -> None:
    first, second = users(), users()
    await first.dsn()
    dsn = await second.dsn()
    await first.leave()
    assert await run(dsn, "select 1") == 1
    await second.leave()
    await eventually(lambda: is_down_cleanly(data_dir))


async def test_server_stops_cleanly_when_its_only_user_is_killed(users, data_dir, eventually) -> None:
    user = users()
    await user.dsn()
    await user.kill()
    await eventually(lambda: is_down_cleanly(data_dir))


async def test_server_outlives_its_starter_while_another_user_holds_it(users, data_dir) -> None:
    starter = users()
    dsn = await starter.dsn()
    before = postmaster(data_dir)
    other = users()
    await other.dsn()
    await starter.kill()
    rejoined = users()
    await rejoined.dsn()
    assert postmaster(data_dir) == before
    assert await run(dsn, "select 1") == 1


async def test_data_are_kept_between_runs(data_dir) -> None:
    server = embedded(data_dir)
    await run(await server.start(), "create table kept as select 42 as n")
    await server.stop(wait=True)
    assert is_down_cleanly(data_dir)
    async with embedded(data_dir) as server:
        assert server.dsn is not None
        assert await run(server.dsn, "select n from kept") == 42


async def test_stop_and_wait_leaves_the_server_to_another_user(users, data_dir) -> None:
    server = embedded(data_dir)
    await server.start()
    other = users()
    dsn = await other.dsn()
    await server.stop(wait=True)
    assert await run(dsn, "select 1") == 1


async def test_killed_supervisor_takes_the_server_down_and_the_next_start_works(
    users, data_dir, eventually
) -> None:
    user = users()
    await run(await user.dsn(), "create table kept as select 42 as n")
    os.kill(supervisor_pid(data_dir), signal.SIGKILL)
    await eventually(lambda: is_down_cleanly(data_dir))
    again = users()
    assert await run(await again.dsn(), "select n from kept") == 42


async def test_killed_supervisor_and_immediate_start_do_not_collide(users, data_dir) -> None:
    user = users()
    await run(await user.dsn(), "create table kept as select 42 as n")
    os.kill(supervisor_pid(data_dir), signal.SIGKILL)
    again = users()
    assert await run(await again.dsn(), "select n from kept") == 42


async def test_killed_postmaster_is_started_again_for_its_users(users, data_dir, eventually) -> None:
    user = users()
    dsn = await user.dsn()
    await run(dsn, "create table kept as select 42 as n")
    before = postmaster(data_dir)
    os.kill(before, signal.SIGKILL)

    async def answers() -> bool:
        try:
            return await run(dsn, "select n from kept") == 42
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    await eventually(answers)
    assert postmaster(data_dir) != before


async def test_next_start_recovers_when_supervisor_and_postmaster_were_killed(users, data_dir) -> None:
    user = users()
    await run(await user.dsn(), "create table kept as select 42 as n")
    victims = (supervisor_pid(data_dir), postmaster(data_dir))
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    await user.kill()
    again = users()
    assert await run(await again.dsn(), "select n from kept") == 42


async def test_server_without_supervisor_is_stopped_and_replaced(data_dir, eventually) -> None:
    server = embedded(data_dir)
    await server.start()
    binaries = server.binaries
    await server.stop(wait=True)
    assert binaries is not None
    with orphan_server(data_dir) as orphan:
        await eventually(lambda: postmaster_pid(cluster(data_dir)) == orphan.pid)
        async with embedded(data_dir):
            assert postmaster(data_dir) != orphan.pid
        assert orphan.wait(30) == 0


async def test_pid_file_that_names_another_program_does_not_stop_a_start(data_dir) -> None:
    server = embedded(data_dir)
    await server.start()
    await server.stop(wait=True)
    account = account_for_server()
    with subprocess.Popen(
        ["sleep", "600"], user=account.user if account else None, group=account.group if account else None
    ) as other:
        try:
            (cluster(data_dir) / "postmaster.pid").write_text(f"{other.pid}\n{cluster(data_dir)}\n1\n5432\n")
            if account:
                os.chown(cluster(data_dir) / "postmaster.pid", account.user, account.group)
            async with embedded(data_dir):
                assert postmaster(data_dir) != other.pid
            assert exists(other.pid)
        finally:
            other.kill()


async def test_recovery_may_take_longer_than_the_start_timeout(data_dir) -> None:
    server = embedded(data_dir)
    await server.start()
    await server.stop(wait=True)
    # Archive recovery of a segment that takes its time: the server says that it is starting up, for real.
    (cluster(data_dir) / "recovery.signal").touch()
    if account := account_for_server():
        os.chown(cluster(data_dir) / "recovery.signal", account.user, account.group)
    with (cluster(data_dir) / "postgresql.auto.conf").open("a") as config:
        config.write("restore_command = 'sleep 0.7; false'\nhot_standby = off\n")
    told: list[str] = []
    async with embedded(data_dir, start_timeout=1.0, on_progress=told.append) as slow:
        assert slow.dsn is not None
        assert await run(slow.dsn, "select pg_is_in_recovery()") is False
    assert any("starting up" in line for line in told)


async def test_interrupted_creation_is_made_anew(data_dir) -> None:
    server = embedded(data_dir)
    await server.start()
    await server.stop(wait=True)
    cluster(data_dir).rename(cluster(data_dir).with_name("data.new"))
    (cluster(data_dir).with_name("data.new") / "PG_VERSION").unlink()
    async with embedded(data_dir) as again:
        assert again.dsn is not None
        assert await run(again.dsn, "select 1") == 1
    assert not cluster(data_dir).with_name("data.new").exists()


async def test_server_that_cannot_start_is_reported_with_its_own_words(data_dir) -> None:
    with pytest.raises(Unavailable, match="no_such_setting") as caught:
        await embedded(data_dir, options={"no_such_setting": "1"}).start()
    assert caught.value.code == "embedded.start_failed"


async def test_long_path_gets_its_socket_elsewhere(data_dir) -> None:
    deep = data_dir / ("d" * 90)
    deep.mkdir(parents=True)
    if IS_ROOT:
        data_dir.chmod(0o711)
        deep.chmod(0o711)
    server = embedded(deep)
    try:
        dsn = await server.start()
        assert "%2Ftmp%2Ftaskforge-" in dsn
        assert await run(dsn, "select 1") == 1
        sockets = Path(str(await run(dsn, "show unix_socket_directories")))
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    finally:
        await server.stop(wait=True)
    sockets.rmdir()


async def test_socket_folder_that_others_can_enter_is_refused(data_dir) -> None:
    server = embedded(data_dir)
    await server.start()
    await server.stop(wait=True)
    (data_dir / "postgres" / "run").chmod(0o755)
    with pytest.raises(ConfigurationError) as caught:
        await embedded(data_dir).start()
    assert caught.value.code == "embedded.unsafe_socket_folder"


async def test_other_release_than_the_data_is_refused_by_name(data_dir) -> None:
    server = embedded(data_dir)
    await server.start()
    await server.stop(wait=True)
    made_by = cluster(data_dir) / "PG_VERSION"
    made_by.write_text("9\n")
    with pytest.raises(ConfigurationError, match="made by PostgreSQL 9"):
        await embedded(data_dir).start()


def test_a_folder_without_programs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TASKFORGE_PG_BIN="):
        locate_binaries(pg_bin=tmp_path)


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
async def test_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        await embedded(Path("/etc/taskforge-of-somebody-else")).start()
    assert caught.value.code == "embedded.not_writable"


@pytest.mark.skipif(not IS_ROOT, reason="only root can mount a small disk")
async def test_full_disk_is_said_clearly(folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0711", "tmpfs", small], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        with pytest.raises(Unavailable) as caught:
            await embedded(small / "data").start()
        assert caught.value.code == "embedded.disk_full"
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.skipif(not IS_ROOT, reason="an ordinary user runs the server himself")
async def test_root_lends_an_account_and_widens_no_folder(folder: Path) -> None:
    home = folder / "home"
    home.mkdir(mode=0o700)
    server = embedded(home / "data")
    try:
        dsn = await server.start()
        assert await run(dsn, "select 1") == 1
        place = Path((home / "data" / "postgres.location").read_text().strip())
        assert place.stat().st_uid not in (0, None)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((place / "data").stat().st_mode) == 0o700
        pid = postmaster_pid(place / "data")
        assert pid is not None
        assert Path(f"/proc/{pid}").stat().st_uid == place.stat().st_uid
    finally:
        await server.stop(wait=True)
    shutil.rmtree(place)


@pytest.mark.skipif(not IS_ROOT, reason="an ordinary user runs the server himself")
def test_programs_below_a_closed_home_are_copied_with_their_libraries(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_module, "SHARED_FOLDER", folder / "shared")
    supplied = locate_binaries()
    root = Path(os.path.commonpath([part.parent for part in supplied.parts]))
    home = folder / "home"
    home.mkdir(mode=0o700)
    for part in supplied.parts:
        shutil.copytree(part, home / part.relative_to(root), symlinks=True)
    hidden = Binaries(
        home / supplied.folder.relative_to(root),
        supplied.version,
        supplied.supplier,
        tuple(home / part.relative_to(root) for part in supplied.parts),
    )
    account = account_for_server()
    assert account is not None
    copied = reachable_binaries(account, hidden)
    assert home not in copied.parents
    shutil.rmtree(home)
    for program in ("postgres", "initdb"):
        subprocess.run(
            [copied / program, "--version"], check=True, user=account.user, group=account.group, cwd="/"
        )


@pytest.mark.skipif(not IS_ROOT, reason="is what the other tests are for an ordinary user")
@pytest.mark.timeout(300)
def test_all_of_this_holds_for_an_ordinary_user() -> None:
    try:
        account = pwd.getpwnam("nobody")
    except KeyError:
        pytest.skip("there is no account to try it with")
    switch = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}
    python = python_for(switch)
    if python is None:
        pytest.skip("the environment lies where an ordinary user cannot enter")
    home = Path(tempfile.mkdtemp(prefix="tf-home-", dir="/tmp"))
    os.chown(home, account.pw_uid, account.pw_gid)
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": PATHS,
        **({"TASKFORGE_PG_BIN": str(PG_BIN)} if PG_BIN else {}),
    }
    core = "simultaneous or cleanly or killed or kept or replaced or another_program or long_path or cannot_be_written"
    options = ["-q", "-k", core, "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={home}/tmp", "-rs"]
    try:
        done = subprocess.run(
            [python, "-m", "pytest", *options, __file__],
            cwd=Path(__file__).parents[2],
            env=environment,
            capture_output=True,
            text=True,
            **switch,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    finally:
        shutil.rmtree(home)


def python_for(switch: Mapping[str, object]) -> str | None:
    """A Python of this version that the other user may run with the packages of this one."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/local/bin/{version}", f"/usr/bin/{version}"):
        ours = f"import sys, taskforge; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
        try:
            done = subprocess.run([python, "-c", ours], env={"PYTHONPATH": PATHS}, cwd="/", **switch)  # type: ignore[call-overload]
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return None


def orphan_server(data_dir: Path) -> subprocess.Popen[bytes]:
    account = account_for_server()
    major = int((cluster(data_dir) / "PG_VERSION").read_text())
    binaries = locate_binaries(pg_bin=PG_BIN, major=major)
    folder = binaries.folder
    if account:
        folder = reachable_binaries(account, binaries)
    return subprocess.Popen(
        [
            folder / "postgres",
            "-D",
            cluster(data_dir),
            "-c",
            "listen_addresses=",
            "-k",
            data_dir / "postgres" / "run",
        ],
        user=account.user if account else None,
        group=account.group if account else None,
        cwd="/",
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
