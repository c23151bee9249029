"""A batch: many jobs counted as one, and a job that reports how they went."""

from __future__ import annotations

import asyncio
from typing import Any

from taskforge import Discard, TaskForge, callback

forge = TaskForge()


@forge.job(queue="newsletter")
async def send(to: str) -> str:
    if "@" not in to:
        raise Discard(f"{to} is no address")
    return f"sent to {to}"


@forge.job(queue="newsletter")
async def report(issue: int, batch: dict[str, Any]) -> str:
    return f"issue {issue}: {batch['succeeded']} sent, {batch['failed']} failed"


async def main() -> None:
    async with forge:
        async with forge.batch("newsletter", on_complete=callback(report, 7)) as batch:
            await batch.add(send, "nobody")
            await batch.add_many(send, ({"to": f"reader{n}@example.com"} for n in range(500)))
        ended = await batch.wait(timeout=20)
        print(f"{ended.total} jobs, the batch has {ended.state}")
        made = ended.fired["on_complete"].job_id
        if made is not None:
            print(await forge.handle(made).result(timeout=20))


if __name__ == "__main__":
    asyncio.run(main())
