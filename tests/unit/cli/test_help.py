from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from taskforge.cli.command import CommonOption
from taskforge.cli.root import run, taskforge


def walk(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from walk(child, (*path, name))


COMMANDS = dict(walk(taskforge))


def test_the_promised_commands_are_there() -> None:
    promised = [
        "dev",
        "server",
        "worker",
        "migrate",
        "token",
        "jobs",
        "queues",
        "tenant",
        "schedules",
        "batches",
        "workflows",
        "webhooks",
        "dead-letters",
        "bulk",
        "bench",
        "doctor",
        "config",
    ]
    assert list(taskforge.commands) == promised
    nested = {" ".join(path) for path in COMMANDS}
    for noun, verbs in {
        "jobs": "submit list show cancel retry tail",
        "queues": "list create show update delete pause resume health dead-letters redrive purge keys set-key",
        "tenant": "show limit weight",
        "schedules": "create list show update delete pause resume run preview ticks",
        "batches": "submit list show seal cancel",
        "webhooks": "deliveries redeliver secrets",
        "config": "show",
    }.items():
        assert {f"{noun} {verb}" for verb in verbs.split()} <= nested


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*path, "-h"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: taskforge")
    assert "--json" in text
    command = COMMANDS[path]
    assert command.help and command.help.split("\n")[0].endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, f"{path} {parameter.name} has no help"


def test_common_options_work_in_front_of_a_command_and_behind_it(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--json", "config", "show"],
        ["config", "--json", "show"],
        ["config", "show", "--json"],
    ):
        assert run(arguments) == 0
        assert capsys.readouterr().out.startswith("{")


def test_no_option_of_a_command_hides_a_common_one() -> None:
    for path, command in COMMANDS.items():
        names = [name for parameter in command.params for name in parameter.opts]
        assert len(names) == len(set(names)), path
        assert any(isinstance(parameter, CommonOption) for parameter in command.params)
