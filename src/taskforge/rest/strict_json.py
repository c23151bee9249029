"""Bytes in, verdict out: JSON read strictly, at the speed of msgspec in the usual case.

msgspec refuses bad syntax, NaN, lone surrogates and wrong types, but it keeps the last of two equal keys, does not
look inside `Raw` for bad UTF-8 or numbers out of range, and lets NUL through. Cheap counts prove that a document has
none of these; only where they prove nothing, or msgspec has refused, are the slow and exact looks taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import msgspec

from taskforge.errors import FieldError, Invalid, Malformed, TaskForgeError

MAX_DEPTH = 64
MAX_ERRORS = 100

T = TypeVar("T")
JsonValue = Any

_decode_any: Callable[[bytes | msgspec.Raw], JsonValue] = msgspec.json.Decoder().decode

# Possessive quantifiers keep each of these linear on any input. The unclosed string is matched to its end, so that
# a document full of quotes is not looked at again from each of them.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_KEY_COLON = re.compile(rb'"[ \t\r\n]*+:')
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")
_NOT_FINITE = re.compile(rb"NaN|Infinity")
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*+(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F])",
    re.DOTALL,
)
_PIECE = re.compile(rb'(?:[^"]{1,64}+|"(?:[^"\\]++|\\.)*+"?){1,5000}+', re.DOTALL)
_INNERMOST = re.compile(rb"[\[{],*+[\]}]")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def decode(body: bytes, decoder: Callable[[bytes], T]) -> T:
    """`body` as the decoder's type. Raises Malformed or Invalid.

    Does not look for duplicate keys, nor for bad numbers inside `Raw`: see `check_value` and `proves_distinct`.
    """
    check_nul(body)
    return decode_outline(body, decoder)


def decode_outline(body: bytes, decoder: Callable[[bytes], T]) -> T:
    """`decode` for documents whose parts are `Raw` and will be decoded one by one: NUL is left to them."""
    if not body:
        raise Malformed("request.empty_body", "the request has no body")
    check_text(body)
    try:
        return decoder(body)
    except msgspec.ValidationError as error:
        raise _from_validation(str(error)) from None
    except msgspec.DecodeError as error:
        _refuse_syntax(body, str(error))
    except RecursionError:
        raise _too_deep() from None


def decode_all(body: bytes, decoder: Callable[[bytes], T]) -> T:
    """`decode` with every check, for documents that hold no `Raw`."""
    found = decode(body, decoder)
    check_distinct(body)
    return found


def check_text(body: bytes) -> None:
    """Raise Malformed unless `body` is UTF-8 without a byte order mark."""
    if not body.isascii():
        if body.startswith(b"\xef\xbb\xbf"):
            raise Malformed(
                "request.byte_order_mark", "the body starts with a byte order mark; send plain UTF-8"
            )
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise Malformed("request.invalid_utf8", f"the body is not UTF-8 (byte {error.start})") from None


def check_nul(body: bytes) -> None:
    """Raise Invalid when a string in `body` has an escaped NUL."""
    if b"\\u0000" in body and _NUL.search(body):
        detail = "the NUL character is not allowed in any string"
        raise Invalid(
            "request.nul_character",
            detail,
            fields=(FieldError(_pointer_of_nul(body), "nul_character", detail),),
        )


def check_value(raw: bytes) -> JsonValue:
    """The value of `raw`, which must be one JSON value that a handler can read. Raises Malformed or Invalid.

    Does not look for duplicate keys. The text has been through `check_text`.
    """
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_too_deep(raw):
        raise _too_deep()
    try:
        return _decode_any(raw)
    except msgspec.ValidationError:
        detail = "a number is too large to be read"
        raise Invalid(
            "request.number_out_of_range", detail, fields=(FieldError("", "out_of_range", detail),)
        ) from None
    except msgspec.DecodeError as error:
        _refuse_syntax(raw, str(error))


def count_keys(value: JsonValue) -> int:
    """How many keys the objects in `value` have, all levels together. `value` is of bounded depth."""
    if type(value) is dict:
        found = len(value)
        for inner in value.values():
            if type(inner) is dict or type(inner) is list:
                found += count_keys(inner)
        return found
    if type(value) is list:
        return sum(count_keys(inner) for inner in value if type(inner) is dict or type(inner) is list)
    return 0


def proves_distinct(raw: bytes, keys: int) -> bool:
    """True when `raw` cannot hold more keys than the `keys` distinct ones that were read from it.

    Each key in the text brings a colon of its own; colons inside strings only make the bound larger.
    """
    return raw.count(b":") == keys or len(_KEY_COLON.findall(raw)) == keys


def check_distinct(raw: bytes) -> None:
    """Raise Invalid when an object anywhere in `raw` has the same key twice. Exact, 2 us for a small job.

    `raw` is valid JSON of bounded depth.
    """
    tree = json.loads(raw, object_pairs_hook=_mark_duplicates, parse_int=len, parse_float=len)
    fields: list[FieldError] = []
    pending: list[tuple[str, JsonValue]] = [("", tree)]
    while pending and len(fields) < MAX_ERRORS:
        where, value = pending.pop()
        if type(value) is _Object:
            fields.extend(
                FieldError(f"{where}/{escape(key)}", "duplicate_key", "this key is given more than once")
                for key in value.duplicates
            )
        if isinstance(value, dict):
            pending.extend(
                (f"{where}/{escape(key)}", inner) for key, inner in value.items() if _is_container(inner)
            )
        elif isinstance(value, list):
            pending.extend((f"{where}/{i}", inner) for i, inner in enumerate(value) if _is_container(inner))
    if fields:
        raise Invalid("request.duplicate_key", "a key is given more than once", fields=tuple(fields))


def count_members(body: bytes, *, level: int, enough: int) -> int:
    """How many members the container on the given level (1 is the outermost) has, making no object for any of them.

    Stops soon after `enough`. For a level beyond the first, the outer containers have one member each.
    Only a guess when `body` is not valid JSON.
    """
    count, unclosed = 1, b""
    skip = level
    for structure in _structures(body):
        skipped, structure = structure[:skip], structure[skip:]
        skip -= len(skipped)
        peeled = _peel(unclosed + structure)
        inner = re.search(rb"[\[{]", peeled)
        end = inner.start() if inner else len(peeled)
        count += peeled[:end].count(b",")
        unclosed = peeled[end:].replace(b",", b"")
        if count > enough or len(unclosed) > 4 * MAX_DEPTH:
            break
    return count


def relocate(error: TaskForgeError, prefix: str) -> TaskForgeError:
    """The same error, its pointers taken below `prefix`."""
    return type(error)(
        error.code,
        error.detail,
        fields=tuple(FieldError(prefix + field.pointer, field.code, field.detail) for field in error.fields),
        retry_after=error.retry_after,
        job_id=error.job_id,
    )


def escape(part: str) -> str:
    """One step of a JSON pointer. Very long names are cut: a pointer shows a place, it does not repeat the input."""
    if len(part) > 128:
        part = part[:128] + "..."
    if not part.isprintable():
        part = "".join(char if char.isprintable() else "?" for char in part)
    return part.replace("~", "~0").replace("/", "~1")


class _Object(dict[str, JsonValue]):
    """An object in which `duplicates` were given more than once."""

    __slots__ = ("duplicates",)
    duplicates: list[str]


def _mark_duplicates(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    marked = _Object(found)
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for key, _ in pairs:
        if key in seen:
            twice[key] = None
        seen.add(key)
    marked.duplicates = list(twice)[:MAX_ERRORS]
    return marked


def _is_container(value: JsonValue) -> bool:
    return isinstance(value, dict | list)


def _is_too_deep(raw: bytes) -> bool:
    """Peel off the innermost brackets MAX_DEPTH times; what is left is deeper. Linear in the number of brackets."""
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"\x00").replace(b"{}", b"\x00").translate(None, b"\x00")
    return bool(brackets)


def _structures(body: bytes) -> Iterator[bytes]:
    """The brackets and commas of `body` outside of strings, in pieces, so that many strings take little memory."""
    position = 0
    while piece := _PIECE.match(body, position):
        yield _STRING.sub(b"", piece[0]).translate(None, _NOT_STRUCTURE)
        position = piece.end()


def _peel(structure: bytes) -> bytes:
    """Brackets and commas without those inside of closed brackets."""
    for _ in range(MAX_DEPTH + 4):
        peeled = _INNERMOST.sub(b"", structure)
        if len(peeled) == len(structure):
            break
        structure = peeled
    return structure


def _pointer_of_nul(body: bytes) -> str:
    """Where a string with a NUL stands, or the whole document when the document is too odd or too large to tell."""
    if len(body) > 65_536 or body.count(b"[") + body.count(b"{") > 1_000 or _is_too_deep(body):
        return ""
    try:
        pending: list[tuple[str, JsonValue]] = [("", json.loads(body))]
    except ValueError:
        return ""
    while pending:
        where, value = pending.pop()
        if isinstance(value, str) and "\x00" in value:
            return where
        if isinstance(value, dict):
            if any("\x00" in key for key in value):
                return where
            pending.extend((f"{where}/{escape(key)}", inner) for key, inner in value.items())
        elif isinstance(value, list):
            pending.extend((f"{where}/{i}", inner) for i, inner in enumerate(value))
    return ""


def _too_deep() -> Invalid:
    detail = f"the value is nested more than {MAX_DEPTH} levels deep"
    return Invalid("request.too_deep", detail, fields=(FieldError("", "too_deep", detail),))


def _refuse_syntax(raw: bytes, message: str) -> NoReturn:
    """Say what is wrong with text that msgspec could not read, without repeating any of it."""
    if _NOT_FINITE.search(raw) and _NOT_FINITE.search(_STRING.sub(b"", raw)):
        detail = "NaN and Infinity are not numbers in JSON"
        raise Invalid("request.not_finite", detail, fields=(FieldError("", "not_finite", detail),)) from None
    if b"\\u" in raw and _LONE_SURROGATE.search(raw):
        detail = "a string holds half of a surrogate pair"
        raise Invalid(
            "request.lone_surrogate", detail, fields=(FieldError("", "lone_surrogate", detail),)
        ) from None
    at = re.search(r"\(byte [0-9]+\)", message)
    place = f" {at[0]}" if at else " (it ends too early)" if "truncated" in message else ""
    raise Malformed("request.malformed_json", f"the body is not valid JSON{place}") from None


_AT = re.compile(r"^(?P<said>.*?)(?: - at `(?P<key>key in )?\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[^.\[\]]+)|\[(?P<index>[0-9]+)\]|\[\.\.\.\]")
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_EXPECTED = re.compile(r"Expected `([a-z0-9_ |]+)`, got `([a-z0-9_ |]+)`")


def _from_validation(message: str) -> Invalid:
    """msgspec's message as a field error. Of the input only names of fields are repeated, and only in pointers."""
    match = _AT.match(message)
    said, path = (match["said"], match["path"] or "") if match else (message, "")
    where = "".join(
        f"/{escape(step['name'] or step['index'])}"
        for step in _STEP.finditer(path)
        if step["name"] or step["index"]
    )
    if missing := _MISSING.match(said):
        field = FieldError(f"{where}/{missing[1]}", "required", "this field is required")
    elif unknown := _UNKNOWN.match(said):
        field = FieldError(f"{where}/{escape(unknown[1])}", "unknown_field", "there is no such field")
    elif expected := _EXPECTED.match(said):
        field = FieldError(
            where, "wrong_type", f"must be {_friendly(expected[1])}, not {_friendly(expected[2])}"
        )
    elif "datetime" in said:
        field = FieldError(where, "invalid_time", "must be a time such as 2030-01-31T09:00:00Z")
    elif "range" in said:
        field = FieldError(where, "out_of_range", "the number is too large")
    elif "enum" in said:
        field = FieldError(where, "not_allowed", "is none of the allowed values")
    else:
        field = FieldError(where, "invalid", "the value is not allowed here")
    return Invalid("request.invalid", f"{field.pointer or 'the body'}: {field.detail}", fields=(field,))


def _friendly(types: str) -> str:
    words = {
        "int": "a whole number",
        "float": "a number",
        "str": "a string",
        "bool": "true or false",
        "object": "an object",
        "array": "an array",
        "datetime": "a time such as 2030-01-31T09:00:00Z",
    }
    return " or ".join(words.get(name, name) for name in types.split(" | "))
