"""Submitting inside the caller's own database transaction: the job exists if and only if that commits.

The caller's driver is recognised by its module; none is imported unless the caller has it already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from taskforge.domain.jobs import JobDraft, JobOptions

_CALL = "select * from taskforge.enqueue(cast(cast({} as text) as uuid), cast(cast({} as text) as jsonb))"
_SUPPORTED = "an asyncpg, psycopg or SQLAlchemy connection or session"


def check(connection: object) -> None:
    """Raise TypeError for something that cannot carry a submit."""
    _kind(connection)


def is_blocking(connection: object) -> bool:
    """True for connections that are used without an event loop."""
    return connection is not None and _kind(connection) in ("psycopg", "sqlalchemy")


async def enqueue(connection: Any, tenant_id: UUID, draft: JobDraft, payloads: Sequence[bytes]) -> list[str]:
    """Insert the jobs in the transaction in progress; their ids."""
    tenant, drafts = str(tenant_id), _drafts(draft, payloads)
    match _kind(connection):
        case "asyncpg":
            return _ids(await connection.fetch(_CALL.format("$1", "$2"), tenant, drafts))
        case "psycopg async":
            cursor = await connection.execute(_CALL.format("%s", "%s"), (tenant, drafts))
            return _ids(await cursor.fetchall())
        case "sqlalchemy async":
            answer = await connection.execute(_clause(), {"tenant": tenant, "drafts": drafts})
            return _ids(answer.fetchall())
        case _:
            return enqueue_blocking(connection, tenant_id, draft, payloads)


def enqueue_blocking(
    connection: Any, tenant_id: UUID, draft: JobDraft, payloads: Sequence[bytes]
) -> list[str]:
    """As `enqueue`, on a connection that is used without an event loop."""
    tenant, drafts = str(tenant_id), _drafts(draft, payloads)
    if _kind(connection) == "psycopg":
        return _ids(connection.execute(_CALL.format("%s", "%s"), (tenant, drafts)).fetchall())
    return _ids(connection.execute(_clause(), {"tenant": tenant, "drafts": drafts}).fetchall())


def _kind(connection: object) -> str:
    for kind in type(connection).__mro__:
        module, name = kind.__module__.partition(".")[0], kind.__name__
        match module, name:
            case "asyncpg", "Connection" | "PoolConnectionProxy":
                return "asyncpg"
            case "psycopg", "AsyncConnection":
                return "psycopg async"
            case "psycopg", "Connection":
                return "psycopg"
            case "sqlalchemy", "AsyncSession" | "AsyncConnection" | "async_scoped_session":
                return "sqlalchemy async"
            case "sqlalchemy", "Session" | "Connection" | "scoped_session":
                return "sqlalchemy"
    raise TypeError(
        f"connection must be {_SUPPORTED}, not {type(connection).__module__}.{type(connection).__name__}"
    )


def _clause() -> Any:
    from sqlalchemy import text  # the caller has it, or there would be no such connection

    return text(_CALL.format(":tenant", ":drafts"))


def _drafts(draft: JobDraft, payloads: Sequence[bytes]) -> str:
    """Drafts as the SQL function takes them. The payload travels as text, so that it is stored byte for byte."""
    if draft.idempotency_key is not None:
        raise ValueError(
            "an idempotency key cannot be used inside a transaction; a unique key of yours in it can"
        )
    terms = draft.terms
    if terms is not None and terms.unique is not None:
        raise ValueError(
            "a unique key cannot be used inside your transaction: whoever else wants it would wait until that ends; "
            "a unique constraint of yours in it can"
        )
    if terms is not None and terms.depends_on:
        raise ValueError(
            "a job cannot depend on others inside your transaction: their ends would wait until that ends; "
            "submit it after the commit"
        )
    if terms is not None and terms.batch_id is not None:
        raise ValueError(
            "a job cannot join a batch inside your transaction: the batch would stay locked until that ends; "
            "submit it after the commit"
        )
    fields: dict[str, Any] = {
        name: value
        for name in (
            "queue_name", "job_type", "priority", "max_attempts", "timeout_seconds", "run_at", "delay_seconds",
        )
        if (value := getattr(draft, name)) is not None
    }  # fmt: skip
    options = JobOptions(retry=draft.retry, tags=draft.tags, trace=draft.trace, terms=terms)
    if options != JobOptions():
        fields["options"] = options
    return msgspec.json.encode(
        [{**fields, "payload_text": payload.decode()} for payload in payloads]
    ).decode()


def _ids(rows: Sequence[Any]) -> list[str]:
    return [str(next(iter(row.values())) if isinstance(row, dict) else row[0]) for row in rows]
