from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.domain.merge_patch import merge_patch

# The table of RFC 7396, appendix A.
CASES = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'),
    ('{"a":"b"}', '["c"]', '["c"]'),
    ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(("target", "patch", "merged"), CASES)
def test_the_cases_of_the_standard(target: str, patch: str, merged: str) -> None:
    assert merge_patch(target.encode(), patch.encode()) == merged.encode()


def test_what_is_not_touched_is_kept_byte_for_byte() -> None:
    target = b'{"price": 1.10, "big": 123456789012345678901234567890, "in": {"x":  [1,  2], "y": 1}}'
    assert merge_patch(target, b'{"in": {"y": 2.0}}') == (
        b'{"price":1.10,"big":123456789012345678901234567890,"in":{"x":[1,  2],"y":2.0}}'
    )


@given(JSON, JSON)
def test_it_is_the_algorithm_of_the_standard_and_idempotent(target: object, patch: object) -> None:
    def by_the_book(target: object, patch: object) -> object:
        if not isinstance(patch, dict):
            return patch
        merged = dict(target) if isinstance(target, dict) else {}
        for name, value in patch.items():
            if value is None:
                merged.pop(name, None)
            else:
                merged[name] = by_the_book(merged.get(name), value)
        return merged

    once = merge_patch(json.dumps(target).encode(), json.dumps(patch).encode())
    assert json.loads(once) == by_the_book(target, patch)
    assert json.loads(merge_patch(once, json.dumps(patch).encode())) == json.loads(once)
