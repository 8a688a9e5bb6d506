"""HTTP/2 without I/O (RFC 9113): bytes in, ended streams out; bytes to send are collected.

It has as much of HTTP/2 as many small requests over one connection need. Read it beside the RFC, whose sections are
named. We allow the service no dynamic table, so that header blocks can be looked up (see ``header_block``).

The service cannot make this grow without bound: its header blocks, bodies, and frames that bring no response further
are limited, all by the constants below.
"""

from collections.abc import Callable

from hpack import HPACKError

from bridge.asm.http import frames
from bridge.asm.http.content_encoding import ContentError, decode
from bridge.asm.http.flow_control import Sender, Stream
from bridge.asm.http.frames import (
    DATA,
    DEFAULT_FRAME_SIZE,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEAD_SIZE,
    HEADERS,
    LARGEST,
    PADDED,
    ErrorCode,
    ProtocolError,
    frame,
)
from bridge.asm.http.header_block import MAX_HEAD, HeaderBlockReader
from bridge.asm.http.request import Exchange
from bridge.asm.http.response import MAX_BODY, BodyBudget, Failure, Response

_SETTINGS = {
    frames.HEADER_TABLE_SIZE: 0,
    frames.ENABLE_PUSH: 0,
    frames.INITIAL_WINDOW_SIZE: 2 * MAX_BODY,
    frames.MAX_HEADER_LIST_SIZE: MAX_HEAD,
}
"""Ours. A stream's window is never renewed: it is more than a response may have, padding and all."""
_WINDOW = 64 * 1024 * 1024
"""Bytes that the service may have in flight to us; renewed by halves."""
STREAMS_BEFORE_SETTINGS = 4
"""Until the service says how many it allows, which it may not have said when the first requests leave."""
_STREAMS_UNLESS_SET = 1000
"""Streams, if its settings name no limit (section 6.5.2)."""
MAX_OVERHEAD = 10_000
"""Frames between two responses that bring none further: pings, settings, resets, empty frames, interim responses. More
are a flood (section 10.5)."""
_SETTINGS_COST = 100
"""Frames that one of settings counts for: each concerns all streams."""
_HEAD_COST = 64
"""Bytes of an unfinished, interim or late head that count for a frame: each is decoded."""


class Http2Protocol:
    """The client's side of one connection.

    The methods that may end streams return them, each once, in the order in which they ended.
    """

    def __init__(self, budget: BodyBudget) -> None:
        self.open: dict[int, Stream] = {}
        self.allowed = STREAMS_BEFORE_SETTINGS
        """How many streams the service allows at once; 0 when no more can be opened, ever."""
        self.closing = False
        """No more streams can be opened, ever; those that are open may still end well (section 6.8)."""
        self.closed = False
        """Nothing more is read."""
        self.sender = Sender()
        self.sender.outgoing += (
            frames.PREFACE,
            frames.settings(_SETTINGS),
            frame(frames.WINDOW_UPDATE, 0, 0, frames.UINT32.pack(_WINDOW - frames.DEFAULT_WINDOW)),
        )
        self._budget = budget
        self._next = 1
        self._heads = HeaderBlockReader()
        self.settings_read = False
        self._ended: list[Stream] = []
        # Received so far: an unfinished frame, bytes of the service's window, an unfinished header block.
        self._buffer = b""
        self._consumed = 0
        self._begun: tuple[int, int, bytearray] | None = None
        self._overhead = 0
        self._reason = ""

    # Called by the connection

    def send(self, exchange: Exchange) -> None:
        """Opens a stream (section 5.1), which must be ``allowed``."""
        number, self._next = self._next, self._next + 2
        stream = self.open[number] = Stream(number, exchange, self.sender.initial_window)
        self.sender.send(stream)
        if self._next > LARGEST:
            self.close_gently()

    def ping(self) -> None:
        self._write(frame(frames.PING, 0, 0, bytes(8)))

    def cancel(self, exchange: Exchange, text: str) -> list[Stream]:
        """Cancels a request; does nothing if it has ended."""
        for stream in self.open.values():
            if stream.exchange is exchange:
                self._reset(stream, ErrorCode.CANCEL, text)
                break
        return self._take_ended()

    def close_gently(self) -> None:
        """Opens no more streams."""
        self.closing = True
        self.allowed = 0

    def close(self, text: str, code: ErrorCode = ErrorCode.NO_ERROR) -> list[Stream]:
        """Sends GOAWAY (section 6.8) and ends the open streams."""
        if not self.closed:
            self._write(frame(frames.GOAWAY, 0, 0, bytes(4) + frames.UINT32.pack(code)))
        return self.lost(text)

    def lost(self, text: str) -> list[Stream]:
        """Ends the streams of a lost connection: one outage, however many they are."""
        self.closed = True
        text += self._reason
        self.close_gently()
        counts_as_outage = True
        for stream in [*self.open.values()]:
            self._fail(stream, Failure(text, sent=True, counts_as_outage=counts_as_outage))
            counts_as_outage = False
        return self._take_ended()

    def data_to_send(self) -> bytes:
        outgoing, self.sender.outgoing = self.sender.outgoing, []
        return b"".join(outgoing)

    def receive_data(self, data: bytes) -> list[Stream]:
        """Reads frames; never raises. If the service violates the protocol, the connection is ``closed``."""
        if self.closed:
            return []
        try:
            self._buffer = self._read_frames(self._buffer + data if self._buffer else data)
            if self._overhead > MAX_OVERHEAD:
                raise ProtocolError("too many frames without a response", ErrorCode.ENHANCE_YOUR_CALM)
        except ProtocolError as error:
            return self._violated(error.code, error)
        except HPACKError as error:
            text = f"a header block that cannot be decoded ({type(error).__name__})"  # hpack's own may name an address
            return self._violated(ErrorCode.COMPRESSION_ERROR, text)
        return self._take_ended()

    # Frames in (section 4.1)

    def _read_frames(self, data: bytes) -> bytes:
        """Reads every complete frame; returns the rest."""
        at, end = 0, len(data)
        while end - at >= HEAD_SIZE:
            word, flags, number = HEAD.unpack_from(data, at)
            kind, number, start = word & 0xFF, number & LARGEST, at + HEAD_SIZE
            at = start + (word >> 8)
            if at - start > DEFAULT_FRAME_SIZE:  # we never allow more (section 4.2)
                raise frames.too_large(b"" if self.settings_read else data)
            if at > end:
                return data[start - HEAD_SIZE :]
            if self._begun is not None and kind != frames.CONTINUATION:
                raise ProtocolError("an interrupted header block")
            if kind == DATA:
                self._on_data(number, flags, data, start, at)
            elif kind == HEADERS:
                self._on_headers(number, flags, data, start, at)
            else:
                self._overhead += 1
                if kind in _RARE:
                    _RARE[kind](self, number, flags, data[start:at])
        return data[at:]

    def _on_data(self, number: int, flags: int, data: bytes, start: int, end: int) -> None:
        """Handles DATA (section 6.1)."""
        self._consumed += end - start
        if self._consumed >= _WINDOW // 2:
            self._write(frame(frames.WINDOW_UPDATE, 0, 0, frames.UINT32.pack(self._consumed)))
            self._consumed = 0
        if flags & PADDED:
            start, end = frames.content(data, start, end, PADDED)
        stream = self.open.get(number)
        if stream is None:
            self._check_was_open(number)
        elif stream.head is None:
            self._reset(stream, ErrorCode.PROTOCOL_ERROR, "the service sent a body without a head")
        elif flags & END_STREAM and not stream.body:
            self._complete(stream, data[start:end])
        else:
            self._append(stream, flags, data[start:end])

    def _append(self, stream: Stream, flags: int, part: bytes) -> None:
        if not stream.body:
            stream.body = part
        elif part:
            if isinstance(stream.body, bytes):
                stream.body = bytearray(stream.body)
            stream.body += part
        self._budget.used += len(part)
        if flags & END_STREAM:
            self._complete(stream, bytes(stream.body))
        elif len(stream.body) > MAX_BODY:
            self._reset(stream, ErrorCode.CANCEL, f"the response is longer than {MAX_BODY} bytes")
        elif self._budget.used > self._budget.limit:
            self._reset(stream, ErrorCode.CANCEL, "too many unfinished responses")
        elif not part:
            self._overhead += 1

    def _on_headers(self, number: int, flags: int, data: bytes, start: int, end: int) -> None:
        """Handles HEADERS (section 6.2)."""
        if flags & (PADDED | frames.PRIORITIZED):
            start, end = frames.content(data, start, end, flags)
        if flags & END_HEADERS:
            self._on_header_block(number, flags, data[start:end])
        else:
            self._begun = number, flags, bytearray(data[start:end])

    def _on_continuation(self, number: int, flags: int, payload: bytes) -> None:
        """Handles CONTINUATION (section 6.10)."""
        if self._begun is None or self._begun[0] != number:
            raise ProtocolError("a continuation of no header block")
        number, first, block = self._begun
        block += payload
        if len(block) > MAX_HEAD:
            raise ProtocolError("headers over the limit", ErrorCode.ENHANCE_YOUR_CALM)
        if flags & END_HEADERS:
            self._begun = None
            self._on_header_block(number, first, bytes(block))

    def _on_header_block(self, number: int, flags: int, block: bytes) -> None:
        """Reads the head of a response, an interim one, or trailers (section 8.1)."""
        head = self._heads.known(block) or self._heads.read(block)
        stream = self.open.get(number)
        if stream is not None and stream.head is None and head[0] >= 200:
            stream.head = head
            if flags & END_STREAM:
                self._complete(stream, b"")
            return
        self._overhead += 1 + len(block) // _HEAD_COST
        if stream is None:
            self._check_was_open(number)
        elif stream.head is not None:
            if head.status or not flags & END_STREAM:
                self._reset(stream, ErrorCode.PROTOCOL_ERROR, "the service sent a second head")
            else:  # trailers: a Retry-After in them is not the head's
                self._complete(stream, bytes(stream.body))
        elif head.status < 100 or head.status == 101 or flags & END_STREAM:  # no 101 in HTTP/2 (section 8.6)
            self._reset(stream, ErrorCode.PROTOCOL_ERROR, "the service sent a head without a valid status")

    def _check_was_open(self, number: int) -> None:
        """Frames sent before the service knew that a stream had ended do not violate the protocol (section 5.1)."""
        if number >= self._next or not number & 1:
            raise ProtocolError(f"a frame for stream {number}, which was never opened")
        self._overhead += 1

    def _on_reset(self, number: int, _flags: int, payload: bytes) -> None:
        """Handles RST_STREAM (section 6.4)."""
        code = frames.uint32(payload)
        stream = self.open.get(number)
        if stream is None:
            self._check_was_open(number)
            return
        text = f"the service broke the request off: {frames.error_name(code)}"
        self._break_off(stream, text, processed=code != ErrorCode.REFUSED_STREAM)

    def _on_settings(self, number: int, flags: int, payload: bytes) -> None:
        """Handles SETTINGS (section 6.5). Only the last value of a setting is applied, so that a frame full of them
        costs no more than one.
        """
        if number:
            raise ProtocolError("SETTINGS of a stream")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ProtocolError("SETTINGS of a wrong size", ErrorCode.FRAME_SIZE_ERROR)
        if flags & frames.ACK:
            return
        self._overhead += _SETTINGS_COST
        values = dict(frames.SETTING.iter_unpack(payload))
        if not self.settings_read:
            self.settings_read = True
            values.setdefault(frames.MAX_CONCURRENT_STREAMS, _STREAMS_UNLESS_SET)
        for name, value in values.items():
            self._set(name, value)
        self._write(frame(frames.SETTINGS, frames.ACK, 0))
        self.sender.send_bodies()

    def _set(self, name: int, value: int) -> None:
        """Applies a setting (section 6.5.2)."""
        if name == frames.MAX_CONCURRENT_STREAMS:
            self.allowed = 0 if self.closing else value
        elif name == frames.MAX_FRAME_SIZE:
            self.sender.set_frame_size(value)
        elif name == frames.INITIAL_WINDOW_SIZE:
            self.sender.set_initial_window(value, self.open.values())
        elif name == frames.ENABLE_PUSH and value:
            raise ProtocolError("push enabled by the service")

    def _on_push(self, _number: int, _flags: int, _payload: bytes) -> None:
        """Refuses PUSH_PROMISE (section 8.4)."""
        raise ProtocolError("a push that was not allowed")

    def _on_ping(self, number: int, flags: int, payload: bytes) -> None:
        """Handles PING (section 6.7)."""
        if number:
            raise ProtocolError("PING of a stream")
        if len(payload) != 8:
            raise ProtocolError("PING of a wrong size", ErrorCode.FRAME_SIZE_ERROR)
        if not flags & frames.ACK:
            self._write(frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, number: int, _flags: int, payload: bytes) -> None:
        """Handles GOAWAY: streams beyond the last that the service accepted were not processed (section 6.8)."""
        if number or len(payload) < 8:
            raise ProtocolError("a malformed GOAWAY")
        last, code = frames.UINT32.unpack_from(payload)[0] & LARGEST, frames.UINT32.unpack_from(payload, 4)[0]
        self.close_gently()
        text = f"the service takes no more requests here: {frames.error_name(code)}"
        self._reason = f": {frames.error_name(code)}" if code else ""
        for stream in [stream for stream in self.open.values() if stream.number > last]:
            self._break_off(stream, text, processed=False)

    def _on_window_update(self, number: int, _flags: int, payload: bytes) -> None:
        """Handles WINDOW_UPDATE (section 6.9)."""
        more = frames.uint32(payload) & LARGEST
        stream = self.open.get(number)
        if not number:
            if not more:
                raise ProtocolError("a window larger by 0")
            self.sender.enlarge_window(more)
        elif stream is None:
            self._check_was_open(number)
        elif not more or stream.window + more > LARGEST:
            code = ErrorCode.FLOW_CONTROL_ERROR if more else ErrorCode.PROTOCOL_ERROR
            self._reset(stream, code, f"the service made a window larger by {more}")
        else:
            stream.window += more
            self.sender.send_body(stream)

    # How streams end

    def _complete(self, stream: Stream, body: bytes) -> None:
        status, retry_after, date, content_encoding = stream.head  # type: ignore[misc]  # checked by the callers
        if stream.unsent is not None:  # answered before it has all: it needs no more (section 8.1)
            self._write(frames.reset(stream.number, ErrorCode.CANCEL))
        if content_encoding is not None:
            try:
                body = decode(body, content_encoding, MAX_BODY)
            except ContentError as error:
                self._fail(stream, Failure(f"invalid response: {error}", sent=True))
                return
        self._overhead = 0
        stream.outcome = tuple.__new__(
            Response, (status, body, retry_after, date)
        )  # as Response(...), in half the time
        self._end(stream)

    def _reset(self, stream: Stream, code: ErrorCode, text: str) -> None:
        """Resets a stream (section 5.4.2)."""
        self._write(frames.reset(stream.number, code))
        self._fail(stream, Failure(text, sent=True))

    def _break_off(self, stream: Stream, text: str, *, processed: bool) -> None:
        """Not ``processed``: so the service says (section 8.7), and it has sent no head, which would disprove it."""
        self._fail(stream, Failure(text, sent=processed or stream.head is not None, counts_as_outage=False))

    def _fail(self, stream: Stream, failure: Failure) -> None:
        stream.outcome = failure
        self._end(stream)

    def _end(self, stream: Stream) -> None:
        del self.open[stream.number]
        if stream.unsent is not None:
            self.sender.discard(stream)
        if stream.body:
            self._budget.used -= len(stream.body)
        self._ended.append(stream)

    def _write(self, data: bytes) -> None:
        self.sender.outgoing.append(data)

    def _violated(self, code: ErrorCode, error: Exception | str) -> list[Stream]:
        return self.close(f"invalid HTTP/2 from the service: {error}", code)

    def _take_ended(self) -> list[Stream]:
        ended, self._ended = self._ended, []
        return ended


_RARE: dict[int, Callable[[Http2Protocol, int, int, bytes], None]] = {
    frames.RST_STREAM: Http2Protocol._on_reset,
    frames.SETTINGS: Http2Protocol._on_settings,
    frames.PUSH_PROMISE: Http2Protocol._on_push,
    frames.PING: Http2Protocol._on_ping,
    frames.GOAWAY: Http2Protocol._on_goaway,
    frames.WINDOW_UPDATE: Http2Protocol._on_window_update,
    frames.CONTINUATION: Http2Protocol._on_continuation,
}
"""A frame of any other type is ignored (section 5.5)."""
