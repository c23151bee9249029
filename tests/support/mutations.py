"""The engine with one guard taken away, so that a test can show that the suite notices.

TASKFORGE_TEST_MUTATION names one; engines opened by tests then run with it.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from msgspec import Struct

VARIABLE = "TASKFORGE_TEST_MUTATION"
_PUBLIC = "taskforge"


class Mutation(Struct, frozen=True):
    """A guard's removal and the tests that must go red for it.

    `function` is an SQL function whose text `old` becomes `new`, or None when `statement` says it all. `patch` names a
    Python attribute (module, name) that is replaced by `value`.
    """

    guard: str
    tests: tuple[str, ...]
    function: str | None = None
    old: str = ""
    new: str = ""
    statement: str | None = None
    patch: tuple[str, str] | None = None
    value: Any = None


async def rewrite(connection: Any, function: str, old: str, new: str) -> None:
    """Replace `old` by `new` in the function's text. That `old` is not there is an error: the guard has moved."""
    rows = await connection.fetch(
        "select pg_get_functiondef(oid) as text from pg_proc"
        " where pronamespace = 'taskforge'::regnamespace and proname = $1",
        function,
    )
    assert len(rows) == 1, f"there are {len(rows)} functions {function}"
    text = rows[0]["text"]
    assert old in text, f"{function} has no text {old!r}"
    await connection.execute(text.replace(old, new))


async def apply(connection: Any, mutation: Mutation) -> None:
    if mutation.function is not None:
        await rewrite(connection, mutation.function, mutation.old, mutation.new)
    if mutation.statement is not None:
        await connection.execute(mutation.statement)
    if mutation.patch is not None:
        module, name = mutation.patch
        setattr(importlib.import_module(module), name, mutation.value)


async def apply_chosen(connection: Any) -> None:
    """What the environment asks for; nothing in an ordinary run."""
    if chosen := os.environ.get(VARIABLE):
        from tests.guards.guards import MUTATIONS

        await apply(connection, MUTATIONS[chosen])
