"""taskforge batches"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click
import msgspec

from taskforge.api import path_of
from taskforge.cli import failures
from taskforge.cli.access import Access
from taskforge.cli.batch_upload import Upload, upload_file
from taskforge.cli.command import ClientGroup, Common, pass_common
from taskforge.cli.output import confirm, details, emit, table
from taskforge.cli.queues import ask, tenant_option
from taskforge.domain.batches import BatchDraft, BatchState, BatchView, Callback, CallbackHook, Callbacks
from taskforge.rest.schemas import BatchPage

_decode_callback = msgspec.json.Decoder(Callback).decode


@click.group(cls=ClientGroup)
def batches() -> None:
    """Jobs that belong together: submit files of any size, watch, seal and cancel them."""


def _then(_: click.Context, __: click.Parameter, value: str | None) -> Callback | None:
    """An option's callback: a URL, or a callback as the API takes it."""
    if value is None:
        return None
    if not value.lstrip().startswith("{"):
        return Callback(webhook=CallbackHook(value))
    try:
        return _decode_callback(value)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f'{error}; write a URL, or JSON like {{"job": {{...}}}}') from None


@batches.command()
@click.argument("file")
@click.option("--batch", "batch_id", metavar="ID", help="Go on with this batch where it stands.")
@click.option("--name", default="", metavar="TEXT", help="What people call it.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Can be given several times.")
@click.option("--on-success", callback=_then, metavar="URL|JSON", help="When all jobs have succeeded.")
@click.option("--on-failure", callback=_then, metavar="URL|JSON", help="When the first job has failed.")
@click.option("--on-complete", callback=_then, metavar="URL|JSON", help="When all jobs have ended.")
@click.option("--skip-invalid", is_flag=True, help="Leave wrong lines out; exit code 1 at the end.")
@click.option("--no-seal", is_flag=True, help="Leave the batch open, for more jobs.")
@tenant_option
@pass_common
def submit(
    common: Common,
    /,
    file: str,
    batch_id: str | None,
    name: str,
    tags: tuple[str, ...],
    skip_invalid: bool,
    no_seal: bool,
    tenant: UUID | None,
    **then: Callback | None,
) -> int:
    """Submit a file of jobs as a batch; - is stdin. Prints the batch's id.

    A file has one job a line, as for `jobs submit --file`. It is read and stored piece by piece, so its size does not
    matter. Each line is stored exactly once, also when the connection breaks: go on with the same file and --batch ID.

    \b
    Examples:
      taskforge batches submit jobs.ndjson --name newsletter --on-complete https://example.com/done
      zcat jobs.ndjson.gz | taskforge batches submit - --batch 17
    """
    if batch_id is not None and (name or tags or any(then.values())):
        raise click.UsageError("--batch goes on with a batch that has its name, tags and callbacks already")
    draft = BatchDraft(name, Callbacks(**then), tags)
    upload = Upload(draft, batch_id, seals=not no_seal, skips=skip_invalid)
    done = upload_file(common, file, tenant, upload)
    _print(common, done)
    return failures.FAILURE if upload.refused else 0


@batches.command("list")
@click.option("--state", type=click.Choice([state.value for state in BatchState]), help="Only in this state.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="How many at most."
)
@tenant_option
@pass_common
def list_(common: Common, state: str | None, limit: int, tenant: UUID | None) -> None:
    """List batches, newest first."""
    path = path_of("batches", query={"state": state, "limit": limit})
    page = ask(common, tenant, lambda access: access.api.call("GET", path, reads=BatchPage))
    if common.is_json:
        for batch in page.data:
            emit(batch)
        return
    columns = ("id", "name", "state", "total", "succeeded", "failed", "cancelled", "pending", "created")
    rows = [
        (b.id, b.name, b.state.value, b.total, b.succeeded, b.failed, b.cancelled, b.pending, b.created_at)
        for b in page.data
    ]
    table(columns, rows, right=columns[3:8])


@batches.command()
@click.argument("batch_id")
@tenant_option
@pass_common
def show(common: Common, batch_id: str, tenant: UUID | None) -> None:
    """Show how far a batch is, and which callbacks went off."""
    _print(common, _ask(common, tenant, "GET", batch_id))


@batches.command()
@click.argument("batch_id")
@tenant_option
@pass_common
def seal(common: Common, batch_id: str, tenant: UUID | None) -> None:
    """Say that a batch is complete: no job joins it any more."""
    _print(common, _ask(common, tenant, "POST", batch_id, "seal"))


@batches.command()
@click.argument("batch_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
@pass_common
def cancel(common: Common, batch_id: str, yes: bool, tenant: UUID | None) -> None:
    """Seal a batch and cancel its jobs; running ones are told to stop."""
    confirm(f"Cancel the jobs of batch {batch_id}?", is_sure=yes)
    _print(common, _ask(common, tenant, "POST", batch_id, "cancel"))


def _ask(common: Common, tenant: UUID | None, method: str, *parts: str) -> BatchView:
    async def run(access: Access) -> BatchView:
        return await access.api.call(method, path_of("batches", *parts), reads=BatchView)

    return ask(common, tenant, run)


def _print(common: Common, batch: BatchView) -> None:
    if common.is_json:
        emit(batch)
        return
    pairs: list[tuple[str, Any]] = [
        ("id", batch.id),
        ("name", batch.name or None),
        ("state", batch.state.value),
        ("progress", f"{batch.progress:.1%}"),
        ("total", batch.total),
        ("succeeded", batch.succeeded),
        ("failed", batch.failed),
        ("cancelled", batch.cancelled),
        ("pending", batch.pending),
        ("received", batch.received or None),
        ("tags", batch.tags),
        ("created", batch.created_at),
        ("sealed", batch.sealed_at),
        ("ended", batch.ended_at),
    ]
    for name, fired in batch.fired.items():
        made = fired.error or fired.job_id or f"webhook {fired.delivery_id}"
        pairs.append((name, f"{made}, {fired.at:%Y-%m-%d %H:%M:%S}Z"))
    details(pairs)
