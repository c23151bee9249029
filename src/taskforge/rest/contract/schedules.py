"""Schedules, as the contract describes them."""

from __future__ import annotations

from taskforge.domain.schedules import MAX_PREVIEW
from taskforge.rest.contract.parts import (
    ACT,
    LINK,
    LOCATION,
    PAGE,
    READ,
    READ_ONE,
    TIME,
    WRITE,
    Operation,
    answer,
    json_body,
    path_parameter,
    query_parameter,
)

SCHEDULE = path_parameter("name", "The name of a schedule.")
_EXAMPLE = {
    "name": "nightly-report",
    "expression": "30 2 * * MON-FRI",
    "timezone": "Asia/Jakarta",
    "overlap": "skip",
    "queue_name": "default",
    "job_type": "report",
    "payload": {"kind": "daily"},
}

PATHS: dict[str, dict[str, Operation]] = {
    "/api/v1/schedules": {
        "post": Operation(
            name="createSchedule",
            summary="Create a schedule",
            tag="schedules",
            description="Its job is submitted at each time of a cron expression: five fields, or six with the second "
            "first, or a name such as `@daily`, or an interval such as `@every 90s`. One that never fires is refused.",
            body=json_body("ScheduleDraft", example=_EXAMPLE),
            answers={"201": answer("The schedule is in force.", "ScheduleView", headers=LOCATION)},
            problems=WRITE,
        ),
        "get": Operation(
            name="listSchedules",
            summary="List schedules, by name",
            tag="schedules",
            parameters=PAGE,
            answers={"200": answer("A page of schedules.", "SchedulePage", headers=LINK)},
            problems=("400", *READ),
        ),
    },
    "/api/v1/schedules/preview": {
        "post": Operation(
            name="previewExpression",
            summary="The next times of an expression, without storing anything",
            tag="schedules",
            body=json_body(
                "PreviewRequest",
                example={"expression": "0 9 * * MON#1", "timezone": "Europe/Berlin", "count": 3},
            ),
            answers={"200": answer("The times.", "Firings")},
            problems=("400", "401", "405", "408", "413", "415", "422", "503"),
        ),
    },
    "/api/v1/schedules/{name}": {
        "get": Operation(
            name="getSchedule",
            summary="A schedule, with its next time",
            tag="schedules",
            parameters=(SCHEDULE,),
            answers={"200": answer("The schedule.", "ScheduleView")},
            problems=READ_ONE,
        ),
        "patch": Operation(
            name="changeSchedule",
            summary="Change a schedule",
            tag="schedules",
            description="What is not given stays as it is. In force at once: when its times change, it goes on with "
            "the next new one.",
            parameters=(SCHEDULE,),
            body=json_body("ScheduleChange", example={"expression": "0 3 * * *"}),
            answers={"200": answer("The schedule as it is now.", "ScheduleView")},
            problems=("404", *WRITE),
        ),
        "delete": Operation(
            name="deleteSchedule",
            summary="Delete a schedule and its record of times",
            tag="schedules",
            description="Jobs that it has submitted stay.",
            parameters=(SCHEDULE,),
            answers={"204": {"description": "The schedule is gone."}},
            problems=READ_ONE,
        ),
    },
    "/api/v1/schedules/{name}/pause": {
        "post": Operation(
            name="pauseSchedule",
            summary="Submit no more jobs of a schedule",
            tag="schedules",
            description="Times that pass meanwhile are neither recorded nor made up for.",
            parameters=(SCHEDULE,),
            answers={"200": answer("The schedule is paused.", "ScheduleView")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/schedules/{name}/resume": {
        "post": Operation(
            name="resumeSchedule",
            summary="Go on with a paused schedule, from its next time",
            tag="schedules",
            parameters=(SCHEDULE,),
            answers={"200": answer("The schedule runs.", "ScheduleView")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/schedules/{name}/run": {
        "post": Operation(
            name="runSchedule",
            summary="Submit the job of a schedule now",
            tag="schedules",
            description="Whatever its times, its pause and its overlap policy say. Its times go on as before.",
            parameters=(SCHEDULE,),
            answers={"201": answer("The job is submitted.", "ScheduleRun", headers=LOCATION)},
            problems=ACT,
        ),
    },
    "/api/v1/schedules/{name}/preview": {
        "get": Operation(
            name="previewSchedule",
            summary="The next times of a schedule",
            tag="schedules",
            description="As if it were not paused. Jitter, which comes on top, is left out.",
            parameters=(
                SCHEDULE,
                query_parameter(
                    "count",
                    {"type": "integer", "minimum": 1, "maximum": MAX_PREVIEW, "default": 10},
                    "How many times.",
                ),
                query_parameter("after", TIME, "Times after this one; now by default."),
            ),
            answers={"200": answer("The times.", "Firings")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/schedules/{name}/ticks": {
        "get": Operation(
            name="listTicks",
            summary="What became of the times of a schedule, newest first",
            tag="schedules",
            description="About the last thousand are kept.",
            parameters=(SCHEDULE, *PAGE),
            answers={"200": answer("A page of ticks.", "TickPage", headers=LINK)},
            problems=("400", *READ_ONE),
        ),
    },
}
