"""What machines ask that watch the server, as the contract describes them."""

from __future__ import annotations

from taskforge.rest.contract.parts import (
    Operation,
    answer,
    text_answer,
)

PATHS: dict[str, dict[str, Operation]] = {
    "/healthz": {
        "get": Operation(
            name="getLiveness",
            summary="The process answers",
            tag="operations",
            answers={"200": answer("It does.", "Health")},
            problems=("405",),
            is_protected=False,
        ),
    },
    "/readyz": {
        "get": Operation(
            name="getReadiness",
            summary="Requests can be served",
            tag="operations",
            answers={"200": answer("They can.", "Health")},
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
            answers={"200": text_answer("Metrics in the text format.", "text/plain")},
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
            answers={
                "200": {
                    "description": "OpenAPI.",
                    "content": {"application/yaml": {"schema": {"type": "object"}}},
                }
            },
            problems=("405",),
            is_protected=False,
        ),
    },
    "/docs": {
        "get": Operation(
            name="getDocs",
            summary="This contract for people",
            tag="operations",
            answers={"200": text_answer("A page.", "text/html")},
            problems=("405",),
            is_protected=False,
        ),
    },
}
