from __future__ import annotations

import time
from importlib.resources import files

import pytest

from taskforge.domain.fingerprints import fingerprint, last_frame, normalised

TRACE = """Traceback (most recent call last):
  File "/srv/releases/41/shop/mail.py", line {line}, in send
    raise ValueError(x)
ValueError: no
"""

ALIKE = [
    ("user 17 not found", "user 4,711 not found"),
    ("no key 'a b'", "no key 'c'"),
    ('cannot open "/tmp/x"', 'cannot open "/var/y z"'),
    ("at 0x7f3a1c", "at 0xDEADBEEF"),
    (
        "job 0d9f7a52-1b7e-4c0e-9d52-9a7c3b1f0e11 is gone",
        "job 6f1c2b3a-0000-4c0e-8d52-ffffffffffff is gone",
    ),
    ("digest 9f86d081884c7d65 differs", "digest 2c26b46b68ffc68f differs"),
    ("took 1.50 s\n  again", "took 22 s again"),
    ("id 01J9ZK3T5V7W8X9Y0A1B2C3D4E", "id 01HQ2M4N6P8R0S2T4V6W8X0Y2Z"),
]
DIFFERENT = [
    ("user not found", "order not found"),
    ("connection refused", "connection reset"),
    ("can't open it", "can't close it"),
]


@pytest.mark.parametrize(("one", "two"), ALIKE)
def test_numbers_ids_hex_and_quoted_text_do_not_count(one: str, two: str) -> None:
    assert fingerprint("E", one, "") == fingerprint("E", two, "")


@pytest.mark.parametrize(("one", "two"), DIFFERENT)
def test_words_count(one: str, two: str) -> None:
    assert fingerprint("E", one, "") != fingerprint("E", two, "")


def test_the_class_and_the_place_count_and_the_line_and_the_release_do_not() -> None:
    here = fingerprint("ValueError", "no", TRACE.format(line=10))
    assert here == fingerprint("ValueError", "no", TRACE.format(line=99).replace("/41/", "/42/"))
    assert here != fingerprint("KeyError", "no", TRACE.format(line=10))
    assert here != fingerprint("ValueError", "no", TRACE.format(line=10).replace("in send", "in post"))
    assert here != fingerprint("ValueError", "no", "")
    assert last_frame(TRACE.format(line=10)) == "shop/mail.py:send"


def test_it_is_sixteen_hex_digits_whatever_is_said() -> None:
    for message in ("", "\x00\ud800", "ü" * 5_000, "'" * 5_000):
        mark = fingerprint("", message, message)
        assert len(mark) == 16 and set(mark) <= set("0123456789abcdef")


@pytest.mark.parametrize("piece", ["'", '"', "`", "a1", "a-", "0", "0x", "f" * 40 + "g", "1.", "'a\n"])
def test_no_message_takes_long(piece: str) -> None:
    started = time.perf_counter()
    normalised((piece * 1_000)[:1_000])
    last_frame((f'  File "{piece}' * 4_000)[:4_000])
    assert time.perf_counter() - started < 0.5


def test_the_database_gives_lost_workers_the_same_fingerprint() -> None:
    mark = fingerprint("WorkerLost", "the worker that held the job was lost", "")
    text = (files("taskforge.postgres") / "functions" / "workers.sql").read_text(encoding="utf-8")
    assert f"'{mark}'" in text
