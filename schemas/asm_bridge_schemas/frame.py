"""Confluent's wire format: a zero byte, the schema's id in four bytes (big-endian), and the value itself.

Neither JSON nor a record in MessagePack begins with a zero byte: whether a value is framed can be seen.
"""

import struct

_HEAD = struct.Struct(">bI")
LENGTH = _HEAD.size


def frame(schema_id: int) -> bytes:
    """The frame of values that are written with this schema."""
    return _HEAD.pack(0, schema_id)


def schema_id(value: bytes) -> int | None:
    """The id in a value's frame, or None without a frame."""
    return _HEAD.unpack_from(value)[1] if _is_framed(value) else None


def unframed(value: bytes) -> bytes:
    """The value without its frame, if it has one."""
    return value[LENGTH:] if _is_framed(value) else value


def _is_framed(value: bytes) -> bool:
    return value[:1] == b"\0" and len(value) > LENGTH
