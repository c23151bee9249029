"""Database errors, translated once: by SQLSTATE, into what callers can act on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from taskforge.errors import Conflict, Forbidden, Invalid, TaskForgeError, Unavailable, WorkerLost

_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection lost between two of the driver's own steps
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    OSError,
    TimeoutError,
)
_AGAIN = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Turn driver errors into the project's own; what is nobody's fault but ours passes through as it is."""
    try:
        yield
    except asyncpg.DiskFullError as error:
        raise Unavailable(
            "database.disk_full", "the database's disk is full; nothing was stored", retry_after=30
        ) from error
    except _AWAY as error:
        raise Unavailable(
            "database.unavailable", f"the database does not answer ({_kind(error)})", retry_after=1
        ) from error
    except _AGAIN as error:
        raise Unavailable(
            "database.busy", f"the database asks to try again ({_kind(error)})", retry_after=1
        ) from error
    except asyncpg.PostgresError as error:
        raise _by_state(error) from error


def _by_state(error: asyncpg.PostgresError) -> TaskForgeError | asyncpg.PostgresError:
    match error.sqlstate:
        case "TF001":
            return Conflict("queue.gone", "a queue of this batch was deleted meanwhile")
        case "TF002":
            return WorkerLost(
                "worker.gone", f"{error.args[0] if error.args else 'the worker is gone'}; register anew"
            )
        case "23505" if error.constraint_name == "queues_name":
            return Conflict("queue.exists", "a queue of that name exists already")
        case "23505" if error.constraint_name == "schedules_name":
            return Conflict("schedule.exists", "a schedule of that name exists already")
        case "23503" if error.constraint_name in ("queues_tenant_id_fkey", "schedules_tenant_id_fkey"):
            return Forbidden("tenant.unknown", "the token names a tenant that does not exist here")
        case "22P05" | "22021":
            return Invalid("request.nul_character", "a text holds a character that PostgreSQL cannot store")
        case _:
            return error


def _kind(error: BaseException) -> str:
    return type(error).__name__
