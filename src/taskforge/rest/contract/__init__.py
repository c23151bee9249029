"""Every route as the contract describes it, a module a noun. A test holds them and the registered routes together."""

from __future__ import annotations

from taskforge.rest.contract import (
    batches,
    bulk,
    dead_letters,
    jobs,
    limits,
    operations,
    queues,
    schedules,
    webhooks,
    workflows,
)
from taskforge.rest.contract.parts import Operation

PATHS: dict[str, dict[str, Operation]] = {
    **jobs.PATHS,
    **queues.PATHS,
    **limits.PATHS,
    **schedules.PATHS,
    **dead_letters.PATHS,
    **bulk.PATHS,
    **batches.PATHS,
    **webhooks.PATHS,
    **workflows.PATHS,
    **operations.PATHS,
}
