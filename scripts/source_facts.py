"""What the reference pages need to know and no table holds: the errors raised and the events logged, read from the
source itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parent.parent / "src" / "taskforge"
LEVELS = frozenset({"debug", "info", "warning", "error", "critical", "exception"})
_NOT_THE_PRODUCT = ("bench", "samples.py", "testing")


class Error(NamedTuple):
    code: str
    kind: str
    detail: str


class Event(NamedTuple):
    name: str
    level: str
    fields: tuple[str, ...]


def errors(kinds: frozenset[str]) -> list[Error]:
    """Every (code, class) raised anywhere, with the first text that goes with it."""
    found: dict[tuple[str, str], Error] = {}
    for tree in _trees():
        for function, call in _calls(tree):
            name = _name_of(call.func)
            if name in kinds:
                kind, arguments = name, call.args
            elif name == "_answer" and len(call.args) == 3:
                kind, arguments = _name_of(call.args[0]), call.args[1:]
            elif name == "__init__" and function is not None:
                kind, arguments = function, call.args
            else:
                continue
            if len(arguments) < 2 or not _is_text(arguments[0]):
                continue
            error = Error(arguments[0].value, kind, _text(arguments[1], tree))  # type: ignore[attr-defined]
            found.setdefault((error.code, error.kind), error)
    return sorted(found.values())


def events() -> list[Event]:
    """Every event that is logged by name, with the fields it carries."""
    found: dict[str, Event] = {}
    for tree in _trees():
        for _, call in _calls(tree):
            if not (isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS and call.args):
                continue
            if _name_of(call.func.value).lstrip("_") not in ("log", "logger") or not _is_text(call.args[0]):
                continue
            name = call.args[0].value  # type: ignore[attr-defined]
            level = "error" if call.func.attr == "exception" else call.func.attr
            fields = tuple(
                keyword.arg for keyword in call.keywords if keyword.arg and keyword.arg != "exc_info"
            )
            found[name] = Event(name, level, fields)
    return sorted(found.values())


def field_codes() -> list[str]:
    """The codes that `errors` of a problem document may carry."""
    found: set[str] = set()
    for tree in _trees():
        for _, call in _calls(tree):
            if _name_of(call.func) not in ("FieldError", "refuse", "_invalid") or len(call.args) < 2:
                continue
            if _is_text(call.args[1]) and " " not in call.args[1].value:  # type: ignore[attr-defined]
                found.add(call.args[1].value)  # type: ignore[attr-defined]
    return sorted(found)


def _trees() -> Iterator[ast.Module]:
    for path in sorted(SOURCE.rglob("*.py")):
        if path.relative_to(SOURCE).parts[0] not in _NOT_THE_PRODUCT:
            yield _parse(path.read_text(encoding="utf-8"))


def _calls(tree: ast.Module) -> Iterator[tuple[str | None, ast.Call]]:
    """Every call, with the name of the class it stands in."""
    classes = {
        id(node): owner.name
        for owner in ast.walk(tree)
        if isinstance(owner, ast.ClassDef)
        for node in ast.walk(owner)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield classes.get(id(node)), node


def _name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _text(node: ast.expr, tree: ast.Module) -> str:
    """The message with an ellipsis for every part that is only known at run time."""
    if isinstance(node, ast.Name):
        given = [
            assignment.value
            for assignment in ast.walk(tree)
            if isinstance(assignment, ast.Assign)
            and assignment.lineno < node.lineno
            and any(_name_of(target) == node.id for target in assignment.targets)
        ]
        node = max(given, key=lambda value: value.lineno) if given else node
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, tree) if _is_text(part) else "…" for part in node.values)
    return "…"


def _parse(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SystemError:
        # CPython 3.11 counts the depth of all threads in one place (gh-106905) and may be wrong once.
        return ast.parse(text)
