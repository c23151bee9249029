from __future__ import annotations

import json

import pytest

from taskforge.cli.failures import exit_code, report
from taskforge.errors import (
    ConfigurationError,
    Conflict,
    FieldError,
    Invalid,
    NotFound,
    TaskForgeError,
    Unavailable,
    WorkerLost,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("job.not_found", ""), 1),
        (Conflict("job.active", ""), 1),
        (Invalid("job.invalid", ""), 1),
        (Unavailable("database.unavailable", ""), 69),
        (Unavailable("server.unavailable", ""), 69),
        (Unavailable("embedded.start_timeout", ""), 69),
        (Unavailable("database.busy", ""), 75),
        (Unavailable("database.commit_unknown", ""), 75),
        (Unavailable("server.draining", ""), 75),
        (WorkerLost("worker.gone", ""), 75),
        (ConfigurationError("config.invalid", ""), 78),
    ],
)
def test_an_error_has_the_exit_code_that_scripts_expect(error: TaskForgeError, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_says_what_where_and_what_next(capsys: pytest.CaptureFixture[str]) -> None:
    error = Invalid(
        "job.invalid", "no", fields=(FieldError("/a", "x", "too big"), FieldError("/b", "y", "too small"))
    )
    assert report(error, is_json=False, is_verbose=False) == 1
    report(NotFound("queue.not_found", 'queue "x" does not exist'), is_json=False, is_verbose=False)
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == ["taskforge: no [job.invalid]", "  /a: too big", "  /b: too small"]
    assert said[3] == 'taskforge: queue "x" does not exist [queue.not_found]'
    assert said[4].startswith("  next: ")


def test_with_json_an_error_is_one_line_of_json_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    report(NotFound("queue.not_found", "gone"), is_json=True, is_verbose=False)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err).keys() == {"code", "detail", "errors", "next_step"}
