"""Batches, as the contract describes them."""

from __future__ import annotations

from taskforge.domain.batches import BatchState
from taskforge.domain.jobs import JobState
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
    query_parameter,
)

BATCH_ID = path_parameter("batch_id", "The id of a batch.")

PATHS: dict[str, dict[str, Operation]] = {
    "/api/v1/batches": {
        "post": Operation(
            name="createBatch",
            summary="Make a batch",
            tag="batches",
            description="It is open: jobs join it by their `batch_id`, or by a stream of lines, until it is sealed. "
            "`on_failure` goes off when the first member has failed, `on_complete` when all have ended, `on_success` "
            "when all have succeeded; each at most once.",
            body=json_body(
                "BatchDraft",
                example={
                    "name": "newsletter",
                    "callbacks": {
                        "on_complete": {
                            "job": {"queue_name": "default", "job_type": "report", "payload": {}},
                            "batch_as": "batch",
                        }
                    },
                },
            ),
            answers={"201": answer("The batch.", "BatchView", headers=LOCATION)},
            problems=WRITE,
        ),
        "get": Operation(
            name="listBatches",
            summary="List batches, newest first",
            tag="batches",
            parameters=(
                *PAGE,
                query_parameter(
                    "state",
                    {"type": "string", "enum": [state.value for state in BatchState]},
                    "In this state.",
                ),
            ),
            answers={"200": answer("A page of batches.", "BatchPage", headers=LINK)},
            problems=("400", *READ),
        ),
    },
    "/api/v1/batches/{batch_id}": {
        "get": Operation(
            name="getBatch",
            summary="A batch with its counts and callbacks",
            tag="batches",
            parameters=(BATCH_ID,),
            answers={"200": answer("The batch.", "BatchView")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/batches/{batch_id}/jobs": {
        "post": Operation(
            name="addJobsToBatch",
            summary="Add any number of jobs to a batch while they arrive",
            tag="batches",
            description="One job a line. Memory is constant on both sides; a sender that is too fast has to wait. With "
            "`first`, items are numbered and stored exactly once: after a broken connection, ask for the batch and "
            "go on with item `received + 1`, or send the same again. Items already received are skipped.",
            parameters=(
                BATCH_ID,
                query_parameter(
                    "first",
                    {"type": "integer", "minimum": 1},
                    "The number of the first line in the whole stream.",
                ),
                query_parameter("seal", {"type": "boolean"}, "Seal the batch when all is stored."),
                query_parameter(
                    "skip_invalid",
                    {"type": "boolean"},
                    "Leave wrong items out and go on; otherwise the first one ends the stream.",
                ),
                query_parameter(
                    "verdicts",
                    {"type": "string", "enum": ["summary", "all"]},
                    "`all`: one line per item while they are stored, the summary last.",
                ),
            ),
            body={
                "application/x-ndjson": {"schema": {"type": "string", "description": "One job a line."}},
            },
            answers={
                "200": {
                    "description": "What became of the items; of wrong ones the first 1,000 are named.",
                    "content": {
                        **json_body("BatchStreamed"),
                        "application/x-ndjson": {
                            "schema": {
                                "type": "string",
                                "description": "A StreamVerdict a line, then a BatchStreamed.",
                            }
                        },
                    },
                }
            },
            problems=("404", *WRITE),
        ),
        "get": Operation(
            name="listJobsOfBatch",
            summary="List the jobs of a batch, by id",
            tag="batches",
            description="A page looks at 20,000 jobs at most, so a rare state may need several, some of them empty.",
            parameters=(
                BATCH_ID,
                *PAGE,
                query_parameter(
                    "state", {"type": "string", "enum": [state.value for state in JobState]}, "In this state."
                ),
            ),
            answers={"200": answer("A page of jobs.", "JobPage", headers=LINK)},
            problems=("400", *READ_ONE),
        ),
    },
    "/api/v1/batches/{batch_id}/seal": {
        "post": Operation(
            name="sealBatch",
            summary="Say that a batch is complete",
            tag="batches",
            description="No job joins any more. A batch whose members have all ended, or that has none, ends now.",
            parameters=(BATCH_ID,),
            answers={"200": answer("The batch.", "BatchView")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/batches/{batch_id}/cancel": {
        "post": Operation(
            name="cancelBatch",
            summary="Seal a batch and cancel its jobs",
            tag="batches",
            description="Waiting jobs are cancelled, running ones are told to stop. 202: that is still going on.",
            parameters=(BATCH_ID,),
            answers={
                "200": answer("The batch has ended.", "BatchView"),
                "202": answer("The batch is being cancelled.", "BatchView"),
            },
            problems=ACT,
        ),
    },
}
