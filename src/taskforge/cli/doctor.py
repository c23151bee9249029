"""taskforge doctor"""

from __future__ import annotations

import asyncio

import click

from taskforge.cli.command import Command, Common, pass_common


@click.command(cls=Command)
@pass_common
def doctor(common: Common) -> int:
    """Look for what is wrong, or soon will be, and say what to do about it.

    Exit code 1 when a check fails; warnings do not count.

    \b
    Examples:
      taskforge doctor
      taskforge doctor --json | jq 'select(.verdict != "ok")'
    """
    from taskforge.cli.checks import Verdict, examine
    from taskforge.cli.output import console, emit, plain

    findings = asyncio.run(examine(common.settings()))
    if common.is_json:
        for finding in findings:
            emit(finding)
    else:
        from rich.text import Text

        styles = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
        out = console()
        for finding in findings:
            line = Text(f"{finding.verdict.value:<5}", styles[finding.verdict])
            line.append(f" {finding.check:<12} {plain(finding.detail)}", "default")
            out.print(line, soft_wrap=True)
            if finding.next_step:
                out.print(Text(f"{'':<19}next: {finding.next_step}"), soft_wrap=True)
    return 1 if any(finding.verdict is Verdict.FAIL for finding in findings) else 0
