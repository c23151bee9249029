"""taskforge worker"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from taskforge import memory
from taskforge.cli.command import Command, Common, pass_common
from taskforge.cli.process import end_with_stdin, installed_version, run, until_eof
from taskforge.errors import ConfigurationError, TaskForgeError
from taskforge.settings import Settings

if TYPE_CHECKING:
    from taskforge.domain.tenants import Context
    from taskforge.forge import TaskForge
    from taskforge.services.core import Core

_LOOK_SECONDS = 0.2


class _Options(Struct, frozen=True):
    queues: tuple[str, ...]
    name: str
    drain: bool
    until_eof: bool
    all_tenants: bool


@click.command(cls=Command)
@click.argument("app", metavar="MODULE:FORGE")
@click.option(
    "-q",
    "--queue",
    "queues",
    metavar="NAME",
    multiple=True,
    help="A queue to serve; can be given several times.",
)
@click.option("-c", "--concurrency", type=int, help="Jobs at the same time; 50 if not given.")
@click.option("--prefetch", type=int, help="Jobs to hold beyond the free slots; 5000 if not given.")
@click.option(
    "--shutdown-timeout",
    type=float,
    metavar="SECONDS",
    help="Time for running jobs after SIGTERM; 30 if not given.",
)
@click.option(
    "--drain", "--one-shot", "drain", is_flag=True, help="End when nothing waits or runs in the queues."
)
@click.option("--name", default="", help="How this worker is called; host and process id if not given.")
@click.option(
    "--all-tenants", is_flag=True, help="Serve the queues of these names in every tenant, each its share."
)
@click.option("--watch", is_flag=True, help="Start again when a Python file below this folder changes.")
@until_eof
@pass_common
def worker(
    common: Common,
    app: str,
    queues: tuple[str, ...],
    concurrency: int | None,
    prefetch: int | None,
    shutdown_timeout: float | None,
    drain: bool,
    name: str,
    watch: bool,
    all_tenants: bool,
    until_eof: bool,
) -> int:
    """Run jobs with the handlers of a TaskForge object, such as `forge` in myapp/jobs.py: myapp.jobs:forge.

    Without -q it serves every queue that its handlers name. The first SIGTERM or Ctrl-C lets running jobs end and takes
    no new ones; the second interrupts them, and they go to other workers without having spent an attempt.

    \b
    Examples:
      taskforge worker myapp.jobs:forge -q email -q default -c 50
      taskforge worker myapp.jobs:forge --all-tenants       one fleet for every tenant
      taskforge worker taskforge.samples:forge --drain      the sample handlers, until all is done
    """
    if all_tenants and drain:
        raise click.UsageError("--drain cannot tell when every tenant is done; leave it or --all-tenants out")
    given = {
        "queues": ",".join(queues) or None,
        "concurrency": concurrency,
        "prefetch": prefetch,
        "shutdown_timeout": shutdown_timeout,
    }
    settings = common.settings_with_logs(**given)
    if watch:
        from taskforge.cli.watch import watch as keep_fresh

        return asyncio.run(keep_fresh(sys.argv[1:], until_eof=until_eof, patience=settings.shutdown_timeout))
    forge = find_forge(app)
    export_settings(common)
    options = _Options(settings.queues or forge.queues, name, drain, until_eof, all_tenants)
    return run(_work(settings, forge, options))


def find_forge(app: str) -> TaskForge:
    """The object that `module:name` names, the working folder being the first place to look for the module.

    Raises ConfigurationError naming what is missing. An error of the module itself comes through as it is.
    """
    from taskforge.forge import TaskForge

    module_name, _, attribute = app.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(
            "worker.app", f'"{app}" is not of the form module:forge, as in myapp.jobs:forge'
        )
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            "worker.app", f'there is no module "{error.name}" in {os.getcwd()} or on PYTHONPATH'
        ) from error
    found = getattr(module, attribute, None)
    if not isinstance(found, TaskForge):
        names = [name for name, value in vars(module).items() if isinstance(value, TaskForge)]
        hint = f"; it has {', '.join(names)}" if names else ""
        raise ConfigurationError(
            "worker.app", f'module "{module_name}" has no TaskForge object "{attribute}"{hint}'
        )
    return found


def export_settings(common: Common) -> None:
    """Flags that say where the database is also reach handlers that submit jobs, which read the environment."""
    if url := common.flags.get("database_url"):
        os.environ["DATABASE_URL"] = str(url)
        os.environ.pop("TASKFORGE_URL", None)
    if common.config is not None:
        os.environ["TASKFORGE_CONFIG"] = str(common.config.absolute())


async def _work(settings: Settings, forge: TaskForge, options: _Options) -> int:
    from taskforge.cli.database import open_ready_core
    from taskforge.domain.tenants import Context
    from taskforge.runtime.maintenance import Maintenance
    from taskforge.services.schedules import declare
    from taskforge.worker.worker import Worker

    if options.until_eof:
        end_with_stdin()
    handlers = forge.handlers()
    declared = forge.schedules.declared
    if not handlers:
        raise ConfigurationError(
            "worker.no_handlers", "no job is declared; decorate a function with @forge.job"
        )
    async with open_ready_core(settings) as core:
        maintenance = Maintenance(core, retention=timedelta(days=settings.retention_days))
        is_beating = asyncio.Event()

        def on_maintain(maintain: bool) -> None:
            maintenance.set_active(maintain)
            is_beating.set()

        ctx = Context(forge.tenant_id, "worker")
        process = Worker(
            core,
            handlers,
            queues=options.queues,
            ctx=ctx,
            concurrency=settings.concurrency,
            prefetch=settings.prefetch,
            shutdown_timeout=settings.shutdown_timeout,
            name=options.name,
            version=installed_version(),
            is_shared=options.all_tenants,
            on_maintain=on_maintain,
        )
        await declare(core, ctx, declared)
        maintenance.start()
        tasks = (
            [asyncio.create_task(_stop_when_done(core, ctx, options.queues, is_beating))]
            if options.drain
            else []
        )
        memory.settle()
        try:
            return await process.run()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await maintenance.stop()
            await forge.close()


async def _stop_when_done(core: Core, ctx: Context, queues: Sequence[str], is_beating: asyncio.Event) -> None:
    """Once the worker runs: stop it as by SIGTERM when its queues hold no job that waits or runs."""
    from taskforge.services import health

    await is_beating.wait()
    while True:
        try:
            found = [await health.of_queue(core, ctx, name) for name in queues]
        except TaskForgeError:
            found = []
        if found and all(queue.pending == 0 and queue.processing == 0 for queue in found):
            signal.raise_signal(signal.SIGTERM)
            return
        await asyncio.sleep(_LOOK_SECONDS)
