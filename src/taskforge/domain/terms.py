"""The rarely used conditions of a job: when it may no longer start, what it shares with others, what it waits for.

They travel together, stored in the job's options, so that a job without any costs nothing for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from taskforge.domain.webhooks import why_not_url

MAX_PARENTS = 10_000
MAX_PERIOD_SECONDS = 366 * 86_400.0
MAX_TERM_SECONDS = 3_650 * 86_400.0
KEY = re.compile(r"[!-~]{1,255}")
JOB_ID = re.compile(r"[1-9][0-9]{0,18}")

Refuse = Callable[[str, str, str], None]
"""Takes the field's name, a code, and what is wrong with it."""

OnFailure = Literal["cancel", "block", "run", "only"]
UniqueScope = Literal["queued", "unfinished", "period"]
OnConflict = Literal["reject", "keep", "replace"]
EndEvent = Literal["succeeded", "failed", "cancelled"]

END_EVENTS: tuple[EndEvent, ...] = ("succeeded", "failed", "cancelled")


class Dependency(Struct, frozen=True, forbid_unknown_fields=True):
    """A parent, and what its failure means for the child: `cancel` the child and its descendants, `block` it until the
    parent is retried, `run` it anyway, or run it `only` then."""

    job_id: str
    on_failure: OnFailure = "cancel"


class Unique(Struct, frozen=True, forbid_unknown_fields=True):
    """At most one job with this key and job type in the tenant: while it is `queued`, until it is finished, or for a
    period from its submission. `on_conflict` says what a second submit does."""

    key: str
    scope: UniqueScope = "unfinished"
    period_seconds: float | None = None
    on_conflict: OnConflict = "reject"


class Webhook(Struct, frozen=True, forbid_unknown_fields=True):
    """Where to POST how a job ended; with its result, if that is asked for and has at most 16 KiB."""

    url: str
    events: tuple[EndEvent, ...] = END_EVENTS
    include_result: bool = False


class JobTerms(Struct, frozen=True, omit_defaults=True):
    """As they were given: a relative instant counts from the submission, by the database's clock."""

    concurrency_key: str | None = None
    dependency_key: str | None = None
    expires_at: datetime | None = None
    expires_in_seconds: float | None = None
    deadline_at: datetime | None = None
    deadline_in_seconds: float | None = None
    unique: Unique | None = None
    depends_on: tuple[Dependency, ...] = ()
    batch_id: str | None = None
    webhook: Webhook | None = None
    result_retention_seconds: float | None = None
    schema_version: int | None = None
    parent_id: str | None = None
    """The job whose handler submitted this one."""


TERM_NAMES = frozenset(JobTerms.__struct_fields__)
NO_TERMS = JobTerms()


def check_terms(terms: JobTerms, now: datetime, refuse: Refuse) -> None:
    """Tell `refuse` of every field that is wrong in itself, whatever the database holds."""
    for name in ("concurrency_key", "dependency_key"):
        value = getattr(terms, name)
        if value is not None and not KEY.fullmatch(value):
            refuse(name, "pattern", "must have 1 to 255 printable ASCII characters without spaces")
    for at, relative in (("expires_at", "expires_in_seconds"), ("deadline_at", "deadline_in_seconds")):
        _check_instant(terms, at, relative, now, refuse)
    if terms.unique is not None:
        _check_unique(terms.unique, refuse)
    if len(terms.depends_on) > MAX_PARENTS:
        refuse("depends_on", "too_many", f"at most {MAX_PARENTS} parents")
    seen: set[str] = set()
    for index, parent in enumerate(terms.depends_on[:MAX_PARENTS]):
        if not JOB_ID.fullmatch(parent.job_id):
            refuse(f"depends_on/{index}/job_id", "pattern", "must be the id of a job")
        elif parent.job_id in seen:
            refuse(f"depends_on/{index}/job_id", "duplicate", f"job {parent.job_id} is named twice")
        seen.add(parent.job_id)
    if terms.parent_id is not None and not JOB_ID.fullmatch(terms.parent_id):
        refuse("parent_id", "pattern", "must be the id of a job")
    if terms.batch_id is not None and not JOB_ID.fullmatch(terms.batch_id):
        refuse("batch_id", "pattern", "must be the id of a batch")
    if terms.webhook is not None:
        check_webhook(terms.webhook, refuse)
    keep = terms.result_retention_seconds
    if keep is not None and not 0 <= keep <= MAX_TERM_SECONDS:
        refuse("result_retention_seconds", "out_of_range", f"must be between 0 and {MAX_TERM_SECONDS:.0f}")
    if terms.schema_version is not None and not 1 <= terms.schema_version <= 2**31 - 1:
        refuse("schema_version", "out_of_range", "must be 1 or more")


def check_webhook(webhook: Webhook, refuse: Refuse) -> None:
    if not webhook.events:
        refuse("webhook/events", "empty", "name at least one event")
    if (why := why_not_url(webhook.url)) is not None:
        refuse("webhook/url", "url", why)


def _check_instant(terms: JobTerms, at: str, relative: str, now: datetime, refuse: Refuse) -> None:
    instant: datetime | None = getattr(terms, at)
    seconds: float | None = getattr(terms, relative)
    if instant is not None and seconds is not None:
        refuse(relative, "exclusive", f"give either {at} or {relative}, not both")
    if seconds is not None and not 0 < seconds <= MAX_TERM_SECONDS:
        refuse(relative, "out_of_range", f"must be more than 0 and at most {MAX_TERM_SECONDS:.0f}")
    if instant is not None:
        if instant.tzinfo is None:
            refuse(at, "no_time_zone", "must carry a time zone, for example 2030-01-31T09:00:00Z")
        elif not now < instant <= now + timedelta(seconds=MAX_TERM_SECONDS):
            refuse(at, "out_of_range", "must be in the future and at most 10 years ahead")


def _check_unique(unique: Unique, refuse: Refuse) -> None:
    if not KEY.fullmatch(unique.key):
        refuse("unique/key", "pattern", "must have 1 to 255 printable ASCII characters without spaces")
    period = unique.period_seconds
    if (unique.scope == "period") != (period is not None):
        refuse("unique/period_seconds", "scope", 'belongs to the scope "period", and to no other')
    elif period is not None and not 0 < period <= MAX_PERIOD_SECONDS:
        refuse(
            "unique/period_seconds",
            "out_of_range",
            f"must be more than 0 and at most {MAX_PERIOD_SECONDS:.0f}",
        )
