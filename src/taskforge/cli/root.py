"""The tree of commands, and what becomes of their errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

import click

from taskforge.cli import failures
from taskforge.cli.batches import batches
from taskforge.cli.bench import bench
from taskforge.cli.bulk_operations import bulk
from taskforge.cli.command import Common, Group
from taskforge.cli.config import config
from taskforge.cli.dead_letters import dead_letters
from taskforge.cli.dev import dev
from taskforge.cli.doctor import doctor
from taskforge.cli.jobs import jobs
from taskforge.cli.limits import keys, set_key, tenant
from taskforge.cli.migrate import migrate
from taskforge.cli.queue_health import health
from taskforge.cli.queue_versions import revert, versions
from taskforge.cli.queues import queues
from taskforge.cli.schedules import schedules
from taskforge.cli.server import server
from taskforge.cli.token import token
from taskforge.cli.webhooks import webhooks
from taskforge.cli.worker import worker
from taskforge.cli.workflows import workflows
from taskforge.errors import TaskForgeError

EPILOG = """\b
Exit codes: 0 done, 1 failure, 2 wrong usage, 69 database or server unavailable, 75 try again,
78 bad configuration, 130 after Ctrl-C, 143 after SIGTERM when not drained in time.

\b
Start with:
  taskforge dev                    everything at once, on an embedded PostgreSQL
  taskforge jobs submit send_email '{"to": "a@example.com", "subject": "Hi", "body": "..."}'
  taskforge jobs tail              watch them run
"""


@click.group(cls=Group, epilog=EPILOG)
@click.version_option(version("taskforge"), prog_name="taskforge", message="%(prog)s %(version)s")
def taskforge() -> None:
    """A durable job queue on PostgreSQL.

    Without DATABASE_URL every command uses an embedded PostgreSQL in the data folder, started when needed.
    """


for _command in (
    dev,
    server,
    worker,
    migrate,
    token,
    jobs,
    queues,
    tenant,
    schedules,
    batches,
    workflows,
    webhooks,
    dead_letters,
    bulk,
    bench,
    doctor,
    config,
):
    taskforge.add_command(_command)
queues.add_command(keys)
queues.add_command(set_key)
for _command in (health, versions, revert):
    queues.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run the command line; the exit code. Every error ends here, as one line and a next step."""
    common = Common()
    try:
        code = taskforge.main(args=list(arguments), prog_name="taskforge", standalone_mode=False, obj=common)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except TaskForgeError as error:
        return failures.report(error, is_json=common.is_json, is_verbose=common.is_verbose)
    except (click.Abort, KeyboardInterrupt):
        return failures.INTERRUPTED
    except Exception as error:
        if common.is_verbose:
            raise
        name = type(error).__name__
        sys.stderr.write(
            f"taskforge: {name}: {error}\n  next: run it again with -v to see where this comes from\n"
        )
        return failures.FAILURE
