"""The detached parent of an embedded PostgreSQL: keeps it running while anybody holds it, stops it afterwards.

Started by `taskforge.postgres.embedded` as a plain script, so it uses the standard library only and stays small.
Everything it must know about others is a `flock`, which the kernel drops when its owner dies, however it dies:

    holders      shared, by every process that uses the server; exclusive means nobody does
    starting     exclusive, by whoever starts the server, and by the supervisor while it stops it
    supervisor   exclusive, by the supervisor as long as it lives; the file's lines are its pid and, once all that was
                 left of former servers is gone, that of the server
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 2.0
POLL_SECONDS = 0.1
QUICK_DEATH_SECONDS = 5.0
QUICK_DEATHS_ALLOWED = 3
STOP_SECONDS = 120.0
PR_SET_PDEATHSIG = 1
HAS_PROC = Path("/proc/self/cwd").exists()


def try_lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def publish(descriptor: int, pids: list[int]) -> None:
    """Shorter first, so that a reader never sees the server of a former text."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, "".join(f"{pid}\n" for pid in pids).encode(), 0)


def log(message: str) -> None:
    """A line beside those of the server, which writes to the same file."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {message}", file=sys.stderr, flush=True)


class Supervisor:
    def __init__(
        self,
        *,
        home: Path,
        bin_dir: Path,
        data: Path,
        sockets: Path,
        options: list[str],
        user: int | None,
        group: int | None,
        mine: int,
    ) -> None:
        self.bin_dir = bin_dir
        self.data = data
        self.sockets = sockets
        self.options = options
        self.user = user
        self.group = group
        self.mine = mine
        self.holders = open_lock(home / "holders")
        self.starting = open_lock(home / "starting")
        self.libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self.pid = os.getpid()
        self.is_hurried = False
        self.is_ordered_to_stop = False
        self.sync: subprocess.Popen[bytes] | None = None
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PG", "PYTHON", "LC_"))
        } | {"LC_ALL": "C"}

    def run(self) -> int:
        """Serve until nobody holds the server, or it was stopped on purpose, or it keeps dying."""
        signal.signal(signal.SIGUSR1, self._hurry)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._order_stop)
        if not (self.data / "PG_VERSION").exists():
            self._create_cluster()
        try:
            return self._serve()
        finally:
            if self.sync is not None:
                self.sync.wait()

    def _serve(self) -> int:
        quick_deaths = 0
        while True:
            self._publish(None)
            end_leftovers(self.data, self.sockets)
            began = time.monotonic()
            server = self._start()
            self._publish(server.pid)
            if self._watch(server):
                return 0
            if server.returncode == 0:
                log("the server was stopped by somebody else; leaving")
                return 0
            # Killed by a signal, it can run again. Ended with a status, it has said why it cannot.
            is_refusal = server.returncode > 0 and time.monotonic() - began < QUICK_DEATH_SECONDS
            quick_deaths = quick_deaths + 1 if is_refusal else 0
            if quick_deaths >= QUICK_DEATHS_ALLOWED:
                log(f"the server ended {quick_deaths} times in a row, giving up")
                return 1
            log(f"the server ended unexpectedly (status {server.returncode}), starting it again")
            time.sleep(POLL_SECONDS)

    def _publish(self, server: int | None) -> None:
        publish(self.mine, [self.pid] if server is None else [self.pid, server])

    def _create_cluster(self) -> None:
        """Made aside and renamed, so that a cluster is either whole or not there."""
        fresh = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        log(f"creating the cluster {self.data}")
        options = ["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=trust", "--username=postgres"]
        status = self._launch([self.bin_dir / "initdb", *options, "-D", fresh]).wait()
        if status != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise SystemExit(f"initdb failed with status {status}")
        with (fresh / "postgresql.conf").open("a", encoding="utf-8") as config:
            config.write(
                "\n# taskforge: compilation costs more than it gives on short statements\njit = off\n"
            )
        # Only the socket's folder decides who may connect, and only its owner (and root) can enter it.
        (fresh / "pg_hba.conf").write_text("local all all trust\n", encoding="ascii")
        fresh.rename(self.data)
        if "fsync=off" not in self.options:
            # Beside the first start, because waiting for it would cost a second.
            self.sync = self._launch([self.bin_dir / "initdb", "--sync-only", "-D", self.data])

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "unix_socket_permissions": "0700",
            "port": "5432",
            "logging_collector": "off",
            "log_destination": "stderr",
        }
        options = [f"{name}={value}" for name, value in settings.items()] + self.options
        return self._launch(
            [
                self.bin_dir / "postgres",
                "-D",
                self.data,
                *(part for option in options for part in ("-c", option)),
            ]
        )

    def _launch(self, command: list[Path | str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if "--sync-only" in command else None,
            env=self.environment,
            cwd="/",
            user=self.user,
            group=self.group,
            extra_groups=None if self.user is None else [],
            preexec_fn=self._die_with_parent,
            start_new_session=True,
        )

    def _die_with_parent(self) -> None:
        """In the child, after it became the other user, which would clear this: when we are killed, stop fast."""
        if self.libc is not None:
            self.libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
            if os.getppid() != self.pid:
                os._exit(1)

    def _watch(self, server: subprocess.Popen[bytes]) -> bool:
        """True when we stopped the server; False when it ended by itself."""
        unheld_since: float | None = None
        while server.poll() is None:
            if self.is_ordered_to_stop:
                try_lock(self.starting, fcntl.LOCK_EX)
                log("ordered to stop")
                stop(server)
                return True
            if not self._is_unheld():
                unheld_since = None
                self.is_hurried = False
            elif unheld_since is None:
                unheld_since = time.monotonic()
            is_due = unheld_since is not None and time.monotonic() - unheld_since >= GRACE_SECONDS
            if (is_due or self.is_hurried) and self._is_unheld_for_good():
                log("nobody uses the server any more; stopping it")
                stop(server)
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _is_unheld(self) -> bool:
        if not try_lock(self.holders, fcntl.LOCK_EX):
            return False
        fcntl.flock(self.holders, fcntl.LOCK_UN)
        return True

    def _is_unheld_for_good(self) -> bool:
        """When true, `starting` is ours: who comes now waits until the server is down, then starts it anew."""
        if not try_lock(self.starting, fcntl.LOCK_EX):
            return False
        if self._is_unheld():
            return True
        fcntl.flock(self.starting, fcntl.LOCK_UN)
        return False

    def _hurry(self, number: int, frame: FrameType | None) -> None:
        self.is_hurried = True

    def _order_stop(self, number: int, frame: FrameType | None) -> None:
        self.is_ordered_to_stop = True


def stop(server: subprocess.Popen[bytes]) -> None:
    """Fast shutdown; if that takes for ever, an immediate one, which the next start recovers from."""
    for number, seconds in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
        server.send_signal(number)
        try:
            server.wait(seconds)
        except subprocess.TimeoutExpired:
            log(f"the server ignores {number.name}")
        else:
            return


def end_leftovers(data: Path, sockets: Path) -> None:
    """No process of this cluster is left afterwards, and no lock file that would refuse the next one.

    A postmaster without a supervisor is already stopping where the kernel told it of its parent's death, and is told
    here where it was not. Processes whose postmaster was killed end by themselves, unless they are busy computing.
    """
    pid = postmaster_pid(data)
    deadline = time.monotonic() + STOP_SECONDS
    if pid is not None and is_server_of(pid, data):
        log(f"stopping the server {pid}, which has no supervisor")
        send(pid, signal.SIGINT)
        while is_server_of(pid, data):
            if time.monotonic() > deadline:
                raise SystemExit(f"the former server (pid {pid}) does not stop")
            time.sleep(POLL_SECONDS / 5)
    began = time.monotonic()
    while left := processes_of(data):
        if time.monotonic() > deadline:
            raise SystemExit(f"processes of the former server do not end: {left}")
        if time.monotonic() - began > GRACE_SECONDS:
            for process in left:
                send(process, signal.SIGQUIT)
        time.sleep(POLL_SECONDS / 5)
    # A server refuses to start while the pid in a lock file exists, be it by now another program's or that of a dead
    # process which nobody has reaped. Both folders are this cluster's alone, which was just seen to have no process.
    if pid is not None and exists(pid) and HAS_PROC:
        log(f"postmaster.pid names {pid}, which is not a server of this cluster; removing the lock files")
        for stale in (data / "postmaster.pid", sockets / ".s.PGSQL.5432.lock", sockets / ".s.PGSQL.5432"):
            stale.unlink(missing_ok=True)


def postmaster_pid(data: Path) -> int | None:
    try:
        first = (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").split("\n", 1)[0]
    except FileNotFoundError:
        return None
    return abs(int(first)) if first.strip().lstrip("-").isdigit() else None


def exists(pid: int) -> bool:
    """Also true for a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def is_server_of(pid: int, data: Path) -> bool:
    """A live PostgreSQL process whose working folder is the cluster, as every one of its processes has it."""
    if not HAS_PROC:
        command = subprocess.run(
            ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True
        ).stdout
        return "postgres" in command and str(data) in command
    try:
        return os.path.samefile(f"/proc/{pid}/cwd", data) and not _is_zombie(pid)
    except OSError:
        return False


def processes_of(data: Path) -> list[int]:
    if not HAS_PROC:
        return []
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _is_postgres(int(name), data)]


def _is_postgres(pid: int, data: Path) -> bool:
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return False
    return name == "postgres" and is_server_of(pid, data)


def _is_zombie(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[:1] == ["Z"]


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def main() -> int:
    """Take the supervisor's lock, detach, serve. The status is 0 once detached, 75 when there is one already."""
    given = json.loads(sys.argv[1])
    home = Path(given["home"])
    mine = open_lock(home / "supervisor")
    if not try_lock(mine, fcntl.LOCK_EX):
        return 75
    publish(mine, [])
    # The lock belongs to the open file, which the child shares: it is held without a gap.
    if os.fork() > 0:
        os._exit(0)
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    try:
        return Supervisor(
            home=home,
            bin_dir=Path(given["bin_dir"]),
            data=Path(given["data"]),
            sockets=Path(given["sockets"]),
            options=given["options"],
            user=given["user"],
            group=given["group"],
            mine=mine,
        ).run()
    except SystemExit as end:
        log(str(end))
        return 1
    except OSError as error:
        log(f"giving up: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
