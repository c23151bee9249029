"""Every setting in one table, read from defaults < taskforge.toml < environment < flags.

The environment, the TOML file and `taskforge config show` are three readings of `TABLE`. To add a setting, add
its row and the field of the same name in `Settings`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from taskforge.errors import ConfigurationError

Kind: TypeAlias = Literal["text", "integer", "number", "size", "choice", "path", "names", "database", "url"]
Value: TypeAlias = str | int | float | Path | tuple[str, ...] | None

CONFIG_FILE = "taskforge.toml"
MIB = 1024 * 1024


class Setting(Struct, frozen=True, kw_only=True):
    """One row: `env` lists the variables that set it, the most specific first."""

    name: str
    env: tuple[str, ...]
    kind: Kind
    default: Value
    help: str
    unit: str = ""
    secret: bool = False
    choices: tuple[str, ...] = ()
    minimum: float = 0
    maximum: float = float("inf")


TABLE: tuple[Setting, ...] = (
    Setting(
        name="database_url",
        env=("DATABASE_URL",),
        kind="database",
        default=None,
        secret=True,
        help="PostgreSQL 14 or newer to use; unset means the embedded one.",
    ),
    Setting(
        name="database_direct_url",
        env=("DATABASE_DIRECT_URL",),
        kind="database",
        default=None,
        secret=True,
        help="The same database past any pooler, for LISTEN and advisory locks; unset means DATABASE_URL.",
    ),
    Setting(
        name="env",
        env=("TASKFORGE_ENV",),
        kind="choice",
        default="development",
        choices=("development", "production"),
        help="In production, example secrets are refused.",
    ),
    Setting(
        name="host",
        env=("TASKFORGE_HOST",),
        kind="text",
        default="127.0.0.1",
        help="Address the API listens on.",
    ),
    Setting(
        name="port",
        env=("TASKFORGE_PORT", "PORT"),
        kind="integer",
        default=8000,
        maximum=65535,
        help="Port the API listens on; 0 takes a free one.",
    ),
    Setting(
        name="jwt_secret",
        env=("JWT_SECRET",),
        kind="text",
        default=None,
        secret=True,
        help="Key that signs and checks tokens (HS256), at least 32 bytes.",
    ),
    Setting(
        name="url",
        env=("TASKFORGE_URL",),
        kind="url",
        default=None,
        help="A remote TaskForge server for clients; unset means the database directly.",
    ),
    Setting(
        name="token",
        env=("TASKFORGE_TOKEN",),
        kind="text",
        default=None,
        secret=True,
        help="Token that clients show to the server at TASKFORGE_URL.",
    ),
    Setting(
        name="queues",
        env=("TASKFORGE_QUEUES",),
        kind="names",
        default=(),
        help="Queues a worker serves, comma-separated; unset means every queue its handlers name.",
    ),
    Setting(
        name="concurrency",
        env=("TASKFORGE_CONCURRENCY",),
        kind="integer",
        default=50,
        unit="jobs",
        minimum=1,
        maximum=100_000,
        help="Jobs a worker runs at the same time.",
    ),
    Setting(
        name="prefetch",
        env=("TASKFORGE_PREFETCH",),
        kind="integer",
        default=5000,
        unit="jobs",
        maximum=1_000_000,
        help="Jobs a worker may hold beyond its free slots.",
    ),
    Setting(
        name="worker_ttl",
        env=("TASKFORGE_WORKER_TTL",),
        kind="number",
        default=10.0,
        unit="seconds",
        minimum=0.1,
        maximum=3600,
        help="A worker silent for this long is lost and its jobs go to others.",
    ),
    Setting(
        name="shutdown_timeout",
        env=("TASKFORGE_SHUTDOWN_TIMEOUT",),
        kind="number",
        default=30.0,
        unit="seconds",
        help="Time running jobs get to finish after the first SIGTERM.",
    ),
    Setting(
        name="pool_size",
        env=("TASKFORGE_POOL_SIZE",),
        kind="integer",
        default=10,
        unit="connections",
        minimum=7,
        maximum=1000,
        help="Most database connections of one process, LISTEN not counted: six for jobs, the rest for reads.",
    ),
    Setting(
        name="data_dir",
        env=("TASKFORGE_DATA_DIR",),
        kind="path",
        default=None,
        help="Where the embedded database and local files live; default $XDG_DATA_HOME/taskforge "
        "or ~/.local/share/taskforge.",
    ),
    Setting(
        name="pg_bin",
        env=("TASKFORGE_PG_BIN",),
        kind="path",
        default=None,
        help="Folder with the `postgres` and `initdb` that the embedded database runs.",
    ),
    Setting(
        name="log_level",
        env=("TASKFORGE_LOG_LEVEL",),
        kind="choice",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="The least severe lines that are logged.",
    ),
    Setting(
        name="log_format",
        env=("TASKFORGE_LOG_FORMAT",),
        kind="choice",
        default="console",
        choices=("json", "console"),
        help="One JSON object a line, or lines for people.",
    ),
    Setting(
        name="retention_days",
        env=("TASKFORGE_RETENTION_DAYS",),
        kind="number",
        default=7.0,
        unit="days",
        maximum=36_500,
        help="How long ended jobs are kept.",
    ),
    Setting(
        name="max_body_bytes",
        env=("TASKFORGE_MAX_BODY_BYTES",),
        kind="size",
        default=16 * MIB,
        unit="bytes",
        minimum=1024,
        maximum=1024 * MIB,
        help="Largest request body.",
    ),
    Setting(
        name="max_payload_bytes",
        env=("TASKFORGE_MAX_PAYLOAD_BYTES",),
        kind="size",
        default=MIB,
        unit="bytes",
        minimum=1024,
        maximum=256 * MIB,
        help="Largest payload of one job.",
    ),
    Setting(
        name="egress_allow",
        env=("TASKFORGE_EGRESS_ALLOW",),
        kind="names",
        default=(),
        help="Addresses, networks and host names that webhooks may reach although they are not public, "
        "comma-separated; on any port, also without TLS.",
    ),
    Setting(
        name="egress_ports",
        env=("TASKFORGE_EGRESS_PORTS",),
        kind="names",
        default=("80", "443"),
        help="Ports that webhooks may be sent to, comma-separated.",
    ),
    Setting(
        name="egress_http",
        env=("TASKFORGE_EGRESS_HTTP",),
        kind="choice",
        default="no",
        choices=("no", "yes"),
        help="Whether webhooks may be sent without TLS in production; in development they may.",
    ),
    Setting(
        name="max_schedules",
        env=("TASKFORGE_MAX_SCHEDULES",),
        kind="integer",
        default=10_000,
        unit="schedules",
        minimum=0,
        maximum=1_000_000,
        help="Most schedules of one tenant.",
    ),
    Setting(
        name="outbox_dir",
        env=("TASKFORGE_OUTBOX_DIR",),
        kind="path",
        default=None,
        help="Where the sample handler `send_email` writes; default is `outbox` in the data folder.",
    ),
)


class Settings(Struct, frozen=True, kw_only=True):
    """The values of `TABLE`; `origins` says for each name where its value comes from. Secrets never print."""

    database_url: str | None
    database_direct_url: str | None
    env: str
    host: str
    port: int
    jwt_secret: str | None
    url: str | None
    token: str | None
    queues: tuple[str, ...]
    concurrency: int
    prefetch: int
    worker_ttl: float
    shutdown_timeout: float
    pool_size: int
    data_dir: Path
    pg_bin: Path | None
    log_level: str
    log_format: str
    retention_days: float
    max_body_bytes: int
    max_payload_bytes: int
    egress_allow: tuple[str, ...]
    egress_ports: tuple[str, ...]
    egress_http: str
    max_schedules: int
    outbox_dir: Path
    origins: Mapping[str, str]

    @property
    def is_development(self) -> bool:
        return self.env == "development"

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{shown.name}={shown.value!r}' for shown in describe(self))})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [(shown.name, shown.value) for shown in describe(self)]


class Shown(Struct, frozen=True):
    """A setting fit for printing: `value` has its secrets replaced."""

    name: str
    env: str
    value: str
    origin: str
    unit: str
    help: str


def load(
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    """The settings in force. A flag that is None is not given; an empty variable is not set.

    `config` must exist when given; otherwise it is TASKFORGE_CONFIG, or `taskforge.toml` in the working folder if
    there is one.
    Raises ConfigurationError naming the variable, the value and what was expected.
    """
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    if unknown := given.keys() - {row.name for row in TABLE}:
        raise ConfigurationError("config.unknown", f"there is no setting {', '.join(sorted(unknown))}")
    from_file, file_name = _read_file(config, environ)
    values: dict[str, Value] = {}
    origins: dict[str, str] = {}
    for row in TABLE:
        value, origin = row.default, "default"
        if row.name in from_file:
            value, origin = _convert(row, from_file[row.name], f"{row.name} in {file_name}"), file_name
        if (found := _from_environment(row, environ)) is not None:
            value, origin = _convert(row, found[1], found[0]), found[0]
        if row.name in given:
            flag = "--" + row.name.replace("_", "-")
            value, origin = _convert(row, given[row.name], flag), flag
        values[row.name], origins[row.name] = value, origin
    values["data_dir"] = values["data_dir"] or _default_data_dir(environ)
    values["outbox_dir"] = values["outbox_dir"] or Path(str(values["data_dir"])) / "outbox"
    return msgspec.convert({**values, "origins": origins}, Settings)


def describe(settings: Settings) -> list[Shown]:
    """Every setting with its origin, in the order of the table, for `config show`."""
    return [
        Shown(
            name=row.name,
            env=row.env[0],
            value=_shown(row, getattr(settings, row.name)),
            origin=settings.origins.get(row.name, "default"),
            unit=row.unit,
            help=row.help,
        )
        for row in TABLE
    ]


def redacted_url(url: str) -> str:
    """The address without its password and without query values, which may hold one too."""
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    query = re.sub(r"=[^&]*", "=***", parts.query)
    return urlunsplit((parts.scheme, f"{user}{':***' if colon else ''}{at}{host}", parts.path, query, ""))


def _shown(row: Setting, value: Value) -> str:
    if value is None:
        return ""
    if row.kind in ("database", "url"):
        return redacted_url(str(value))
    if row.secret:
        return "***"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _read_file(config: Path | None, environ: Mapping[str, str]) -> tuple[Mapping[str, object], str]:
    named = config or (Path(environ["TASKFORGE_CONFIG"]) if environ.get("TASKFORGE_CONFIG") else None)
    path = named or Path(CONFIG_FILE)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named is None:
            return {}, str(path)
        raise ConfigurationError("config.not_found", f"configuration file {path} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError("config.unreadable", f"configuration file {path}: {error}") from None
    if unknown := content.keys() - {row.name for row in TABLE}:
        raise ConfigurationError(
            "config.unknown",
            f"{path} has no setting {', '.join(sorted(unknown))}; see `taskforge config show`",
        )
    return content, str(path)


def _from_environment(row: Setting, environ: Mapping[str, str]) -> tuple[str, str] | None:
    for variable in row.env:
        path = environ.get(f"{variable}_FILE") if row.secret else None
        if path and environ.get(variable):
            raise ConfigurationError(
                "config.ambiguous", f"{variable} and {variable}_FILE are both set; keep one"
            )
        if path:
            try:
                return f"{variable}_FILE", Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(
                    "config.unreadable", f"{variable}_FILE={path} cannot be read: {error}"
                ) from None
        if value := environ.get(variable):
            return variable, value
    return None


def _convert(row: Setting, raw: object, source: str) -> Value:
    value = _parse(row, raw)
    in_range = not isinstance(value, int | float) or row.minimum <= value <= row.maximum
    if value is None or not in_range:
        shown = "the given value" if row.secret else repr(raw)
        raise ConfigurationError("config.invalid", f"{source}: {shown} is not {_expected(row)}")
    return value


def _parse(row: Setting, raw: object) -> Value:
    """The value, or None when it is not of the row's kind."""
    if isinstance(raw, bool):
        return None
    match row.kind:
        case "integer":
            return _integer(raw)
        case "size":
            return _size(raw)
        case "number":
            return _number(raw)
        case "names":
            return _names(raw)
        case "path":
            return Path(raw).expanduser() if isinstance(raw, str | Path) and str(raw) else None
    if not isinstance(raw, str) or not raw or "\x00" in raw:
        return None
    match row.kind:
        case "choice":
            return raw.lower() if raw.lower() in row.choices else None
        case "database":
            return _database(raw)
        case "url":
            parts = urlsplit(raw)
            return raw.rstrip("/") if parts.scheme in ("http", "https") and parts.netloc else None
        case _:
            return raw


def _integer(raw: object) -> int | None:
    if isinstance(raw, int):
        return raw
    return int(raw) if isinstance(raw, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", raw) else None


def _number(raw: object) -> float | None:
    if isinstance(raw, str) and not re.fullmatch(r"\s*-?[0-9]{1,18}(\.[0-9]{1,18})?\s*", raw):
        return None
    if not isinstance(raw, str | int | float):
        return None
    value = float(raw)
    return value if value == value else None


def _size(raw: object) -> int | None:
    if isinstance(raw, str) and (match := re.fullmatch(r"\s*([0-9]{1,12})\s*(KiB|MiB|GiB)\s*", raw)):
        return int(match[1]) << {"KiB": 10, "MiB": 20, "GiB": 30}[match[2]]
    return _integer(raw)


def _names(raw: object) -> tuple[str, ...] | None:
    if isinstance(raw, str):
        raw = raw.split(",")
    if not isinstance(raw, list | tuple) or not all(isinstance(name, str) for name in raw):
        return None
    return tuple(name.strip() for name in raw if name.strip())


def _database(raw: str) -> str | None:
    scheme, separator, rest = raw.partition("://")
    if not separator or scheme not in ("postgres", "postgresql", "postgresql+asyncpg"):
        return None
    return f"postgresql://{rest}"


def _expected(row: Setting) -> str:
    bounds = f" from {row.minimum:g}" + ("" if row.maximum == float("inf") else f" to {row.maximum:g}")
    unit = f" of {row.unit}" if row.unit else ""
    match row.kind:
        case "integer":
            return f"a whole number{unit}{bounds}"
        case "number":
            return f"a number{unit}{bounds}"
        case "size":
            return f"a number of bytes{bounds}, or one with KiB, MiB or GiB"
        case "choice":
            return f"one of {', '.join(row.choices)}"
        case "names":
            return "a comma-separated list of names"
        case "path":
            return "a path"
        case "database":
            return "an address like postgresql://user:password@host:5432/database"
        case "url":
            return "an address like https://taskforge.example.com"
        case _:
            return "a text that is not empty"


def _default_data_dir(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_DATA_HOME")
    home = environ.get("HOME")
    if base and Path(base).is_absolute():
        return Path(base) / "taskforge"
    return (Path(home) if home else Path.home()) / ".local" / "share" / "taskforge"
