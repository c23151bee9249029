"""The words in which the routes are described."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from taskforge.domain.jobs import BATCH_LIMIT
from taskforge.rest.parameters import DEFAULT_LIMIT, MAX_LIMIT

Json = dict[str, Any]

EXAMPLE_JOB: Json = {
    "queue_name": "default",
    "job_type": "send_email",
    "payload": {"to": "user@example.com", "subject": "Hello", "body": "This is a test email"},
    "priority": 5,
}


class Operation(Struct, frozen=True, kw_only=True):
    """`problems` are the statuses that answer with a problem document."""

    name: str
    summary: str
    tag: str
    answers: Mapping[str, Json]
    problems: tuple[str, ...] = ()
    parameters: tuple[Json, ...] = ()
    body: Json | None = None
    is_body_optional: bool = False
    description: str = ""
    is_protected: bool = True


READ = ("401", "405", "422", "503")
READ_ONE = ("401", "404", "405", "422", "503")
ACT = ("401", "404", "405", "409", "422", "503")
WRITE = ("400", "401", "405", "408", "409", "413", "415", "422", "503")


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def json_body(name: str, *, example: Any = None) -> Json:
    content: Json = {"schema": ref(name)}
    if example is not None:
        content["examples"] = {"example": {"value": example}}
    return {"application/json": content}


def answer(text: str, name: str, *, headers: Json | None = None, links: Json | None = None) -> Json:
    described: Json = {"description": text, "content": json_body(name)}
    if headers:
        described["headers"] = headers
    if links:
        described["links"] = links
    return described


def links(parameter: str, field: str, *operations: str) -> Json:
    """What can be done next with the thing that an answer shows: its `field` is their path `parameter`."""
    return {
        name: {"operationId": name, "parameters": {f"path.{parameter}": f"$response.body#/{field}"}}
        for name in operations
    }


def text_answer(text: str, media: str) -> Json:
    return {"description": text, "content": {media: {"schema": {"type": "string"}}}}


def path_parameter(name: str, text: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}


def query_parameter(name: str, schema: Json, text: str) -> Json:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": schema}


LOCATION: Json = {"Location": {"schema": {"type": "string"}, "description": "Where the new thing is."}}
ETAG: Json = {"ETag": {"schema": {"type": "string"}, "description": "The version, for If-Match."}}
LINK: Json = {"Link": {"schema": {"type": "string"}, "description": 'rel="next" when there is a next page.'}}
_TRUE: Json = {"schema": {"type": "string", "enum": ["true"]}}
REPLAYED: Json = {"Idempotency-Replayed": _TRUE, "Unique-Kept": _TRUE, **LOCATION}
JOB_ID = path_parameter("job_id", "The id of a job.")
QUEUE = path_parameter("name", "The name of a queue.")
PAGE = (
    query_parameter(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        "Entries a page.",
    ),
    query_parameter(
        "cursor", {"type": "string"}, "The `next_cursor` of the page before, with the same filter."
    ),
)
STRING: Json = {"type": "string"}
TIME: Json = {"type": "string", "format": "date-time"}
IDEMPOTENCY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "At most one job per key and tenant within 24 hours; bare, or quoted as in RFC 8941.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 257},
}
BATCH_BODY: Json = {
    "application/json": {
        "schema": {
            "oneOf": [
                {"type": "array", "items": ref("SubmitJob"), "minItems": 1, "maxItems": BATCH_LIMIT},
                ref("SubmitJobs"),
            ]
        },
        "examples": {"array": {"value": [EXAMPLE_JOB]}, "object": {"value": {"jobs": [EXAMPLE_JOB]}}},
    },
    "application/x-ndjson": {
        "schema": {"type": "string", "description": "One job a line."},
    },
}
BATCH_ANSWER: Json = {
    **json_body("BatchAnswer"),
    "application/x-ndjson": {"schema": {"type": "string", "description": "One verdict a line."}},
}
