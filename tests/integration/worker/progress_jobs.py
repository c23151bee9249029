"""A handler that a process of its own can import."""

from __future__ import annotations

from taskforge.worker.context import current_job


def in_a_process(steps: int) -> None:
    for step in range(steps):
        current_job().progress((step + 1) / steps, f"step {step + 1}")
