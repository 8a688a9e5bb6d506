"""Protobuf's JSON mapping, in every shape a gateway (or a mock of one) prints.

What a message looks like is compiled once from the annotations of its Struct (``asm_bridge_schemas.asm``) into
closures: one that reads leniently what was received, one that reads strictly what is to be sent.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import cache
from inspect import cleandoc
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from asm_bridge_schemas.asm import OneOf, Shared, Wire
from asm_bridge_schemas.scalars import (
    BOOL,
    INT64,
    INT64_ID,
    STRING,
    TIMESTAMP,
    Codec,
    ProtoJSONError,
    Reader,
    enum_codec,
    expected,
    short,
    string,
    timestamp,
)

__all__ = ["ProtoJSONError", "camel", "decode", "read", "read_strict", "schema", "timestamp"]

T = TypeVar("T", bound=msgspec.Struct)

_REMEMBERED = 2 * 1024 * 1024
"""Bytes of all texts that are remembered: what they say takes some times as much."""


def read(cls: type[T], data: bytes | Mapping[str, Any]) -> T:
    """What a service sent, as a Struct: both naming styles, any form of int64 and enum, nulls and unknown fields.

    Raises ``ProtoJSONError``.
    """
    value = _partly_decoded(cls, data) if isinstance(data, bytes) else data
    result: T = _lenient_message(cls)(value)
    return result


def read_strict(cls: type[msgspec.Struct], data: bytes | Mapping[str, Any]) -> dict[str, Any]:
    """What is to be sent, normalised: the fields given, in snake_case, int64 as digits, enums as names, times in UTC.

    Null fields, and times like the vendor page's ``"1s"``, are left out; an enum number that the list lacks stays one.
    Raises ``ProtoJSONError``, also for what the service would refuse: unknown fields, fields given twice, two members
    of a oneof.
    """
    value = decode(data) if isinstance(data, bytes) else data
    result: dict[str, Any] = _strict_message(cls)(value)
    return result


def schema(cls: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of what ``read_strict`` takes for a message, with its messages as references into ``$defs``."""
    null = {"type": "null"}
    properties = {key: {"anyOf": [codec.schema, null]} for key, (_, codec, _) in _fields(cls).items()}
    described = {"description": cleandoc(cls.__doc__)} if cls.__doc__ else {}
    return {
        "title": cls.__name__,
        **described,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def decode(data: bytes) -> Any:
    """JSON text with exact integers. Raises ``ProtoJSONError``."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtoJSONError(f"not readable as JSON: {error}") from None


def _partly_decoded(cls: type[msgspec.Struct], data: bytes) -> Any:
    """A message's JSON text, but for what is ``Shared``, which stays text."""
    try:
        return _decoder(cls).decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # or what should be an object is none
        return decode(data)


@cache
def _decoder(cls: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_text(cls))


@cache
def _text(cls: type[msgspec.Struct]) -> Any:
    """As what a message's JSON text is decoded: as anything, or where some of it is ``Shared``, as a Struct."""
    texts = {key: codec.text for key, (_, codec, _) in _fields(cls).items()}
    if all(text is Any for text in texts.values()):
        return Any
    fields = [(key, text if text in (Any, msgspec.Raw) else text | None, msgspec.UNSET) for key, text in texts.items()]
    return msgspec.defstruct(cls.__name__, fields)


def camel(name: str) -> str:
    """The field's name in JSON, as protoc makes it."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


@cache
def _fields(cls: type[msgspec.Struct]) -> dict[str, tuple[str, Codec, str | None]]:
    """By either name of a field: its name, how it is read, its oneof."""
    fields = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        oneof = next((mark.name for mark in _unwrap(hint)[1] if isinstance(mark, OneOf)), None)
        fields[name] = fields[camel(name)] = (name, _codec(hint), oneof)
    return fields


@cache
def _lenient_message(cls: type[msgspec.Struct]) -> Reader:
    readers = {key: (name, codec.lenient) for key, (name, codec, _) in _fields(cls).items()}

    def lenient(value: Any) -> msgspec.Struct:
        given = {}
        name = ""
        try:
            for key, item in _items(value):
                if item is not None and key in readers:
                    name, reader = readers[key]
                    given[name] = reader(item)
        except ProtoJSONError as error:
            error.under(name)
            raise
        return cls(**given)

    return lenient


@cache
def _strict_message(cls: type[msgspec.Struct]) -> Reader:
    fields = _fields(cls)

    def strict(value: Any) -> dict[str, Any]:
        given: dict[str, Any] = {}
        chosen: dict[str, str] = {}
        for key, item in _mapping(value).items():
            if key not in fields:
                raise ProtoJSONError(f"unknown field {short(key)}")
            name, codec, oneof = fields[key]
            if item is None:
                continue
            if name in given:
                raise ProtoJSONError(f"{name} is given twice, also as {camel(name)}")
            if oneof is not None and chosen.setdefault(oneof, name) != name:
                raise ProtoJSONError(f"only one of {chosen[oneof]} and {name} may be given")
            given[name] = _at(name, codec.strict, item)
        return {name: item for name, item in given.items() if item is not None}

    return strict


def _codec(hint: Any) -> Codec:
    base, marks = _unwrap(hint)
    codec = _plain_codec(base, marks)
    return _by_text(codec) if Shared.BY_TEXT in marks else codec


def _plain_codec(base: Any, marks: tuple[Any, ...]) -> Codec:
    for mark in marks:
        if mark is Wire.INT64:
            return INT64_ID if base is str else INT64
        if mark is Wire.TIMESTAMP:
            return TIMESTAMP
        if isinstance(mark, type) and issubclass(mark, IntEnum):
            return enum_codec(mark)
    if get_origin(base) is list:
        return _list(_codec(get_args(base)[0]))
    if get_origin(base) is dict:
        return _map(_codec(get_args(base)[1]))
    if base is bool or base is str:
        return BOOL if base is bool else STRING
    return Codec(
        _lenient_message(base), _strict_message(base), base(), {"$ref": f"#/$defs/{base.__name__}"}, _text(base)
    )


def _by_text(codec: Codec) -> Codec:
    """Of the same text it reads the same object, which nobody may change."""
    known: dict[bytes, Any] = {}
    size = 0

    def lenient(value: Any) -> Any:
        nonlocal size
        if type(value) is not msgspec.Raw:
            return codec.lenient(value)
        text = bytes(value)
        if text in known:
            return known[text]
        value = decode(text)
        result = codec.default if value is None else codec.lenient(value)
        size += len(text)
        if size > _REMEMBERED:
            known.clear()
            size = len(text)
        known[text] = result
        return result

    return codec._replace(lenient=lenient, text=msgspec.Raw)


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type without ``Annotated`` and ``| None``, and what ``Annotated`` says."""
    marks: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *found = get_args(hint)
        marks = tuple(found)
    members = [member for member in get_args(hint) if member is not type(None)]
    return (members[0] if type(None) in get_args(hint) else hint), marks


def _list(element: Codec) -> Codec:
    def lenient(value: Any) -> list[Any]:
        default, reader, array = element.default, element.lenient, _array(value)
        result: list[Any] = []
        try:
            for item in array:
                result.append(default if item is None else reader(item))  # noqa: PERF401 - its length is the index
        except ProtoJSONError as error:
            error.under(f"[{len(result)}]")
            raise
        return result

    def strict(value: Any) -> list[Any]:
        return [_at(f"[{index}]", element.strict, item) for index, item in enumerate(_array(value))]

    return Codec(lenient, strict, [], {"type": "array", "items": element.schema})


def _map(element: Codec) -> Codec:
    def lenient(value: Any) -> dict[str, Any]:
        default, reader = element.default, element.lenient
        items = _mapping(value).items()
        return {string(key): default if item is None else _at(f"[{short(key)}]", reader, item) for key, item in items}

    def strict(value: Any) -> dict[str, Any]:
        return {string(key): _at(f"[{short(key)}]", element.strict, item) for key, item in _mapping(value).items()}

    return Codec(lenient, strict, {}, {"type": "object", "additionalProperties": element.schema})


def _at(step: str, reader: Reader, value: Any) -> Any:
    try:
        return reader(value)
    except ProtoJSONError as error:
        error.under(step)
        raise


def _mapping(value: Any) -> Mapping[str, Any]:
    if type(value) is not dict and not isinstance(value, Mapping):
        raise expected("an object", value)
    return value


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    """The fields given of a message, or of one that was decoded in part."""
    if isinstance(value, msgspec.Struct):
        fields = value.__struct_fields__
        return [(name, item) for name in fields if (item := getattr(value, name)) is not msgspec.UNSET]
    return _mapping(value).items()


def _array(value: Any) -> list[Any]:
    if type(value) is not list:
        raise expected("an array", value)
    return value
