"""The duty that cancels the members of batches, a thousand at a time; how far it is stands in the database."""

from __future__ import annotations

from taskforge.services import batches
from taskforge.services.core import Core

_STEPS = 50


class BatchCanceller:
    def __init__(self, core: Core) -> None:
        self._core = core

    async def run_once(self) -> None:
        await batches.cancel_members(self._core, None, steps=_STEPS)
