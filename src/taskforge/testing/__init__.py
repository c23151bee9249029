"""For the tests of applications that use TaskForge: no database, no worker, no waiting.

    with capture(forge) as submitted:      jobs are kept; assert on them, run them with `drain()`
    with inline(forge) as submitted:       each job runs inside its own submit; what its handler raises comes out
    FakeClock                              time that moves when told to, for delays and back-off

`submit`, `submit_many`, `delay`, `options` and handles work as ever. Do not use it to test TaskForge itself.
"""

from __future__ import annotations

from taskforge.testing.clock import FakeClock
from taskforge.testing.recorder import Recorder, Submission, capture, inline

__all__ = ["FakeClock", "Recorder", "Submission", "capture", "inline"]
