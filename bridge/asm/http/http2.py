"""HTTP/2 (RFC 9113): as much of it as many small requests over one connection need.

Requests of one round of the event loop leave in one write; answers are cut out of what one read brought. We allow the
service no dynamic table, so that header blocks can be looked up (see ``heads``).
"""

import asyncio
import struct
import time
from collections.abc import Callable
from enum import IntEnum
from typing import cast

from hpack import HPACKError

from bridge.asm.http.header_block import MAX_HEAD, Head, Heads
from bridge.asm.http.request import MAX_BODY, Exchange, Response

_DATA, _HEADERS, _, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY = range(8)
_WINDOW_UPDATE, _CONTINUATION = 8, 9
_ACK, _END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME_SIZE, _MAX_HEADER_LIST = range(1, 7)

_FRAME = struct.Struct(">IBI")
"""Length and type in one, flags, stream."""
_U32 = struct.Struct(">I")
_SETTING = struct.Struct(">HI")
_MAX = 2**31 - 1
"""Of a stream's number, and of a window."""
_FRAME_SIZE = 16384
"""Bytes of a frame's content, unless settings say otherwise; ours never do."""
_DEFAULT_WINDOW = 65535
_WINDOW = 64 * 1024 * 1024
"""Bytes that the service may have under way to us; renewed by halves."""
_STREAM_WINDOW = 2 * MAX_BODY
"""More than an answer may have, padding and all: a stream's window is never renewed."""
_ASSUMED_STREAMS = 100
"""Until the service's settings tell (section 6.5.2 recommends that it allows no fewer)."""
_UNLIMITED_STREAMS = 1000
"""Where they do not tell."""
_LINGER = 1.0
"""Seconds for the last frames to leave in, and for TLS to say good-bye."""


def _frame(kind: int, flags: int, number: int, content: bytes = b"") -> bytes:
    return _FRAME.pack(len(content) << 8 | kind, flags, number) + content


_OURS = {_HEADER_TABLE_SIZE: 0, _ENABLE_PUSH: 0, _INITIAL_WINDOW: _STREAM_WINDOW, _MAX_HEADER_LIST: MAX_HEAD}
_HELLO = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*one) for one in _OURS.items()))
    + _frame(_WINDOW_UPDATE, 0, 0, _U32.pack(_WINDOW - _DEFAULT_WINDOW))
)


class _Code(IntEnum):
    """Why a stream or the connection ends (section 7)."""

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


class _Violation(Exception):
    """The service broke the protocol: the connection is of no more use."""

    def __init__(self, text: str, code: _Code = _Code.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


class _Stream:
    __slots__ = ("body", "exchange", "head", "number", "rest", "window")

    def __init__(self, number: int, exchange: Exchange, window: int) -> None:
        self.number = number
        self.exchange = exchange
        self.window = window
        self.head: Head | None = None
        self.body: bytes | bytearray = b""
        self.rest: memoryview | None = None


class Http2(asyncio.Protocol):
    """One connection, over TLS that has agreed on ``h2``.

    Every exchange that was sent ends once, as answered or as failed. ``on_closed`` is called once, when it can take no
    new requests ever again (those under way may still be answered); ``on_capacity`` when it can after it could not.
    Neither they nor an exchange's ``on_response`` may raise; they may call back into the connection.
    """

    idle_timeout: float | None = None
    """A service does not say in HTTP/2 after which time it closes an unused connection."""

    def __init__(self, on_closed: Callable[["Http2"], None], on_capacity: Callable[["Http2"], None]) -> None:
        self._on_closed = on_closed
        self._on_capacity = on_capacity
        self._loop = asyncio.get_running_loop()
        self.heard_at = self.answered_at = time.monotonic()
        self.pinged_at: float | None = None
        """Since when a ping is unanswered (monotonic seconds)."""
        self._streams = _ASSUMED_STREAMS
        self._full = self._retired = self._ended = self._paused = False
        self._told = False
        self._open: dict[int, _Stream] = {}
        self._next = 1
        self._heads = Heads()
        self._out: list[bytes | memoryview] = []
        # What the service allows us.
        self._frame_size = _FRAME_SIZE
        self._window = self._initial_window = _DEFAULT_WINDOW
        # Of what it sends: an unfinished frame, what is used up of its window, a header block that goes on.
        self._rest = b""
        self._taken = 0
        self._begun: tuple[int, int, bytearray] | None = None

    # What the pool calls

    @property
    def capacity(self) -> int:
        """How many more requests it takes now."""
        return max(0, self._streams - len(self._open))

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do; ``heard_at``: since when (monotonic seconds), or later."""
        return not self._open

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests, ever."""
        return self._retired

    def send(self, exchange: Exchange) -> None:
        """Needs ``capacity``."""
        number, self._next = self._next, self._next + 2
        block, body = exchange.request.http2, exchange.request.body
        exchange.sent = True
        size = len(body)
        stream = self._open[number] = _Stream(number, exchange, self._initial_window)
        if len(self._open) >= self._streams:
            self._full = True
        end = 0 if size else _END_STREAM
        if len(block) <= self._frame_size:
            self._write(_FRAME.pack(len(block) << 8 | _HEADERS, end | _END_HEADERS, number), block)
        else:
            self._write_long(number, end, block)
        if 0 < size <= self._frame_size and size <= self._window and size <= self._initial_window:
            self._window -= size
            stream.window -= size
            self._out += (_FRAME.pack(size << 8 | _DATA, _END_STREAM, number), body)
        elif size:
            stream.rest = memoryview(body)
            self._upload(stream)
        if self._next > _MAX:
            self._retire()

    def cancel(self, exchange: Exchange, why: str) -> None:
        """Not waited for any longer. Does nothing where it has ended."""
        for stream in self._open.values():
            if stream.exchange is exchange:
                self._reset(stream, _Code.CANCEL, why)
                self._settle()
                return

    @property
    def allowed(self) -> int:
        """How many requests the service allows at once."""
        return self._streams

    @property
    def settings_read(self) -> bool:
        return self._told

    def ping(self) -> None:
        """Ask for a sign of life. Does nothing while one is on its way (``pinged_at``)."""
        if self.pinged_at is None and not self._ended:
            self.pinged_at = time.monotonic()
            self._write(_frame(_PING, 0, 0, bytes(8)))

    def close(self, text: str = "the connection was closed") -> None:
        """At once: what is open fails."""
        self._end(_Code.NO_ERROR, text)

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._write(_HELLO)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._out.clear()
        self._retire()
        text, counts_as_outage = f"the connection was lost: {exc}" if exc else "the service closed the connection", True
        for stream in [*self._open.values()]:
            if stream.number in self._open:  # or a callback has cancelled it
                began = stream.head is not None
                exchange = self._forget(stream)
                end = exchange.failed if began else exchange.connection_lost
                end(text, counts_as_outage=counts_as_outage)
                counts_as_outage = False

    def eof_received(self) -> None:
        self._retire()  # it is closed in a moment: nothing more must be sent

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._upload_all()

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self.heard_at = time.monotonic()
        try:
            self._rest = self._read(self._rest + data if self._rest else data)
        except _Violation as wrong:
            self._end(wrong.code, f"the service broke HTTP/2: {wrong}")
        except HPACKError as wrong:
            self._end(_Code.COMPRESSION_ERROR, f"the service broke HTTP/2: unreadable headers: {wrong}")
        else:
            self._settle()

    # Frames in

    def _read(self, data: bytes) -> bytes:
        """Every whole frame; returns what is left over."""
        at, end = 0, len(data)
        while end - at >= 9:
            word, flags, number = _FRAME.unpack_from(data, at)
            kind, number, start = word & 0xFF, number & _MAX, at + 9
            at = start + (word >> 8)
            if at - start > _FRAME_SIZE:
                raise _Violation("a frame over the limit", _Code.FRAME_SIZE_ERROR)
            if at > end:
                return data[start - 9 :]
            if self._begun is not None and kind != _CONTINUATION:
                raise _Violation("a header block was interrupted")
            if kind == _DATA:
                self._on_data(number, flags, data, start, at)
            elif kind == _HEADERS:
                self._on_headers(number, flags, data, start, at)
            elif kind in _RARE:
                _RARE[kind](self, number, flags, data[start:at])
        return data[at:]

    def _on_data(self, number: int, flags: int, data: bytes, start: int, end: int) -> None:
        self._taken += end - start
        if self._taken >= _WINDOW // 2:
            self._write(_frame(_WINDOW_UPDATE, 0, 0, _U32.pack(self._taken)))
            self._taken = 0
        if flags & _PADDED:
            start, end = _inner(data, start, end, _PADDED)
        stream = self._open.get(number)
        if stream is None:
            self._check_was_open(number)
        elif stream.head is None:
            self._reset(stream, _Code.PROTOCOL_ERROR, "the service sent a body without a head")
        elif flags & _END_STREAM and not stream.body:
            self._answer(stream, data[start:end])
        else:
            self._gather(stream, flags, data[start:end])

    def _gather(self, stream: _Stream, flags: int, part: bytes) -> None:
        if not stream.body:
            stream.body = part
        elif part:
            if isinstance(stream.body, bytes):
                stream.body = bytearray(stream.body)
            stream.body += part
        if len(stream.body) > MAX_BODY:
            self._reset(stream, _Code.CANCEL, f"the answer has more than {MAX_BODY} bytes")
        elif flags & _END_STREAM:
            self._answer(stream, bytes(stream.body))

    def _on_headers(self, number: int, flags: int, data: bytes, start: int, end: int) -> None:
        if flags & (_PADDED | _PRIORITY):
            start, end = _inner(data, start, end, flags)
        if flags & _END_HEADERS:
            self._on_block(number, flags, data[start:end])
        else:
            self._begun = number, flags, bytearray(data[start:end])

    def _on_continuation(self, number: int, flags: int, content: bytes) -> None:
        if self._begun is None or self._begun[0] != number:
            raise _Violation("a header block goes on that did not begin")
        number, first, block = self._begun
        block += content
        if len(block) > MAX_HEAD:
            raise _Violation("headers over the limit", _Code.ENHANCE_YOUR_CALM)
        if flags & _END_HEADERS:
            self._begun = None
            self._on_block(number, first, bytes(block))

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        head = self._heads.known(block) or self._heads.read(block)
        stream = self._open.get(number)
        if stream is None:
            self._check_was_open(number)
        elif stream.head is not None:
            if head[0] or not flags & _END_STREAM:
                self._reset(stream, _Code.PROTOCOL_ERROR, "the service sent a second head")
            else:
                self._answer(stream, bytes(stream.body))
        elif head[0] >= 200:
            stream.head = head
            if flags & _END_STREAM:
                self._answer(stream, b"")
        elif head[0] < 100 or flags & _END_STREAM:
            self._reset(stream, _Code.PROTOCOL_ERROR, "the service sent a head without a valid status")

    def _check_was_open(self, number: int) -> None:
        """What was sent before the service knew that a stream has ended is nothing wrong."""
        if number >= self._next or not number & 1:
            raise _Violation(f"a frame for stream {number}, which was never opened")

    def _on_reset(self, number: int, _flags: int, content: bytes) -> None:
        code = _number(content)
        stream = self._open.get(number)
        if stream is None:
            self._check_was_open(number)
            return
        text = f"the service broke the request off: {_named(code)}"
        if code == _Code.REFUSED_STREAM and stream.head is None:
            self._forget(stream).not_processed(text)
        else:
            self._forget(stream).failed(text, counts_as_outage=False)

    def _on_settings(self, number: int, flags: int, content: bytes) -> None:
        if number:
            raise _Violation("settings of a stream")
        if len(content) % 6 or (flags & _ACK and content):
            raise _Violation("settings cut short", _Code.FRAME_SIZE_ERROR)
        if flags & _ACK:
            return
        if not self._told:
            self._told = True
            self._set(_MAX_STREAMS, _UNLIMITED_STREAMS)
        for name, value in _SETTING.iter_unpack(content):
            self._set(name, value)
        self._full = self._full or not self.capacity
        self._write(_frame(_SETTINGS, _ACK, 0))
        self._upload_all()

    def _set(self, name: int, value: int) -> None:
        if name == _MAX_STREAMS:
            self._streams = 0 if self._retired else value
        elif name == _MAX_FRAME_SIZE:
            if not _FRAME_SIZE <= value < 2**24:
                raise _Violation(f"a frame size of {value}")
            self._frame_size = value
        elif name == _INITIAL_WINDOW:
            change, self._initial_window = value - self._initial_window, value
            for stream in self._open.values():
                stream.window += change
            if max(value, *(stream.window for stream in self._open.values()), 0) > _MAX:
                raise _Violation(f"an initial window of {value}", _Code.FLOW_CONTROL_ERROR)
        elif name == _ENABLE_PUSH and value:
            raise _Violation("a service cannot enable push")

    def _on_push(self, _number: int, _flags: int, _content: bytes) -> None:
        raise _Violation("a push that was not allowed")

    def _on_ping(self, number: int, flags: int, content: bytes) -> None:
        if number:
            raise _Violation("a ping of a stream")
        if len(content) != 8:
            raise _Violation("a ping of another size", _Code.FRAME_SIZE_ERROR)
        if flags & _ACK:
            self.pinged_at = None
        else:
            self._write(_frame(_PING, _ACK, 0, content))

    def _on_goaway(self, number: int, _flags: int, content: bytes) -> None:
        if number or len(content) < 8:
            raise _Violation("a malformed good-bye")
        last, code = _U32.unpack_from(content)[0] & _MAX, _U32.unpack_from(content, 4)[0]
        self._retire()
        text = f"the service takes no more requests here: {_named(code)}"
        for stream in [stream for number, stream in self._open.items() if number > last]:
            if stream.number in self._open:  # or a callback has cancelled it
                self._forget(stream).not_processed(text)

    def _on_window_update(self, number: int, _flags: int, content: bytes) -> None:
        more = _number(content) & _MAX
        wrong = _Code.FLOW_CONTROL_ERROR if more else _Code.PROTOCOL_ERROR
        if not number:
            self._window += more
            if not more or self._window > _MAX:
                raise _Violation(f"a window larger by {more}", wrong)
            self._upload_all()
            return
        stream = self._open.get(number)
        if stream is None:
            self._check_was_open(number)
            return
        stream.window += more
        if not more or stream.window > _MAX:
            self._reset(stream, wrong, f"the service made a window larger by {more}")
        else:
            self._upload(stream)

    # Frames out

    def _write(self, *parts: bytes | memoryview) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += parts

    def _flush(self) -> None:
        out, self._out = self._out, []  # before: a write may call resume_writing
        if out and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def _write_long(self, number: int, end: int, block: bytes) -> None:
        kind, size = _HEADERS, self._frame_size
        for at in range(0, len(block), size):
            last = _END_HEADERS if at + size >= len(block) else 0
            self._write(_frame(kind, end | last, number, block[at : at + size]))
            kind, end = _CONTINUATION, 0

    def _upload_all(self) -> None:
        for stream in self._open.values():
            if stream.rest is not None:
                self._upload(stream)

    def _upload(self, stream: _Stream) -> None:
        """As much of the body as the windows allow; the rest when they grow, or when the socket has taken this."""
        while stream.rest is not None and not self._paused:
            size = min(len(stream.rest), self._frame_size, self._window, stream.window)
            if size <= 0:
                return
            part, rest = stream.rest[:size], stream.rest[size:]
            self._window -= size
            stream.window -= size
            stream.rest = rest or None
            self._write(_FRAME.pack(size << 8 | _DATA, 0 if rest else _END_STREAM, stream.number), part)

    # How streams and the connection end

    def _answer(self, stream: _Stream, body: bytes) -> None:
        assert stream.head is not None
        status, retry_after = stream.head
        if stream.rest is not None:  # answered before it has all: it needs no more (section 8.1)
            self._write(_frame(_RST_STREAM, 0, stream.number, _U32.pack(_Code.CANCEL)))
        self.answered_at = self.heard_at
        self._forget(stream).answered(Response(status, body, retry_after))

    def _reset(self, stream: _Stream, code: _Code, why: str) -> None:
        self._write(_frame(_RST_STREAM, 0, stream.number, _U32.pack(code)))
        self._forget(stream).failed(why)

    def _forget(self, stream: _Stream) -> Exchange:
        del self._open[stream.number]
        return stream.exchange

    def _settle(self) -> None:
        """After a change, once for all that came together."""
        if self._retired:
            if not self._open:
                self._end(_Code.NO_ERROR, "")
        elif self._full and self.capacity:
            self._full = False
            self._on_capacity(self)

    def _retire(self) -> None:
        self._streams = 0
        if not self._retired:
            self._retired = True
            self._on_closed(self)

    def _fail_all(self, why: str) -> None:
        counts_as_outage = True
        for stream in [*self._open.values()]:
            if stream.number in self._open:  # or a callback has cancelled it
                self._forget(stream).failed(why, counts_as_outage=counts_as_outage)
                counts_as_outage = False  # one connection lost is one failure, however many requests it carried

    def _end(self, code: _Code, why: str) -> None:
        if self._ended:
            return
        self._ended = True
        self._write(_frame(_GOAWAY, 0, 0, _U32.pack(0) + _U32.pack(code)))
        self._flush()
        self._transport.close()
        # uvloop would throw the good-bye away with an abort now; but a service that reads nothing must not keep us.
        self._loop.call_later(_LINGER, self._transport.abort)
        self._retire()
        self._fail_all(why)


def _inner(data: bytes, start: int, end: int, flags: int) -> tuple[int, int]:
    """Where a frame's content is, within padding and after a priority."""
    if flags & _PADDED:
        if start == end:
            raise _Violation("padding without its length", _Code.FRAME_SIZE_ERROR)
        start, end = start + 1, end - data[start]
    if flags & _PRIORITY:
        start += 5
    if start > end:
        raise _Violation("a frame that is all padding and more")
    return start, end


def _number(content: bytes) -> int:
    if len(content) != 4:
        raise _Violation("a frame of a wrong size", _Code.FRAME_SIZE_ERROR)
    return int.from_bytes(content, "big")


def _named(code: int) -> str:
    return _Code(code).name if code in set(_Code) else f"error {code}"


_RARE: dict[int, Callable[[Http2, int, int, bytes], None]] = {
    _RST_STREAM: Http2._on_reset,
    _SETTINGS: Http2._on_settings,
    _PUSH_PROMISE: Http2._on_push,
    _PING: Http2._on_ping,
    _GOAWAY: Http2._on_goaway,
    _WINDOW_UPDATE: Http2._on_window_update,
    _CONTINUATION: Http2._on_continuation,
}
"""Of any other type nothing is known, and it is to be ignored (section 5.5)."""
