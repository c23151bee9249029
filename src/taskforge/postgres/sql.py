"""Loads the named queries of `queries/*.sql`, once each.

A query starts with a line `-- name: <name>`; comment lines below it say what it promises; parameters are $1, $2.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def queries(noun: str) -> dict[str, str]:
    """The queries of one file by name. A name that is missing fails at import, where it is looked up."""
    text = (files("taskforge.postgres") / "queries" / f"{noun}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)
    return {name: _strip(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _strip(body: str) -> str:
    return (
        "\n".join(line for line in body.strip().splitlines() if not line.startswith("--")).strip().rstrip(";")
    )
