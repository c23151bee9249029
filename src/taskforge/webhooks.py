"""For those who receive webhooks: is this message ours, and new?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from taskforge.domain import webhooks as rules
from taskforge.domain.webhooks import TOLERANCE_SECONDS
from taskforge.errors import TaskForgeError

__all__ = ["TOLERANCE_SECONDS", "SignatureInvalid", "verify"]


class SignatureInvalid(TaskForgeError):
    """The message was not signed with one of the secrets, or too long ago; do nothing with it."""

    def __init__(self, detail: str) -> None:
        super().__init__("webhook.signature_invalid", detail)


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[str],
    *,
    tolerance: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> Any:
    """What the body says, as Python values, once its signature and its age have been found good.

    `body` is what arrived, byte for byte; `headers` may be in any case; `secrets` are those of `whsec_...` that are in
    use. Keep the `webhook-id` of messages that were handled for twice the tolerance, and drop what comes again: an
    attempt whose answer was lost is sent once more. Raises SignatureInvalid.
    """
    message = rules.header(headers, "webhook-id")
    given = rules.header(headers, "webhook-timestamp")
    signatures = rules.header(headers, "webhook-signature")
    if not message or not given or not signatures:
        raise SignatureInvalid(
            "the headers webhook-id, webhook-timestamp and webhook-signature belong to a webhook"
        )
    if not (given.isascii() and given.isdigit() and len(given) < 16):
        raise SignatureInvalid("the timestamp is no number of seconds")
    timestamp = int(given)
    keys = [rules.secret_key(secret) for secret in secrets]
    if not rules.is_signed(keys, message=message, timestamp=timestamp, body=body, signatures=signatures):
        raise SignatureInvalid("no signature is by one of the secrets")
    if abs((time.time() if now is None else now) - timestamp) > tolerance:
        raise SignatureInvalid(f"the message is more than {tolerance:g} seconds old, or from the future")
    return msgspec.json.decode(body)
