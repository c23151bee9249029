"""The settings of a queue as options: one an option, `none` takes a limit away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec

from taskforge.cli.kinds import duration, seconds
from taskforge.domain.queues import CircuitBreaker, RateLimit, RetryBudget
from taskforge.domain.retry import RetryPolicy
from taskforge.domain.terms import Webhook

NONE = "none"
Command = Callable[..., Any]


def settings_options(command: Command) -> Command:
    """Adds the options; the command gets a keyword for each, None where it was not given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given(values: dict[str, Any]) -> dict[str, Any]:
    """What was given, by the names of the fields; `none` has become None, and no limits an empty list."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == ():
            continue
        if name in ("rate_limits", "key_rate_limits"):
            found[name] = () if value == (NONE,) else tuple(value)
        else:
            found[name] = None if value == NONE else value
    return found


def _or_none(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    """An option's type: what `read` makes of it, or `none`."""

    def convert(value: Any) -> Any:
        return value if not isinstance(value, str) or value == NONE else read(value)

    convert.__name__ = "value"
    return convert


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no whole number, and not {NONE}") from None


def _rate(text: str) -> RateLimit:
    count, slash, period = text.partition("/")
    length = 1.0 if period == "s" else seconds(f"1{period}" if period in ("m", "h", "d") else period)
    if not (slash and count.isascii() and count.isdigit() and length):
        raise click.BadParameter(f"{text!r} is no rate; write it like 10/s, 100/1m or {NONE}")
    return RateLimit(int(count), length)


def _document(kind: type[Any], shorthand: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.DecodeError as error:
            raise click.BadParameter(f"{error}; write {shorthand}, {NONE}, or JSON") from None

    return read


def _budget(text: str) -> RetryBudget:
    """A share such as 0.2 or 20%, or JSON."""
    if text.lstrip().startswith("{"):
        return _read_budget(text)
    try:
        return RetryBudget(float(text[:-1]) / 100 if text.endswith("%") else float(text))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no share; write it like 20%, 0.2, {NONE}, or JSON") from None


def _breaker(text: str) -> CircuitBreaker:
    return CircuitBreaker() if text == "on" else _read_breaker(text)


def _webhook(text: str) -> Webhook:
    return _read_webhook(text) if text.lstrip().startswith("{") else Webhook(text)


_read_budget: Callable[[str], RetryBudget] = _document(RetryBudget, "a share like 20%")
_read_breaker: Callable[[str], CircuitBreaker] = _document(CircuitBreaker, "on")
_read_webhook: Callable[[str], Webhook] = _document(Webhook, "an address")


def retry_policy(text: Any) -> RetryPolicy:
    """An option's type: a retry policy, by its kind or as JSON."""
    if isinstance(text, RetryPolicy):
        return text
    document = text if text.lstrip().startswith("{") else msgspec.json.encode({"kind": text}).decode()
    try:
        return msgspec.json.decode(document, type=RetryPolicy)
    except msgspec.DecodeError as error:
        raise click.BadParameter(
            f'{error}; write exponential, linear, fixed, or a policy like {{"kind": "fixed", "base_seconds": 10}}'
        ) from None


_length = _or_none(duration)
_count = _or_none(_whole)
_OPTIONS = (
    click.option("--priority", type=int, help="Against other queues, higher first, -1000 to 1000."),
    click.option("--max-attempts", type=int, help="Attempts before a job is a dead letter, 1 to 100."),
    click.option(
        "--timeout",
        "timeout_seconds",
        type=duration,
        metavar="DURATION",
        help="How long one attempt may run.",
    ),
    click.option("--retry", type=retry_policy, metavar="POLICY", help="exponential, linear, fixed, or JSON."),
    click.option("--max-concurrency", type=_count, metavar="N", help="Jobs that may run at once; or none."),
    click.option(
        "--rate-limit",
        "rate_limits",
        type=_or_none(_rate),
        multiple=True,
        metavar="N/PERIOD",
        help="Starts in a period, like 10/s or 100/1m; may be repeated; or none.",
    ),
    click.option(
        "--key-max-concurrency",
        type=_count,
        metavar="N",
        help="Jobs of one concurrency key at once; or none.",
    ),
    click.option(
        "--key-rate-limit",
        "key_rate_limits",
        type=_or_none(_rate),
        multiple=True,
        metavar="N/PERIOD",
        help="Starts of one concurrency key in a period; may be repeated; or none.",
    ),
    click.option(
        "--ageing",
        "ageing_seconds",
        type=_length,
        metavar="DURATION",
        help="After so long a job of low priority goes before the others; or none.",
    ),
    click.option(
        "--expires-in",
        "expires_in_seconds",
        type=_length,
        metavar="DURATION",
        help="A job not started by then ends; or none.",
    ),
    click.option(
        "--result-retention",
        "result_retention_seconds",
        type=_length,
        metavar="DURATION",
        help="How long results are kept; or none, for as long as the job.",
    ),
    click.option(
        "--dead-letter-retention",
        "dead_letter_retention_seconds",
        type=_length,
        metavar="DURATION",
        help="How long dead letters are kept; or none, for ever.",
    ),
    click.option("--dead-letter-queue", metavar="NAME", help="Where dead letters go; or none."),
    click.option(
        "--crash-policy",
        type=click.Choice(("retry", "at_most_once")),
        help="What becomes of a job that ran when its worker was lost.",
    ),
    click.option(
        "--retry-budget",
        type=_or_none(_budget),
        metavar="SHARE",
        help="The most of the starts that may be retries, like 20%; or none, or JSON.",
    ),
    click.option(
        "--circuit-breaker",
        type=_or_none(_breaker),
        metavar="on|none|JSON",
        help="Hold jobs of a type, or of a dependency key, while they fail.",
    ),
    click.option(
        "--webhook",
        type=_or_none(_webhook),
        metavar="URL",
        help="Where to POST how jobs ended; or none, or JSON.",
    ),
)
