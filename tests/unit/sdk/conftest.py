from __future__ import annotations

import pytest

from taskforge import TaskForge


@pytest.fixture
def forge() -> TaskForge:
    return TaskForge()
