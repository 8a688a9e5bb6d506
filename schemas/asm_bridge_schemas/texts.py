"""A message's JSON text: decoded, strictly or tolerantly, and cached if many sessions receive the same."""

from typing import Any

import msgspec

from asm_bridge_schemas import odd
from asm_bridge_schemas.scalars import Codec, ProtoJSONError

_REMEMBERED = 2 * 1024 * 1024
"""Bytes of all texts that are remembered; their decoded contents take several times as much."""


def decode(data: bytes) -> Any:
    """JSON text with exact integers, with or without a byte order mark. Raises ``ProtoJSONError``."""
    return decode_strictly(odd.without_byte_order_mark(data))


def decode_strictly(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtoJSONError(f"not readable as JSON: {error}") from None


def decode_tolerantly(data: bytes) -> Any:
    """Raises ``ProtoJSONError``, in the words of the strict decoder."""
    try:
        return decode_strictly(data)
    except ProtoJSONError as strict:
        try:
            return odd.decode(data)
        except (ValueError, RecursionError):
            raise strict from None


def by_text(codec: Codec) -> Codec:
    """Returns the same object for the same text; do not change it."""
    known: dict[bytes, Any] = {}
    in_part: dict[bytes, tuple[Any, list[ProtoJSONError]]] = {}
    size = 0

    def make_room(text: bytes) -> None:
        nonlocal size
        size += len(text)
        if size > _REMEMBERED:
            known.clear()
            in_part.clear()
            size = len(text)

    def lenient(value: Any) -> Any:
        if type(value) is not msgspec.Raw:
            return codec.lenient(value)
        text = bytes(value)
        if text in known:
            return known[text]
        if text in in_part:
            raise ProtoJSONError("readable in part")
        value = decode_strictly(text)
        result = codec.default if value is None else codec.lenient(value)
        make_room(text)
        known[text] = result
        return result

    def tolerant(value: Any, unreadable: list[ProtoJSONError]) -> Any:
        if type(value) is not msgspec.Raw:
            return codec.tolerant(value, unreadable)
        text = bytes(value)
        if text in known:
            return known[text]
        if text not in in_part:
            value, inside = decode_tolerantly(text), list[ProtoJSONError]()
            result = codec.default if value is None else codec.tolerant(value, inside)
            make_room(text)
            in_part[text] = result, inside
        result, inside = in_part[text]
        unreadable += [ProtoJSONError(error.problem, error.path) for error in inside]
        return result

    return codec._replace(lenient=lenient, tolerant=tolerant, text=msgspec.Raw)
