"""The one error path: what went wrong in a line, the next step in another, and the exit code."""

from __future__ import annotations

import sys
import traceback

import msgspec

from taskforge.errors import ConfigurationError, TaskForgeError, Unavailable, WorkerLost

FAILURE = 1
USAGE = 2
UNAVAILABLE = 69
TRY_AGAIN = 75
BAD_CONFIGURATION = 78
INTERRUPTED = 130

_AWAY = ("database.unavailable", "database.disk_full", "server.unavailable")

_NEXT_STEPS = {
    "auth.invalid_token": "make one with `taskforge token` under the server's JWT_SECRET; put it into TASKFORGE_TOKEN",
    "auth.missing_token": "set TASKFORGE_TOKEN; `taskforge token` makes a token",
    "config.port": "free the port, or choose another with --port",
    "database.commit_unknown": "look whether it happened before doing it again, or give the job an idempotency key",
    "database.unavailable": "is the server up, and is DATABASE_URL right? `taskforge doctor` looks closer",
    "queue.not_found": "`taskforge queues list` shows what there is; `taskforge queues create NAME` makes one",
    "server.unavailable": "is it up, and is --server or TASKFORGE_URL right?",
    "tenant.unknown": "`--tenant` must name an existing tenant; without it the default one is used",
}


def exit_code(error: TaskForgeError) -> int:
    match error:
        case ConfigurationError():
            return BAD_CONFIGURATION
        case Unavailable() if error.code in _AWAY or error.code.startswith("embedded."):
            return UNAVAILABLE
        case Unavailable() | WorkerLost():
            return TRY_AGAIN
        case _:
            return FAILURE


def next_step(error: TaskForgeError) -> str | None:
    return _NEXT_STEPS.get(error.code)


def report(error: TaskForgeError, *, is_json: bool, is_verbose: bool) -> int:
    """Say it on stderr; the exit code."""
    hint = next_step(error)
    cause = error.__cause__
    detail = error.detail
    if error.code == "database.unavailable" and cause is not None and str(cause):
        detail += f": {str(cause).splitlines()[0]}"
    if is_verbose:
        traceback.print_exception(error)
    if is_json:
        document = {"code": error.code, "detail": detail, "errors": error.fields, "next_step": hint}
        sys.stderr.write(msgspec.json.encode(document).decode() + "\n")
        return exit_code(error)
    lines = [f"taskforge: {detail} [{error.code}]"]
    if not (
        len(error.fields) == 1 and (error.fields[0].detail in detail or error.fields[0].code == error.code)
    ):
        lines += [f"  {field.pointer or '/'}: {field.detail}" for field in error.fields[:20]]
    if len(error.fields) > 20:
        lines.append(f"  and {len(error.fields) - 20} more")
    if hint:
        lines.append(f"  next: {hint}")
    sys.stderr.write("\n".join(lines) + "\n")
    return exit_code(error)
