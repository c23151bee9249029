"""Dead letters that failed alike."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class DeadLetterGroup(Struct, frozen=True):
    """Dead letters with one fingerprint; None: they ended without a recorded error, or before fingerprints were kept.
    Class, message and samples are those of the newest."""

    fingerprint: str | None
    count: int
    error_class: str | None
    message: str | None
    first_failed_at: datetime
    last_failed_at: datetime
    job_types: tuple[str, ...]
    sample_job_ids: tuple[str, ...]


class DeadLetterGroups(Struct, frozen=True):
    """Largest first. `dead_letters` are those looked at, the newest; `is_complete` says whether these are all."""

    data: list[DeadLetterGroup]
    dead_letters: int
    is_complete: bool
