"""A connection that speaks HTTP/1.1: one request at a time (RFC 9112)."""

import asyncio
import re
import time
from collections.abc import Callable
from typing import cast

from httptools import HttpParserError, HttpResponseParser

from bridge.asm.http.request import MAX_BODY, Exchange, Response

_TIMEOUT = re.compile(rb"(?:^|[\s,;])timeout=(\d{1,6})(?!\d)", re.IGNORECASE)
"""Of Keep-Alive (RFC 2068, section 19.7.1.1)."""


class Http1(asyncio.Protocol):
    """``on_capacity`` is called whenever it can take the next request, ``on_closed`` once, when it never will again."""

    def __init__(self, on_closed: Callable[["Http1"], None], on_capacity: Callable[["Http1"], None]) -> None:
        self.capacity = 0
        self.heard_at = time.monotonic()
        self.idle_timeout: float | None = None
        """Seconds after which the service closes an unused connection, if it said so."""
        self._on_closed: Callable[[Http1], None] | None = on_closed
        self._on_capacity = on_capacity
        self._exchange: Exchange | None = None
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._status = 0
        self._begin()

    def _begin(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self._retry_after: str | None = None
        self._date: bytes | None = None
        self._head_read = self._bounded = self._whole = self._keep = False

    @property
    def idle(self) -> bool:
        """Whether it has nothing to do; ``heard_at``: since when (monotonic seconds), or later."""
        return self._exchange is None

    @property
    def answered_at(self) -> float:
        return self.heard_at

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests, ever."""
        return self._on_closed is None

    def send(self, exchange: Exchange) -> None:
        self.capacity = 0
        self._exchange = exchange
        exchange.sent = True
        self._transport.write(exchange.request.http1)

    def cancel(self, exchange: Exchange, why: str) -> None:
        """Its answer could still come: the connection is of no use to anybody else."""
        if exchange is self._exchange:
            self._end(why)

    def close(self) -> None:
        self._end("the connection was closed")

    # -- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being a subclass
        self.capacity = 1

    def data_received(self, data: bytes) -> None:
        wrong = "the service spoke unasked" if self._exchange is None else None
        try:
            if wrong is None:
                self._parser.feed_data(data)
        except HttpParserError as error:
            wrong = f"the service answers in no HTTP: {error}"
        if self._whole:  # only now: what came behind it must not be taken for the next answer
            self._answered(keep=self._keep and wrong is None)
        elif wrong is not None:
            self._end(wrong)

    def eof_received(self) -> None:
        if self._exchange is None:
            self._end("the service closes the connection")
        elif self._head_read and not self._bounded:
            self._status = self._parser.get_status_code()
            self._answered(keep=False)  # what has no length ends with its connection (RFC 9112, section 6.3)

    def connection_lost(self, exc: Exception | None) -> None:
        closed = "the service closed the connection without an answer"
        self._end(closed if exc is None else f"the connection was lost: {exc}", lost=True)

    # -- called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._bounded = True
        elif name == b"retry-after":
            self._retry_after = value.decode("latin-1")
        elif name == b"date":
            self._date = value
        elif name == b"keep-alive" and (timeout := _TIMEOUT.search(value)):
            self.idle_timeout = float(timeout[1])

    def on_message_begin(self) -> None:
        self._keep = not self._whole

    def on_headers_complete(self) -> None:
        self._head_read = True

    def on_body(self, chunk: bytes) -> None:
        if self._whole or self.closed:
            return
        self._size += len(chunk)
        self._chunks.append(chunk)
        if self._size > MAX_BODY:
            self._end(f"the answer is longer than {MAX_BODY} bytes")

    def on_message_complete(self) -> None:
        if self._whole or self.closed:
            return
        self._status = self._parser.get_status_code()
        if self._status < 200:  # an interim answer: the real one follows
            self._begin()
        else:
            self._whole, self._keep = True, self._parser.should_keep_alive()

    # -- inside

    def _answered(self, keep: bool) -> None:
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        date = None if self._date is None or self._status < 300 else self._date.decode("latin-1")
        response = Response(self._status, body, self._retry_after, date)
        self._begin()
        if keep:
            self.capacity, self.heard_at = 1, time.monotonic()
            self._on_capacity(self)
        else:
            self._end("the service closes the connection")
        exchange.answered(response)

    def _end(self, why: str, *, lost: bool = False) -> None:
        """``lost``: by the service, not by us."""
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is None:
            return
        self.capacity = 0
        self._transport.abort()
        on_closed(self)
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if lost and not self._keep:  # not a byte of the response has come
            exchange.connection_lost(why)
        else:
            exchange.failed(why)
