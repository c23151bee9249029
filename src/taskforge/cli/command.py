"""What every command has in common: options that work in any place, one help layout, settings and logs from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from taskforge.settings import Settings, load

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Common:
    """The common options as given so far: those before the command's name, then those behind it."""

    def __init__(self) -> None:
        self.flags: dict[str, object] = {}
        self.config: Path | None = None
        self.is_json = False
        self.is_verbose = False

    def settings(self, **flags: object) -> Settings:
        """The settings in force; `flags` are options of the command itself, None meaning not given."""
        return load(flags={**self.flags, **flags}, config=self.config)

    def settings_with_logs(self, **flags: object) -> Settings:
        """As `settings`, and what is logged from now on follows them. For commands that run for long."""
        from taskforge.logs import configure

        settings = self.settings(**flags)
        configure(settings)
        return settings


pass_common = click.make_pass_decorator(Common)


def _flag(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.ensure_object(Common).flags[name] = value

    return keep


def _keep_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(Common).config = value


def _keep_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Common).is_json |= value


def _keep_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        common = ctx.ensure_object(Common)
        common.is_verbose = True
        common.flags.setdefault("log_level", "debug")


class CommonOption(click.Option):
    """Shown in a section of its own."""


def common_options() -> list[click.Parameter]:
    return [
        CommonOption(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_keep_json,
            help="Print data as JSON, one value a line.",
        ),
        CommonOption(
            ["--database-url"],
            metavar="URL",
            expose_value=False,
            callback=_flag("database_url"),
            help="PostgreSQL to use in place of the embedded one. A password is better kept in DATABASE_URL.",
        ),
        CommonOption(
            ["--config"],
            metavar="FILE",
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=_keep_config,
            help="Settings file; by default taskforge.toml, if there is one.",
        ),
        CommonOption(
            ["--log-level"],
            type=click.Choice(["debug", "info", "warning", "error"]),
            expose_value=False,
            callback=_flag("log_level"),
            help="The least severe lines that are logged.",
        ),
        CommonOption(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            callback=_keep_verbose,
            help="Log more, and show where an error came from.",
        ),
    ]


def client_options() -> list[click.Parameter]:
    return [
        CommonOption(
            ["--server"],
            metavar="URL",
            expose_value=False,
            callback=_flag("url"),
            help="Ask this TaskForge server, with the token in TASKFORGE_TOKEN, and not the database.",
        ),
    ]


class Command(click.Command):
    """A command that takes the common options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = CONTEXT | (kwargs.get("context_settings") or {})
        super().__init__(*args, **kwargs)
        self.params.extend(self.common())

    def common(self) -> list[click.Parameter]:
        return common_options()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_options(self, ctx, formatter)


class ClientCommand(Command):
    """A command that works on the database or through a server."""

    def common(self) -> list[click.Parameter]:
        return client_options() + common_options()


class Group(click.Group):
    """Commands of one noun, listed in the order in which they were written."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = CONTEXT | (kwargs.get("context_settings") or {})
        super().__init__(*args, **kwargs)
        self.params.extend(self.common())

    def common(self) -> list[click.Parameter]:
        return common_options()

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        _format_options(self, ctx, formatter)


class ClientGroup(Group):
    command_class = ClientCommand

    def common(self) -> list[click.Parameter]:
        return client_options() + common_options()


def _format_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    own: list[tuple[str, str]] = []
    common: list[tuple[str, str]] = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None and record[1]:
            (common if isinstance(parameter, CommonOption) else own).append(record)
    for title, records in (("Options", own), ("Common options", common)):
        if records:
            with formatter.section(title):
                formatter.write_dl(records)
