"""A connection that speaks HTTP/1.1: ``http1_protocol`` on a socket, one request at a time."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

from bridge.asm.http.connect_error import lost
from bridge.asm.http.http1_protocol import Http1Protocol, InvalidResponse
from bridge.asm.http.request import Exchange
from bridge.asm.http.response import BodyBudget, Response


class Http1(asyncio.Protocol):
    """``on_capacity`` is called when the connection can take the next request, ``on_closed`` once, when it never will
    again.
    """

    def __init__(
        self,
        on_closed: Callable[["Http1"], None],
        on_capacity: Callable[["Http1"], None],
        budget: BodyBudget | None = None,
    ) -> None:
        self.capacity = 0
        self.heard_at = time.monotonic()
        self._on_closed: Callable[[Http1], None] | None = on_closed
        self._on_capacity = on_capacity
        self._exchange: Exchange | None = None
        self._protocol = Http1Protocol(budget or BodyBudget())
        self._transport: asyncio.Transport

    # Called by the pool

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do; ``heard_at`` is since when (monotonic seconds), or later."""
        return self._exchange is None

    @property
    def answered_at(self) -> float:
        return self.heard_at

    @property
    def idle_timeout(self) -> float | None:
        """Seconds after which the service closes an unused connection, or None if it does not say."""
        return self._protocol.idle_timeout

    @property
    def closed(self) -> bool:
        """Whether the connection will never take another request."""
        return self._on_closed is None

    def send(self, exchange: Exchange) -> None:
        self.capacity = 0
        self._exchange = exchange
        exchange.sent = True
        self._protocol.expecting = True
        self._transport.write(exchange.request.http1)

    def cancel(self, exchange: Exchange, text: str) -> None:
        """Closes the connection, since the response could still arrive and be taken for another request's."""
        if exchange is self._exchange:
            self._end(text)

    def close(self, text: str = "the connection was closed") -> None:
        self._end(text)

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being a subclass
        self.capacity = 1

    def data_received(self, data: bytes) -> None:
        if self._on_closed is None:
            return
        try:
            received = self._protocol.receive_data(data)
        except InvalidResponse as error:
            self._end(str(error))
        else:
            if received is not None:
                self._answered(*received)

    def eof_received(self) -> None:
        try:
            response = self._protocol.receive_eof()
        except InvalidResponse as error:
            self._end(str(error))
        else:
            if response is not None:
                self._answered(response, keep=False)
            elif self._exchange is None:
                self._end("the service closes the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        when = "in the middle of its answer" if self._protocol.begun else "without an answer"
        closed = f"the service closed the connection {when}"
        self._end(closed if exc is None else lost(exc), lost=True)

    # Inside

    def _answered(self, response: Response, keep: bool) -> None:
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        if keep and not self._transport.get_write_buffer_size():  # answered early: it may never read the rest
            self.capacity = 1
            self.heard_at = time.monotonic()
            self._on_capacity(self)
        else:
            self._end("the service closes the connection")
        exchange.answered(response)

    def _end(self, text: str, *, lost: bool = False) -> None:
        """Ends the connection; ``lost`` if the service ended it."""
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is None:
            return
        self.capacity = 0
        begun = self._protocol.begun
        self._protocol.forget()
        self._transport.abort()
        on_closed(self)
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if lost and not begun:  # not a byte of the response has come
            exchange.connection_lost(text)
        else:
            exchange.failed(text)
