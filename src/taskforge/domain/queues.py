"""A named line of jobs in one tenant, with its defaults and its pause switch."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from taskforge.domain.retry import DEFAULT_POLICY, RetryPolicy, check_policy
from taskforge.domain.terms import MAX_TERM_SECONDS, Refuse, Webhook, check_webhook
from taskforge.errors import FieldError, Invalid

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
MAX_TIMEOUT_SECONDS = 7 * 86_400.0


class RateLimit(Struct, frozen=True, forbid_unknown_fields=True):
    """At most `limit` starts in any `per_seconds`."""

    limit: int
    per_seconds: float


class RetryBudget(Struct, frozen=True, forbid_unknown_fields=True):
    """Retries may be at most this share of the queue's starts; `min_per_second` are always allowed."""

    ratio: float
    min_per_second: float = 1.0


class CircuitBreaker(Struct, frozen=True, forbid_unknown_fields=True):
    """Opens when at least `failure_rate` of at least `min_calls` attempts within `window_seconds` failed; after
    `open_seconds` it lets `probes` jobs through, and closes when they succeed."""

    failure_rate: float = 0.5
    min_calls: int = 20
    window_seconds: float = 60.0
    open_seconds: float = 30.0
    probes: int = 1


CrashPolicy = Literal["retry", "at_most_once"]


class QueueSettings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What most queues leave alone. None means: no limit, or for ever."""

    max_concurrency: int | None = None
    rate_limits: tuple[RateLimit, ...] = ()
    key_max_concurrency: int | None = None
    key_rate_limits: tuple[RateLimit, ...] = ()
    ageing_seconds: float | None = 300.0
    expires_in_seconds: float | None = None
    result_retention_seconds: float | None = None
    dead_letter_retention_seconds: float | None = None
    dead_letter_queue: str | None = None
    crash_policy: CrashPolicy = "retry"
    retry_budget: RetryBudget | None = None
    circuit_breaker: CircuitBreaker | None = None
    webhook: Webhook | None = None


DEFAULT_SETTINGS = QueueSettings()
MAX_RATE_LIMITS = 4


class Queue(Struct, frozen=True):
    """What the database knows of one queue. `priority` decides between queues, higher first."""

    queue_id: int
    tenant_id: UUID
    name: str
    priority: int
    paused: bool
    max_attempts: int
    timeout_seconds: float
    retry: RetryPolicy
    created_at: datetime
    updated_at: datetime
    settings: QueueSettings = DEFAULT_SETTINGS
    version: int = 1
    paused_by: str | None = None
    paused_at: datetime | None = None
    pause_reason: str | None = None


class QueueDraft(QueueSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A queue to be made."""

    name: str
    priority: int = 0
    max_attempts: int = 5
    timeout_seconds: float = 300.0
    retry: RetryPolicy = DEFAULT_POLICY

    @property
    def settings(self) -> QueueSettings:
        return QueueSettings(**{name: getattr(self, name) for name in SETTING_NAMES})


SETTING_NAMES: tuple[str, ...] = QueueSettings.__struct_fields__


class QueueChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change; what is unset stays, and null takes a limit away."""

    priority: int | UnsetType = UNSET
    max_attempts: int | UnsetType = UNSET
    timeout_seconds: float | UnsetType = UNSET
    retry: RetryPolicy | UnsetType = UNSET
    max_concurrency: int | UnsetType | None = UNSET
    rate_limits: tuple[RateLimit, ...] | UnsetType = UNSET
    key_max_concurrency: int | UnsetType | None = UNSET
    key_rate_limits: tuple[RateLimit, ...] | UnsetType = UNSET
    ageing_seconds: float | UnsetType | None = UNSET
    expires_in_seconds: float | UnsetType | None = UNSET
    result_retention_seconds: float | UnsetType | None = UNSET
    dead_letter_retention_seconds: float | UnsetType | None = UNSET
    dead_letter_queue: str | UnsetType | None = UNSET
    crash_policy: CrashPolicy | UnsetType = UNSET
    retry_budget: RetryBudget | UnsetType | None = UNSET
    circuit_breaker: CircuitBreaker | UnsetType | None = UNSET
    webhook: Webhook | UnsetType | None = UNSET
    comment: str | None = None
    """Why; kept with the version."""
    if_version: int | None = None
    """Refuse the change unless this is still the queue's version."""

    @property
    def settings(self) -> dict[str, object]:
        """Those of the settings that change to something that is not the default."""
        given = {name: getattr(self, name) for name in SETTING_NAMES}
        return {
            name: value
            for name, value in given.items()
            if value is not UNSET and value != getattr(DEFAULT_SETTINGS, name)
        }

    @property
    def resets(self) -> list[str]:
        """Those of the settings that go back to their default."""
        return [name for name in SETTING_NAMES if getattr(self, name) == getattr(DEFAULT_SETTINGS, name)]


class Pause(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a queue is paused; shown to whoever wonders."""

    reason: str | None = None


class Revert(Struct, frozen=True, forbid_unknown_fields=True):
    """Go back to the settings of an earlier version."""

    comment: str | None = None
    if_version: int | None = None


MAX_COMMENT = 500


def check_comment(comment: str | None, pointer: str = "/comment") -> None:
    if comment is not None and not 0 < len(comment) <= MAX_COMMENT:
        detail = f"must have 1 to {MAX_COMMENT} characters"
        raise Invalid(
            "queue.invalid_comment",
            f"{pointer[1:]}: {detail}",
            fields=(FieldError(pointer, "length", detail),),
        )


def revert_to(version: QueueVersion, revert: Revert) -> QueueChange:
    """The change that brings back every setting of that version. Whether the queue is paused stays as it is."""
    after: dict[str, object] = {**version.after}
    document = {name: after[name] for name in ("priority", "max_attempts", "timeout_seconds", "retry")}
    defaults = {name: getattr(DEFAULT_SETTINGS, name) for name in SETTING_NAMES}
    document |= {name: after.get(name, default) for name, default in defaults.items()}
    document |= {
        "comment": revert.comment or f"back to version {version.version}",
        "if_version": revert.if_version,
    }
    return msgspec.json.decode(msgspec.json.encode(document), type=QueueChange)


class QueueVersion(Struct, frozen=True):
    """One change of a queue: who made it, and the queue's settings before and after. The first has nothing before."""

    version: int
    changed_at: datetime
    changed_by: str
    action: str
    comment: str | None
    before: dict[str, Raw] | None
    after: dict[str, Raw]


def check_name(name: str, pointer: str = "/name") -> None:
    if not NAME.fullmatch(name):
        raise Invalid(
            "queue.invalid_name",
            "a queue name has 1 to 128 characters of a-z, 0-9, '.', '_' and '-', and starts with a letter or digit",
            fields=(FieldError(pointer, "pattern", f"must match {NAME.pattern}"),),
        )


def check_draft(draft: QueueDraft) -> None:
    """Raise Invalid with one entry per wrong field."""
    check_name(draft.name)
    check_change(
        QueueChange(
            priority=draft.priority,
            max_attempts=draft.max_attempts,
            timeout_seconds=draft.timeout_seconds,
            retry=draft.retry,
            **{name: getattr(draft, name) for name in SETTING_NAMES},
        )
    )


def check_change(change: QueueChange) -> None:
    """Raise Invalid with one entry per wrong field."""
    check_comment(change.comment)
    wrong: list[FieldError] = []
    if change.priority is not UNSET and not -1000 <= change.priority <= 1000:
        wrong.append(FieldError("/priority", "out_of_range", "must be between -1000 and 1000"))
    if change.max_attempts is not UNSET and not 1 <= change.max_attempts <= 100:
        wrong.append(FieldError("/max_attempts", "out_of_range", "must be between 1 and 100"))
    if change.timeout_seconds is not UNSET and not 0.001 <= change.timeout_seconds <= MAX_TIMEOUT_SECONDS:
        wrong.append(
            FieldError(
                "/timeout_seconds", "out_of_range", f"must be between 0.001 and {MAX_TIMEOUT_SECONDS:.0f}"
            )
        )
    if change.retry is not UNSET:
        try:
            check_policy(change.retry)
        except Invalid as error:
            wrong.extend(error.fields)
    _check_settings(change, wrong)
    if wrong:
        raise Invalid("queue.invalid", "the queue cannot be configured like this", fields=tuple(wrong))


def _check_settings(change: QueueChange, wrong: list[FieldError]) -> None:
    def refuse(name: str, code: str, detail: str) -> None:
        wrong.append(FieldError(f"/{name}", code, detail))

    def check(name: str, least: float, most: float) -> None:
        value = getattr(change, name)
        if value is not UNSET and value is not None and not least <= value <= most:
            refuse(name, "out_of_range", f"must be between {least:g} and {most:.0f}")

    for name in ("max_concurrency", "key_max_concurrency"):
        check(name, 1, 1_000_000)
    for name in ("ageing_seconds", "expires_in_seconds"):
        check(name, 0.001, MAX_TERM_SECONDS)
    for name in ("result_retention_seconds", "dead_letter_retention_seconds"):
        check(name, 0, MAX_TERM_SECONDS)
    for name in ("rate_limits", "key_rate_limits"):
        limits = getattr(change, name)
        if limits is UNSET:
            continue
        if len(limits) > MAX_RATE_LIMITS:
            refuse(name, "too_many", f"at most {MAX_RATE_LIMITS} windows")
        for index, limit in enumerate(limits[:MAX_RATE_LIMITS]):
            if not 1 <= limit.limit <= 1_000_000_000:
                refuse(f"{name}/{index}/limit", "out_of_range", "must be between 1 and 1000000000")
            if not 0.1 <= limit.per_seconds <= 31 * 86_400:
                refuse(f"{name}/{index}/per_seconds", "out_of_range", "must be between 0.1 and 2678400")
    if isinstance(change.dead_letter_queue, str) and not NAME.fullmatch(change.dead_letter_queue):
        refuse("dead_letter_queue", "pattern", f"must match {NAME.pattern}")
    if isinstance(change.retry_budget, RetryBudget):
        if not 0 <= change.retry_budget.ratio <= 1:
            refuse("retry_budget/ratio", "out_of_range", "must be between 0 and 1")
        if not 0 <= change.retry_budget.min_per_second <= 1_000_000:
            refuse("retry_budget/min_per_second", "out_of_range", "must be between 0 and 1000000")
    if isinstance(change.circuit_breaker, CircuitBreaker):
        _check_breaker(change.circuit_breaker, refuse)
    if isinstance(change.webhook, Webhook):
        check_webhook(change.webhook, refuse)


def _check_breaker(breaker: CircuitBreaker, refuse: Refuse) -> None:
    if not 0 < breaker.failure_rate <= 1:
        refuse("circuit_breaker/failure_rate", "out_of_range", "must be more than 0 and at most 1")
    if not 1 <= breaker.min_calls <= 1_000_000:
        refuse("circuit_breaker/min_calls", "out_of_range", "must be between 1 and 1000000")
    if not 1 <= breaker.window_seconds <= 3_600:
        refuse("circuit_breaker/window_seconds", "out_of_range", "must be between 1 and 3600")
    if not 0.1 <= breaker.open_seconds <= 86_400:
        refuse("circuit_breaker/open_seconds", "out_of_range", "must be between 0.1 and 86400")
    if not 1 <= breaker.probes <= 1_000:
        refuse("circuit_breaker/probes", "out_of_range", "must be between 1 and 1000")
