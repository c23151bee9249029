"""A computation in pieces: a batch of jobs, each in a process that is killed at its deadline."""

from __future__ import annotations

import asyncio

from taskforge import TaskForge

forge = TaskForge()


@forge.job(queue="primes", mode="process", timeout=60)
def count_primes(low: int, high: int) -> int:
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(low, 2), high))


async def main() -> None:
    async with forge:
        pieces = [{"low": low, "high": low + 2_500} for low in range(0, 10_000, 2_500)]
        handles = await count_primes.submit_many(pieces)
        counts = await asyncio.gather(*(handle.result(timeout=60) for handle in handles))
        print(f"{sum(counts)} primes below 10,000")


if __name__ == "__main__":
    asyncio.run(main())
