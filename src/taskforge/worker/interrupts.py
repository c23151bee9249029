"""Why a running handler was stopped from outside, and what that makes of its end."""

from __future__ import annotations

from enum import Enum, auto
from typing import assert_never

from taskforge.worker.conclusions import Broke, Conclusion, GivenBack, Returned, Stopped


class Interrupt(Enum):
    TIMEOUT = auto()  # its time was up
    CANCEL = auto()  # somebody cancelled the job
    RELEASE = auto()  # the worker stops
    LOST = auto()  # the worker's registration is gone, and the job with it


def conclude_interrupted(reason: Interrupt, conclusion: Conclusion, timeout: float) -> Conclusion | None:
    """What to report for a handler that ended with `conclusion` after it was stopped; None for nothing.

    Work that was finished all the same counts, except after its deadline, where the rule must not depend on luck.
    """
    match reason:
        case Interrupt.TIMEOUT:
            return Broke("JobTimeout", f"ran longer than its {timeout:g} s")
        case Interrupt.CANCEL:
            return conclusion if isinstance(conclusion, Returned) else Stopped("cancelled on request")
        case Interrupt.RELEASE:
            return conclusion if isinstance(conclusion, Returned) else GivenBack()
        case Interrupt.LOST:
            return None
        case _:
            assert_never(reason)
