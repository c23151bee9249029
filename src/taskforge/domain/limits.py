"""What a key of a queue, and a tenant, may use."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, Struct, UnsetType

from taskforge.domain.terms import KEY
from taskforge.errors import FieldError, Invalid

MAX_SLOTS = 1_000_000
MIN_WEIGHT, MAX_WEIGHT = 0.001, 1_000.0


class KeyPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What sets a key of a queue apart. `weight` is its share when keys take turns; `max_concurrency` null means the
    queue's `key_max_concurrency`, 0 that nothing of the key starts."""

    weight: float = 1.0
    max_concurrency: int | None = None


class KeyView(Struct, frozen=True):
    """A key and its jobs. `processing` and `waiting` count jobs; of very many that wait only the first are counted, and
    `has_more` says so. Before `opens_at` a rate lets nothing of the key start."""

    key: str
    weight: float
    max_concurrency: int | None
    processing: int
    waiting: int
    has_more: bool
    opens_at: datetime | None


class TenantChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is unset stays; null takes the limit away."""

    max_concurrency: int | UnsetType | None = UNSET


class TenantView(Struct, frozen=True):
    """`weight` is the tenant's share of workers that serve several; `processing` is counted while there is a limit."""

    tenant_id: str
    name: str
    weight: float
    max_concurrency: int | None
    processing: int | None


def check_key(key: str) -> None:
    """Raise Invalid for what cannot be a key of a job."""
    if not KEY.fullmatch(key):
        raise Invalid(
            "key.invalid", "a concurrency key has 1 to 255 printable ASCII characters without spaces"
        )


def check_policy(policy: KeyPolicy) -> None:
    """Raise Invalid with one entry per wrong field."""
    wrong = []
    if not MIN_WEIGHT <= policy.weight <= MAX_WEIGHT:
        wrong.append(
            FieldError("/weight", "out_of_range", f"must be between {MIN_WEIGHT:g} and {MAX_WEIGHT:g}")
        )
    if policy.max_concurrency is not None and not 0 <= policy.max_concurrency <= MAX_SLOTS:
        wrong.append(FieldError("/max_concurrency", "out_of_range", f"must be between 0 and {MAX_SLOTS}"))
    if wrong:
        raise Invalid("key.invalid", "the key cannot be configured like this", fields=tuple(wrong))


def check_tenant(change: TenantChange) -> None:
    """Raise Invalid with one entry per wrong field."""
    most = change.max_concurrency
    if most is UNSET:
        raise Invalid("tenant.nothing_to_change", "nothing to change; give max_concurrency")
    if most is not None and not 1 <= most <= MAX_SLOTS:
        raise Invalid(
            "tenant.invalid",
            "the tenant cannot be configured like this",
            fields=(FieldError("/max_concurrency", "out_of_range", f"must be between 1 and {MAX_SLOTS}"),),
        )


def check_weight(weight: float) -> None:
    """Raise Invalid for what cannot be a tenant's share."""
    if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise Invalid("tenant.invalid", f"a weight is between {MIN_WEIGHT:g} and {MAX_WEIGHT:g}")
