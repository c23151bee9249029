"""Writes docs/reference from the code: `python scripts/reference.py`. `--check` only says what is out of date."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click
from event_meanings import MEANINGS
from prometheus_client.metrics import MetricWrapperBase
from source_facts import errors, events, field_codes

from taskforge.cli import failures
from taskforge.cli.root import taskforge
from taskforge.clock import SystemClock
from taskforge.errors import TaskForgeError
from taskforge.rest import problems
from taskforge.rest.metrics import Metrics
from taskforge.rest.openapi import document
from taskforge.settings import TABLE, Setting

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
WIDTH = 100


def pages() -> dict[str, str]:
    """Every generated page by its file name."""
    return {
        "cli.md": cli_page(),
        "errors.md": errors_page(),
        "events.md": events_page(),
        "metrics.md": metrics_page(),
        "rest.md": rest_page(),
        "settings.md": settings_page(),
    }


def settings_page() -> str:
    lines = _head(
        "Settings",
        "Later readings win: default, `taskforge.toml` (or the file that `--config` or `TASKFORGE_CONFIG` names), "
        "environment, command line. `taskforge config show` prints every setting with its value and where that came "
        "from. A secret can also be read from a file: `JWT_SECRET_FILE=/run/secrets/jwt`. Sizes take `KiB`, `MiB` and "
        "`GiB`.",
    )
    lines += _table(
        ("Name in the file", "Variable", "Kind", "Default", "Bounds", "Meaning"),
        (
            (
                f"`{row.name}`",
                ", ".join(f"`{name}`" for name in row.env) + (" (secret)" if row.secret else ""),
                ", ".join(f"`{choice}`" for choice in row.choices) or row.kind,
                _default(row),
                _bounds(row),
                row.help,
            )
            for row in TABLE
        ),
    )
    return _page(lines)


def cli_page() -> str:
    lines = _head(
        "Command line",
        "Data go to stdout, messages to stderr. `--json` prints one JSON value a line, everywhere. The commands below "
        "`jobs` and `queues` work on the database, or with `--server` (or `TASKFORGE_URL`) through a server.",
    )
    lines += ["## Exit codes", ""]
    lines += _table(
        ("Code", "Meaning"),
        (
            ("0", "done"),
            (str(failures.FAILURE), "failure"),
            (str(failures.USAGE), "wrong usage"),
            (str(failures.UNAVAILABLE), "database or server unavailable"),
            (str(failures.TRY_AGAIN), "try again"),
            (str(failures.BAD_CONFIGURATION), "bad configuration"),
            (str(failures.INTERRUPTED), "ended by Ctrl-C before it was done"),
            ("143", "ended by SIGTERM before it had drained"),
        ),
    )
    for path, command, context in _commands(taskforge, "taskforge", None):
        lines += [f"## {path}", "", "```text", command.get_help(context).rstrip(), "```", ""]
    return _page(lines)


def rest_page() -> str:
    contract = document()
    lines = _head(
        "REST API",
        "The same contract is served by every server as `/openapi.json`, `/openapi.yaml` and, for people, `/docs`. "
        "Requests below `/api/v1` carry `Authorization: Bearer TOKEN`; the tenant of the token decides what exists. "
        "Job ids are strings, times RFC 3339 in UTC, durations seconds. Every error is an RFC 9457 problem document "
        "with a stable [code](errors.md).",
    )
    for path, methods in contract["paths"].items():
        for method, operation in methods.items():
            lines += [f"## {method.upper()} {path}", "", f"{operation['summary']}."]
            if operation.get("description"):
                lines[-1] += f" {operation['description']}"
            lines[-1] += "" if operation["security"] else " Needs no token."
            lines.append("")
            if parameters := operation.get("parameters"):
                lines += _table(
                    ("Parameter", "In", "Type", "Meaning"),
                    ((f"`{p['name']}`", p["in"], _type(p["schema"]), p["description"]) for p in parameters),
                )
            if body := operation.get("requestBody"):
                media = body["content"].items()
                kinds = (f"`{name}` ({_type(about['schema'])})" for name, about in media)
                lines += [f"Body: {', '.join(kinds)}.", ""]
            lines += _table(("Answer", "Content", "Meaning"), _answers(operation, contract))
    lines += ["# Schemas", ""]
    for name, schema in contract["components"]["schemas"].items():
        lines += [f"## {name}", "", *([schema["description"], ""] if schema.get("description") else [])]
        if "properties" not in schema:
            lines += [f"One of {_type(schema)}.", ""]
            continue
        required = schema.get("required", ())
        lines += _table(
            ("Field", "Type", "Default", "Meaning"),
            (
                (
                    f"`{field}`",
                    _type(about),
                    "required" if field in required else _value(about.get("default")),
                    _about(about),
                )
                for field, about in schema["properties"].items()
            ),
        )
    return _page(lines)


def errors_page() -> str:
    statuses = {kind.__name__: status for kind, status in problems.STATUS}
    kinds = frozenset({TaskForgeError.__name__, *_subclasses(TaskForgeError)})
    rows = []
    for error in errors(kinds):
        status = statuses.get(error.kind)
        if status is None and error.kind in HTTPStatus.__members__:
            status = HTTPStatus[error.kind].value
        shown = str(status) if status else "500" if error.code == "internal" else "-"
        rows.append((f"`{error.code}`", shown, _class(error.kind), error.detail))
    lines = _head(
        "Error codes",
        "Codes are stable, texts are not. Over HTTP an error is a problem document with its `code`; in Python it is a "
        "subclass of `taskforge.TaskForgeError` with the same `code`, `detail` and `fields`. No HTTP status means that "
        "the error belongs to a start, a setting, the command line or the SDK. `…` stands for what is only known when "
        "it happens.",
    )
    lines += _table(("Code", "HTTP", "Class", "Text"), rows)
    lines += ["## Codes of single fields", ""]
    lines.append(
        "`errors` of a problem document points at every wrong place with a JSON pointer and one of these codes: "
        + ", ".join(f"`{code}`" for code in field_codes())
        + "."
    )
    return _page(lines)


def metrics_page() -> str:
    lines = _head(
        "Metrics",
        "`GET /metrics` in the text format of Prometheus. In development it is open to callers on the same machine; "
        "otherwise it takes a token.",
    )
    metrics = [m for m in vars(Metrics(SystemClock(), None)).values() if isinstance(m, MetricWrapperBase)]
    lines += _table(
        ("Name", "Type", "Labels", "Meaning"),
        (
            (
                f"`{m._name}{'_total' if m._type == 'counter' else ''}`",
                m._type,
                ", ".join(f"`{label}`" for label in m._labelnames) or "-",
                m._documentation,
            )
            for m in sorted(metrics, key=lambda m: m._name)
        ),
    )
    return _page(lines)


def events_page() -> str:
    lines = _head(
        "Events in the log",
        "Every line of the log is one event: a name of the form `noun.past`, a level and fields. With "
        "`TASKFORGE_LOG_FORMAT=json`, the default away from a terminal, a line is a JSON object. Values whose name "
        "tells of a secret, passwords in addresses and anything that looks like a token are hidden.",
    )
    lines += _table(
        ("Event", "Level", "Fields", "Meaning"),
        (
            (f"`{e.name}`", e.level, ", ".join(f"`{f}`" for f in e.fields) or "-", MEANINGS.get(e.name, "-"))
            for e in events()
        ),
    )
    return _page(lines)


def _commands(
    command: click.Command, path: str, parent: click.Context | None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    # The command's own names for help too: click remembers the help option of whoever asks first.
    context = click.Context(
        command,
        info_name=path.rpartition(" ")[2],
        parent=parent,
        terminal_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _commands(command.commands[name], f"{path} {name}", context)


def _answers(operation: dict[str, Any], contract: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            answer = contract["components"]["responses"][answer["$ref"].rpartition("/")[2]]
            yield status, "[Problem](#problem)", answer["description"]
        else:
            content = (_type(about["schema"]) for about in answer.get("content", {}).values())
            yield status, ", ".join(content) or "-", answer["description"]


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(_type(option) for option in schema[choice])
    if schema.get("type") == "array":
        return f"array of {_type(schema['items'])}" if schema.get("items") else "array"
    return str(schema.get("format") or schema.get("type") or "any JSON")


def _about(schema: dict[str, Any]) -> str:
    bounds = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "maxItems": "at most {} items",
        "pattern": "matches `{}`",
    }
    said = [text.format(schema[name]) for name, text in bounds.items() if name in schema]
    described = schema.get("description", "")
    return " ".join(part for part in (described, f"({', '.join(said)})" if said else "") if part) or "-"


def _value(default: object) -> str:
    match default:
        case None:
            return "-"
        case bool():
            return f"`{str(default).lower()}`"
        case _:
            return f"`{default}`"


def _default(row: Setting) -> str:
    if row.default is None or row.default == ():
        return "-"
    if row.kind == "size" and isinstance(row.default, int):
        return f"`{row.default // (1024 * 1024)} MiB`"
    return f"`{row.default}`" + (f" {row.unit}" if row.unit else "")


def _bounds(row: Setting) -> str:
    if row.kind not in ("integer", "number", "size"):
        return "-"
    if row.maximum == float("inf"):
        return f"at least {row.minimum:,g}"
    return f"{row.minimum:,.15g} to {row.maximum:,.15g}"


def _class(kind: str) -> str:
    return f"`{kind}`" if kind not in HTTPStatus.__members__ else "-"


def _subclasses(kind: type) -> Iterator[str]:
    for child in kind.__subclasses__():
        yield child.__name__
        yield from _subclasses(child)


def _head(title: str, text: str) -> list[str]:
    return [f"# {title}", "", "<!-- Generated by scripts/reference.py; do not edit. -->", "", text, ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for row in rows:
        cells = (re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _page(lines: Iterable[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: Sequence[str]) -> int:
    stale = []
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{'out of date' if '--check' in arguments else 'written'}: docs/reference/{name}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
