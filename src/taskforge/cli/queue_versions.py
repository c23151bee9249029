"""taskforge queues versions, taskforge queues revert"""

from __future__ import annotations

from uuid import UUID

import click
import msgspec

from taskforge.api import path_of
from taskforge.cli.command import ClientCommand, Common, pass_common
from taskforge.cli.output import emit, table
from taskforge.cli.queues import ask, print_queue, tenant_option
from taskforge.domain.queues import QueueVersion, Revert
from taskforge.rest.schemas import QueueVersionPage, QueueView

NOTHING = msgspec.Raw(b"null")


@click.command("versions", cls=ClientCommand)
@click.argument("name")
@click.option(
    "--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="How many at most."
)
@tenant_option
@pass_common
def versions(common: Common, name: str, limit: int, tenant: UUID | None) -> None:
    """Show who changed what of a queue, newest first.

    \b
    Example:
      taskforge queues versions email
    """
    path = path_of("queues", name, "versions", query={"limit": limit})
    found = ask(common, tenant, lambda access: access.api.call("GET", path, reads=QueueVersionPage)).data
    if common.is_json:
        for version in found:
            emit(version)
        return
    columns = ("version", "at", "by", "action", "what", "comment")
    rows = [(v.version, v.changed_at, v.changed_by, v.action, _changed(v), v.comment or "") for v in found]
    table(columns, rows, right=("version",))


@click.command("revert", cls=ClientCommand)
@click.argument("name")
@click.argument("version", type=int)
@click.option("--comment", help="Why; kept with the version.")
@click.option("--if-version", type=int, metavar="N", help="Only if the queue is still at this version.")
@tenant_option
@pass_common
def revert(
    common: Common, name: str, version: int, comment: str | None, if_version: int | None, tenant: UUID | None
) -> None:
    """Bring back every setting of an earlier version. Whether the queue is paused stays.

    \b
    Example:
      taskforge queues revert email 3 --comment "the new limit was too low"
    """
    path = path_of("queues", name, "versions", str(version), "revert")
    body = Revert(comment, if_version)
    print_queue(
        common, ask(common, tenant, lambda access: access.api.call("POST", path, body, reads=QueueView))
    )


def _changed(version: QueueVersion) -> str:
    """The settings that differ, as `name: before -> after`."""
    before, after = version.before, version.after
    if before is None:
        return ""
    return ", ".join(
        f"{name}: {_text(before.get(name, NOTHING))} -> {_text(after.get(name, NOTHING))}"
        for name in sorted({*before, *after})
        if _value(before.get(name, NOTHING)) != _value(after.get(name, NOTHING))
    )


def _value(raw: msgspec.Raw) -> object:
    return msgspec.json.decode(raw)


def _text(raw: msgspec.Raw) -> str:
    return bytes(raw).decode()
