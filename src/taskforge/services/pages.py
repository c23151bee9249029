"""Keyset pages: the cursor is the last id seen."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    """`next_cursor` None means the end; a page may be short, even empty, and still have one."""

    data: list[T]
    next_cursor: str | None = None
