"""Dead letters, as the contract describes them."""

from __future__ import annotations

from taskforge.rest.contract.parts import (
    LINK,
    PAGE,
    QUEUE,
    READ_ONE,
    WRITE,
    Operation,
    answer,
    json_body,
)

PATHS: dict[str, dict[str, Operation]] = {
    "/api/v1/queues/{name}/dead-letters": {
        "get": Operation(
            name="listDeadLetters",
            summary="List the dead letters of a queue, newest first",
            tag="dead letters",
            parameters=(QUEUE, *PAGE),
            answers={"200": answer("A page of failed jobs.", "JobPage", headers=LINK)},
            problems=("400", *READ_ONE),
        ),
    },
    "/api/v1/queues/{name}/dead-letters/redrive": {
        "post": Operation(
            name="redriveDeadLetters",
            summary="Run dead letters again",
            tag="dead letters",
            description="Those with the given ids, or all of the queue when `job_ids` is not given.",
            parameters=(QUEUE,),
            body=json_body("DeadLetterSelection", example={"job_ids": ["4711"]}),
            answers={"200": answer("How many jobs wait again.", "Redriven")},
            problems=("404", *WRITE),
        ),
    },
    "/api/v1/queues/{name}/dead-letters/purge": {
        "post": Operation(
            name="purgeDeadLetters",
            summary="Remove dead letters from the list for good",
            tag="dead letters",
            description="Those with the given ids, or all of the queue when `job_ids` is not given.",
            parameters=(QUEUE,),
            body=json_body("DeadLetterSelection", example={"job_ids": ["4711"]}),
            answers={"200": answer("How many were removed.", "Purged")},
            problems=("404", *WRITE),
        ),
    },
}
