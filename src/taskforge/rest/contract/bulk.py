"""Bulk operations, as the contract describes them."""

from __future__ import annotations

from taskforge.rest.contract.parts import (
    ACT,
    LINK,
    LOCATION,
    PAGE,
    READ,
    READ_ONE,
    WRITE,
    Operation,
    answer,
    json_body,
    path_parameter,
)

OPERATION_ID = path_parameter("operation_id", "The id of a bulk operation.")

PATHS: dict[str, dict[str, Operation]] = {
    "/api/v1/bulk": {
        "post": Operation(
            name="startBulkOperation",
            summary="One verb for all jobs that a filter finds",
            tag="bulk",
            description="With `preview` nothing is done: the answer says how many jobs there are. Otherwise the "
            "operation runs in the background. It touches no job that is submitted after it began.",
            body=json_body(
                "BulkRequest",
                example={
                    "verb": "cancel",
                    "filter": {"queue_name": "email", "job_type": "newsletter", "state": "pending"},
                    "preview": True,
                },
            ),
            answers={
                "200": answer("How many jobs it would be.", "BulkPreview"),
                "202": answer("The operation has begun.", "BulkOperation", headers=LOCATION),
            },
            problems=WRITE,
        ),
        "get": Operation(
            name="listBulkOperations",
            summary="List bulk operations, newest first",
            tag="bulk",
            parameters=PAGE,
            answers={"200": answer("A page of operations.", "BulkPage", headers=LINK)},
            problems=("400", *READ),
        ),
    },
    "/api/v1/bulk/{operation_id}": {
        "get": Operation(
            name="getBulkOperation",
            summary="How far a bulk operation is",
            tag="bulk",
            parameters=(OPERATION_ID,),
            answers={"200": answer("The operation as it is now.", "BulkOperation")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/bulk/{operation_id}/stop": {
        "post": Operation(
            name="stopBulkOperation",
            summary="Stop a bulk operation",
            tag="bulk",
            description="Once this has answered, no further job is touched. What was done stays done.",
            parameters=(OPERATION_ID,),
            answers={"200": answer("The operation has stopped.", "BulkOperation")},
            problems=ACT,
        ),
    },
}
