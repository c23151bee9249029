"""The contract as OpenAPI 3.1. Schemas come from the structs that the handlers read and write."""

from __future__ import annotations

from typing import Any

import msgspec

from taskforge.domain.batches import MAX_NAME, BatchDraft, BatchView
from taskforge.domain.bulk import (
    MAX_CANARY,
    MAX_RATE,
    MAX_TEXT,
    MAX_WATCH_SECONDS,
    BulkOperation,
    BulkPreview,
    BulkRequest,
)
from taskforge.domain.control import JobChange
from taskforge.domain.dead_letters import DeadLetterGroups
from taskforge.domain.health import HealthSummary, QueueHealth
from taskforge.domain.jobs import BATCH_LIMIT, MAX_ATTEMPTS, MAX_TAGS, JobView
from taskforge.domain.limits import MAX_WEIGHT, MIN_WEIGHT, KeyPolicy, KeyView, TenantChange, TenantView
from taskforge.domain.queues import (
    MAX_COMMENT,
    MAX_TIMEOUT_SECONDS,
    NAME,
    Pause,
    QueueChange,
    QueueDraft,
    QueueVersion,
    Revert,
)
from taskforge.domain.retry import MAX_DELAY_SECONDS
from taskforge.domain.schedules import (
    MAX_JITTER_SECONDS,
    MAX_MISSED,
    MAX_PREVIEW,
    ScheduleChange,
    ScheduleDraft,
)
from taskforge.domain.webhooks import DeliveryView, SecretView
from taskforge.domain.workflows import CancelPreview, NodeView, WorkflowDraft, WorkflowView
from taskforge.rest import schedule_schemas, schemas
from taskforge.rest.contract import PATHS
from taskforge.rest.contract.parts import Operation
from taskforge.rest.problems import Problem
from taskforge.rest.routes.workflows import WorkflowNodes
from taskforge.rest.submission import SubmitJob

VERSION = "1.0.0"

_STRUCTS = (
    NodeView,
    CancelPreview,
    WorkflowDraft,
    WorkflowNodes,
    WorkflowView,
    schemas.NodePage,
    schemas.WorkflowPage,
    BulkOperation,
    BulkPreview,
    BulkRequest,
    DeadLetterGroups,
    BatchDraft,
    BatchView,
    DeliveryView,
    SecretView,
    HealthSummary,
    Pause,
    QueueVersion,
    Revert,
    schemas.QueueVersionPage,
    JobChange,
    JobView,
    Problem,
    QueueChange,
    QueueDraft,
    QueueHealth,
    KeyPolicy,
    KeyView,
    TenantChange,
    TenantView,
    ScheduleChange,
    ScheduleDraft,
    SubmitJob,
    schedule_schemas.Firings,
    schedule_schemas.PreviewRequest,
    schedule_schemas.SchedulePage,
    schedule_schemas.ScheduleRun,
    schedule_schemas.ScheduleView,
    schedule_schemas.TickPage,
    schemas.BatchAnswer,
    schemas.BulkPage,
    schemas.BatchPage,
    schemas.BatchStreamed,
    schemas.DeliveryPage,
    schemas.SecretMade,
    schemas.Secrets,
    schemas.StreamVerdict,
    schemas.DeadLetterSelection,
    schemas.Health,
    schemas.JobAccepted,
    schemas.JobChanges,
    schemas.JobPage,
    schemas.KeyPage,
    schemas.Purged,
    schemas.QueuePage,
    schemas.QueueView,
    schemas.Redriven,
)

# Bounds that the domain checks by code, said once more for readers and generators of clients.
_BOUNDS: dict[tuple[str, str], dict[str, Any]] = {
    ("SubmitJob", "queue_name"): {"pattern": f"^{NAME.pattern}$", "examples": ["default"]},
    ("SubmitJob", "job_type"): {
        "pattern": r"^[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}$",
        "examples": ["send_email"],
    },
    ("SubmitJob", "priority"): {"minimum": 0, "maximum": 9, "description": "9 goes first, 0 last."},
    ("SubmitJob", "payload"): {"description": "Any JSON value, kept byte for byte; handlers take an object."},
    ("SubmitJob", "max_attempts"): {
        "minimum": 1,
        "maximum": MAX_ATTEMPTS,
        "description": "Unset: the queue's.",
    },
    ("SubmitJob", "timeout_seconds"): {"minimum": 0.001, "maximum": MAX_TIMEOUT_SECONDS},
    ("SubmitJob", "delay_seconds"): {
        "minimum": 0,
        "maximum": MAX_DELAY_SECONDS,
        "description": "Run no sooner than this long from now; not together with run_at.",
    },
    ("SubmitJob", "run_at"): {"description": "Run no sooner than this time, which must name its zone."},
    ("SubmitJob", "idempotency_key"): {
        "minLength": 1,
        "maxLength": 255,
        "description": "At most one job per key and tenant within 24 hours.",
    },
    ("SubmitJob", "tags"): {"maxItems": MAX_TAGS},
    ("BulkRequest", "rate_per_second"): {
        "minimum": 0.01,
        "maximum": MAX_RATE,
        "description": "At most so many jobs a second.",
    },
    ("BulkFilter", "job_ids"): {"maxItems": BATCH_LIMIT},
    ("BulkFilter", "error_text"): {"minLength": 1, "maxLength": MAX_TEXT},
    ("Canary", "count"): {"minimum": 1, "maximum": MAX_CANARY},
    ("Canary", "watch_seconds"): {"minimum": 0, "maximum": MAX_WATCH_SECONDS},
    ("Canary", "min_success_ratio"): {"minimum": 0, "maximum": 1},
    ("JobChange", "priority"): {"minimum": 0, "maximum": 9, "description": "9 goes first, 0 last."},
    ("JobChange", "delay_seconds"): {"minimum": 0, "maximum": MAX_DELAY_SECONDS},
    ("JobChange", "queue_name"): {"pattern": f"^{NAME.pattern}$"},
    ("JobChange", "payload"): {"description": "Takes the place of the whole payload."},
    ("JobChange", "payload_patch"): {"description": "A JSON merge patch (RFC 7396) of the payload."},
    ("BatchDraft", "name"): {"maxLength": MAX_NAME},
    ("BatchDraft", "tags"): {"maxItems": MAX_TAGS},
    ("QueueDraft", "name"): {"pattern": f"^{NAME.pattern}$"},
    ("QueueDraft", "max_attempts"): {"minimum": 1, "maximum": MAX_ATTEMPTS},
    ("QueueDraft", "timeout_seconds"): {"minimum": 0.001, "maximum": MAX_TIMEOUT_SECONDS},
    ("KeyPolicy", "weight"): {"minimum": MIN_WEIGHT, "maximum": MAX_WEIGHT},
    ("KeyPolicy", "max_concurrency"): {"description": "null: the queue's; 0: nothing of the key starts."},
    ("TenantChange", "max_concurrency"): {"description": "1 to 1,000,000, or null for no limit."},
    ("QueueChange", "max_attempts"): {"minimum": 1, "maximum": MAX_ATTEMPTS},
    ("QueueChange", "timeout_seconds"): {"minimum": 0.001, "maximum": MAX_TIMEOUT_SECONDS},
    ("ScheduleDraft", "name"): {"pattern": f"^{NAME.pattern}$"},
    ("ScheduleDraft", "jitter_seconds"): {
        "minimum": 0,
        "maximum": MAX_JITTER_SECONDS,
        "description": "Each job is late by a part of this, the same in every process; less than the time between two.",
    },
    ("ScheduleDraft", "missed_limit"): {"minimum": 1, "maximum": MAX_MISSED},
    ("ScheduleDraft", "priority"): {"minimum": 0, "maximum": 9},
    ("ScheduleDraft", "max_attempts"): {"minimum": 1, "maximum": MAX_ATTEMPTS},
    ("ScheduleDraft", "timeout_seconds"): {"minimum": 0.001, "maximum": MAX_TIMEOUT_SECONDS},
    ("ScheduleDraft", "tags"): {"maxItems": MAX_TAGS},
    ("ScheduleDraft", "payload"): {"default": {}},
    ("PreviewRequest", "count"): {"minimum": 1, "maximum": MAX_PREVIEW},
    ("QueueChange", "comment"): {"minLength": 1, "maxLength": MAX_COMMENT, "description": "Why."},
    ("QueueChange", "if_version"): {"description": "Refuse the change unless the queue is at this version."},
    ("Revert", "comment"): {"minLength": 1, "maxLength": MAX_COMMENT, "description": "Why."},
    ("Revert", "if_version"): {"description": "Refuse it unless the queue is at this version."},
    ("Pause", "reason"): {"minLength": 1, "maxLength": MAX_COMMENT, "description": "Why."},
    ("DeadLetterSelection", "job_ids"): {"maxItems": BATCH_LIMIT},
}

_PROBLEM_EXAMPLE = {
    "type": "https://taskforge.dev/problems/request.invalid",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "/priority: must be a whole number, not a string",
    "instance": "/api/v1/jobs",
    "code": "request.invalid",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "errors": [
        {"pointer": "/priority", "code": "wrong_type", "detail": "must be a whole number, not a string"}
    ],
}

_PROBLEMS = {
    "400": "The request cannot be read.",
    "401": "No valid bearer token.",
    "404": "No such thing in this tenant.",
    "405": "The resource has no such method.",
    "408": "The body did not arrive in time.",
    "409": "The thing is in a state that does not permit this.",
    "412": "The thing was changed since it was looked at.",
    "413": "The body is too large.",
    "415": "A content type or encoding that is not read here.",
    "422": "Well-formed, but not allowed; `errors` points at the places.",
    "503": "Not now; `Retry-After` says when to try again.",
}


def document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "TaskForge",
            "version": VERSION,
            "summary": "A durable job queue on PostgreSQL.",
            "description": "Every error is an RFC 9457 problem document with a stable `code`. "
            "Times are RFC 3339 in UTC, durations are seconds, job ids are strings.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "jobs", "description": "Submit, follow, cancel and retry jobs."},
            {"name": "queues", "description": "Named lines of jobs with their defaults."},
            {
                "name": "schedules",
                "description": "Jobs that are submitted at certain times, again and again.",
            },
            {"name": "workflows", "description": "Jobs with names that wait for each other."},
            {"name": "batches", "description": "Jobs that belong together, counted as one, with callbacks."},
            {
                "name": "webhooks",
                "description": "Messages about how jobs ended, and the secrets that sign them.",
            },
            {"name": "dead letters", "description": "Jobs that failed for good, kept for people."},
            {"name": "bulk", "description": "One verb for all jobs that a filter finds, in the background."},
            {"name": "operations", "description": "For machines that watch the server."},
        ],
        "paths": {
            path: {method: _operation(operation) for method, operation in operations.items()}
            for path, operations in PATHS.items()
        },
        "components": {
            "schemas": _schemas(),
            "responses": {f"Problem{status}": _problem(status, text) for status, text in _PROBLEMS.items()},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": [{"bearer": []}] if operation.is_protected else [],
    }
    if operation.description:
        described["description"] = operation.description
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body:
        described["requestBody"] = {"required": not operation.is_body_optional, "content": operation.body}
    described["responses"] = {
        **operation.answers,
        **{status: {"$ref": f"#/components/responses/Problem{status}"} for status in operation.problems},
    }
    return described


def _problem(status: str, text: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": text,
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {"problem": {"value": {**_PROBLEM_EXAMPLE, "status": int(status)}}},
            }
        },
    }
    if status == "503":
        described["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    if status == "401":
        described["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return described


def _schemas() -> dict[str, Any]:
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
    for (schema, field), bounds in _BOUNDS.items():
        components[schema]["properties"][field] |= bounds
    # `Raw` defaults cannot be shown by msgspec as the values that they are.
    for name in ("SubmitJob", "CallbackJob"):
        components[name]["properties"]["payload"]["default"] = {}
    components["SubmitJobs"] = {
        "title": "SubmitJobs",
        "type": "object",
        "properties": {"jobs": _jobs_array()},
        "required": ["jobs"],
        "additionalProperties": False,
    }
    return dict(sorted(components.items()))


def _jobs_array() -> dict[str, Any]:
    return {
        "type": "array",
        "items": {"$ref": "#/components/schemas/SubmitJob"},
        "minItems": 1,
        "maxItems": BATCH_LIMIT,
    }
