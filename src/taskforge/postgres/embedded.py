"""A PostgreSQL of our own, shared by every process that names the same data folder.

The first user starts it under a detached supervisor (`supervisor.py`, which explains the locks); it stops by itself two
seconds after the last user is gone, also when that one was killed. The data stay. Only a unix socket is opened, in a
folder that nobody but the owner can enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import asyncpg

from taskforge.errors import ConfigurationError, TaskForgeError, Unavailable
from taskforge.postgres import supervisor
from taskforge.postgres.account import (
    SHARED_FOLDER,
    Account,
    account_for_server,
    can_reach,
    reachable_binaries,
)
from taskforge.postgres.binaries import Binaries, locate_binaries
from taskforge.postgres.supervisor import open_lock, try_lock

DATABASE = "taskforge"
LONGEST_SOCKET_FOLDER = 107 - len("/.s.PGSQL.5432")
LOG_ROTATED_AT_BYTES = 16 * 1024 * 1024
_PATIENCE_SECONDS = 0.02
_GOING_DOWN = (
    OSError,
    TimeoutError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)


class EmbeddedPostgres:
    """`await start()` gives the DSN of a running server; `await stop()` lets go of it.

    `options` are server settings for the process that happens to start it. `start_timeout` does not run while the
    server says that it is starting up, because recovery after a crash takes as long as it takes. `on_progress` is
    told in a sentence what is being waited for.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        pg_bin: Path | None = None,
        options: Mapping[str, str] | None = None,
        start_timeout: float = 60.0,
        on_progress: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self.dsn: str | None = None
        self.binaries: Binaries | None = None
        self.log_file = self.data_dir / "postgres.log"
        self._pg_bin = pg_bin
        self._options = dict(options or {})
        self._start_timeout = start_timeout
        self._on_progress = on_progress
        self._holder: int | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> str:
        """The server runs and is held by this process until `stop()` or its death. Safe to call by many at once.

        Raises ConfigurationError when it cannot run here at all, Unavailable when it does not come up.
        """
        if self._holder is not None and self.dsn is not None:
            return self.dsn
        try:
            self._make_folder()
            self._holder = await _locked(self.data_dir / "holders", fcntl.LOCK_SH)
            async with _locking(self.data_dir / "starting"):
                self.dsn = await self._ensure_running()
        except OSError as error:
            await self.stop()
            raise _translated(error, self.data_dir) from error
        except BaseException:
            await self.stop()
            raise
        return self.dsn

    async def stop(self, *, wait: bool = False) -> None:
        """This process uses the server no longer. With `wait`, and if nobody else does, it is down afterwards."""
        if self._holder is None:
            return
        os.close(self._holder)
        self._holder, self.dsn = None, None
        if wait:
            await self._stopped()

    async def _stopped(self) -> None:
        self._signal_supervisor(signal.SIGUSR1)
        deadline = time.monotonic() + self._start_timeout
        times_held = 0
        while self._has_supervisor() and time.monotonic() < deadline:
            # The supervisor's own look at `holders` takes microseconds, so three in a row are somebody else.
            times_held = times_held + 1 if _is_held(self.data_dir / "holders") else 0
            if times_held >= 3:
                return
            await asyncio.sleep(_PATIENCE_SECONDS)

    def _make_folder(self) -> None:
        # As root, the server's account has to pass through; what is inside has its own rights.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        if not self.data_dir.exists():
            self.data_dir.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self.data_dir.mkdir(mode=mode)
                self.data_dir.chmod(mode)

    async def _ensure_running(self) -> str:
        account = account_for_server()
        home = self._server_home(account)
        sockets = _socket_folder(home, account)
        dsn = f"postgresql://postgres@/{DATABASE}?host={quote(str(sockets), safe='')}&port=5432"
        if not self._has_supervisor():
            await self._launch_supervisor(home, sockets, account)
        elif await self._is_ready(dsn):
            return dsn
        else:
            # It went down under us, as when the last user had just left; once more, and now it is ours alone.
            await self._launch_supervisor(home, sockets, account)
        if not await self._is_ready(dsn):
            raise _start_failed(self.log_file)
        return dsn

    def _server_home(self, account: Account | None) -> Path:
        """A folder of the server's account, which holds the cluster and its socket."""
        beside = self.data_dir / "postgres"
        if account is None:
            beside.mkdir(mode=0o700, exist_ok=True)
            return beside
        digest = hashlib.sha256(os.fsencode(self.data_dir.resolve())).hexdigest()[:16]
        elsewhere = SHARED_FOLDER / "clusters" / digest
        is_reachable = can_reach(account, self.data_dir)
        if (elsewhere / "data" / "PG_VERSION").exists() or not is_reachable:
            # The account cannot enter the data folder, and opening it is not ours to do.
            home = elsewhere
            home.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            (self.data_dir / "postgres.location").write_text(f"{home}\n", encoding="utf-8")
        else:
            home = beside
        if (home / "data" / "PG_VERSION").exists() and not can_reach(account, home.parent):
            raise ConfigurationError(
                "embedded.unreachable",
                f"the account {account.name}, which runs PostgreSQL for root, may not enter {home}",
            )
        if not home.exists():
            with contextlib.suppress(FileExistsError):
                home.mkdir(mode=0o700)
        if home.stat().st_uid != account.user and not any(home.iterdir()):
            os.chown(home, account.user, account.group)
        return home

    async def _launch_supervisor(self, home: Path, sockets: Path, account: Account | None) -> None:
        data = home / "data"
        made_by = data / "PG_VERSION"
        major = int(made_by.read_text(encoding="ascii")) if made_by.exists() else None
        # Each looks at a program's version by running it, so this must not hold up the loop.
        binaries = await asyncio.to_thread(locate_binaries, pg_bin=self._pg_bin, major=major)
        folder = binaries.folder
        if account is not None:
            folder = await asyncio.to_thread(reachable_binaries, account, binaries)
        self.binaries = binaries
        verb = "creating a database with" if major is None else "starting"
        self._on_progress(f"{verb} PostgreSQL {binaries.version} in {home}")
        given = {
            "home": str(self.data_dir),
            "bin_dir": str(folder),
            "data": str(data),
            "sockets": str(sockets),
            "options": [f"{name}={value}" for name, value in self._options.items()],
            "user": account.user if account else None,
            "group": account.group if account else None,
        }
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_ROTATED_AT_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        with self.log_file.open("ab") as log:
            self.log_file.chmod(0o600)
            # By path and isolated: as a module it would import all of taskforge, and take ten times the memory.
            launched = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", supervisor.__file__, json.dumps(given)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # away from the terminal's Ctrl-C from its first moment
            )
            if await launched.wait() not in (0, 75):
                raise _start_failed(self.log_file)

    async def _is_ready(self, dsn: str) -> bool:
        """True once the supervisor's own server answers; False when the supervisor is gone instead."""
        waited = 0.0
        before = time.monotonic()
        told_at = before
        while True:
            is_starting_up = False
            try:
                # Before that, whoever answers is a former server that is about to be stopped.
                if len(self._supervisor_and_server()) == 2:
                    await _ensure_database(dsn)
                    return True
                is_starting_up = True
            except asyncpg.CannotConnectNowError:
                is_starting_up = True
            except _GOING_DOWN:
                pass
            except asyncpg.DiskFullError as error:
                raise _disk_full(self.data_dir) from error
            except asyncpg.PostgresError as error:
                raise Unavailable(
                    "embedded.start_failed", f"the embedded PostgreSQL answers: {error}"
                ) from error
            if not self._has_supervisor():
                return False
            now = time.monotonic()
            waited += 0.0 if is_starting_up else now - before
            before = now
            if waited > self._start_timeout:
                raise Unavailable(
                    "embedded.start_timeout",
                    f"the embedded PostgreSQL does not answer after {waited:.0f} s; see {self.log_file}",
                )
            if now - told_at > 3:
                told_at = now
                self._on_progress("PostgreSQL is starting up, perhaps after a crash; waiting for it")
            await asyncio.sleep(_PATIENCE_SECONDS)

    def _has_supervisor(self) -> bool:
        return _is_held(self.data_dir / "supervisor")

    def _supervisor_and_server(self) -> list[int]:
        return [int(pid) for pid in (self.data_dir / "supervisor").read_text(encoding="ascii").split()]

    def _signal_supervisor(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):
            pids = self._supervisor_and_server()
            if pids and self._has_supervisor():
                os.kill(pids[0], number)


async def _ensure_database(dsn: str) -> None:
    try:
        connection = await asyncpg.connect(dsn, timeout=10)
    except asyncpg.TooManyConnectionsError:
        return
    except asyncpg.InvalidCatalogNameError:
        connection = await asyncpg.connect(dsn, database="postgres", timeout=10)
        with contextlib.suppress(asyncpg.DuplicateDatabaseError):
            await connection.execute(f"create database {DATABASE}")
    await connection.close()


async def _locked(path: Path, operation: int) -> int:
    descriptor = open_lock(path)
    try:
        while not try_lock(descriptor, operation):  # noqa: ASYNC110 - the other side is another process
            await asyncio.sleep(_PATIENCE_SECONDS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextlib.asynccontextmanager
async def _locking(path: Path) -> AsyncIterator[None]:
    descriptor = await _locked(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _socket_folder(home: Path, account: Account | None) -> Path:
    """A folder that only the server's owner can enter, with a path that fits into a socket's address."""
    folder = home / "run"
    if len(os.fsencode(folder)) > LONGEST_SOCKET_FOLDER:
        digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        folder = Path("/tmp") / f"taskforge-{os.geteuid()}-{digest}"
    owner = account.user if account else os.geteuid()
    try:
        folder.mkdir(mode=0o700)
        if account:
            os.chown(folder, account.user, account.group)
    except FileExistsError:
        pass
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
        raise ConfigurationError(
            "embedded.unsafe_socket_folder",
            f"{folder} must be a folder of user {owner} that nobody else can enter; remove it and start again",
        )
    return folder


def _translated(error: OSError, folder: Path) -> TaskForgeError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(folder)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ConfigurationError(
            "embedded.not_writable",
            f"{error.filename or folder} cannot be used: {error.strerror}; "
            "set TASKFORGE_DATA_DIR to a folder of yours",
        )
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        return ConfigurationError(
            "embedded.no_locks",
            f"{folder} is on a file system without locks; set TASKFORGE_DATA_DIR to a local one",
        )
    return Unavailable("embedded.start_failed", f"the embedded PostgreSQL cannot start in {folder}: {error}")


def _disk_full(folder: Path) -> Unavailable:
    return Unavailable(
        "embedded.disk_full",
        f"no space is left on the disk of {folder}; free some, then start again (nothing was lost)",
        retry_after=30.0,
    )


def _start_failed(log_file: Path) -> Unavailable:
    lines = (
        log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-12:] if log_file.exists() else []
    )
    if any("No space left on device" in line or "Disk quota exceeded" in line for line in lines):
        return _disk_full(log_file.parent)
    said = "\n  ".join(lines) or "nothing"
    return Unavailable(
        "embedded.start_failed", f"the embedded PostgreSQL did not start; {log_file} ends with\n  {said}"
    )
