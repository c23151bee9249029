from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest

from taskforge.domain.jobs import BATCH_LIMIT, JobDraft
from taskforge.errors import Invalid, Malformed, TaskForgeError
from taskforge.rest.submission import Reader, refuse_if_any

READER = Reader(64 * 1024)
ONE = '{"queue_name": "default", "job_type": "t", "payload": {"a": 1}}'


def codes(items: list[Any]) -> list[str]:
    return [item.code if isinstance(item, TaskForgeError) else "ok" for item in items]


@pytest.mark.parametrize(
    "body", [f"[{ONE},{ONE}]", f' \n{{"jobs": [{ONE},{ONE}]}}', f'{{"jobs" : [{ONE},\n{ONE}] }}']
)
def test_an_array_and_an_object_with_jobs_are_the_same_batch(body: str) -> None:
    assert codes(READER.read_batch(body.encode()).items) == ["ok", "ok"]


def test_lines_are_a_batch_and_empty_ones_are_skipped() -> None:
    assert codes(READER.read_lines(f"{ONE}\n\n \r\n{ONE}\r\n".encode()).items) == ["ok", "ok"]


BAD = [
    (ONE.replace('"t"', "5"), "request.invalid", "/job_type"),
    (ONE.replace("1}", '1, "a": 2}'), "request.duplicate_key", "/payload/a"),
    (ONE.replace("1}", "1e999}"), "request.number_out_of_range", "/payload"),
    (ONE.replace("1}", '"\\u0000"}'), "request.nul_character", "/payload/a"),
    (ONE.replace('{"a": 1}', "[" * 70 + "]" * 70), "request.too_deep", "/payload"),
    (ONE.replace("1}", '"' + "x" * 70_000 + '"}'), "job.payload_too_large", "/payload"),
    ("[]", "request.invalid", ""),
    ("7", "request.invalid", ""),
]


@pytest.mark.parametrize(("bad", "code", "pointer"), BAD)
@pytest.mark.parametrize("base", ["", "/jobs", "lines"])
def test_a_bad_job_has_its_own_verdict_and_its_neighbours_are_fine(
    bad: str, code: str, pointer: str, base: str
) -> None:
    if base == "lines":
        batch = READER.read_lines("\n".join([ONE, bad, ONE]).encode())
    else:
        text = f"[{ONE},{bad},{ONE}]"
        batch = READER.read_batch((f'{{"jobs": {text}}}' if base else text).encode())
    assert codes(batch.items) == ["ok", code, "ok"]
    error = batch.items[1]
    assert isinstance(error, TaskForgeError)
    assert error.fields[0].pointer == f"{batch.base}/1{pointer}"


def test_one_bad_job_of_ten_thousand_is_found_and_named() -> None:
    jobs = [ONE] * BATCH_LIMIT
    jobs[9_998] = ONE.replace('"t"', '""').replace('"payload"', '"pay_load"')
    batch = READER.read_batch(f"[{','.join(jobs)}]".encode())
    with pytest.raises(Invalid) as refused:
        refuse_if_any(batch)
    assert [field.pointer for field in refused.value.fields] == ["/9998/pay_load"]
    assert sum(isinstance(item, JobDraft) for item in batch.items) == BATCH_LIMIT - 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "request.empty_body"),
        (b"[]", "batch.empty"),
        (b'{"jobs": []}', "batch.empty"),
        (b"{}", "request.invalid"),
        (b"5", "request.invalid"),
        (b'{"jobs": [], "jobs": []}', "batch.empty"),
        (f'{{"jobs": [{ONE}], "jobs": [{ONE}]}}'.encode(), "request.duplicate_key"),
        (f'{{"jobs": [{ONE}, 5], "jobs": [{ONE}, 5]}}'.encode(), "request.duplicate_key"),
        (f'{{"jobs": [{ONE}], "atomic": false}}'.encode(), "request.invalid"),
        (f"[{ONE}".encode(), "request.malformed_json"),
        (f"[{','.join([ONE] * (BATCH_LIMIT + 1))}]".encode(), "batch.too_many"),
    ],
)
def test_a_batch_that_cannot_be_read_as_a_whole_is_refused(body: bytes, code: str) -> None:
    with pytest.raises((Malformed, Invalid)) as refused:
        READER.read_batch(body)
    assert refused.value.code == code


@pytest.mark.parametrize("body", [b"", b"\n" * 1_000_000, b" \r\n "])
def test_lines_without_a_job_are_refused(body: bytes) -> None:
    with pytest.raises((Malformed, Invalid)):
        READER.read_lines(body)


def test_too_many_lines_are_refused() -> None:
    with pytest.raises(Invalid) as refused:
        READER.read_lines("\n".join([ONE] * (BATCH_LIMIT + 1)).encode())
    assert refused.value.code == "batch.too_many"


def test_every_job_of_a_request_gets_its_trace() -> None:
    batch = Reader(1_000, trace="00-1-2-01").read_batch(f"[{ONE},{ONE}]".encode())
    assert [item.trace for item in batch.items if isinstance(item, JobDraft)] == ["00-1-2-01"] * 2


MIB = 1024 * 1024
WIDE = {
    "empty arrays": b"[" + b"[]," * (5 * MIB) + b"[]]",
    "empty objects": b"[" + b"{}," * (5 * MIB) + b"{}]",
    "empty strings": b"[" + b'"",' * (5 * MIB) + b'""]',
    "numbers": b"[" + b"1," * (8 * MIB) + b"1]",
    "arrays inside of a payload": b'[{"payload":[' + b"[]," * (5 * MIB) + b"[]]}]",
    "an unclosed string of quotes": b'["' + b'\\"' * (8 * MIB),
    "backslashes": b'["' + b"\\" * (16 * MIB),
    "open brackets": b"[" * (16 * MIB),
    "quotes": b'"' * (16 * MIB),
    "escapes that are almost NUL": b'["' + b"\\\\u0000" * (2 * MIB) + b'"]',
    "almost NaN": b"[" + b"N" * (16 * MIB),
    "wrapped empty arrays": b'{"jobs":[' + b"[]," * (5 * MIB) + b"[]]}",
}


@pytest.mark.serial
@pytest.mark.parametrize("name", WIDE)
def test_sixteen_megabytes_of_malice_cost_little_time_and_memory(name: str) -> None:
    body = WIDE[name]
    tracemalloc.start()
    try:
        with pytest.raises((Malformed, Invalid)):
            refuse_if_any(READER.read_batch(body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    started = time.process_time()
    with pytest.raises((Malformed, Invalid)):
        refuse_if_any(READER.read_batch(body))
    assert time.process_time() - started < 3.0
    assert peak < 10 * len(body)


@pytest.mark.parametrize("count", [1, 3])
def test_a_member_that_is_no_job_is_told_from_json_that_is_none(count: int) -> None:
    batch = READER.read_batch(json.dumps([{"queue_name": "q"}] * count).encode())
    assert codes(batch.items) == ["request.invalid"] * count
