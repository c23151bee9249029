"""The checks of `taskforge doctor`: each a question to the database or the machine, answered ok, warn or fail."""

from __future__ import annotations

import contextlib
import shutil
import time
from datetime import UTC, datetime
from enum import StrEnum

import asyncpg
from msgspec import Struct

from taskforge.cli.config import warnings
from taskforge.cli.database import Place, check_schema, connect, open_place
from taskforge.cli.failures import next_step
from taskforge.errors import ConfigurationError, TaskForgeError
from taskforge.rest.server import bind
from taskforge.secrets_store import with_jwt_secret
from taskforge.settings import Settings
from taskforge.tokens import check_secret

MIB = 1024 * 1024


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(Struct, frozen=True, omit_defaults=True):
    check: str
    verdict: Verdict
    detail: str
    next_step: str = ""


def _ok(check: str, detail: str) -> Finding:
    return Finding(check, Verdict.OK, detail)


def _warn(check: str, detail: str, next_step: str) -> Finding:
    return Finding(check, Verdict.WARN, detail, next_step)


def _fail(check: str, detail: str, next_step: str) -> Finding:
    return Finding(check, Verdict.FAIL, detail, next_step)


async def examine(settings: Settings) -> list[Finding]:
    """Every check that can be made. What cannot be reached is a finding, not an error."""
    findings = [
        _warn("settings", text, "`taskforge config show` tells where each value comes from")
        for text in warnings(settings)
    ]
    findings += [_secret(settings), _port(settings), _disk(settings)]
    try:
        async with open_place(settings, migrates=False) as place, connect(place.admin_dsn) as connection:
            findings += await _database(connection, place, settings)
    except TaskForgeError as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        findings.append(_fail("database", f"{error.detail}{cause}", next_step(error) or "see the message"))
    return findings


def _secret(settings: Settings) -> Finding:
    try:
        check_secret(with_jwt_secret(settings).jwt_secret, is_development=False)
    except ConfigurationError as error:
        advice = "make one with `openssl rand -hex 32` and set JWT_SECRET"
        return (_warn if settings.is_development else _fail)("jwt secret", error.detail, advice)
    if settings.jwt_secret is None:
        return _ok("jwt secret", f"made for development, kept in {settings.data_dir}")
    return _ok("jwt secret", f"set by {settings.origins['jwt_secret']}")


def _port(settings: Settings) -> Finding:
    try:
        bind(settings.host, settings.port).close()
    except ConfigurationError as error:
        return _warn(
            "port", error.detail, "if that is not TaskForge itself, free it or choose another with --port"
        )
    return _ok("port", f"{settings.host}:{settings.port} is free")


def _disk(settings: Settings) -> Finding:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    said = f"{usage.free // MIB} MiB free of {usage.total // MIB} on the disk of {folder}"
    if usage.free < 256 * MIB:
        return _fail("disk", said, "free some, or set TASKFORGE_DATA_DIR to another disk")
    if usage.free < 1024 * MIB:
        return _warn("disk", said, "free some before the database runs into it")
    return _ok("disk", said)


async def _database(
    connection: asyncpg.Connection[asyncpg.Record], place: Place, settings: Settings
) -> list[Finding]:
    findings = [
        await _version(connection),
        await _durability(connection),
        await _jit(connection),
        await _pooler(connection, place),
        await _clock(connection),
        await _horizon(connection),
        await _role(connection, place, settings),
    ]
    try:
        await check_schema(connection)
    except ConfigurationError as error:
        if place.is_embedded:
            return [*findings, _ok("schema", "is brought up to date by whatever uses it next")]
        return [*findings, _fail("schema", error.detail, "run `taskforge migrate`")]
    findings.append(_ok("schema", "is of this version"))
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        findings += [await _floors(connection), await _workers(connection)]
    return findings


async def _version(connection: asyncpg.Connection[asyncpg.Record]) -> Finding:
    number = await connection.fetchval("select current_setting('server_version_num')::int")
    encoding = await connection.fetchval("select current_setting('server_encoding')")
    said = f"PostgreSQL {connection.get_server_version().major}, {encoding}"
    if number < 140_000:
        return _fail("server", said, "use PostgreSQL 14 or newer")
    if encoding != "UTF8":
        return _fail("server", said, "make the database anew with encoding 'UTF8'")
    return _ok("server", said)


async def _durability(connection: asyncpg.Connection[asyncpg.Record]) -> Finding:
    names = ("fsync", "full_page_writes", "synchronous_commit")
    values = {name: await connection.fetchval("select current_setting($1)", name) for name in names}
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    if values["fsync"] == "off" or values["full_page_writes"] == "off":
        return _fail("durability", said, "switch both on, or a power cut loses or corrupts data")
    if values["synchronous_commit"] in ("off", "local"):
        return _warn("durability", said, "switch it on, or the last accepted jobs can be lost in a crash")
    return _ok("durability", said)


async def _jit(connection: asyncpg.Connection[asyncpg.Record]) -> Finding:
    value = await connection.fetchval("select current_setting('jit')")
    return _ok("jit", f"{value}; TaskForge switches it off for its own transactions")


async def _pooler(connection: asyncpg.Connection[asyncpg.Record], place: Place) -> Finding:
    # A pooler hands out a process number of its own.
    is_pooled = await connection.fetchval("select pg_backend_pid()") != connection.get_server_pid()
    if not is_pooled:
        return _ok("pooler", "none on this connection")
    return _warn(
        "pooler",
        "there is a pooler in between",
        "set DATABASE_DIRECT_URL past it, for LISTEN and migrations; pgbouncer must be 1.21 or newer",
    )


async def _clock(connection: asyncpg.Connection[asyncpg.Record]) -> Finding:
    before = time.time()
    there: datetime = await connection.fetchval("select clock_timestamp()")
    here = (before + time.time()) / 2
    skew = there.astimezone(UTC).timestamp() - here
    said = f"{abs(skew):.3f} s apart from the database"
    if abs(skew) > 30:
        return _fail("clock", said, "synchronize the clocks (NTP); tokens are refused by now")
    if abs(skew) > 1:
        return _warn("clock", said, "synchronize the clocks (NTP)")
    return _ok("clock", said)


async def _horizon(connection: asyncpg.Connection[asyncpg.Record]) -> Finding:
    """Whoever holds an old snapshot keeps dead rows alive, and the floors from rising."""
    row = await connection.fetchrow(
        """
        select what, seconds from (
          select 'the session ' || pid || ' (' || coalesce(nullif(application_name, ''), usename, '?') || ')' as what,
            extract(epoch from now() - xact_start)::float8 as seconds
          from pg_stat_activity where backend_xmin is not null and pid <> pg_backend_pid()
          union all
          select 'the prepared transaction ' || gid, extract(epoch from now() - prepared)::float8 from pg_prepared_xacts
          union all
          select 'the unused replication slot ' || slot_name, 86400 from pg_replication_slots
          where not active and (xmin is not null or catalog_xmin is not null)
        ) as holders (what, seconds) order by seconds desc nulls last limit 1
        """
    )
    if row is None or (row["seconds"] or 0) < 60:
        return _ok("snapshots", "no transaction is open for long")
    return _warn(
        "snapshots",
        f"{row['what']} holds a snapshot since {row['seconds']:.0f} s",
        "end it: tables grow and nothing is cleaned up meanwhile",
    )


async def _role(connection: asyncpg.Connection[asyncpg.Record], place: Place, settings: Settings) -> Finding:
    if place.is_embedded:
        return _ok("login", "embedded; TaskForge works as an unprivileged login")
    role = await connection.fetchrow(
        "select rolname, rolsuper, rolbypassrls from pg_roles where rolname = session_user"
    )
    if role is None or not (role["rolsuper"] or role["rolbypassrls"]):
        return _ok("login", "is bound by row-level security")
    said = f"{role['rolname']} is {'a superuser' if role['rolsuper'] else 'exempt from row-level security'}"
    advice = "make an unprivileged one with `taskforge migrate --login NAME` and put it into DATABASE_URL"
    return (_warn if settings.is_development else _fail)("login", said, advice)


async def _floors(connection: asyncpg.Connection[asyncpg.Record]) -> Finding:
    below = await connection.fetchval("select taskforge.count_below_floors()")
    if below:
        return _fail(
            "floors", f"{below} extents lie where no claim looks", "report this as a bug, with the log"
        )
    return _ok("floors", "no extent below them")


async def _workers(connection: asyncpg.Connection[asyncpg.Record]) -> Finding:
    row = await connection.fetchrow(
        """
        select count(*) filter (where expires_at > now()) as alive,
          count(*) filter (where expires_at < now() - interval '30 seconds') as lost,
          count(*) filter (where is_server and expires_at > now()) as servers
        from taskforge.workers where state <> 3
        """
    )
    said = f"{row['alive'] - row['servers']} workers and {row['servers']} servers are alive"
    if row["lost"]:
        return _warn(
            "workers",
            f"{said}; {row['lost']} were lost and nobody has taken their jobs back",
            "start a server or a worker: each of them looks after the lost ones",
        )
    return _ok("workers", said)
