"""A connection that speaks HTTP/2: ``http2_protocol`` on a socket. The requests of one iteration of the event loop are
sent in one write.
"""

import asyncio
import time
from collections.abc import Callable
from typing import cast

from bridge.asm.http.connect_error import lost
from bridge.asm.http.flow_control import Stream
from bridge.asm.http.http2_protocol import Http2Protocol
from bridge.asm.http.request import Exchange
from bridge.asm.http.response import BodyBudget, Response

_LINGER = 1.0
"""Seconds for the last frames to be sent, and for TLS to close."""


class Http2(asyncio.Protocol):
    """One connection, over TLS that has agreed on ``h2``.

    Every exchange that was sent ends once, as answered or as failed. ``on_closed`` is called once, when the connection
    will never again take new requests (those in flight may still be answered); ``on_capacity`` when it can take
    requests again. Neither they nor an exchange's ``on_response`` may raise; they may call back into the connection.
    """

    idle_timeout: float | None = None
    """With HTTP/2 the service does not say after which time it closes an unused connection."""

    def __init__(
        self,
        on_closed: Callable[["Http2"], None],
        on_capacity: Callable[["Http2"], None],
        budget: BodyBudget | None = None,
    ) -> None:
        self.heard_at = self.answered_at = time.monotonic()
        self.pinged_at: float | None = None
        """When a PING was sent, if nothing has come since (monotonic seconds)."""
        self._on_closed = on_closed
        self._on_capacity = on_capacity
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._protocol = Http2Protocol(budget or BodyBudget())
        self._flush_scheduled = self._full = self._closed = False

    # Called by the pool

    @property
    def capacity(self) -> int:
        """How many more requests the connection accepts now."""
        free = self._protocol.allowed - len(self._protocol.open)
        return free if free > 0 else 0  # noqa: FURB136 - max() takes three times as long

    @property
    def allowed(self) -> int:
        """How many concurrent requests the service allows; 0 is not a reason to open more connections."""
        return self._protocol.allowed

    @property
    def settings_read(self) -> bool:
        """Whether the service's settings have arrived; until then only a few requests are sent."""
        return self._protocol.settings_read

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do; ``heard_at`` is since when (monotonic seconds), or later."""
        return not self._protocol.open

    @property
    def closed(self) -> bool:
        """Whether the connection will never take another request."""
        return self._closed

    def send(self, exchange: Exchange) -> None:
        """Sends an exchange; requires ``capacity``."""
        exchange.sent = True
        protocol = self._protocol
        protocol.send(exchange)
        if not self._flush_scheduled:
            self._schedule_flush()
        if len(protocol.open) >= protocol.allowed:
            self._full = True
            if protocol.closing:
                self._close_gently()

    def cancel(self, exchange: Exchange, text: str) -> None:
        """Cancels an exchange; does nothing if it has ended."""
        self._settle(self._protocol.cancel(exchange, text))

    def ping(self) -> None:
        """Sends a PING; does nothing if nothing has come since another one (``pinged_at``)."""
        if self.pinged_at is None and not self._protocol.closed:
            self.pinged_at = time.monotonic()
            self._protocol.ping()
            self._schedule_flush()

    def close(self, text: str = "the connection was closed") -> None:
        """Closes the connection at once; open requests fail."""
        self._settle(self._protocol.close(text))

    def abandon(self, text: str) -> None:
        """Closes a connection whose peer is unreachable; repeatable requests are sent again."""
        self._settle(self._protocol.close(text), lost=True)

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._schedule_flush()

    def connection_lost(self, exc: Exception | None) -> None:
        ended = self._protocol.lost(lost(exc) if exc else "the service closed the connection")
        self._protocol.sender.outgoing.clear()
        self._settle(ended, lost=True)

    def eof_received(self) -> None:
        self._protocol.close_gently()  # the socket will be closed in a moment: nothing more may be sent
        self._close_gently()

    def pause_writing(self) -> None:
        self._protocol.sender.paused = True

    def resume_writing(self) -> None:
        self._protocol.sender.paused = False
        self._protocol.sender.send_bodies()
        self._schedule_flush()

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        ended = self._protocol.receive_data(data)
        self.pinged_at = None
        if ended:
            self.answered_at = self.heard_at
        self._settle(ended)

    # Inside

    def _settle(self, ended: list[Stream], *, lost: bool = False) -> None:
        """Runs once after all simultaneous changes. The pool learns first that nothing more can be sent here."""
        protocol = self._protocol
        if protocol.sender.outgoing:
            self._schedule_flush()
        if protocol.closing:
            if protocol.closed or not protocol.open:
                self._close_transport()
            self._close_gently()
        for stream in ended:
            outcome = stream.outcome
            if isinstance(outcome, Response):
                stream.exchange.answered(outcome)
            elif lost and stream.head is None:  # not a byte of the response has come
                stream.exchange.connection_lost(outcome.text, counts_as_outage=outcome.counts_as_outage)
            elif outcome.sent:
                stream.exchange.failed(outcome.text, counts_as_outage=outcome.counts_as_outage)
            else:
                stream.exchange.not_processed(outcome.text)
        if not self.capacity:
            self._full = True
        elif self._full:
            self._full = False
            self._on_capacity(self)

    def _close_gently(self) -> None:
        if not self._closed:
            self._closed = True
            self._on_closed(self)

    def _close_transport(self) -> None:
        if self._transport.is_closing():
            return
        self._protocol.close("the connection was closed")
        self._flush()
        self._transport.close()
        # uvloop would throw the last frames away with an abort now; but a service that reads nothing must not keep us.
        self._loop.call_later(_LINGER, self._transport.abort)

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._protocol.sender.outgoing and not self._transport.is_closing():
            self._transport.write(self._protocol.data_to_send())  # may call resume_writing
