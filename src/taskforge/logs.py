"""Log lines on stderr: one JSON object each, or lines for people on a terminal. Secrets are taken out on the way."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from taskforge.settings import Settings

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
HIDDEN = "***"

_SECRET_NAMES = re.compile(r"password|passwd|secret|token|authorization|api_?key|cookie", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(\w+://[^\s:/@]*):[^\s@/]+@")
_JWT = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+")


def configure(settings: Settings, *, stream: TextIO | None = None) -> None:
    """Everything logged from now on, by structlog or by a library, goes to `stream` (stderr).

    Unless the format was chosen, a terminal gets lines for people and everything else gets JSON.
    """
    stream = stream or sys.stderr
    if settings.origins.get("log_format") == "default":
        is_console = stream.isatty()
    else:
        is_console = settings.log_format == "console"
    level = LEVELS[settings.log_level]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if is_console else "iso", utc=not is_console),
        hide_secrets,
    ]
    structlog.configure(
        processors=[*shared, *_rendering(stream, is_console=is_console)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(stream),
        cache_logger_on_first_use=False,
    )
    handler = _Forward(level=level)
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Values under telling names, passwords in addresses and anything that looks like a JWT are replaced."""
    for name, value in event.items():
        event[name] = HIDDEN if _SECRET_NAMES.search(name) and value is not None else _cleaned(value)
    return event


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return _JWT.sub(HIDDEN, _CREDENTIALS.sub(rf"\1:{HIDDEN}@", value))
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if _SECRET_NAMES.search(str(key)) else _cleaned(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    return value


def _rendering(stream: TextIO, *, is_console: bool) -> list[Processor]:
    if is_console:
        is_colored = not os.environ.get("NO_COLOR") and (
            bool(os.environ.get("FORCE_COLOR")) or stream.isatty()
        )
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=is_colored, exception_formatter=plain, pad_event_to=24)]
    return [structlog.processors.format_exc_info, _hide_in_traceback, _as_json]


def _hide_in_traceback(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if "exception" in event:
        event["exception"] = _cleaned(event["exception"])
    return event


def _as_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


class _Lines:
    """Writes whole lines. A reader that is gone must not break the work that is logged about."""

    _lock = threading.Lock()

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        try:
            with self._lock:
                self._stream.write(message + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            pass

    log = debug = info = warning = warn = error = critical = exception = fatal = failure = msg


class _Forward(logging.Handler):
    """Lines of libraries that use the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            logger = structlog.get_logger(record.name)
            logger.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)
        except Exception:
            self.handleError(record)
