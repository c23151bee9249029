"""Between a function's parameters and a JSON payload, both ways, by the function's own signature."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from taskforge.errors import ConfigurationError
from taskforge.worker.conclusions import encode_model

Args = tuple[tuple[Any, ...], dict[str, Any]]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_encode = msgspec.json.Encoder(enc_hook=encode_model).encode


class Binding:
    """Reads and writes the payload of one function. Types are checked when a payload is read."""

    def __init__(self, fn: Callable[..., object]) -> None:
        self._name = getattr(fn, "__name__", repr(fn))
        self._signature = inspect.signature(fn)
        parameters = list(self._signature.parameters.values())
        if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
            raise ConfigurationError(
                "handler.invalid",
                f"{self._name}() takes *args, but a payload has named values; name its parameters or take **kwargs",
            )
        self._has_rest = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
        self._names = frozenset(p.name for p in named)
        self._order = tuple(p.name for p in named if p.kind in _POSITIONAL)
        self._required = frozenset(p.name for p in named if p.default is p.empty)
        # A positional-only parameter cannot be given by name, so calls must go through the full check.
        self._by_name = all(p.kind is not inspect.Parameter.POSITIONAL_ONLY for p in named)
        self.read: Callable[[bytes], Args] = self._reader(fn, named)

    def write(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """The payload for a call with these arguments. Raises TypeError where the call itself would."""
        if args or not self._is_exact(kwargs):
            try:
                bound = self._signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise TypeError(f"{self._name}() {error}") from None
            if self._has_rest:
                bound.update(bound.pop(self._rest_name(), {}))
            kwargs = bound
        return _encode(kwargs)

    def write_many(self, calls: Sequence[Mapping[str, Any] | tuple[Any, ...]]) -> Iterator[bytes]:
        """One payload for each call, given as its keyword arguments or as a tuple of positional ones."""
        write, names, by_name = self.write, self._names, self._by_name
        for call in calls:
            if isinstance(call, tuple):
                yield write(call, {})
            elif by_name and call.keys() == names:
                yield _encode(call)
            else:
                yield write((), call)

    def encode(self, arguments: Mapping[str, Any]) -> bytes:
        """A payload of some of the arguments; who fills in the rest is trusted to do so."""
        return _encode(arguments)

    def _is_exact(self, kwargs: Mapping[str, Any]) -> bool:
        names = kwargs.keys()
        return self._by_name and names <= self._names and self._required <= names

    def _rest_name(self) -> str:
        return next(
            p.name for p in self._signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD
        )

    def _reader(self, fn: Callable[..., object], named: list[inspect.Parameter]) -> Callable[[bytes], Args]:
        types = self._types(fn)
        struct = self._struct(named, types)
        if self._has_rest:
            return self._reader_with_rest(struct, types.get(self._rest_name(), Any))
        decode = msgspec.json.Decoder(struct, dec_hook=decode_model).decode
        if len(self._order) == len(named) > 0:  # the usual case, spelled out because it runs for every job
            get = attrgetter(*self._order)
            if len(named) == 1:
                return lambda payload: ((get(decode(payload)),), {})
            return lambda payload: (get(decode(payload)), {})
        return lambda payload: self._split(decode(payload))

    def _reader_with_rest(self, struct: type[Struct], rest_type: Any) -> Callable[[bytes], Args]:
        decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

        def read(payload: bytes) -> Args:
            raw = decode(payload)
            rest = {name: raw.pop(name) for name in list(raw) if name not in self._names}
            ours = msgspec.json.decode(msgspec.json.encode(raw), type=struct, dec_hook=decode_model)
            args, kwargs = self._split(ours)
            for name, value in rest.items():
                kwargs[name] = msgspec.json.decode(value, type=rest_type, dec_hook=decode_model)
            return args, kwargs

        return read

    def _split(self, values: Struct) -> Args:
        return (
            tuple([getattr(values, name) for name in self._order]),
            {name: getattr(values, name) for name in sorted(self._names.difference(self._order))},
        )

    def _types(self, fn: Callable[..., object]) -> dict[str, Any]:
        try:
            return typing.get_type_hints(fn, include_extras=True)
        except NameError as error:
            raise ConfigurationError(
                "handler.invalid",
                f"{self._name}(): its annotations cannot be resolved ({error}); define the types at module level",
            ) from None

    def _struct(self, named: list[inspect.Parameter], types: dict[str, Any]) -> type[Struct]:
        fields: list[tuple[str, Any, Any]] = []
        for p in named:
            annotation = types.get(p.name, Any)
            if annotation is object:  # unknown to msgspec, and means the same
                annotation = Any
            if p.default is p.empty:
                fields.append((p.name, annotation, msgspec.field()))
            else:
                # A factory, because the function's own default object must arrive, mutable or not.
                fields.append(
                    (p.name, annotation, msgspec.field(default_factory=functools.partial(_same, p.default)))
                )
        try:
            return msgspec.defstruct(
                f"{self._name} arguments", fields, kw_only=True, forbid_unknown_fields=True, gc=False
            )
        except (TypeError, ValueError) as error:
            raise ConfigurationError("handler.invalid", f"{self._name}(): {error}") from None


def decode_model(kind: type, value: object) -> object:
    """Let parameters be pydantic models without depending on pydantic."""
    validate = getattr(kind, "model_validate", None)
    if callable(validate):
        return validate(value)
    raise TypeError(f"a value of type {kind.__name__} cannot be read from JSON")


def _same(value: Any) -> Any:
    return value
