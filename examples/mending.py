"""Find out what failed alike, mend it, and run it again: first one, then the rest."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from taskforge import Canary, JobFailed, TaskForge

forge = TaskForge()


@forge.job(queue="mending", max_attempts=1)
async def invoice(order: int, currency: str | None = None) -> str:
    if currency is None:
        raise LookupError(f"order {order} has no currency")
    return f"{order} in {currency}"


async def main() -> None:
    async with forge:
        orders = await invoice.submit_many([(n,) for n in range(1, 6)])
        for order in orders:
            with suppress(JobFailed):
                await order.result(timeout=20)

        [group] = (await forge.bulk.dead_letter_groups("mending")).data
        print(f"{group.count} failed alike: {group.error_class}: {group.message}")
        for order in orders:
            await order.change(patch={"currency": "EUR"})

        careful = Canary(count=1, watch_seconds=30)
        redrive = await forge.bulk.redrive(queue_name="mending", canary=careful, rate=50)
        ended = await redrive.wait(timeout=60)
        print(f"{ended.state}: {ended.done} redriven, {len(ended.canary_job_ids)} of them as a canary")
        print([await order.result(timeout=20) for order in orders])


if __name__ == "__main__":
    asyncio.run(main())
