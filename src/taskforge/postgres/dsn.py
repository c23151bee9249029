"""Database URLs as people write them, turned into what asyncpg takes."""

from __future__ import annotations

from typing import TypedDict


class ConnectArguments(TypedDict):
    dsn: str
    timeout: float


def connect_arguments(dsn: str) -> ConnectArguments:
    """Accepts postgres://, postgresql:// and postgresql+asyncpg://."""
    for prefix in ("postgresql+asyncpg://", "postgres+asyncpg://"):
        if dsn.startswith(prefix):
            dsn = "postgresql://" + dsn.removeprefix(prefix)
    return {"dsn": dsn, "timeout": 10.0}
