"""Keys of queues and the limit of a tenant, as the contract describes them."""

from __future__ import annotations

from taskforge.rest.contract.parts import (
    LINK,
    PAGE,
    QUEUE,
    READ,
    READ_ONE,
    WRITE,
    Operation,
    answer,
    json_body,
    path_parameter,
)

KEY = path_parameter("key", "A `concurrency_key` that jobs of the queue name.")

PATHS: dict[str, dict[str, Operation]] = {
    "/api/v1/queues/{name}/keys": {
        "get": Operation(
            name="listKeys",
            summary="The concurrency keys of a queue, with what runs and waits of each",
            tag="queues",
            description="Those that jobs have used and those that were set apart, in order.",
            parameters=(QUEUE, *PAGE),
            answers={"200": answer("A page of keys.", "KeyPage", headers=LINK)},
            problems=("400", *READ_ONE),
        ),
    },
    "/api/v1/queues/{name}/keys/{key}": {
        "get": Operation(
            name="getKey",
            summary="A concurrency key of a queue",
            tag="queues",
            parameters=(QUEUE, KEY),
            answers={"200": answer("The key.", "KeyView")},
            problems=READ_ONE,
        ),
        "put": Operation(
            name="setKey",
            summary="Set a concurrency key apart: its weight and its own limit",
            tag="queues",
            description="In force at the next claim. What is not given goes back to its default.",
            parameters=(QUEUE, KEY),
            body=json_body("KeyPolicy", example={"weight": 2, "max_concurrency": 10}),
            answers={"200": answer("The key as it is now.", "KeyView")},
            problems=("404", *WRITE),
        ),
    },
    "/api/v1/tenant": {
        "get": Operation(
            name="getTenant",
            summary="The tenant of the token, with its limit and its share",
            tag="queues",
            answers={"200": answer("The tenant.", "TenantView")},
            problems=(*READ, "404"),
        ),
        "patch": Operation(
            name="changeTenant",
            summary="Limit how many jobs of the tenant run at the same time, over all its queues",
            tag="queues",
            description="In force at the next claim; null takes the limit away. The share is the operator's to set.",
            body=json_body("TenantChange", example={"max_concurrency": 100}),
            answers={"200": answer("The tenant as it is now.", "TenantView")},
            problems=("404", *WRITE),
        ),
    },
}
