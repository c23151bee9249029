"""Every error TaskForge raises on purpose.

    TaskForgeError                 catch this one
    |-- Malformed                  the request cannot be read at all
    |-- Invalid                    it can be read, and says something that is not allowed
    |-- Unauthorized               nobody we know
    |-- Forbidden                  known, but not allowed
    |-- NotFound                   no such thing in this tenant
    |-- Conflict                   the thing is in a state that does not permit this
    |-- Outdated                   the thing was changed since the caller looked at it
    |-- TooLarge                   over a size limit
    |-- UnsupportedMedia           a content type or encoding we do not read
    |-- Unavailable                not now; `retry_after` says when to try again
    |-- WorkerLost                 this worker's registration is gone; register anew
    `-- ConfigurationError         a setting cannot be used

Each has a stable `code` such as `job.not_found`, a message that names the thing, the value and the next step,
and `fields` with a JSON pointer for every part of the input that is wrong.
"""

from __future__ import annotations

from msgspec import Struct


class FieldError(Struct, frozen=True):
    """One wrong place in the input."""

    pointer: str
    code: str
    detail: str


class TaskForgeError(Exception):
    """The root; `code` is stable, `detail` is for people. `job_id` names the job that is in the way, if one is."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        fields: tuple[FieldError, ...] = (),
        retry_after: float | None = None,
        job_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.fields = fields
        self.retry_after = retry_after
        self.job_id = job_id

    def __str__(self) -> str:
        return f"{self.detail} [{self.code}]"


class Malformed(TaskForgeError):
    """The request cannot be read."""


class Invalid(TaskForgeError):
    """The request can be read but says something that is not allowed."""


class Unauthorized(TaskForgeError):
    """No valid credentials."""


class Forbidden(TaskForgeError):
    """Valid credentials without the permission."""


class NotFound(TaskForgeError):
    """No such thing in this tenant."""


class Conflict(TaskForgeError):
    """The thing is in a state that does not permit this."""


class Outdated(TaskForgeError):
    """The thing was changed since the caller looked at it."""


class TooLarge(TaskForgeError):
    """Over a size limit."""


class UnsupportedMedia(TaskForgeError):
    """A content type or encoding that is not read here."""


class Unavailable(TaskForgeError):
    """Not now; nothing was half done. `retry_after` says when to try again."""


class WorkerLost(TaskForgeError):
    """The worker's registration has expired; its leases were given to others."""


class ConfigurationError(TaskForgeError):
    """A setting cannot be used."""
