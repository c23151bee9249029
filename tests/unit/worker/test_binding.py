from __future__ import annotations

import inspect
from datetime import date
from typing import Annotated, Any

import pytest
from msgspec import DecodeError, Meta, Struct, ValidationError

from taskforge.errors import ConfigurationError
from taskforge.worker.binding import Binding


class Point(Struct):
    x: int
    y: int = 0


DEFAULT: list[int] = [1]


def nothing() -> None: ...


def one(to: str) -> None: ...


def mixed(a: int, /, b: date, *, c: Point, d: list[int] = DEFAULT) -> None: ...


def rest(a: int, **others: int) -> None: ...


def untyped(a, b=2): ...


def bounded(n: Annotated[int, Meta(ge=0)], anything: object) -> None: ...


CALLS = [
    (nothing, (), {}, b"{}"),
    (one, (), {"to": "ann"}, b'{"to":"ann"}'),
    (one, ("ann",), {}, b'{"to":"ann"}'),
    (mixed, (1,), {"b": date(2030, 1, 2), "c": Point(1)}, b'{"a":1,"b":"2030-01-02","c":{"x":1,"y":0}}'),
    (rest, (1,), {"z": 3}, b'{"a":1,"z":3}'),
    (rest, (), {"a": 1, "y": 2, "z": 3}, b'{"a":1,"y":2,"z":3}'),
    (untyped, ({"deep": [1]},), {"b": None}, b'{"a":{"deep":[1]},"b":null}'),
]


@pytest.mark.parametrize(("fn", "args", "kwargs", "payload"), CALLS)
def test_what_is_written_reads_back_as_the_same_call(fn, args, kwargs, payload) -> None:
    binding = Binding(fn)
    assert binding.write(args, kwargs) == payload
    read = inspect.signature(fn).bind(*(got := binding.read(payload))[0], **got[1])
    expected = inspect.signature(fn).bind(*args, **kwargs)
    expected.apply_defaults()
    read.apply_defaults()
    assert read.arguments == expected.arguments


@pytest.mark.parametrize(
    ("fn", "args", "kwargs"),
    [
        (nothing, (1,), {}),
        (nothing, (), {"x": 1}),
        (one, (), {}),
        (one, ("a", "b"), {}),
        (one, ("a",), {"to": "b"}),
        (mixed, (), {"a": 1, "b": date(2030, 1, 2), "c": Point(1)}),
        (rest, (), {"z": 1}),
    ],
)
def test_arguments_are_refused_as_the_call_itself_would(fn, args, kwargs) -> None:
    with pytest.raises(TypeError):
        fn(*args, **kwargs)
    with pytest.raises(TypeError, match=rf"^{fn.__name__}\(\)"):
        Binding(fn).write(args, kwargs)


@pytest.mark.parametrize(
    ("fn", "payload"),
    [
        (nothing, b'{"x":1}'),
        (nothing, b"[]"),
        (one, b'{"to":1}'),
        (one, b"{}"),
        (one, b'{"to":"a","cc":"b"}'),
        (mixed, b'{"a":1,"b":"yesterday","c":{"x":1}}'),
        (rest, b'{"a":1,"z":"three"}'),
        (bounded, b'{"n":-1,"anything":0}'),
    ],
)
def test_a_payload_must_fit_the_declared_types(fn, payload: bytes) -> None:
    with pytest.raises(ValidationError):
        Binding(fn).read(payload)


def test_what_is_no_json_is_no_payload() -> None:
    with pytest.raises(DecodeError):
        Binding(one).read(b'{"to":')


def test_the_function_s_own_default_object_arrives() -> None:
    _, kwargs = Binding(mixed).read(b'{"a":1,"b":"2030-01-02","c":{"x":1}}')
    assert kwargs["d"] is DEFAULT


def test_positional_catch_alls_have_no_names_to_travel_under() -> None:
    def star(*numbers: int) -> None: ...

    with pytest.raises(ConfigurationError, match="takes \\*args"):
        Binding(star)


def test_annotations_that_cannot_be_resolved_are_named() -> None:
    def lost(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigurationError, match="Nowhere"):
        Binding(lost)


def test_many_calls_may_be_dicts_and_tuples() -> None:
    calls: list[Any] = [{"to": "a"}, ("b",)]
    assert list(Binding(one).write_many(calls)) == [b'{"to":"a"}', b'{"to":"b"}']
    with pytest.raises(TypeError, match=r"one\(\)"):
        list(Binding(one).write_many([{"to": "a"}, {"cc": "b"}]))


def test_models_with_pydantic_s_methods_travel_too() -> None:
    class Model:
        def __init__(self, n: int) -> None:
            self.n = n

        def model_dump(self, *, mode: str) -> dict[str, int]:
            return {"n": self.n}

        @classmethod
        def model_validate(cls, value: dict[str, int]) -> Model:
            if "n" not in value:
                raise ValueError("n is missing")
            return cls(value["n"])

    def job(model) -> None: ...

    job.__annotations__["model"] = Model
    binding = Binding(job)
    assert binding.write((Model(3),), {}) == b'{"model":{"n":3}}'
    [model], _ = binding.read(b'{"model":{"n":3}}')
    assert model.n == 3
    with pytest.raises(ValidationError, match="n is missing"):
        binding.read(b'{"model":{}}')
