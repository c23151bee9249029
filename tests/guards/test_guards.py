"""Each guard of the engine is needed: without it, a named test fails."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.guards.mutations import MUTATIONS
from tests.support.mutations import VARIABLE

ROOT = Path(__file__).parents[2]
FOLDER = "tests/integration/engine"


@pytest.fixture(scope="module")
def verdicts(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """How the tests of each guard ended without it: passed, failed or error (the guard could not be taken away)."""
    output = tmp_path_factory.mktemp("guards") / "junit.xml"
    tests = sorted({f"{FOLDER}/{test}" for mutation in MUTATIONS.values() for test in mutation.tests})
    options = ["-q", "--tb=no", "-p", "no:cacheprovider", "--timeout=30", f"--junitxml={output}"]
    asyncio.run(_run([*options, *tests], {VARIABLE: "1", "TASKFORGE_TEST_DATABASE_URL": server_url}))
    found: dict[str, set[str]] = {name: set() for name in MUTATIONS}
    for case in ElementTree.parse(output).iter("testcase"):
        endings = {child.tag for child in case if child.tag in ("failure", "error")} or {"passed"}
        for name, verdict in found.items():
            if f"<{name}>" in case.attrib["name"]:
                verdict |= endings
    return found


async def _run(arguments: list[str], variables: dict[str, str]) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pytest",
        *arguments,
        cwd=ROOT,
        env=environment | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == pytest.ExitCode.TESTS_FAILED, output.decode()[-4_000:]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("guard", MUTATIONS)
def test_without_this_guard_its_test_fails(guard: str, verdicts: dict[str, set[str]]) -> None:
    assert verdicts[guard], "no test ran for it"
    assert "error" not in verdicts[guard], "the guard could not be taken away: it has moved"
    assert "failure" in verdicts[guard], "its tests pass without it"
