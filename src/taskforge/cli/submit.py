"""taskforge jobs submit"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec

from taskforge.cli.access import Access
from taskforge.cli.bulk import submit_file
from taskforge.cli.command import ClientCommand, Common, pass_common
from taskforge.cli.kinds import duration, moment
from taskforge.cli.output import emit, say
from taskforge.cli.queues import ask, tenant_option
from taskforge.domain.jobs import JobDraft
from taskforge.rest.submission import Reader


@click.command(cls=ClientCommand)
@click.argument("job_type", required=False)
@click.argument("payload", required=False)
@click.option(
    "-q", "--queue", metavar="NAME", default="default", show_default=True, help="Where the job waits."
)
@click.option("--priority", type=click.IntRange(0, 9), help="9 first, 0 last; 5 if not given.")
@click.option("--max-attempts", type=int, help="As the queue says if not given.")
@click.option("--timeout", type=duration, metavar="DURATION", help="How long one attempt may run.")
@click.option("--delay", type=duration, metavar="DURATION", help="Run this much later.")
@click.option("--run-at", type=moment, metavar="TIME", help="Run at this time.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Can be given several times.")
@click.option("--idempotency-key", metavar="KEY", help="A second submit with this key makes no second job.")
@click.option(
    "--unique", metavar="KEY", help="At most one job of this type with this key; see --unique-while."
)
@click.option(
    "--unique-while",
    type=click.Choice(["queued", "unfinished"]),
    help="How long the job holds its key; unfinished if not given.",
)
@click.option("--unique-for", type=duration, metavar="DURATION", help="Hold the key this long instead.")
@click.option(
    "--on-conflict",
    type=click.Choice(["reject", "keep", "replace"]),
    help="When the key is held: refuse (default), show the job that holds it, or take its place if it waits.",
)
@click.option("--expires", type=duration, metavar="DURATION", help="Cancel it if it has not started by then.")
@click.option("--deadline", type=duration, metavar="DURATION", help="For all its attempts together.")
@click.option("--schema-version", type=int, metavar="N", help="The version of the contract it was made for.")
@click.option(
    "--concurrency-key",
    metavar="KEY",
    help="Jobs of one key of a queue share its limits and take turns with others.",
)
@click.option("--batch", "batch_id", metavar="ID", help="Make it a member of this open batch.")
@click.option("--webhook", metavar="URL", help="POST there how it ended.")
@click.option("--wait", type=duration, metavar="DURATION", help="Wait for the job's end, this long at most.")
@click.option("-f", "--file", metavar="FILE", help="Submit a file with one job a line (NDJSON); - is stdin.")
@click.option(
    "--skip-invalid", is_flag=True, help="With --file: report wrong lines and go on; exit code 1 at the end."
)
@tenant_option
@pass_common
def submit(
    common: Common,
    /,
    job_type: str | None,
    payload: str | None,
    wait: float | None,
    file: str | None,
    skip_invalid: bool,
    tenant: UUID | None,
    **options: Any,
) -> int:
    """Submit a job, or a file of jobs.

    PAYLOAD is JSON, @FILE for the content of a file, or - for stdin; {} if not given.

    A file has one job a line, as the API takes it: {"queue_name": "email", "job_type": "send_email", "payload": {...}}.
    It is read piece by piece, so its size does not matter. The first wrong line ends it; the jobs of the
    pieces before it are stored then, as the message says. Lines with an idempotency_key can be sent again safely.

    \b
    Examples:
      taskforge jobs submit send_email '{"to": "a@example.com", "subject": "Hi", "body": "..."}' --wait 30
      taskforge jobs submit report @payload.json -q slow --delay 1h --tag monthly
      zcat jobs.ndjson.gz | taskforge jobs submit -f -
    """
    if file is not None:
        if job_type is not None or wait is not None or any(_given(options)):
            raise click.UsageError(
                "--file takes no job type, payload or options; each line says everything itself"
            )
        return submit_file(common, file, tenant, skip_invalid=skip_invalid)
    if job_type is None:
        raise click.UsageError("give a JOB_TYPE, or --file with one job a line")
    draft = _draft(common, job_type, _read_payload(payload), options)
    return _submit_one(common, draft, tenant, wait=wait)


def _given(options: dict[str, Any]) -> Iterator[str]:
    source = click.get_current_context().get_parameter_source
    return (name for name in options if source(name) is click.core.ParameterSource.COMMANDLINE)


def _read_payload(text: str | None) -> bytes:
    if text is None:
        return b"{}"
    if text == "-":
        payload = sys.stdin.buffer.read()
    elif text.startswith("@"):
        try:
            payload = Path(text[1:]).read_bytes()
        except OSError as error:
            raise click.UsageError(f"{text[1:]} cannot be read: {error.strerror}") from None
    else:
        payload = text.encode()
    try:
        msgspec.json.decode(payload, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        raise click.UsageError(f"PAYLOAD is not JSON: {error}") from None
    return payload


def _draft(common: Common, job_type: str, payload: bytes, options: dict[str, Any]) -> JobDraft:
    fields: dict[str, Any] = {
        "queue_name": options["queue"],
        "job_type": job_type,
        "priority": options["priority"],
        "max_attempts": options["max_attempts"],
        "timeout_seconds": options["timeout"],
        "delay_seconds": options["delay"],
        "run_at": _zoned(options["run_at"]),
        "idempotency_key": options["idempotency_key"],
        "unique": _unique(options),
        "expires_in_seconds": options["expires"],
        "deadline_in_seconds": options["deadline"],
        "schema_version": options["schema_version"],
        "concurrency_key": options["concurrency_key"],
        "batch_id": options["batch_id"],
        "webhook": None if options["webhook"] is None else {"url": options["webhook"]},
        "tags": options["tags"] or None,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    body = msgspec.json.encode(given)[:-1] + b',"payload":' + payload + b"}"
    return Reader(common.settings().max_payload_bytes).read_job(body)


def _unique(options: dict[str, Any]) -> dict[str, Any] | None:
    scope, period, on_conflict = options["unique_while"], options["unique_for"], options["on_conflict"]
    if options["unique"] is None:
        if scope or period or on_conflict:
            raise click.UsageError("--unique-while, --unique-for and --on-conflict belong to --unique KEY")
        return None
    if scope and period:
        raise click.UsageError("give either --unique-while or --unique-for, not both")
    given = {
        "key": options["unique"],
        "scope": "period" if period else scope,
        "period_seconds": period,
        "on_conflict": on_conflict,
    }
    return {name: value for name, value in given.items() if value is not None}


def _zoned(run_at: datetime | None) -> str | None:
    return None if run_at is None else run_at.isoformat()


def _submit_one(common: Common, draft: JobDraft, tenant: UUID | None, *, wait: float | None) -> int:
    from taskforge.cli.jobs import ending, print_job, wait_for

    async def run(access: Access) -> int:
        [verdict] = await access.submit_all([draft], atomic=True)
        if verdict.error is not None:
            raise verdict.error
        job_id = str(verdict.job_id)
        if not verdict.created:
            say(f"its key led to job {job_id}, submitted before")
        if wait is not None:
            view = await wait_for(access, job_id, timeout=wait)
            print_job(common, view)
            return ending(view)
        if common.is_json:
            emit(await access.get(job_id))
        else:
            click.echo(job_id)
        return 0

    return ask(common, tenant, run)
