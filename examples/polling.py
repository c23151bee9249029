"""Wait for something slow outside: no slot is held meanwhile, and no attempt is spent."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from taskforge import Snooze, TaskForge

forge = TaskForge()


@forge.job(queue="polling", max_attempts=1)
async def fetch(path: str) -> str:
    file = Path(path)
    if not file.exists():
        raise Snooze(0.2)
    return file.read_text()


async def main() -> None:
    async with forge:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "report.txt")
            keyed = fetch.options(idempotency_key=f"fetch:{file}")
            first = await keyed.submit(str(file))
            again = await keyed.submit(str(file))
            print("the same job" if first.id == again.id else "two jobs")
            await asyncio.sleep(0.5)
            file.write_text("42 pages")
            print(await first.result(timeout=20))
            print(f"in attempt {(await first.refresh()).attempt}")


if __name__ == "__main__":
    asyncio.run(main())
