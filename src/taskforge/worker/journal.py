"""Which jobs have been started, in memory that outlives the worker's process.

Its heartbeat process reads this when the worker has died, so that only jobs that ran are charged an attempt and the
others go back at once. One cell for each slot holds the job that runs there; a ring holds those that ended last,
because they may not have been reported yet. What is in it but was reported does no harm: its lease is gone.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence

_ENDED = 1 << 16
_WIDTH = 8


class Journal:
    """The worker's side: `running[slot] = job_id`, `ended[n & ended_mask] = job_id`."""

    def __init__(self, concurrency: int) -> None:
        size = (_ENDED + concurrency) * _WIDTH
        self.fd = _anonymous_file()
        os.ftruncate(self.fd, size)
        self._memory = mmap.mmap(self.fd, size)
        cells = memoryview(self._memory).cast("q")
        self.ended_mask = _ENDED - 1
        self.ended = cells[:_ENDED]
        self.running = cells[_ENDED:]

    def close(self) -> None:
        os.close(self.fd)


def started_jobs(fd: int) -> Sequence[int]:
    """The ids in the journal behind `fd`, which may belong to a process that is gone."""
    content = os.pread(fd, os.fstat(fd).st_size, 0)
    return sorted(set(memoryview(content).cast("q")) - {0})


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("taskforge-journal")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
