"""How commands speak: `emit` and `show` for data on stdout, `say` and `progress` for people on stderr."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_PIPE_WIDTH = 10_000
STATE_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "processing": "cyan",
    "retrying": "magenta",
}


def emit(value: Any) -> None:
    """One value as a line of JSON. Flushed, since somebody may be reading along."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def say(message: str) -> None:
    """A message for people."""
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)


def plain(text: str) -> str:
    """The text with control characters spelled out: what jobs say must not steer the terminal."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


def console(*, is_error: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if is_error else sys.stdout
    return Console(
        stderr=is_error, width=None if stream.isatty() else _PIPE_WIDTH, highlight=False, markup=False
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Columns on stdout, with colours for states on a terminal."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        grid.add_column(
            name.upper(), justify="right" if name in right else "left", no_wrap=True, overflow="ellipsis"
        )
    for row in rows:
        cells = [plain(shown(value)) for value in row]
        grid.add_row(*(Text(cell, style=STATE_STYLES.get(cell, "")) for cell in cells))
    console().print(grid)


def details(pairs: Iterable[tuple[str, object]]) -> None:
    """A name and a value a line."""
    kept = [(name, shown(value)) for name, value in pairs if value is not None and value != ()]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        lines = value.splitlines() or [""]
        click.echo(f"{name:<{width}}  {plain(lines[0])}")
        for line in lines[1:]:
            click.echo(f"{'':<{width}}  {plain(line)}")


def shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
        case float():
            return f"{value:.10g}"
        case bytes() | msgspec.Raw():
            return bytes(value).decode("utf-8", "replace")
        case list() | tuple():
            return ", ".join(shown(item) for item in value)
        case _:
            return str(value)


def confirm(question: str, *, is_sure: bool) -> None:
    """Go on only after a yes. Without a terminal nobody is asked, so `--yes` must have been given."""
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this cannot be undone and there is nobody to ask; add --yes")
    click.confirm(question, abort=True, err=True)


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar on stderr while something takes long; nothing when stderr is no terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console(is_error=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        yield bar
