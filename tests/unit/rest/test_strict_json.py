"""The corpus of bad input: each entry has its verdict, and none may be anything but Malformed or Invalid."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.errors import Invalid, Malformed, TaskForgeError
from taskforge.rest.strict_json import (
    check_distinct,
    count_keys,
    count_members,
    escape,
    proves_distinct,
)
from taskforge.rest.submission import Reader

READER = Reader(64 * 1024)


def job(payload: str = "{}", more: str = "") -> bytes:
    return f'{{"queue_name": "default", "job_type": "t", "payload": {payload}{more}}}'.encode()


def refusal(body: bytes) -> TaskForgeError:
    with pytest.raises((Malformed, Invalid)) as refused:
        READER.read_job(body)
    return refused.value


def verdict(body: bytes) -> tuple[str, str]:
    error = refusal(body)
    return error.code, error.fields[0].pointer if error.fields else ""


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        # B7
        (b"", "request.empty_body", ""),
        # B2
        (b"\xef\xbb\xbf" + job(), "request.byte_order_mark", ""),
        (job('"\\u00ff"').replace(b"\\u00ff", b"\xff"), "request.invalid_utf8", ""),
        (job('"~"').replace(b"~", b"\xc0\x80"), "request.invalid_utf8", ""),
        (job('"~"').replace(b"~", b"\xed\xa0\x80"), "request.invalid_utf8", ""),
        (job().decode().encode("utf-16"), "request.invalid_utf8", ""),
        (job('{"a": "\\ud800"}'), "request.lone_surrogate", ""),
        (job('{"a": "\\ud800 and more of it"}'), "request.lone_surrogate", ""),
        (job('{"a": "\\udc00"}'), "request.lone_surrogate", ""),
        (job().replace(b'"t"', b'"\\ud800"'), "request.lone_surrogate", ""),
        # B1
        (job('{"a": "x\\u0000y"}'), "request.nul_character", "/payload/a"),
        (job('{"a\\u0000": 1}'), "request.nul_character", "/payload"),
        (job('{"a": ["", "\\\\\\u0000"]}'), "request.nul_character", "/payload/a/1"),
        (job(more=', "tags": ["a\\u0000"]'), "request.nul_character", "/tags/0"),
        (job().replace(b"default", b"a\\u0000"), "request.nul_character", "/queue_name"),
        (job('{"a": "\x00"}'), "request.malformed_json", ""),
        # B3
        (job("NaN"), "request.not_finite", ""),
        (job('{"a": [1, Infinity]}'), "request.not_finite", ""),
        (job('{"a": -Infinity}'), "request.not_finite", ""),
        (job('{"a": 1e400}'), "request.number_out_of_range", "/payload"),
        (job(more=', "timeout_seconds": 1e400'), "request.invalid", "/timeout_seconds"),
        (job(more=', "timeout_seconds": NaN'), "request.not_finite", ""),
        # B4
        (job("9" * 5_000), "request.number_out_of_range", "/payload"),
        (job("[" + "9" * 5_000 + "]"), "request.number_out_of_range", "/payload"),
        # B5
        (job('{"a": 1, "a": 2}'), "request.duplicate_key", "/payload/a"),
        (job('{"a": 1, "\\u0061": 2}'), "request.duplicate_key", "/payload/a"),
        (job('{"x": [{"a": {"b~/": 1, "b~/": 1}}]}'), "request.duplicate_key", "/payload/x/0/a/b~0~1"),
        (job('{"a" :1,"a" :2, "b": "\\":"}'), "request.duplicate_key", "/payload/a"),
        (job('{"a": {}, "a": {"b": 1, "c": 2}}'), "request.duplicate_key", "/payload/a"),
        (job(more=', "priority": 5, "priority": 5'), "request.duplicate_key", "/priority"),
        (job(more=', "payload": {}'), "request.duplicate_key", "/payload"),
        (job(more=', "retry": {"jitter": 0, "jitter": 1}'), "request.duplicate_key", "/retry/jitter"),
        (job(more=', "state": "succeeded"'), "request.invalid", "/state"),
        (job(more=', "tenant_id": "1"'), "request.invalid", "/tenant_id"),
        (job(more=', "retry": {"x": 1}'), "request.invalid", "/retry/x"),
        (job(more=', "priority": "5"'), "request.invalid", "/priority"),
        (job(more=', "priority": true'), "request.invalid", "/priority"),
        (job(more=', "priority": 5.0'), "request.invalid", "/priority"),
        (job(more=', "priority": null'), "request.invalid", "/priority"),
        (job(more=', "timeout_seconds": true'), "request.invalid", "/timeout_seconds"),
        (job(more=', "tags": "a"'), "request.invalid", "/tags"),
        (job(more=', "tags": ["a", 1]'), "request.invalid", "/tags/1"),
        (job(more=', "run_at": 5'), "request.invalid", "/run_at"),
        (job(more=', "run_at": "tomorrow"'), "request.invalid", "/run_at"),
        (job(more=', "run_at": "2030-01-01T00:00:60Z"'), "request.invalid", "/run_at"),
        (job(more=', "run_at": "infinity"'), "request.invalid", "/run_at"),
        (job(more=', "run_at": "0000-01-01T00:00:00Z"'), "request.invalid", "/run_at"),
        (job(more=', "retry": {"kind": "sometimes"}'), "request.invalid", "/retry/kind"),
        (b'{"queue_name": "default"}', "request.invalid", "/job_type"),
        (b"[]", "request.invalid", ""),
        (b"null", "request.invalid", ""),
        (b'"x"', "request.invalid", ""),
        # B6
        (job("[" * 65 + "]" * 65), "request.too_deep", "/payload"),
        (job("[" * 100_000 + "]" * 100_000), "request.too_deep", ""),
        (job('{"a":' * 30_000 + "1" + "}" * 30_000), "request.too_deep", ""),
        # size
        (job('"' + "x" * 70_000 + '"'), "job.payload_too_large", "/payload"),
        # syntax
        (job("01"), "request.malformed_json", ""),
        (job("{'a': 1}"), "request.malformed_json", ""),
        (job('{"a": 1,}'), "request.malformed_json", ""),
        (job() + b" x", "request.malformed_json", ""),
        (job()[:-1], "request.malformed_json", ""),
        (b"[" * 100_000, "request.invalid", ""),
        (b"{" * 100_000, "request.malformed_json", ""),
        (b'"' * 100_000, "request.invalid", ""),
        (b"\\" * 100_000, "request.malformed_json", ""),
        (b'{"' + b"\\" * 100_001, "request.malformed_json", ""),
    ],
)
def test_bad_input_gets_its_verdict(body: bytes, code: str, pointer: str) -> None:
    assert verdict(body) == (code, pointer)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (', "state": 1', "unknown_field"),
        (', "priority": "5"', "wrong_type"),
        (', "run_at": "soon"', "invalid_time"),
        (', "retry": {"kind": "x"}', "not_allowed"),
    ],
)
def test_each_wrong_field_has_a_code_of_its_own(name: str, code: str) -> None:
    assert refusal(job(more=name)).fields[0].code == code


@pytest.mark.parametrize(
    "payload",
    [
        "0",
        "-0",
        "-0.0",
        "null",
        '"text"',
        "[1, 2,   3]",
        "99999999999999999999999999999999",
        "-9223372036854775809",
        "1.0000000000000000000000000001",
        "1e-400",
        '{"b": 1, "a": {"b": 1, "a": [{"a": 1}, {"a": 1}]}}',
        '{"url": "http://x:80/\\":", "t": "12:30:00", ":": ":", "k" : "a : b"}',
        '"\\\\u0000"',
        '{"a": "\\\\\\\\u0000 is not a NUL"}',
        '"\\ud83d\\ude00 \u202e \u200b \ufdd0"',
        "[" * 64 + "]" * 64,
        "[" * 64 + "]" * 64 + "  ",
    ],
)
def test_a_payload_is_kept_byte_for_byte(payload: str) -> None:
    assert READER.read_job(job(payload)).payload == payload.strip().encode()


def test_a_job_without_payload_gets_an_empty_object() -> None:
    assert READER.read_job(b'{"queue_name": "q", "job_type": "t"}').payload == b"{}"


def test_an_error_does_not_repeat_the_input_but_in_pointers() -> None:
    for body in (
        job('{"a": hunter2}'),
        job(more=', "priority": "hunter2"'),
        job(more=', "run_at": "hunter2"'),
        job(more=', "retry": {"kind": "hunter2"}'),
    ):
        error = refusal(body)
        assert "hunter2" not in error.detail + "".join(f"{f.detail}{f.pointer}" for f in error.fields)


def test_a_pointer_of_a_giant_name_is_cut_and_has_no_control_characters() -> None:
    assert len(escape("x" * 10_000)) < 200
    assert escape("a\x1b[31m\n/~") == "a?[31m?~1~0"


JSON_TEXT = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.sampled_from('ab:"\\ {}[],é')),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet=st.sampled_from('ab:" \\')), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON_TEXT, st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]))
def test_distinct_keys_are_never_called_duplicate(value: object, separators: tuple[str, str]) -> None:
    text = json.dumps(value, separators=separators)
    assert READER.read_job(job(text)).payload == text.encode()
    check_distinct(text.encode())


@given(st.lists(st.tuples(st.sampled_from(["a", "b", ":", 'q"', ""]), JSON_TEXT), min_size=1, max_size=5))
def test_a_key_given_twice_is_always_found(pairs: list[tuple[str, object]]) -> None:
    pairs = [*pairs, (pairs[0][0], 1)]
    text = "{" + ", ".join(f"{json.dumps(key)} : {json.dumps(value)}" for key, value in pairs) + "}"
    assert not proves_distinct(text.encode(), count_keys(msgspec.json.decode(text)))
    assert verdict(job(text))[0] == "request.duplicate_key"


@given(st.lists(JSON_TEXT, min_size=1, max_size=8))
def test_members_are_counted_without_making_them(values: list[object]) -> None:
    assert count_members(json.dumps(values).encode(), level=1, enough=100) == len(values)
    assert count_members(json.dumps({"jobs": values}).encode(), level=2, enough=100) == len(values)


@given(st.binary(max_size=200))
def test_any_bytes_get_a_verdict(body: bytes) -> None:
    for read in (READER.read_job, READER.read_batch, READER.read_lines):
        try:
            read(body)
        except (Malformed, Invalid):
            pass


@given(st.text(alphabet=st.sampled_from('{}[]",:\\u0dDc8 aN19.e-'), max_size=60))
def test_any_text_in_a_payload_gets_a_verdict_or_is_what_python_reads_too(text: str) -> None:
    try:
        draft = READER.read_job(job(text))
    except (Malformed, Invalid):
        return
    json.loads(draft.payload)
