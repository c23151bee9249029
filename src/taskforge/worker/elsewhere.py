"""Runs the jobs that a slot does not simply await: in threads, in processes, or with a payload still to fetch."""

from __future__ import annotations

import asyncio
import time
from contextvars import copy_context
from functools import partial
from random import Random

import structlog

from taskforge.errors import Unavailable
from taskforge.worker.child import Assignment
from taskforge.worker.conclusions import Broke, Conclusion, conclude_error, conclude_value, invalid_payload
from taskforge.worker.context import JobContext, current
from taskforge.worker.handlers import Handler, Mode
from taskforge.worker.held import Item
from taskforge.worker.processes import Processes
from taskforge.worker.source import Source, Standing
from taskforge.worker.threads import Threads

log = structlog.get_logger("taskforge.worker")

FETCH_PAUSE = 0.5


class Elsewhere:
    """Owns the threads and processes of one worker."""

    def __init__(self, source: Source, standing: Standing, *, rng: Random | None = None) -> None:
        self._source = source
        self._standing = standing
        self._rng = rng or Random()
        self._threads = Threads()
        self._processes = Processes()

    async def run(self, context: JobContext, item: Item, handler: Handler | None) -> Conclusion:
        """How the job ended. Cancelling this abandons the thread or kills the process."""
        payload = item[4]
        if handler is None:
            return Broke("job_type.unknown", f'this worker has no handler for the job type "{item[3]}"')
        if payload is None:
            payload = await self._fetch(item)
            if payload is None:
                return Broke("payload.missing", "the payload could not be found")
        match handler.mode:
            case Mode.ASYNC:
                return await _run_async(handler, payload)
            case Mode.THREAD:
                # The thread may outlive the job, so it holds the job itself and not the slot.
                variables = copy_context()
                variables.run(current.set, lambda: context)
                return await self._threads.run(partial(_run_plain, handler, payload), variables)
            case Mode.PROCESS:
                return await self._processes.run(
                    Assignment(
                        reference=handler.reference,
                        payload=payload,
                        job_id=context.job_id,
                        job_type=context.job_type,
                        queue_name=context.queue_name,
                        attempt=context.attempt,
                        fence=context.fence,
                        tenant_id=context.tenant_id,
                        acts_for_tenant=context.acts_for_tenant,
                        seconds=context.deadline - time.monotonic(),
                        job_deadline=context.job_deadline,
                    ),
                    context.progress,
                )

    async def close(self) -> None:
        self._threads.close()
        await self._processes.close()

    async def _fetch(self, item: Item) -> bytes | None:
        held, job_id = item[0], item[2]
        while True:
            try:
                worker_id = self._standing.worker_id
                return (await self._source.fetch_payloads(worker_id, held.lease, [job_id])).get(job_id)
            except (Unavailable, OSError, TimeoutError) as error:
                log.warning("worker.fetch_delayed", job_id=str(job_id), error=str(error))
                await asyncio.sleep(FETCH_PAUSE * (0.5 + self._rng.random()))


async def _run_async(handler: Handler, payload: bytes) -> Conclusion:
    try:
        args, kwargs = handler.read(payload)
    except Exception as error:  # a parameter's own type may refuse a value with any error
        return invalid_payload(error)
    return conclude_value(await handler.fn(*args, **kwargs))


def _run_plain(handler: Handler, payload: bytes) -> Conclusion:
    try:
        args, kwargs = handler.read(payload)
    except Exception as error:  # as above
        return invalid_payload(error)
    try:
        return conclude_value(handler.fn(*args, **kwargs))
    except BaseException as error:  # SystemExit too: it ends the attempt, not the worker
        return conclude_error(error)
