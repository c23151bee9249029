"""Queues, as the contract describes them."""

from __future__ import annotations

from taskforge.rest.contract.parts import (
    ACT,
    ETAG,
    LINK,
    LOCATION,
    PAGE,
    QUEUE,
    READ,
    READ_ONE,
    WRITE,
    Json,
    Operation,
    answer,
    json_body,
    links,
    path_parameter,
)

VERSION = path_parameter("version", "The number of a version.")
IF_MATCH: Json = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of the queue as it was looked at.",
    "schema": {"type": "string", "pattern": r'^("[0-9]{1,9}"|\*)$'},
}

PATHS: dict[str, dict[str, Operation]] = {
    "/api/v1/queues": {
        "post": Operation(
            name="createQueue",
            summary="Create a queue",
            tag="queues",
            body=json_body("QueueDraft", example={"name": "email", "max_attempts": 5, "timeout_seconds": 30}),
            answers={
                "201": answer(
                    "The queue exists.",
                    "QueueView",
                    headers=LOCATION,
                    links=links(
                        "name",
                        "name",
                        "getQueue",
                        "changeQueue",
                        "pauseQueue",
                        "resumeQueue",
                        "getQueueHealth",
                        "listDeadLetters",
                        "deleteQueue",
                    ),
                )
            },
            problems=WRITE,
        ),
        "get": Operation(
            name="listQueues",
            summary="List queues, by name",
            tag="queues",
            parameters=PAGE,
            answers={"200": answer("A page of queues.", "QueuePage", headers=LINK)},
            problems=("400", *READ),
        ),
    },
    "/api/v1/queues/{name}": {
        "get": Operation(
            name="getQueue",
            summary="A queue with its defaults",
            tag="queues",
            parameters=(QUEUE,),
            answers={"200": answer("The queue.", "QueueView", headers=ETAG)},
            problems=READ_ONE,
        ),
        "patch": Operation(
            name="changeQueue",
            summary="Change the defaults of a queue",
            tag="queues",
            description="What is not given stays as it is. Claims read the new settings from the answer on. Each "
            "change is a version; with If-Match or `if_version` it is refused when somebody else was first.",
            parameters=(QUEUE, IF_MATCH),
            body=json_body("QueueChange", example={"priority": 10, "comment": "the report is late"}),
            answers={"200": answer("The queue as it is now.", "QueueView", headers=ETAG)},
            problems=("404", "412", *WRITE),
        ),
        "delete": Operation(
            name="deleteQueue",
            summary="Delete an empty queue",
            tag="queues",
            parameters=(QUEUE,),
            answers={"204": {"description": "The queue is gone."}},
            problems=ACT,
        ),
    },
    "/api/v1/queues/{name}/pause": {
        "post": Operation(
            name="pauseQueue",
            summary="Start no more jobs of a queue",
            tag="queues",
            description="Jobs can still be submitted; running ones go on.",
            parameters=(QUEUE,),
            body=json_body("Pause", example={"reason": "the mail server is down"}),
            is_body_optional=True,
            answers={"200": answer("The queue is paused.", "QueueView")},
            problems=("404", *WRITE),
        ),
    },
    "/api/v1/queues/{name}/resume": {
        "post": Operation(
            name="resumeQueue",
            summary="Go on with a paused queue",
            tag="queues",
            parameters=(QUEUE,),
            answers={"200": answer("The queue runs.", "QueueView")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/queues/{name}/health": {
        "get": Operation(
            name="getQueueHealth",
            summary="A score with its reasons, depth, waits and rates of a queue",
            tag="queues",
            parameters=(QUEUE,),
            answers={"200": answer("The queue's health.", "QueueHealth")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/health": {
        "get": Operation(
            name="getHealth",
            summary="The health of every queue, by name",
            tag="queues",
            description="The score is that of the worst queue on the page.",
            parameters=PAGE,
            answers={"200": answer("A page of queues.", "HealthSummary", headers=LINK)},
            problems=("400", *READ),
        ),
    },
    "/api/v1/queues/{name}/versions": {
        "get": Operation(
            name="listQueueVersions",
            summary="Who changed what of a queue, newest first",
            tag="queues",
            parameters=(QUEUE, *PAGE),
            answers={"200": answer("A page of versions.", "QueueVersionPage", headers=LINK)},
            problems=("400", *READ_ONE),
        ),
    },
    "/api/v1/queues/{name}/versions/{version}": {
        "get": Operation(
            name="getQueueVersion",
            summary="One change of a queue",
            tag="queues",
            parameters=(QUEUE, VERSION),
            answers={"200": answer("The change.", "QueueVersion")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/queues/{name}/versions/{version}/revert": {
        "post": Operation(
            name="revertQueue",
            summary="Go back to the settings of a version",
            tag="queues",
            description="Every setting is again as it was after that version; whether the queue is paused stays. "
            "This is a new version.",
            parameters=(QUEUE, VERSION),
            body=json_body("Revert", example={"comment": "the new limit was too low"}),
            is_body_optional=True,
            answers={"200": answer("The queue as it is now.", "QueueView", headers=ETAG)},
            problems=("404", "412", *WRITE),
        ),
    },
}
