"""Protobuf's JSON mapping, in every shape a gateway (or a mock of one) prints.

What a message looks like is compiled once from the annotations of its Struct (``schemas.asm``) into closures: one that
reads leniently what was received, one that reads strictly what is to be sent.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import IntEnum
from functools import cache
from inspect import cleandoc
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from schemas.asm import OneOf, Wire

T = TypeVar("T", bound=msgspec.Struct)
Reader = Callable[[Any], Any]
"""JSON value -> normalised value. Raises ``ProtoJSONError``. Never given None, but in a list or map."""

_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_RFC3339 = re.compile(rf"(\d{{4}}-\d\d-\d\d)[Tt]({_CLOCK}:[0-5]\d)(\.\d{{1,9}})?(?:[Zz]|([+-]{_CLOCK}))", re.ASCII)
_PLACEHOLDER = re.compile(r"[0-9]+s")
_INTEGER = re.compile(r"-?[0-9]{1,32}")
_EXACT_FLOAT = 2.0**53


class ProtoJSONError(ValueError):
    """What is wrong and where (``queued_calls.agent_queue_calls[1].call_sid: ...``), without the value."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = ""

    def under(self, step: str) -> None:
        """Puts a field's name, or ``[index]``, before the path."""
        self.path = f"{step}{'.' if self.path and self.path[0] != '[' else ''}{self.path}"

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}" if self.path else self.problem


class Codec(NamedTuple):
    """How a type is read.

    ``default`` stands for a null in a received list or map; ``schema`` is the JSON Schema of what ``strict`` takes,
    with messages as references into ``$defs``.
    """

    lenient: Reader
    strict: Reader
    default: Any
    schema: dict[str, Any]


def read(cls: type[T], data: bytes | Mapping[str, Any]) -> T:
    """What a service sent, as a Struct: both naming styles, any form of int64 and enum, nulls and unknown fields.

    Raises ``ProtoJSONError``.
    """
    value = decode(data) if isinstance(data, bytes) else data
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


def timestamp(text: str | None) -> str | None:
    """RFC 3339 text as the same instant in UTC, its fractional digits kept; None if it cannot be read."""
    match = _RFC3339.fullmatch(text) if text is not None else None
    if match is None:
        return None
    date, time, fraction, offset = match.groups()
    try:
        instant = datetime.fromisoformat(f"{date}T{time}{offset or ''}")
        if offset is not None:
            instant = instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return f"{instant.isoformat()[:19]}{fraction or ''}Z"


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
            for key, item in _mapping(value).items():
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
                raise ProtoJSONError(f"unknown field {_short(key)}")
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
    for mark in marks:
        if mark is Wire.INT64:
            return _INT64_ID if base is str else _INT64
        if mark is Wire.TIMESTAMP:
            return _TIMESTAMP
        if isinstance(mark, type) and issubclass(mark, IntEnum):
            return _enum(mark)
    if get_origin(base) is list:
        return _list(_codec(get_args(base)[0]))
    if get_origin(base) is dict:
        return _map(_codec(get_args(base)[1]))
    if base is bool or base is str:
        return _BOOL if base is bool else _STRING
    return Codec(_lenient_message(base), _strict_message(base), base(), {"$ref": f"#/$defs/{base.__name__}"})


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
        return {_string(key): default if item is None else _at(f"[{_short(key)}]", reader, item) for key, item in items}

    def strict(value: Any) -> dict[str, Any]:
        return {_string(key): _at(f"[{_short(key)}]", element.strict, item) for key, item in _mapping(value).items()}

    return Codec(lenient, strict, {}, {"type": "object", "additionalProperties": element.schema})


def _enum(enum: type[IntEnum]) -> Codec:
    names = {member.value: member.name for member in enum}
    known = frozenset(names.values())

    def lenient(value: Any) -> str:
        if type(value) is str and (value in known or not _INTEGER.fullmatch(value)):
            return value
        number = _int64(value)
        return names.get(number, str(number))

    def strict(value: Any) -> str | int:
        name = lenient(value)
        if name in known:
            return name
        if not _INTEGER.fullmatch(name) or not -(2**31) <= int(name) < 2**31:
            raise ProtoJSONError(f"{_short(name)} is no {enum.__name__}")
        return int(name)

    number = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
    return Codec(lenient, strict, names[0], {"anyOf": [{"enum": list(names.values())}, number, _DIGITS]})


def _at(step: str, reader: Reader, value: Any) -> Any:
    try:
        return reader(value)
    except ProtoJSONError as error:
        error.under(step)
        raise


# A type's own test, `type(x) is`, because a bool is an int to isinstance.


def _int64(value: Any) -> int:
    number: int = value if type(value) is int else _integer(value)
    if not -(2**63) <= number < 2**63:
        raise ProtoJSONError("the integer does not fit into 64 bits")
    return number


def _integer(value: Any) -> int:
    text_of_digits = type(value) is str and _INTEGER.fullmatch(value)
    exact = type(value) is float and value.is_integer() and abs(value) < _EXACT_FLOAT
    if not text_of_digits and not exact:
        raise _expected("an integer, as a number or a string of digits", value)
    return int(value)


def _int64_id(value: Any) -> str:
    return str(_int64(value))


def _string(value: Any) -> str:
    if type(value) is not str:
        raise _expected("a string", value)
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _expected("true or false", value)
    return value


def _time(value: Any) -> str | None:
    text = timestamp(_string(value))
    if text is None and not _PLACEHOLDER.fullmatch(value):
        raise ProtoJSONError("expected a time as in RFC 3339, for example 2024-05-01T12:00:00Z")
    return text


_DIGITS = {"type": "string", "pattern": f"^{_INTEGER.pattern}$"}
_INT64_SCHEMA = {"anyOf": [{"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, _DIGITS]}
_TIME_PATTERNS = [{"format": "date-time", "pattern": f"^{_RFC3339.pattern}$"}, {"pattern": f"^{_PLACEHOLDER.pattern}$"}]

_INT64 = Codec(_int64, _int64_id, 0, _INT64_SCHEMA)
_INT64_ID = Codec(_int64_id, _int64_id, "0", _INT64_SCHEMA)
_TIMESTAMP = Codec(_string, _time, "", {"type": "string", "anyOf": _TIME_PATTERNS})
_BOOL = Codec(_bool, _bool, False, {"type": "boolean"})
_STRING = Codec(_string, _string, "", {"type": "string"})


def _mapping(value: Any) -> Mapping[str, Any]:
    if type(value) is not dict and not isinstance(value, Mapping):
        raise _expected("an object", value)
    return value


def _array(value: Any) -> list[Any]:
    if type(value) is not list:
        raise _expected("an array", value)
    return value


_KINDS = {
    bool: "a boolean",
    dict: "an object",
    float: "a number with a fraction, or too large to be exact",
    int: "a number",
    list: "an array",
    str: "a string",
    type(None): "null",
}


def _expected(what: str, value: Any) -> ProtoJSONError:
    return ProtoJSONError(f"expected {what}, got {_KINDS.get(type(value), type(value).__name__)}")


def _short(text: object) -> str:
    """A name to be quoted: never long enough to be a text or a token."""
    return repr(text) if len(str(text)) <= 40 else f"{str(text)[:37]!r}..."
