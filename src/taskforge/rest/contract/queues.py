"""Queues, as the contract describes them."""

from __future__ import annotations

from taskforge.rest.contract.parts import (
    ACT,
    LINK,
    LOCATION,
    PAGE,
    QUEUE,
    READ,
    READ_ONE,
    WRITE,
    Operation,
    answer,
    json_body,
    links,
)

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
            answers={"200": answer("The queue.", "QueueView")},
            problems=READ_ONE,
        ),
        "patch": Operation(
            name="changeQueue",
            summary="Change the defaults of a queue",
            tag="queues",
            description="What is not given stays as it is.",
            parameters=(QUEUE,),
            body=json_body("QueueChange", example={"priority": 10}),
            answers={"200": answer("The queue as it is now.", "QueueView")},
            problems=("404", *WRITE),
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
            answers={"200": answer("The queue is paused.", "QueueView")},
            problems=READ_ONE,
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
            summary="Depth, oldest wait and rates of a queue",
            tag="queues",
            parameters=(QUEUE,),
            answers={"200": answer("The queue's health.", "QueueHealth")},
            problems=READ_ONE,
        ),
    },
}
