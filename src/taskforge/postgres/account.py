"""Who runs the embedded server. PostgreSQL refuses root, so root lends it an unprivileged account."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from msgspec import Struct

from taskforge.errors import ConfigurationError
from taskforge.postgres.binaries import Binaries

_ACCOUNTS = ("taskforge", "postgres")
SHARED_FOLDER = Path("/var/lib/taskforge")


class Account(Struct, frozen=True):
    name: str
    user: int
    group: int


def account_for_server() -> Account | None:
    """None for an ordinary user, who runs the server himself; for root, an account found or made for it."""
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        if found := _lookup(name):
            return found
    name = _ACCOUNTS[0]
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", name]
    if shutil.which(command[0]):
        subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, start_new_session=True)
    # Looked up again even when it failed: another process may have made it at the same moment.
    if found := _lookup(name):
        return found
    raise ConfigurationError(
        "embedded.no_account",
        "PostgreSQL refuses to run as root and no account for it could be made; "
        f"run `{' '.join(command)}` once, or use an ordinary user, or set DATABASE_URL",
    )


def can_reach(account: Account, path: Path) -> bool:
    """Whether the account may enter every folder above `path`, and `path` itself."""
    path = path.resolve()
    return all(_may_enter(account, folder) for folder in (path, *path.parents) if folder.exists())


def reachable_binaries(account: Account, binaries: Binaries) -> Path:
    """The folder of the programs, copied once to a readable place when the account cannot get at them.

    An environment below a 0700 home is the usual case; opening the home instead would show it to everybody.
    """
    program = binaries.folder / "postgres"
    if can_reach(account, binaries.folder) and _may_enter(account, program):
        return binaries.folder
    root = Path(os.path.commonpath([part.parent for part in binaries.parts]))
    target = SHARED_FOLDER / f"postgresql-{binaries.version}-{program.stat().st_mtime_ns:x}"
    copied = target / binaries.folder.relative_to(root)
    if not (copied / "postgres").exists():
        SHARED_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".copying-", dir=SHARED_FOLDER))
        try:
            for part in binaries.parts:
                _copy_readable(part, aside / target.name / part.relative_to(root))
            try:
                (aside / target.name).rename(target)
            except OSError:
                # Somebody else was first; the two are the same.
                if not (copied / "postgres").exists():
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return copied


def _copy_readable(origin: Path, target: Path) -> None:
    ignored = shutil.ignore_patterns("include", "*.a", "__pycache__")
    shutil.copytree(origin, target, symlinks=True, ignore=ignored)
    for folder in (*target.parents, target):
        if SHARED_FOLDER in folder.parents and folder.parent != SHARED_FOLDER:
            folder.chmod(0o755)
    for name, _, files in os.walk(target):
        Path(name).chmod(0o755)
        for file in files:
            copied = Path(name, file)
            if not copied.is_symlink():
                copied.chmod(0o755 if copied.stat().st_mode & 0o100 else 0o644)


def _lookup(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _may_enter(account: Account, path: Path) -> bool:
    status = path.stat()
    if status.st_uid == account.user:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.group:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
