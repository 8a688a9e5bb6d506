"""The leaves of protobuf's JSON mapping: integers, enums, times, text; and the error that says where one is wrong."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

from asm_bridge_schemas import odd

Reader = Callable[[Any], Any]
"""JSON value -> normalised value. Raises ``ProtoJSONError``. Never given None, but in a list or map."""

TolerantReader = Callable[[Any, "list[ProtoJSONError]"], Any]
"""The same for a form that no gateway should print. Errors of what cannot be read inside are added to the list, and its
default is used. Raises ``ProtoJSONError`` where nothing can be read."""

_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_RFC3339 = re.compile(rf"(\d{{4}}-\d\d-\d\d)[Tt]({_CLOCK}:[0-5]\d)(\.\d{{1,9}})?(?:[Zz]|([+-]{_CLOCK}))", re.ASCII)
_LONGEST_TIME = len("2026-11-23T09:30:00.123456789+00:00")
_PLACEHOLDER = re.compile(r"(?:[0-9]+s|string)")
_NUMBER_PLACEHOLDER = "string"
"""The placeholders on the vendor's page for a time and a number; both are left out of what is sent."""
_INTEGER = re.compile(r"-?[0-9]{1,32}")
_POSITION = re.compile(r"\[\d*\]")
_EXACT_FLOAT = 2.0**53


class ProtoJSONError(ValueError):
    """What is wrong and where (``queued_calls.agent_queue_calls[1].call_sid: ...``), without the value."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path

    def under(self, step: str) -> None:
        """Puts a field's name, or ``[index]``, before the path."""
        self.path = f"{step}{'.' if self.path and self.path[0] != '[' else ''}{self.path}"

    @property
    def field(self) -> str:
        """The path without positions: one of as many as the vendor's messages have fields."""
        return _POSITION.sub("", self.path)

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}" if self.path else self.problem


class Codec(NamedTuple):
    """How a type is read.

    ``default`` replaces a null in a received list or map; ``schema`` is the JSON Schema of what ``strict`` accepts,
    with messages as references into ``$defs``; ``text`` is the type as which JSON text is decoded for ``lenient``.
    """

    lenient: Reader
    strict: Reader
    tolerant: TolerantReader
    default: Any
    schema: dict[str, Any]
    text: Any = Any


def timestamp(text: str | None) -> str | None:
    """RFC 3339 text as the same instant in UTC, its fractional digits kept; None if it cannot be read."""
    if text is None or len(text) > _LONGEST_TIME:
        return None
    result = _timestamp(text)
    return text if text == result else result  # the very same text takes no memory


@lru_cache(maxsize=1024)  # a call's start comes with every status of every agent that sees the call
def _timestamp(text: str) -> str | None:
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    date, time, fraction, offset = match.groups()
    utc = f"{date}T{time}"
    try:
        instant = datetime.fromisoformat(f"{utc}{offset or ''}")
        if offset is not None:
            utc = instant.astimezone(UTC).isoformat()[:19]
    except (ValueError, OverflowError):
        return None
    return f"{utc}{fraction or ''}Z"


_KINDS = {
    bool: "a boolean",
    dict: "an object",
    float: "a number with a fraction, or too large to be exact",
    int: "a number",
    list: "an array",
    str: "a string",
    type(None): "null",
}


def expected(what: str, value: Any) -> ProtoJSONError:
    return ProtoJSONError(f"expected {what}, got {_KINDS.get(type(value), type(value).__name__)}")


def short(text: object) -> str:
    """A name to be quoted: never long enough to be a text or a token."""
    return repr(text) if len(str(text)) <= 40 else f"{str(text)[:37]!r}..."


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
        raise expected("an integer, as a number or a string of digits", value)
    return int(value)


def _int64_id(value: Any) -> str:
    return str(_int64(value))


def _sent_int64(value: Any) -> str | None:
    return None if value == _NUMBER_PLACEHOLDER else _int64_id(value)


def string(value: Any) -> str:
    if type(value) is not str:
        raise expected("a string", value)
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise expected("true or false", value)
    return value


def _received_time(value: Any) -> str:
    """A time in UTC, or the text of one that cannot be read."""
    text = string(value)
    return timestamp(text) or text


def _time(value: Any) -> str | None:
    text = timestamp(string(value))
    if text is None and not _PLACEHOLDER.fullmatch(value):
        raise ProtoJSONError("expected a time as in RFC 3339, for example 2024-05-01T12:00:00Z")
    return text


def _tolerant(lenient: Reader, default: Any, usual: Reader) -> TolerantReader:
    """Reads a value after its wrapper and its odd form have been removed."""

    def tolerant(value: Any, unreadable: list[ProtoJSONError]) -> Any:
        value = odd.unwrapped(value)
        return default if value is None else lenient(usual(value))

    return tolerant


def _tolerant_time(value: Any, unreadable: list[ProtoJSONError]) -> str:
    """A time that cannot be read stays the text that was sent, for the record's ``..._raw``."""
    text = odd.time(value)
    if type(text) is str:
        return _received_time(text)
    unreadable.append(expected("a time", value))
    return odd.shown(value)


_DIGITS = {"type": "string", "pattern": f"^{_INTEGER.pattern}$"}
_INT64_SCHEMA = {
    "anyOf": [{"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, _DIGITS, {"const": "string"}]
}
_TIME_PATTERNS = [{"format": "date-time", "pattern": f"^{_RFC3339.pattern}$"}, {"pattern": f"^{_PLACEHOLDER.pattern}$"}]

INT64 = Codec(_int64, _sent_int64, _tolerant(_int64, 0, odd.integer), 0, _INT64_SCHEMA)
INT64_ID = Codec(_int64_id, _sent_int64, _tolerant(_int64_id, "0", odd.integer), "0", _INT64_SCHEMA)
TIMESTAMP = Codec(_received_time, _time, _tolerant_time, "", {"type": "string", "anyOf": _TIME_PATTERNS})
BOOL = Codec(_bool, _bool, _tolerant(_bool, False, odd.boolean), False, {"type": "boolean"})
STRING = Codec(string, string, _tolerant(string, "", odd.text), "", {"type": "string"})


def enum_codec(enum: type[IntEnum]) -> Codec:
    names = {member.value: member.name for member in enum}
    known = frozenset(names.values())

    def lenient(value: Any) -> str:
        if type(value) is str and (value in known or not _INTEGER.fullmatch(value)):
            return value
        if type(value) not in (int, float, str):
            raise expected(f"a name or number of {enum.__name__}", value)
        number = _int64(value)
        return names.get(number, str(number))

    def strict(value: Any) -> str | int:
        name = lenient(value)
        if name in known:
            return name
        if not _INTEGER.fullmatch(name) or not -(2**31) <= int(name) < 2**31:
            raise ProtoJSONError(f"{short(name)} is no {enum.__name__}")
        return int(name)

    number = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
    tolerant = _tolerant(lenient, names[0], lambda value: value)
    return Codec(lenient, strict, tolerant, names[0], {"anyOf": [{"enum": list(names.values())}, number, _DIGITS]})
