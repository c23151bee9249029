"""Jobs, as the contract describes them."""

from __future__ import annotations

from taskforge.domain.jobs import BATCH_LIMIT, JobState
from taskforge.rest.contract.parts import (
    ACT,
    BATCH_ANSWER,
    BATCH_BODY,
    EXAMPLE_JOB,
    IDEMPOTENCY,
    JOB_ID,
    LINK,
    LOCATION,
    PAGE,
    READ_ONE,
    REPLAYED,
    STRING,
    TIME,
    WRITE,
    Operation,
    answer,
    json_body,
    links,
    query_parameter,
)

PATHS: dict[str, dict[str, Operation]] = {
    "/api/v1/jobs": {
        "post": Operation(
            name="submitJob",
            summary="Submit a job",
            tag="jobs",
            description="The answer is sent when the job is durable.",
            parameters=(IDEMPOTENCY,),
            body=json_body("SubmitJob", example=EXAMPLE_JOB),
            answers={
                "201": answer(
                    "The job is stored.",
                    "JobAccepted",
                    headers=LOCATION,
                    links=links("job_id", "id", "getJob", "cancelJob", "retryJob"),
                ),
                "200": answer(
                    "The idempotency key, or a unique key to be kept, stands for this earlier job.",
                    "JobView",
                    headers=REPLAYED,
                ),
            },
            problems=WRITE,
        ),
        "get": Operation(
            name="listJobs",
            summary="List jobs, newest first",
            tag="jobs",
            parameters=(
                query_parameter("queue_name", STRING, "Only of this queue."),
                query_parameter(
                    "state", {"type": "string", "enum": [str(s) for s in JobState]}, "Only in this state."
                ),
                query_parameter("job_type", STRING, "Only of this type."),
                query_parameter("tag", STRING, "Only with this tag."),
                query_parameter("submitted_after", TIME, "Only submitted at or after this time."),
                query_parameter("submitted_before", TIME, "Only submitted before this time."),
                *PAGE,
            ),
            description="A page may be short, even empty, and still have a next one.",
            answers={"200": answer("A page of jobs.", "JobPage", headers=LINK)},
            problems=("400", *READ_ONE),
        ),
    },
    "/api/v1/jobs/batch": {
        "post": Operation(
            name="submitJobs",
            summary=f"Submit up to {BATCH_LIMIT} jobs",
            tag="jobs",
            description="All or nothing, unless `atomic=false`: then each job gets its own verdict.",
            parameters=(
                query_parameter("atomic", {"type": "boolean", "default": True}, "All jobs, or none of them."),
            ),
            body=BATCH_BODY,
            answers={
                "201": {"description": "All jobs are stored.", "content": BATCH_ANSWER},
                "207": {"description": "Some jobs were not accepted.", "content": BATCH_ANSWER},
            },
            problems=WRITE,
        ),
    },
    "/api/v1/jobs/{job_id}": {
        "get": Operation(
            name="getJob",
            summary="A job with its state, attempts and result",
            tag="jobs",
            parameters=(
                JOB_ID,
                query_parameter(
                    "wait",
                    {"type": "number", "minimum": 0, "maximum": 60, "default": 0},
                    "Wait up to this many seconds for the job to end.",
                ),
            ),
            answers={"200": answer("The job as it is now.", "JobView")},
            problems=READ_ONE,
        ),
        "patch": Operation(
            name="changeJob",
            summary="Reschedule, move, patch or reprioritise a job that waits",
            tag="jobs",
            description="All of it changes at once, or nothing. A dead letter can be moved and patched, too; a "
            "running job is refused with `job.running`.",
            parameters=(JOB_ID,),
            body=json_body("JobChange", example={"priority": 9, "payload_patch": {"to": "new@example.com"}}),
            answers={"200": answer("The job as it is now.", "JobView")},
            problems=("404", *WRITE),
        ),
    },
    "/api/v1/jobs/{job_id}/changes": {
        "get": Operation(
            name="listJobChanges",
            summary="Who changed what of a job, oldest first",
            tag="jobs",
            description="Also of a job that was purged: who did it.",
            parameters=(JOB_ID,),
            answers={"200": answer("The changes.", "JobChanges")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/jobs/{job_id}/cancel": {
        "post": Operation(
            name="cancelJob",
            summary="Cancel a job",
            tag="jobs",
            description="Once the answer says `cancelled`, no handler starts. A running job is asked to stop.",
            parameters=(JOB_ID,),
            answers={
                "200": answer("The job is cancelled.", "JobView"),
                "202": answer("The running job has been asked to stop.", "JobView"),
            },
            problems=ACT,
        ),
    },
    "/api/v1/jobs/{job_id}/retry": {
        "post": Operation(
            name="retryJob",
            summary="Run a failed or waiting job again, now",
            tag="jobs",
            parameters=(JOB_ID,),
            answers={"200": answer("The job waits for a worker.", "JobView")},
            problems=ACT,
        ),
    },
}
