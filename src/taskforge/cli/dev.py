"""taskforge dev"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import click

from taskforge.cli.command import Command, Common, pass_common

if TYPE_CHECKING:
    from taskforge.cli.ensemble import Ensemble

SAMPLES = "taskforge.samples:forge"


@click.command(cls=Command)
@click.option(
    "--app", metavar="MODULE:FORGE", default=SAMPLES, show_default=True, help="Handlers for the worker."
)
@click.option("--host", help="Address of the API; 127.0.0.1 if not given.")
@click.option("--port", type=int, help="Port of the API; 8000 if not given, 0 takes a free one.")
@click.option(
    "-q", "--queue", "queues", metavar="NAME", multiple=True, help="A queue for the worker; all if not given."
)
@click.option("-c", "--concurrency", type=int, help="Jobs at the same time; 50 if not given.")
@click.option(
    "--watch", is_flag=True, help="Start the worker again when a Python file below this folder changes."
)
@pass_common
def dev(
    common: Common,
    app: str,
    host: str | None,
    port: int | None,
    queues: tuple[str, ...],
    concurrency: int | None,
    watch: bool,
) -> int:
    """Run everything at once: database, API and worker, with sample handlers.

    The database is an embedded PostgreSQL whose data stay in the data folder, unless DATABASE_URL names another. API
    and worker are child processes, started again when they die. The first Ctrl-C drains and stops everything, the
    database too; the second stops at once.

    \b
    Examples:
      taskforge dev
      taskforge dev --app myapp.jobs:forge --watch --port 8080
    """
    from taskforge.cli.ensemble import Ensemble
    from taskforge.errors import ConfigurationError

    settings = common.settings_with_logs(host=host, port=port, concurrency=concurrency)
    if not settings.is_development:
        raise ConfigurationError(
            "config.not_development",
            "`taskforge dev` is for development; run `taskforge server` and `taskforge worker`",
        )
    worker = [app, "-c", str(settings.concurrency), *(part for name in queues for part in ("-q", name))]
    if watch:
        worker.append("--watch")
    return asyncio.run(_until_told(Ensemble(common, settings, worker)))


async def _until_told(ensemble: Ensemble) -> int:
    loop = asyncio.get_running_loop()
    ensemble.shutdown.install()
    # The terminal was closed.
    loop.add_signal_handler(signal.SIGHUP, ensemble.shutdown.notice, signal.SIGTERM)
    everything = asyncio.create_task(ensemble.run(), name="dev")
    told = asyncio.create_task(ensemble.shutdown.requested.wait(), name="dev-signal")
    await asyncio.wait({everything, told}, return_when=asyncio.FIRST_COMPLETED)
    if not everything.done() and not ensemble.is_up:
        # Nothing runs yet that would have to be drained. What breaks while it is called off is no failure.
        everything.cancel()
        await asyncio.gather(everything, return_exceptions=True)
        return 128 + ensemble.shutdown.number
    told.cancel()
    return await everything
