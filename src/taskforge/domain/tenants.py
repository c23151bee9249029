"""The customer boundary."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

DEFAULT_TENANT = UUID("00000000-0000-7000-8000-000000000001")
"""The tenant that every fresh installation has."""


class Context(Struct, frozen=True):
    """Who asks, and for which tenant. Comes from a verified token or from the operator's own process."""

    tenant_id: UUID = DEFAULT_TENANT
    actor: str = "system"
