"""When a worker asks for leases back that it may hold without knowing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from taskforge.errors import Unavailable
from taskforge.worker.doubts import LASTS_SECONDS, Doubts
from tests.unit.worker.conftest import MemorySource, make_lease


class Asked(MemorySource):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int, list[int]]] = []
        self.is_away = False

    async def disown(self, worker_id: int, *, above: int, known: Sequence[int]) -> int:
        if self.is_away:
            raise Unavailable("database.unavailable", "away")
        self.asked.append((worker_id, above, list(known)))
        return 0


@pytest.fixture
def source() -> Asked:
    return Asked()


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def doubts(source: Asked, now: list[float]) -> Doubts:
    return Doubts(source, clock=lambda: now[0])


async def test_answered_claims_ask_for_nothing(doubts, source) -> None:
    await doubts.settle(1)
    doubts.heard([make_lease(fence=3)])
    await doubts.settle(1)
    assert source.asked == []


async def test_a_lost_claim_asks_before_the_next_one_and_again_when_it_can_come_no_more(
    doubts, source, now
) -> None:
    await doubts.settle(1)
    doubts.heard([make_lease(fence=3)])
    doubts.arise()
    await doubts.settle(1)
    doubts.heard([make_lease(fence=6), make_lease(fence=7)])
    await doubts.settle(1)
    now[0] = LASTS_SECONDS + 0.1
    await doubts.settle(1)
    await doubts.settle(1)
    assert source.asked == [(1, 3, []), (1, 3, [6, 7])]


async def test_a_question_that_fails_is_asked_again(doubts, source) -> None:
    await doubts.settle(1)
    doubts.arise()
    source.is_away = True
    with pytest.raises(Unavailable):
        await doubts.settle(1)
    source.is_away = False
    await doubts.settle(1)
    assert source.asked == [(1, 0, [])]


async def test_doubts_end_with_the_registration(doubts, source) -> None:
    await doubts.settle(1)
    doubts.arise()
    await doubts.settle(2)
    assert source.asked == []
