"""taskforge bench"""

from __future__ import annotations

import sys

import click

from taskforge.cli.command import Command, Common, pass_common


@click.command(cls=Command, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@pass_common
def bench(common: Common, arguments: tuple[str, ...]) -> int:
    """Measure this machine: each figure beside a ceiling measured in the same run.

    It starts a PostgreSQL of its own, unless --database-url names a server for it to fill. The figures are printed
    as a table and written to bench.json. `taskforge bench -- --help` lists the cases and options.

    \b
    Examples:
      taskforge bench --quick
      taskforge bench http-batch --runs 5
    """
    from taskforge.bench.run import main

    given = list(arguments)
    if common.is_json:
        given.append("--json")
    if url := common.flags.get("database_url"):
        given += ["--database-url", str(url)]
    sys.argv[1:] = given
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
