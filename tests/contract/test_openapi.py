"""Whatever a caller sends, right or wrong, the server answers as its contract says: no 5xx, no undocumented status, no
body that its schema does not describe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from taskforge.rest.openapi import document
from tests.contract import hooks
from tests.support.processes import Cli, cli

PRODUCTION = {"TASKFORGE_ENV": "production", "JWT_SECRET": "0f6a1c9d3e47728a64c1f0e92b7d355b"}
LONGEST_SECONDS = 2.0
ROOT = Path(hooks.__file__).parents[2]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)

schema = schemathesis.openapi.from_dict(document())
# Answers that have no end, or that only pass files on.
ENDLESS = r"/events$|/docs/"


@dataclass(frozen=True)
class Server:
    url: str
    token: str
    folder: Path


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with cli() as tool:
        yield _start(tool)


def _start(tool: Cli) -> Server:
    running = tool.start("server", "--port", "0", TASKFORGE_LOG_FORMAT="json", **PRODUCTION)
    running.said('"server.started"', timeout=60)
    [started] = [
        line for line in map(json.loads, running.err.splitlines()) if line["event"] == "server.started"
    ]
    token = tool.ok("token", "--json", **PRODUCTION).lines[0]["token"]
    return Server(f"http://127.0.0.1:{started['port']}", token, tool.folder)


@schema.exclude(path_regex=ENDLESS).parametrize()
@SETTINGS
@pytest.mark.timeout(300)
def test_every_operation_keeps_to_the_contract(server: Server, case: Case) -> None:
    headers = {"Authorization": f"Bearer {server.token}"}
    response = case.call(base_url=server.url, headers=headers, timeout=LONGEST_SECONDS + 60)
    checks = CHECKS
    if case.operation.path.endswith(("/jobs/batch", "/batches/{batch_id}/jobs")):
        # Jobs are judged one by one: a body with wrong ones is answered with a verdict on each.
        checks = [check for check in CHECKS if check is not negative_data_rejection]
    case.validate_response(response, checks=checks)


@pytest.mark.timeout(300)
def test_what_one_call_makes_is_used_by_the_next(server: Server) -> None:
    """Along the links of the contract; the tool's own runner, because what it draws depends on the answers so far."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
            *("-H", f"Authorization: Bearer {server.token}", "--phases", "stateful"),
            *("--max-examples", "20", "--seed", "7", "--exclude-path-regex", ENDLESS, "--no-color"),
            *("--checks", ",".join(check.__name__ for check in CHECKS)),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=server.folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.contract.hooks", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert "Stateful" in done.stdout


def test_the_server_is_still_there(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/readyz", timeout=10) as answer:
        assert answer.status == 200
