"""Real-world JSON: converts what a strict reader refuses into a form that it accepts.

Nothing here is called before the strict reading of an answer has failed.
"""

import codecs
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_PAIR_OR_HALF = re.compile(
    r"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_INTEGER_DIGITS = 32
_BOOLEANS: dict[Any, bool] = {"true": True, "false": False, "1": True, "0": False, 1: True, 0: False}
_SHOWN = 200
"""Characters of a value that the record has as it was sent."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3), (10**20, 1))
"""A bare number below the first is a time in units of so many nanoseconds: seconds until the year 5138, then finer."""


def without_byte_order_mark(data: bytes) -> bytes:
    """The same text without UTF-8's byte order mark, if it begins with one."""
    return data.removeprefix(codecs.BOM_UTF8)


def repaired(data: bytes) -> bytes:
    """The same JSON text in UTF-8, without a byte order mark, U+FFFD in place of what is not Unicode."""
    mark = next((mark for mark in _BYTE_ORDER_MARKS if data.startswith(mark)), b"")
    text = data[len(mark) :].decode(_BYTE_ORDER_MARKS.get(mark, "utf-8"), errors="replace")
    return _PAIR_OR_HALF.sub(lambda match: match[1] or "\\ufffd", text).encode()


def decode(data: bytes) -> Any:
    """Repaired JSON text that may hold NaN, infinities and control characters. Raises ``ValueError``, or
    ``RecursionError``."""
    return json.loads(data, strict=False, parse_int=_number)


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _INTEGER_DIGITS else float(digits)


def unwrapped(value: Any) -> Any:
    """The value of a protobuf wrapper that was printed as the message it is: ``{"value": "7"}``."""
    return value.get("value") if type(value) is dict and value.keys() <= {"value"} else value


def integer(value: Any) -> Any:
    """The integer that a text represents, as ``" 5"``, ``"5.0"`` or ``"1e3"``; anything else as it is."""
    if type(value) is not str or len(value) > _INTEGER_DIGITS:
        return value
    try:
        number = Decimal(value.strip())
    except InvalidOperation:
        return value
    # The exponent first: of "1e999999999" no int may be made.
    return int(number) if number.is_finite() and number.adjusted() < 20 and number == number.to_integral() else value


def boolean(value: Any) -> Any:
    """The boolean that ``"true"``, ``"False"``, ``1`` or ``"0"`` represents; anything else as it is."""
    key = value.strip().lower() if type(value) is str else value
    return _BOOLEANS.get(key, value) if isinstance(key, str | int | float) else value


def text(value: Any) -> Any:
    """A number or boolean as its JSON text; anything else as it is."""
    return json.dumps(value) if isinstance(value, int | float) else value


def time(value: Any) -> Any:
    """RFC 3339 text of ``{"seconds": "1", "nanos": 5}``, or of a number since 1970: of seconds, or where it is too
    great for them, of milliseconds, microseconds or nanoseconds; anything else as it is."""
    if type(value) is dict and value and value.keys() <= {"seconds", "nanos"}:
        seconds, nanos = (integer(value.get(part) or 0) for part in ("seconds", "nanos"))
        plain = type(seconds) is int and type(nanos) is int and 0 <= nanos < 10**9
        return _rfc3339(seconds * 10**9 + nanos, value) if plain else value
    if type(value) is int:
        unit = next((unit for limit, unit in _UNITS if abs(value) < limit), None)
        return value if unit is None else _rfc3339(value * unit, value)
    if type(value) is float and abs(value) < _UNITS[0][0]:
        return _rfc3339(round(Decimal(value) * 10**6) * 1000, value)
    return value


def _rfc3339(nanoseconds: int, otherwise: Any) -> Any:
    """Of nanoseconds since 1970, with as many fractional digits (0, 3, 6, 9) as are needed."""
    seconds, fraction = divmod(nanoseconds, 10**9)
    try:
        instant = (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]
    except OverflowError:
        return otherwise
    digits = f"{fraction:09}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{instant}.{digits}Z" if digits else f"{instant}Z"


def shown(value: Any) -> str:
    """An unreadable value as bounded JSON text."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)[:_SHOWN]
    except (ValueError, RecursionError):
        return ""
