"""The engine with one guard taken away, so that it can be shown that the suite notices (tests/guards)."""

from __future__ import annotations

import os
from typing import Any

from msgspec import Struct

VARIABLE = "TASKFORGE_TEST_GUARDS"
"""Set: each test runs without each of the guards that it is said to prove, and is expected to fail."""


class Mutation(Struct, frozen=True):
    """A guard's removal, and the tests of tests/integration/engine of which at least one must go red for it.

    In the SQL function `function` the text `old` becomes `new`; `statement` is executed; `patch` (module, name) is
    replaced by `value`.
    """

    tests: tuple[str, ...]
    function: str | None = None
    old: str = ""
    new: str = ""
    statement: str | None = None
    patch: tuple[str, str] | None = None
    value: Any = None


class Chosen:
    """What engines opened by the running test do without."""

    mutation: Mutation | None = None


def is_asked_for() -> bool:
    return VARIABLE in os.environ


async def rewrite(connection: Any, function: str, old: str, new: str) -> None:
    """Replace `old` by `new` in the function's text. That `old` is not there is an error: the guard has moved."""
    rows = await connection.fetch(
        "select pg_get_functiondef(oid) as text from pg_proc"
        " where pronamespace = 'taskforge'::regnamespace and proname = $1",
        function,
    )
    assert len(rows) == 1, f"there are {len(rows)} functions {function}"
    text = rows[0]["text"]
    assert old in text or new in text, f"{function} has no text {old!r}"
    await connection.execute(text.replace(old, new))


async def apply_chosen(connection: Any) -> None:
    mutation = Chosen.mutation
    if mutation is None:
        return
    if mutation.function is not None:
        await rewrite(connection, mutation.function, mutation.old, mutation.new)
    if mutation.statement is not None:
        await connection.execute(mutation.statement)
