"""Every route as the contract describes it. A test holds this table and the registered routes together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from taskforge.domain.jobs import BATCH_LIMIT, JobState
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
    description: str = ""
    is_protected: bool = True


_READ = ("401", "405", "422", "503")
_READ_ONE = ("401", "404", "405", "422", "503")
_ACT = ("401", "404", "405", "409", "422", "503")
_WRITE = ("400", "401", "405", "408", "409", "413", "415", "422", "503")


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(name: str, *, example: Any = None) -> Json:
    content: Json = {"schema": _ref(name)}
    if example is not None:
        content["examples"] = {"example": {"value": example}}
    return {"application/json": content}


def _answer(text: str, name: str, *, headers: Json | None = None) -> Json:
    described: Json = {"description": text, "content": _json(name)}
    if headers:
        described["headers"] = headers
    return described


def _text(text: str, media: str) -> Json:
    return {"description": text, "content": {media: {"schema": {"type": "string"}}}}


def _path(name: str, text: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}


def _query(name: str, schema: Json, text: str) -> Json:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": schema}


_LOCATION: Json = {"Location": {"schema": {"type": "string"}, "description": "Where the new thing is."}}
_LINK: Json = {"Link": {"schema": {"type": "string"}, "description": 'rel="next" when there is a next page.'}}
_REPLAYED: Json = {"Idempotency-Replayed": {"schema": {"type": "string", "enum": ["true"]}}, **_LOCATION}
_JOB_ID = _path("job_id", "The id of a job.")
_QUEUE = _path("name", "The name of a queue.")
_PAGE = (
    _query(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        "Entries a page.",
    ),
    _query("cursor", {"type": "string"}, "The `next_cursor` of the page before, with the same filter."),
)
_STRING: Json = {"type": "string"}
_TIME: Json = {"type": "string", "format": "date-time"}
_IDEMPOTENCY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "At most one job per key and tenant within 24 hours; bare, or quoted as in RFC 8941.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 257},
}
_BATCH_BODY: Json = {
    "application/json": {
        "schema": {
            "oneOf": [
                {"type": "array", "items": _ref("SubmitJob"), "minItems": 1, "maxItems": BATCH_LIMIT},
                _ref("SubmitJobs"),
            ]
        },
        "examples": {"array": {"value": [EXAMPLE_JOB]}, "object": {"value": {"jobs": [EXAMPLE_JOB]}}},
    },
    "application/x-ndjson": {
        "schema": {"type": "string", "description": "One job a line."},
    },
}
_BATCH_ANSWER: Json = {
    **_json("BatchAnswer"),
    "application/x-ndjson": {"schema": {"type": "string", "description": "One verdict a line."}},
}

PATHS: dict[str, dict[str, Operation]] = {
    "/api/v1/jobs": {
        "post": Operation(
            name="submitJob",
            summary="Submit a job",
            tag="jobs",
            description="The answer is sent when the job is durable.",
            parameters=(_IDEMPOTENCY,),
            body=_json("SubmitJob", example=EXAMPLE_JOB),
            answers={
                "201": _answer("The job is stored.", "JobAccepted", headers=_LOCATION),
                "200": _answer(
                    "The idempotency key stands for this earlier job.", "JobView", headers=_REPLAYED
                ),
            },
            problems=_WRITE,
        ),
        "get": Operation(
            name="listJobs",
            summary="List jobs, newest first",
            tag="jobs",
            parameters=(
                _query("queue_name", _STRING, "Only of this queue."),
                _query(
                    "state", {"type": "string", "enum": [str(s) for s in JobState]}, "Only in this state."
                ),
                _query("job_type", _STRING, "Only of this type."),
                _query("tag", _STRING, "Only with this tag."),
                _query("submitted_after", _TIME, "Only submitted at or after this time."),
                _query("submitted_before", _TIME, "Only submitted before this time."),
                *_PAGE,
            ),
            description="A page may be short, even empty, and still have a next one.",
            answers={"200": _answer("A page of jobs.", "JobPage", headers=_LINK)},
            problems=("400", *_READ_ONE),
        ),
    },
    "/api/v1/jobs/batch": {
        "post": Operation(
            name="submitJobs",
            summary=f"Submit up to {BATCH_LIMIT} jobs",
            tag="jobs",
            description="All or nothing, unless `atomic=false`: then each job gets its own verdict.",
            parameters=(
                _query("atomic", {"type": "boolean", "default": True}, "All jobs, or none of them."),
            ),
            body=_BATCH_BODY,
            answers={
                "201": {"description": "All jobs are stored.", "content": _BATCH_ANSWER},
                "207": {"description": "Some jobs were not accepted.", "content": _BATCH_ANSWER},
            },
            problems=_WRITE,
        ),
    },
    "/api/v1/jobs/{job_id}": {
        "get": Operation(
            name="getJob",
            summary="A job with its state, attempts and result",
            tag="jobs",
            parameters=(
                _JOB_ID,
                _query(
                    "wait",
                    {"type": "number", "minimum": 0, "maximum": 60, "default": 0},
                    "Wait up to this many seconds for the job to end.",
                ),
            ),
            answers={"200": _answer("The job as it is now.", "JobView")},
            problems=_READ_ONE,
        ),
    },
    "/api/v1/jobs/{job_id}/cancel": {
        "post": Operation(
            name="cancelJob",
            summary="Cancel a job",
            tag="jobs",
            description="Once the answer says `cancelled`, no handler starts. A running job is asked to stop.",
            parameters=(_JOB_ID,),
            answers={
                "200": _answer("The job is cancelled.", "JobView"),
                "202": _answer("The running job has been asked to stop.", "JobView"),
            },
            problems=_ACT,
        ),
    },
    "/api/v1/jobs/{job_id}/retry": {
        "post": Operation(
            name="retryJob",
            summary="Run a failed or waiting job again, now",
            tag="jobs",
            parameters=(_JOB_ID,),
            answers={"200": _answer("The job waits for a worker.", "JobView")},
            problems=_ACT,
        ),
    },
    "/api/v1/queues": {
        "post": Operation(
            name="createQueue",
            summary="Create a queue",
            tag="queues",
            body=_json("QueueDraft", example={"name": "email", "max_attempts": 5, "timeout_seconds": 30}),
            answers={"201": _answer("The queue exists.", "QueueView", headers=_LOCATION)},
            problems=_WRITE,
        ),
        "get": Operation(
            name="listQueues",
            summary="List queues, by name",
            tag="queues",
            parameters=_PAGE,
            answers={"200": _answer("A page of queues.", "QueuePage", headers=_LINK)},
            problems=("400", *_READ),
        ),
    },
    "/api/v1/queues/{name}": {
        "get": Operation(
            name="getQueue",
            summary="A queue with its defaults",
            tag="queues",
            parameters=(_QUEUE,),
            answers={"200": _answer("The queue.", "QueueView")},
            problems=_READ_ONE,
        ),
        "patch": Operation(
            name="changeQueue",
            summary="Change the defaults of a queue",
            tag="queues",
            description="What is not given stays as it is.",
            parameters=(_QUEUE,),
            body=_json("QueueChange", example={"priority": 10}),
            answers={"200": _answer("The queue as it is now.", "QueueView")},
            problems=("404", *_WRITE),
        ),
        "delete": Operation(
            name="deleteQueue",
            summary="Delete an empty queue",
            tag="queues",
            parameters=(_QUEUE,),
            answers={"204": {"description": "The queue is gone."}},
            problems=_ACT,
        ),
    },
    "/api/v1/queues/{name}/pause": {
        "post": Operation(
            name="pauseQueue",
            summary="Start no more jobs of a queue",
            tag="queues",
            description="Jobs can still be submitted; running ones go on.",
            parameters=(_QUEUE,),
            answers={"200": _answer("The queue is paused.", "QueueView")},
            problems=_READ_ONE,
        ),
    },
    "/api/v1/queues/{name}/resume": {
        "post": Operation(
            name="resumeQueue",
            summary="Go on with a paused queue",
            tag="queues",
            parameters=(_QUEUE,),
            answers={"200": _answer("The queue runs.", "QueueView")},
            problems=_READ_ONE,
        ),
    },
    "/api/v1/queues/{name}/health": {
        "get": Operation(
            name="getQueueHealth",
            summary="Depth, oldest wait and rates of a queue",
            tag="queues",
            parameters=(_QUEUE,),
            answers={"200": _answer("The queue's health.", "QueueHealth")},
            problems=_READ_ONE,
        ),
    },
    "/api/v1/queues/{name}/dead-letters": {
        "get": Operation(
            name="listDeadLetters",
            summary="List the dead letters of a queue, newest first",
            tag="dead letters",
            parameters=(_QUEUE, *_PAGE),
            answers={"200": _answer("A page of failed jobs.", "JobPage", headers=_LINK)},
            problems=("400", *_READ_ONE),
        ),
    },
    "/api/v1/queues/{name}/dead-letters/redrive": {
        "post": Operation(
            name="redriveDeadLetters",
            summary="Run dead letters again",
            tag="dead letters",
            description="Those with the given ids, or all of the queue when `job_ids` is not given.",
            parameters=(_QUEUE,),
            body=_json("DeadLetterSelection", example={"job_ids": ["4711"]}),
            answers={"200": _answer("How many jobs wait again.", "Redriven")},
            problems=("404", *_WRITE),
        ),
    },
    "/api/v1/queues/{name}/dead-letters/purge": {
        "post": Operation(
            name="purgeDeadLetters",
            summary="Remove dead letters from the list for good",
            tag="dead letters",
            description="Those with the given ids, or all of the queue when `job_ids` is not given.",
            parameters=(_QUEUE,),
            body=_json("DeadLetterSelection", example={"job_ids": ["4711"]}),
            answers={"200": _answer("How many were removed.", "Purged")},
            problems=("404", *_WRITE),
        ),
    },
    "/healthz": {
        "get": Operation(
            name="getLiveness",
            summary="The process answers",
            tag="operations",
            answers={"200": _answer("It does.", "Health")},
            problems=("405",),
            is_protected=False,
        ),
    },
    "/readyz": {
        "get": Operation(
            name="getReadiness",
            summary="Requests can be served",
            tag="operations",
            answers={"200": _answer("They can.", "Health")},
            problems=("405", "503"),
            is_protected=False,
        ),
    },
    "/metrics": {
        "get": Operation(
            name="getMetrics",
            summary="Metrics for Prometheus",
            tag="operations",
            description="In development open to callers on the same machine.",
            answers={"200": _text("Metrics in the text format.", "text/plain")},
            problems=("401", "405", "503"),
        ),
    },
    "/openapi.json": {
        "get": Operation(
            name="getContract",
            summary="This contract as JSON",
            tag="operations",
            answers={
                "200": {
                    "description": "OpenAPI.",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                }
            },
            problems=("405",),
            is_protected=False,
        ),
    },
    "/openapi.yaml": {
        "get": Operation(
            name="getContractAsYaml",
            summary="This contract as YAML",
            tag="operations",
            answers={"200": _text("OpenAPI.", "application/yaml")},
            problems=("405",),
            is_protected=False,
        ),
    },
    "/docs": {
        "get": Operation(
            name="getDocs",
            summary="This contract for people",
            tag="operations",
            answers={"200": _text("A page.", "text/html")},
            problems=("405",),
            is_protected=False,
        ),
    },
}
