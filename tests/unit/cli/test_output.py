from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec import structs

from taskforge.cli.config import warnings
from taskforge.cli.output import plain, shown, table
from taskforge.cli.watch import snapshot
from taskforge.postgres.dsn import with_login
from taskforge.settings import load


def test_what_a_job_says_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain("a\x1b[31mb\r\u202e") == "a\\x1b[31mb\\r\\u202e"
    table(("name",), [("[red]\x1b]0;title\x07",)])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert "[red]" in out


def test_values_are_shown_for_people() -> None:
    assert shown(datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)) == "2030-01-02 03:04:05.678Z"
    assert (shown(None), shown(True), shown(1.0), shown(("a", "b"))) == ("-", "yes", "1", "a, b")


def test_another_login_of_the_same_database_keeps_the_rest_of_the_address() -> None:
    dsn = "postgresql://postgres@/taskforge?host=%2Ftmp%2Frun&port=5432"
    assert with_login(dsn, "taskforge") == "postgresql://taskforge@/taskforge?host=%2Ftmp%2Frun&port=5432"


def test_settings_that_are_probably_not_meant_are_told() -> None:
    plain_settings = load(environ={"HOME": "/home/me"})
    assert warnings(plain_settings) == []
    odd = structs.replace(plain_settings, concurrency=500, prefetch=1, url="http://x", env="production")
    assert len(warnings(odd)) == 5


def test_watching_sees_python_files_and_no_environments(tmp_path: Path) -> None:
    for name in ("a.py", "sub/b.py", ".hidden/c.py", "venv/d.py", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    assert {Path(name).name for name in snapshot(tmp_path)} == {"a.py", "b.py"}
