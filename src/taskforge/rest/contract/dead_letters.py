"""Dead letters, as the contract describes them."""

from __future__ import annotations

from taskforge.rest.contract.parts import (
    LINK,
    LOCATION,
    PAGE,
    QUEUE,
    READ_ONE,
    STRING,
    TIME,
    WRITE,
    Operation,
    answer,
    json_body,
    query_parameter,
    ref,
)

PATHS: dict[str, dict[str, Operation]] = {
    "/api/v1/queues/{name}/dead-letters": {
        "get": Operation(
            name="listDeadLetters",
            summary="List the dead letters of a queue, newest first",
            tag="dead letters",
            description="A page may be short, even empty, and still have a next one.",
            parameters=(
                QUEUE,
                query_parameter("job_type", STRING, "Only of this type."),
                query_parameter("tag", STRING, "Only with this tag."),
                query_parameter("submitted_after", TIME, "Only submitted at or after this time."),
                query_parameter("submitted_before", TIME, "Only submitted before this time."),
                query_parameter("fingerprint", STRING, "Only those that failed like this."),
                query_parameter(
                    "error_text", STRING, "Only with this in the error's class or message, whatever its case."
                ),
                query_parameter("failed_after", TIME, "Only that failed at or after this time."),
                query_parameter("failed_before", TIME, "Only that failed before this time."),
                *PAGE,
            ),
            answers={"200": answer("A page of failed jobs.", "JobPage", headers=LINK)},
            problems=("400", *READ_ONE),
        ),
    },
    "/api/v1/queues/{name}/dead-letters/groups": {
        "get": Operation(
            name="groupDeadLetters",
            summary="Dead letters by what went wrong, the largest groups first",
            tag="dead letters",
            description="Looks at the newest 100,000 and says so.",
            parameters=(QUEUE, PAGE[0]),
            answers={"200": answer("The groups.", "DeadLetterGroups")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/queues/{name}/dead-letters/redrive": {
        "post": Operation(
            name="redriveDeadLetters",
            summary="Run dead letters again",
            tag="dead letters",
            description="Those with the given ids, or all of the queue when `job_ids` is not given. "
            "With a filter, a rate, a canary or a preview, it is a bulk operation.",
            parameters=(QUEUE,),
            body=json_body(
                "DeadLetterSelection",
                example={
                    "filter": {"fingerprint": "0a54ee4cca6f3c05"},
                    "canary": {"count": 10, "watch_seconds": 60},
                    "rate_per_second": 100,
                },
            ),
            answers={
                "200": {
                    "description": "How many jobs wait again. With `preview`, how many it would be.",
                    "content": {
                        "application/json": {"schema": {"oneOf": [ref("Redriven"), ref("BulkPreview")]}}
                    },
                },
                "202": answer("The operation has begun.", "BulkOperation", headers=LOCATION),
            },
            problems=("404", *WRITE),
        ),
    },
    "/api/v1/queues/{name}/dead-letters/purge": {
        "post": Operation(
            name="purgeDeadLetters",
            summary="Remove dead letters from the list for good",
            tag="dead letters",
            description="Those with the given ids, or all of the queue when `job_ids` is not given. "
            "With a filter, a rate or a preview, it is a bulk operation.",
            parameters=(QUEUE,),
            body=json_body("DeadLetterSelection", example={"job_ids": ["4711"]}),
            answers={
                "200": {
                    "description": "How many were removed. With `preview`, how many it would be.",
                    "content": {
                        "application/json": {"schema": {"oneOf": [ref("Purged"), ref("BulkPreview")]}}
                    },
                },
                "202": answer("The operation has begun.", "BulkOperation", headers=LOCATION),
            },
            problems=("404", *WRITE),
        ),
    },
}
