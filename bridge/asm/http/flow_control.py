"""HTTP/2's streams, and how much may be sent on them (RFC 9113, sections 5.2 and 6.9)."""

from collections.abc import Iterable

from bridge.asm.http.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEAD,
    HEADERS,
    LARGEST,
    ErrorCode,
    ProtocolError,
    frame,
)
from bridge.asm.http.header_block import Head
from bridge.asm.http.request import Exchange
from bridge.asm.http.response import Failure, Response


class Stream:
    """One exchange on a connection; ``outcome`` is set when it has ended, ``unsent`` waits for the windows."""

    __slots__ = ("body", "exchange", "head", "number", "outcome", "unsent", "window")

    def __init__(self, number: int, exchange: Exchange, window: int) -> None:
        self.number = number
        self.exchange = exchange
        self.window = window
        self.head: Head | None = None
        self.body: bytes | bytearray = b""
        self.unsent: memoryview | None = None
        self.outcome: Response | Failure


class Sender:
    """Sends requests as frames, within the service's limits.

    ``outgoing`` collects the frames to send. ``paused``: the socket accepts no more bodies for now.
    """

    def __init__(self) -> None:
        self.outgoing: list[bytes | memoryview] = []
        self.paused = False
        self.initial_window = DEFAULT_WINDOW
        self.frame_size = DEFAULT_FRAME_SIZE
        self._window = DEFAULT_WINDOW
        self._unsent: dict[int, Stream] = {}

    def send(self, stream: Stream) -> None:
        """Sends head and body (section 8.1)."""
        number, request = stream.number, stream.exchange.request
        block, body = request.http2, request.body
        size = len(body)
        end = 0 if size else END_STREAM
        if len(block) <= self.frame_size:
            head = HEAD.pack(len(block) << 8 | HEADERS, end | END_HEADERS, number)
            self.outgoing += (head, block)
        else:
            self._send_long_head(number, end, block)
        if 0 < size <= self.frame_size and size <= self._window and size <= stream.window:
            self._window -= size
            stream.window -= size
            self.outgoing += (HEAD.pack(size << 8 | DATA, END_STREAM, number), body)
        elif size:
            stream.unsent = memoryview(body)
            self._unsent[number] = stream
            self.send_body(stream)

    def _send_long_head(self, number: int, end: int, block: bytes) -> None:
        """Sends a head in several frames (section 6.10)."""
        kind, size = HEADERS, self.frame_size
        for at in range(0, len(block), size):
            last = END_HEADERS if at + size >= len(block) else 0
            self.outgoing.append(frame(kind, end | last, number, block[at : at + size]))
            kind, end = CONTINUATION, 0

    def send_bodies(self) -> None:
        for stream in [*self._unsent.values()]:
            self.send_body(stream)

    def send_body(self, stream: Stream) -> None:
        """Sends as much as the windows allow; the rest when they grow, or when the socket has sent this."""
        while stream.unsent is not None and not self.paused:
            size = min(len(stream.unsent), self.frame_size, self._window, stream.window)
            if size <= 0:
                return
            part, unsent = stream.unsent[:size], stream.unsent[size:]
            self._window -= size
            stream.window -= size
            end = 0 if unsent else END_STREAM
            self.outgoing += (HEAD.pack(size << 8 | DATA, end, stream.number), part)
            stream.unsent = unsent
            if not unsent:
                self.discard(stream)

    def discard(self, stream: Stream) -> None:
        """Stops sending a body."""
        if stream.unsent is not None:
            stream.unsent = None
            del self._unsent[stream.number]

    def set_frame_size(self, value: int) -> None:
        """Applies SETTINGS_MAX_FRAME_SIZE (section 6.5.2)."""
        if not DEFAULT_FRAME_SIZE <= value < 2**24:
            raise ProtocolError(f"a frame size of {value}")
        self.frame_size = value

    def set_initial_window(self, value: int, streams: Iterable[Stream]) -> None:
        """Applies SETTINGS_INITIAL_WINDOW_SIZE: open streams change by the difference, even below zero
        (section 6.9.2).
        """
        change, self.initial_window = value - self.initial_window, value
        largest = value
        for stream in streams:
            stream.window += change
            largest = max(largest, stream.window)
        if largest > LARGEST:
            raise ProtocolError(f"an initial window of {value}", ErrorCode.FLOW_CONTROL_ERROR)

    def enlarge_window(self, more: int) -> None:
        """Enlarges the connection's window (section 6.9)."""
        self._window += more
        if self._window > LARGEST:
            raise ProtocolError(f"a window larger by {more}", ErrorCode.FLOW_CONTROL_ERROR)
        self.send_bodies()
