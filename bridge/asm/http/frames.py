"""HTTP/2's frames (RFC 9113, sections 4, 6 and 7): numbers, layouts and encoding."""

import struct
from enum import IntEnum

# Types (section 6). Plain numbers, for they are compared for each frame.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

# Flags.
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

# Settings (section 6.5.2).
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The client's first bytes on a connection (section 3.4)."""
HEAD_SIZE = 9
HEAD = struct.Struct(">IBI")
"""Length (24 bits) and type (8) in one, flags, stream (section 4.1)."""
UINT32 = struct.Struct(">I")
SETTING = struct.Struct(">HI")
LARGEST = 2**31 - 1
"""The largest stream number, and the largest window (sections 5.1.1 and 6.9.1)."""
DEFAULT_FRAME_SIZE = 16384
DEFAULT_WINDOW = 65535


class ErrorCode(IntEnum):
    """The reasons for which a stream or a connection ends (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ProtocolError(Exception):
    """The peer violated the protocol, so the connection cannot be used any longer (section 5.4.1)."""

    def __init__(self, text: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


def too_large(data: bytes) -> ProtocolError:
    """The error for a frame over the limit; ``data``: the first bytes of the connection, if they are this frame. A
    proxy that ends TLS for a service may agree on HTTP/2 in its place.
    """
    if data.startswith(b"HTTP/1."):
        return ProtocolError("it agreed on HTTP/2 but speaks HTTP/1.1")
    return ProtocolError("a frame over the limit", ErrorCode.FRAME_SIZE_ERROR)


_MEANINGS = {
    ErrorCode.ENHANCE_YOUR_CALM: "it wants fewer requests",
    ErrorCode.INADEQUATE_SECURITY: "the TLS is too weak for HTTP/2",
    ErrorCode.HTTP_1_1_REQUIRED: "it wants HTTP/1.1",
}


def error_name(code: int) -> str:
    """The code's name, and what it means to an operator where the name does not say it."""
    if code not in set(ErrorCode):
        return f"error {code}"
    name, meaning = ErrorCode(code).name, _MEANINGS.get(ErrorCode(code))
    return f"{name} ({meaning})" if meaning else name


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*one) for one in values.items()))


def reset(stream: int, code: ErrorCode) -> bytes:
    return frame(RST_STREAM, 0, stream, UINT32.pack(code))


def content(data: bytes, start: int, end: int, flags: int) -> tuple[int, int]:
    """The position of a payload's content, without padding and priority (sections 6.1 and 6.2)."""
    if flags & PADDED:
        if start == end:
            raise ProtocolError("a padded frame without the padding's length", ErrorCode.FRAME_SIZE_ERROR)
        start, end = start + 1, end - data[start]
    if flags & PRIORITIZED:
        start += 5
    if start > end:
        raise ProtocolError("a frame with more padding than it has bytes")
    return start, end


def uint32(payload: bytes) -> int:
    """The payload of RST_STREAM and WINDOW_UPDATE."""
    if len(payload) != 4:
        raise ProtocolError("a frame of a wrong size", ErrorCode.FRAME_SIZE_ERROR)
    return int.from_bytes(payload, "big")
