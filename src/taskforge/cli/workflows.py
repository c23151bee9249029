"""taskforge workflows"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec

from taskforge.api import path_of
from taskforge.cli.access import Access
from taskforge.cli.command import ClientGroup, Common, pass_common
from taskforge.cli.output import details, emit, table
from taskforge.cli.queues import ask, tenant_option
from taskforge.domain.workflows import CancelPreview, WorkflowDraft, WorkflowView
from taskforge.rest.schemas import NodePage, WorkflowPage


@click.group(cls=ClientGroup)
def workflows() -> None:
    """Jobs with names that wait for each other."""


@workflows.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@tenant_option
@pass_common
def submit(common: Common, /, file: Path, tenant: UUID | None) -> None:
    """Make a workflow from a JSON file as the API takes it: {"name": ..., "nodes": [...]}.

    \b
    Example:
      taskforge workflows submit report.json
    """
    try:
        draft = msgspec.json.decode(file.read_bytes(), type=WorkflowDraft)
    except msgspec.DecodeError as error:
        raise click.UsageError(f"{file}: {error}") from None
    _print(common, _call(common, tenant, "POST", path_of("workflows"), draft))


@workflows.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Entries.")
@tenant_option
@pass_common
def list_(common: Common, /, limit: int, tenant: UUID | None) -> None:
    """List workflows, newest first.

    \b
    Example:
      taskforge workflows list --json | jq -r .state
    """

    async def fetch(access: Access) -> WorkflowPage:
        path = path_of("workflows", query={"limit": limit})
        return await access.api.call("GET", path, reads=WorkflowPage)

    found = ask(common, tenant, fetch).data
    if common.is_json:
        for view in found:
            emit(view)
        return
    table(
        ("id", "name", "state", "jobs", "failed", "progress"),
        [(v.id, v.name, v.state, str(v.total), str(v.failed), f"{v.progress:.0%}") for v in found],
    )


@workflows.command()
@click.argument("workflow_id")
@tenant_option
@pass_common
def show(common: Common, /, workflow_id: str, tenant: UUID | None) -> None:
    """Show a workflow, its first 1,000 jobs, their parents and their states.

    \b
    Example:
      taskforge workflows show 12
    """

    async def fetch(access: Access) -> tuple[WorkflowView, NodePage]:
        view = await access.api.call("GET", path_of("workflows", workflow_id), reads=WorkflowView)
        path = path_of("workflows", workflow_id, "nodes", query={"limit": 1000})
        return view, await access.api.call("GET", path, reads=NodePage)

    view, page = ask(common, tenant, fetch)
    _print(common, view)
    if common.is_json:
        for node in page.data:
            emit(node)
        return
    table(
        ("node", "state", "job", "after", "reason"),
        [(n.name, n.state.value, n.job_id, ", ".join(n.depends_on[:5]), n.reason or "") for n in page.data],
    )


@workflows.command()
@click.argument("workflow_id")
@click.option("--preview", is_flag=True, help="Only say what would be hit.")
@tenant_option
@pass_common
def cancel(common: Common, /, workflow_id: str, preview: bool, tenant: UUID | None) -> None:
    """Cancel all of a workflow that has not ended.

    \b
    Example:
      taskforge workflows cancel 12 --preview
    """
    if preview:
        path = path_of("workflows", workflow_id, "cancel", query={"preview": True})

        async def look(access: Access) -> CancelPreview:
            return await access.api.call("POST", path, reads=CancelPreview)

        found = ask(common, tenant, look)
        if common.is_json:
            emit(found)
        else:
            details(
                [("would cancel", str(found.would_cancel))]
                + [(state.value, str(count)) for state, count in found.states.items()]
            )
        return
    _print(common, _call(common, tenant, "POST", path_of("workflows", workflow_id, "cancel")))


@workflows.command()
@click.argument("workflow_id")
@tenant_option
@pass_common
def retry(common: Common, /, workflow_id: str, tenant: UUID | None) -> None:
    """Run again what failed, and what was cancelled for it; what succeeded stays.

    \b
    Example:
      taskforge workflows retry 12
    """
    _print(common, _call(common, tenant, "POST", path_of("workflows", workflow_id, "retry")))


def _call(common: Common, tenant: UUID | None, method: str, path: str, body: Any = None) -> WorkflowView:
    async def send(access: Access) -> WorkflowView:
        return await access.api.call(method, path, body, reads=WorkflowView)

    return ask(common, tenant, send)


def _print(common: Common, view: WorkflowView) -> None:
    if common.is_json:
        emit(view)
        return
    details(
        [
            ("workflow", view.id),
            ("name", view.name),
            ("state", view.state.value),
            (
                "jobs",
                f"{view.total}: {view.succeeded} succeeded, {view.failed} failed, {view.cancelled} cancelled",
            ),
            ("progress", f"{view.progress:.0%}"),
        ]
    )
