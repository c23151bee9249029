from __future__ import annotations

import os
import signal

import pytest

from taskforge.errors import ConfigurationError
from taskforge.worker.pulse import _is_stopped
from taskforge.worker.shutdown import Shutdown
from taskforge.worker.worker import Worker


async def test_the_first_signal_drains_and_the_second_hurries() -> None:
    shutdown = Shutdown()
    shutdown.notice(signal.SIGINT)
    assert shutdown.requested.is_set()
    assert not shutdown.hurried.is_set()
    shutdown.notice(signal.SIGTERM)
    assert shutdown.hurried.is_set()
    assert shutdown.number == signal.SIGINT


async def test_signals_reach_it_while_installed() -> None:
    shutdown = Shutdown()
    shutdown.install()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await shutdown.requested.wait()
    finally:
        shutdown.uninstall()
    assert shutdown.number == signal.SIGTERM


def test_a_worker_without_queues_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="no queue to serve"):
        Worker(None, {}, queues=[])  # type: ignore[arg-type]


def test_this_process_is_not_stopped() -> None:
    assert not _is_stopped(os.getpid())
    assert not _is_stopped(2**22 + 1)
