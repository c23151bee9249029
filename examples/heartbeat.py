"""A schedule in code, and another one made while everything runs."""

from __future__ import annotations

import asyncio

from taskforge import TaskForge
from taskforge.domain.schedules import Verdict

forge = TaskForge()


@forge.schedule("@every 1s", overlap="skip", arguments={"target": "example.com"})
@forge.job(queue="checks", timeout=5)
async def check(target: str) -> str:
    return f"{target} is up"


async def main() -> None:
    async with forge:
        await forge.schedules.create(
            "check-workdays", "0 9 * * MON-FRI", check, tz="Asia/Jakarta", arguments={"target": "example.org"}
        )
        for firing in await forge.schedules.preview("check-workdays", count=2):
            print(firing.local)
        job = await forge.schedules.run("check-workdays")
        print(await job.result(timeout=20))
        await forge.schedules.delete("check-workdays")
        while True:
            fired = [tick for tick in await forge.schedules.ticks("check") if tick.verdict is Verdict.FIRED]
            if len(fired) >= 2:
                break
            await asyncio.sleep(0.2)
        print(f"checked {len(fired)} times by itself")


if __name__ == "__main__":
    asyncio.run(main())
