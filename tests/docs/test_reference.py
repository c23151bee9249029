"""The reference is generated from the code, is current, and says everything."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from taskforge.cli.root import taskforge
from taskforge.rest.contract import PATHS
from taskforge.settings import TABLE
from tests.docs.pages import ROOT
from tests.docs.scripts import event_meanings, readme_bench, reference, source_facts

PAGES = reference.pages()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_says(name: str) -> None:
    written = (ROOT / "docs/reference" / name).read_text(encoding="utf-8")
    assert written == PAGES[name], f"run `.venv/bin/python scripts/reference.py` to bring {name} up to date"


def test_every_setting_is_documented() -> None:
    for row in TABLE:
        assert all(f"`{name}`" in PAGES["settings.md"] for name in (row.name, *row.env))


def test_every_command_and_option_is_documented() -> None:
    for path, command in _commands(taskforge, "taskforge"):
        assert f"## {path}\n" in PAGES["cli.md"]
        shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        assert all(any(name in PAGES["cli.md"] for name in option.opts) for option in shown)


def test_every_endpoint_is_documented() -> None:
    for path, methods in PATHS.items():
        assert all(f"## {method.upper()} {path}\n" in PAGES["rest.md"] for method in methods)


def test_every_code_an_answer_or_error_may_carry_is_documented() -> None:
    shown = set(re.findall(r"`([a-z_.]+)`", PAGES["errors.md"]))
    for path in (ROOT / "src/taskforge").rglob("*.py"):
        for code in re.findall(
            r'^\s+"((?:[a-z_]+\.)[a-z_]+)",$', path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            if code.split(".")[0] in (
                "database",
                "job",
                "queue",
                "batch",
                "request",
                "config",
                "worker",
                "auth",
            ):
                assert code in shown or code in event_meanings.MEANINGS, f"{path.name}: {code}"


def test_every_event_has_a_meaning_and_every_meaning_an_event() -> None:
    assert {event.name for event in source_facts.events()} == event_meanings.MEANINGS.keys()


def test_the_tables_of_figures_are_what_was_measured() -> None:
    for page in readme_bench.PAGES:
        text = page.read_text(encoding="utf-8")
        assert text == readme_bench.with_table(text), (
            f"run `.venv/bin/python scripts/readme_bench.py` for {page.name}"
        )


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _commands(child, f"{path} {name}")
