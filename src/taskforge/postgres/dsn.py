"""Database URLs as people write them, turned into what asyncpg takes."""

from __future__ import annotations

from typing import TypedDict
from urllib.parse import quote, urlsplit, urlunsplit

LOGIN = "taskforge"
"""The login of the embedded server that owns nothing; everything but migrations runs as it."""


class ConnectArguments(TypedDict):
    dsn: str
    timeout: float


def connect_arguments(dsn: str) -> ConnectArguments:
    """Accepts postgres://, postgresql:// and postgresql+asyncpg://."""
    for prefix in ("postgresql+asyncpg://", "postgres+asyncpg://"):
        if dsn.startswith(prefix):
            dsn = "postgresql://" + dsn.removeprefix(prefix)
    return {"dsn": dsn, "timeout": 10.0}


def with_login(dsn: str, login: str) -> str:
    """The same address for another user, who has no password: the embedded server asks for none."""
    parts = urlsplit(dsn)
    _, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{quote(login, safe='')}@{host}"))
