"""Works off bulk operations, and throws out dead letters that have been kept long enough.

Duties of the process that does the maintenance; while there is none, operations wait. Two processes at once share the
work: an operation is in the hands of whoever holds the lock on its row, for one piece at a time. A piece and the step
of its cursor are one transaction, so that a process killed anywhere repeats nothing and leaves nothing out.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from uuid import UUID

import structlog
from msgspec import Struct

from taskforge.domain import bulk as rules
from taskforge.domain.bulk import BulkState, FailedItem
from taskforge.domain.tenants import Context
from taskforge.errors import TaskForgeError, Unavailable
from taskforge.postgres import bulk, dead_letters
from taskforge.postgres.bulk import Held
from taskforge.postgres.pool import Connection
from taskforge.services import bulk as service
from taskforge.services.core import Core

_log = structlog.get_logger(__name__)

_SLICE_SECONDS = 2.0
_AT_ONCE = 20
_PIECE = 250
_LOOK = 2_000
_LOOK_LEAST = 200
_LOOKS = 10
_RATE_STEP_SECONDS = 0.5
_WATCH_STEP_SECONDS = 1.0
_MAX_FAILURES = 100
_PURGE_AT_ONCE = 1_000
_RETENTION_PAUSE = timedelta(seconds=30)


class _Told(Struct):
    """Whom to wake once a piece has been committed."""

    ready_in: set[int]
    cancel_asked: bool = False
    is_parked: bool = False


class BulkRunner:
    def __init__(self, core: Core, *, piece: int = _PIECE) -> None:
        self._core = core
        self._piece = piece
        self._sizes: dict[int, int] = {}
        """Operations that met others' locks go on in smaller pieces for a while."""

    async def run_once(self) -> None:
        """Pieces of all operations in turn, for two seconds at most; agenda() asks for more if there is."""
        deadline = time.monotonic() + _SLICE_SECONDS
        while time.monotonic() < deadline:
            due = await bulk.due(self._core.database, limit=_AT_ONCE)
            moved = [await self.run_piece(tenant_id, operation_id) for tenant_id, operation_id in due]
            if not any(moved):
                return

    async def run_piece(self, tenant_id: UUID, operation_id: int) -> bool:
        """One piece of one operation; False when somebody else is at it, or it has to wait."""
        told = _Told(set())
        size = self._sizes.get(operation_id, self._piece)
        try:
            async with self._core.database.tenant(tenant_id) as connection:
                held = await bulk.lock(connection, tenant_id, operation_id)
                if held is None:
                    return False
                ctx = Context(tenant_id, held.operation.created_by)
                if held.operation.state is BulkState.WATCHING:
                    await self._watch(connection, tenant_id, held)
                else:
                    await self._do(connection, ctx, held, size, told)
        except Unavailable as error:
            self._sizes[operation_id] = max(1, size // 4)
            _log.info("bulk.delayed", operation_id=operation_id, error=error.code)
            return False
        except TaskForgeError as error:
            await self._give_up(tenant_id, operation_id, error.code)
            return True
        except Exception:
            _log.exception("bulk.failed", operation_id=operation_id)
            await self._give_up(tenant_id, operation_id, "internal")
            return True
        if size * 2 >= self._piece:
            self._sizes.pop(operation_id, None)
        else:
            self._sizes[operation_id] = size * 2
        self._wake(told)
        return True

    async def _do(self, connection: Connection, ctx: Context, held: Held, size: int, told: _Told) -> None:
        operation = held.operation
        rate, canary = operation.rate_per_second, operation.canary
        is_canary = operation.state is BulkState.CANARY
        if rate is not None:
            size = max(1, min(size, int(rate * _RATE_STEP_SECONDS)))
        if is_canary and canary is not None:
            size = min(size, canary.count - len(held.canary_ids))
        selection = await service.resume(self._core, ctx, held)
        limit = min(_LOOK, max(_LOOK_LEAST, 2 * size))
        found = await service.look(connection, ctx, selection, after=held.cursor, limit=limit)
        for _ in range(_LOOKS - 1):
            if found.matches or found.is_end:
                break
            found = await service.look(connection, ctx, selection, after=found.reached, limit=_LOOK)
        ids = found.matches[:size]
        is_end = found.is_end and len(ids) == len(found.matches)
        cursor = found.reached if len(ids) == len(found.matches) else ids[-1]
        target = operation.arguments.queue_name
        queue_id = None
        if target is not None:
            queue_id = (await self._core.directory.find(ctx.tenant_id, [target]))[target]
        verdicts = (
            await bulk.apply(connection, ctx.tenant_id, operation, ids, queue_id=queue_id) if ids else []
        )
        done = [v.job_id for v in verdicts if v.verdict in ("done", "requested")]
        refused = [
            FailedItem(str(v.job_id), v.verdict) for v in verdicts if v.verdict not in ("done", "requested")
        ]
        told.ready_in.update(v.ready_in for v in verdicts if v.ready_in is not None)
        told.cancel_asked = any(v.verdict == "requested" for v in verdicts)
        told.is_parked = operation.verb in ("reschedule", "move") and bool(done)

        state, pause, watch = operation.state, 0.0 if rate is None else len(ids) / rate, None
        if is_canary and canary is not None:
            if is_end or len(held.canary_ids) + len(done) >= canary.count:
                state, watch = BulkState.WATCHING, canary.watch_seconds
        elif is_end:
            state = BulkState.COMPLETED
        await bulk.advance(
            connection,
            ctx.tenant_id,
            int(operation.id),
            cursor=cursor,
            state=state,
            done=len(done),
            failed=len(refused),
            failures=refused[: max(0, _MAX_FAILURES - len(operation.failures))],
            pause=pause,
            canary_ids=done if is_canary else (),
            watch_seconds=watch,
        )
        if state.is_final:
            _log.info("bulk.completed", operation_id=operation.id, verb=operation.verb)

    async def _watch(self, connection: Connection, tenant_id: UUID, held: Held) -> None:
        operation, canary = held.operation, held.operation.canary
        assert canary is not None
        ended, succeeded = await bulk.canary_counts(connection, tenant_id, held.canary_ids)
        verdict = rules.canary_verdict(
            canary,
            count=len(held.canary_ids),
            succeeded=succeeded,
            ended=ended,
            is_over=held.is_watch_over,
        )
        state, reason, pause = {
            "wait": (BulkState.WATCHING, None, _WATCH_STEP_SECONDS),
            "go": (BulkState.RUNNING, None, 0.0),
            "stop": (BulkState.STOPPED, "canary_failed", 0.0),
        }[verdict]
        await bulk.advance(
            connection,
            tenant_id,
            int(operation.id),
            cursor=held.cursor,
            state=state,
            reason=reason,
            pause=pause,
        )
        if state.is_final:
            _log.warning("bulk.stopped", operation_id=operation.id, verb=operation.verb, reason=reason)

    async def _give_up(self, tenant_id: UUID, operation_id: int, reason: str) -> None:
        _log.warning("bulk.stopped", operation_id=operation_id, reason=reason)
        async with self._core.database.tenant(tenant_id) as connection:
            await bulk.stop(connection, tenant_id, operation_id, reason=reason, actor="taskforge")

    def _wake(self, told: _Told) -> None:
        if told.ready_in:
            self._core.wakeups.jobs_ready(told.ready_in)
        if told.cancel_asked:
            self._core.wakeups.cancel_asked()
        if told.is_parked:
            self._core.wakeups.jobs_parked()


class DeadLetterRetention:
    """Purges dead letters older than `dead_letter_retention_seconds` of their queue, in transactions of 1,000."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run_once(self) -> None:
        database = self._core.database
        deadline = time.monotonic() + _SLICE_SECONDS
        purged: Counter[int] = Counter()
        is_done = True
        for queue in await bulk.limited_dead_letters(database):
            more = True
            while more and (is_done := time.monotonic() < deadline):
                async with database.tenant(queue.tenant_id) as connection:
                    ids = await dead_letters.purge(
                        connection,
                        queue.tenant_id,
                        queue.queue_id,
                        None,
                        "taskforge",
                        limit=_PURGE_AT_ONCE,
                        failed_before=queue.failed_before,
                    )
                purged[queue.queue_id] += len(ids)
                more = len(ids) == _PURGE_AT_ONCE
        await bulk.set_duty_time(
            database, "dead_letter_retention", _RETENTION_PAUSE if is_done else timedelta(0)
        )
        for queue_id, count in (+purged).items():
            _log.info("dead_letters.expired", queue_id=queue_id, purged=count)
