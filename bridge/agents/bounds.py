"""Limits on the size of input, so that every record about it fits into any topic. Pure."""

from collections.abc import Iterable, Sequence

from bridge import headers as names

MAX_BYTES = 512 * 1024
"""The limit of a value, as received and as JSON."""
MAX_ID_BYTES = 1024
"""The limit of a key, a ce_id or a ce_source: in headers and states they are up to twelve times as long, escaped."""
MAX_HEADER_BYTES = 64 * 1024
"""The limit of all headers together, names and values."""

Headers = Sequence[tuple[str, bytes | None]]
_IDS = frozenset({names.CE_ID, names.CE_SOURCE})


def too_large(value: bytes | None, headers: Headers) -> str | None:
    """The part of an inbox record that is too large and its limit, or None."""
    if len(value or b"") > MAX_BYTES:
        return f"the value is longer than {MAX_BYTES} bytes"
    for name, text in headers:
        if name.lower() in _IDS and len(text or b"") > MAX_ID_BYTES:
            return f"{name} is longer than {MAX_ID_BYTES} bytes"
    # The bridge adds these to a record that it moves; longer ones are the sender's.
    senders = (header for header in headers if header[0] not in names.MOVED or len(header[1] or b"") > MAX_ID_BYTES)
    if sum(map(_size, senders)) > MAX_HEADER_BYTES:
        return f"the headers have more than {MAX_HEADER_BYTES} bytes in all"
    return None


def kept(headers: Iterable[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """The headers that a dead letter keeps: those within the limit for one header, as many as fit."""
    left = MAX_HEADER_BYTES
    found: list[tuple[str, bytes | None]] = []
    for header in headers:
        size = _size(header)
        if size <= left and not (header[0].lower() in _IDS and len(header[1] or b"") > MAX_ID_BYTES):
            left -= size
            found.append(header)
    return found


def clipped(value: bytes | None, headers: Headers) -> tuple[bytes | None, list[tuple[str, bytes | None]]]:
    """Value and headers, each cut one byte beyond its limit, so that they stay too large but can be written."""
    left = MAX_HEADER_BYTES + 1
    found: list[tuple[str, bytes | None]] = []
    for name, text in headers:
        header = (name, text[: MAX_ID_BYTES + 1] if name.lower() in _IDS and text else text)
        if _size(header) > left:
            found.append(("cut-off", b"x" * left))
            break
        left -= _size(header)
        found.append(header)
    return None if value is None else value[: MAX_BYTES + 1], found


def _size(header: tuple[str, bytes | None]) -> int:
    return len(header[0].encode()) + len(header[1] or b"")
