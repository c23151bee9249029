"""Workflows, as the contract describes them."""

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
    links,
    path_parameter,
    query_parameter,
)

WORKFLOW_ID = path_parameter("workflow_id", "The id of a workflow.")
EXAMPLE = {
    "name": "report",
    "nodes": [
        {"name": "extract", "queue_name": "default", "job_type": "extract", "payload": {"day": "2026-01-31"}},
        {
            "name": "load",
            "queue_name": "default",
            "job_type": "load",
            "inputs": {"rows": "extract"},
        },
        {
            "name": "complain",
            "queue_name": "default",
            "job_type": "send_email",
            "payload": {"to": "ops@example.com", "subject": "No report", "body": "See the dead letters."},
            "depends_on": [{"node": "load", "on_failure": "only"}],
        },
    ],
}

PATHS: dict[str, dict[str, Operation]] = {
    "/api/v1/workflows": {
        "post": Operation(
            name="createWorkflow",
            summary="Make jobs that wait for each other",
            tag="workflows",
            description="All of it or nothing; cycles are refused with their path. `inputs` gives the result of a "
            "node to a parameter of the payload. An `open` workflow takes more nodes, and runs when it is started.",
            body=json_body("WorkflowDraft", example=EXAMPLE),
            answers={
                "201": answer(
                    "The workflow.",
                    "WorkflowView",
                    headers=LOCATION,
                    links=links(
                        "workflow_id",
                        "id",
                        "getWorkflow",
                        "listNodes",
                        "cancelWorkflow",
                        "retryWorkflow",
                        "startWorkflow",
                    ),
                )
            },
            problems=("404", *WRITE),
        ),
        "get": Operation(
            name="listWorkflows",
            summary="List workflows, newest first",
            tag="workflows",
            parameters=PAGE,
            answers={"200": answer("A page of workflows.", "WorkflowPage", headers=LINK)},
            problems=("400", *READ),
        ),
    },
    "/api/v1/workflows/{workflow_id}": {
        "get": Operation(
            name="getWorkflow",
            summary="A workflow with its state and progress",
            tag="workflows",
            parameters=(WORKFLOW_ID,),
            answers={"200": answer("The workflow.", "WorkflowView")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/workflows/{workflow_id}/nodes": {
        "get": Operation(
            name="listNodes",
            summary="The jobs of a workflow with their parents and states",
            tag="workflows",
            parameters=(WORKFLOW_ID, *PAGE),
            answers={"200": answer("A page of nodes.", "NodePage", headers=LINK)},
            problems=("400", *READ_ONE),
        ),
        "post": Operation(
            name="addNodes",
            summary="Add nodes to an open workflow",
            tag="workflows",
            parameters=(WORKFLOW_ID,),
            body=json_body("WorkflowNodes", example={"nodes": EXAMPLE["nodes"]}),
            answers={"200": answer("The workflow as it is now.", "WorkflowView")},
            problems=("404", *WRITE),
        ),
    },
    "/api/v1/workflows/{workflow_id}/start": {
        "post": Operation(
            name="startWorkflow",
            summary="Run an open workflow",
            tag="workflows",
            parameters=(WORKFLOW_ID,),
            answers={"200": answer("It runs.", "WorkflowView")},
            problems=ACT,
        ),
    },
    "/api/v1/workflows/{workflow_id}/cancel": {
        "post": Operation(
            name="cancelWorkflow",
            summary="Cancel all of a workflow that has not ended",
            tag="workflows",
            parameters=(
                WORKFLOW_ID,
                query_parameter(
                    "preview", {"type": "boolean", "default": False}, "Only say what would be hit."
                ),
            ),
            answers={
                "200": answer("What would be hit.", "CancelPreview"),
                "202": answer("Its jobs are being cancelled.", "WorkflowView"),
            },
            problems=ACT,
        ),
    },
    "/api/v1/workflows/{workflow_id}/retry": {
        "post": Operation(
            name="retryWorkflow",
            summary="Run again what failed, and what was cancelled for it",
            tag="workflows",
            parameters=(WORKFLOW_ID,),
            answers={"200": answer("It runs again.", "WorkflowView")},
            problems=ACT,
        ),
    },
}
