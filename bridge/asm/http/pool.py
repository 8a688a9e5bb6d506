"""The connections to one service, and the requests that are sent over them."""

import asyncio
import time
from pathlib import Path

import httpx

from bridge.asm.http.connector import ConnectError, Connection, Connector
from bridge.asm.http.http1 import Http1
from bridge.asm.http.http2 import Http2
from bridge.asm.http.request import Exchange, OnResponse, PreparedRequest

_IDLE = 45.0
"""Seconds after which an unused connection is closed: before the other side does it while a request is on its way."""
_PRECISION = 20
"""A time-out comes at most this part of it too late."""


class Pool:
    """Sends requests to one service over as few connections as it takes, ``max_connections`` at most.

    Times in seconds: ``connect_timeout`` for a connection and its TLS, ``request_timeout`` from ``send`` to the whole
    answer, the wait for a connection included. Whether it is HTTP/1.1 or HTTP/2 is what the service chooses (ALPN).
    """

    def __init__(
        self,
        url: httpx.URL,
        *,
        ca_file: Path | None,
        proxy: str | None,
        connect_timeout: float,
        request_timeout: float,
        max_connections: int,
        http2: bool,
    ) -> None:
        self._connector = Connector(url, ca_file=ca_file, proxy=proxy, http2=http2, timeout=connect_timeout)
        self._request_timeout = request_timeout
        self._max_connections = max_connections
        self._multiplexed: bool | None = None if url.scheme == "https" and http2 else False
        """Whether a connection carries many requests at once; None: not known yet."""
        self._connections: dict[Connection, None] = {}
        self._free: dict[Connection, None] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._under_way: dict[Exchange, Connection | None] = {}
        self._waiting: dict[Exchange, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def send(self, request: PreparedRequest, on_response: OnResponse) -> None:
        """Send; ``on_response`` is called once, later. The request may be sent again, also before that."""
        exchange = Exchange(request, on_response, time.monotonic() + self._request_timeout, self._ended)
        if self._closed:
            asyncio.get_running_loop().call_soon(exchange.failed, "the client is closed")
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._request_timeout / _PRECISION, self._sweep)
        while self._free:
            connection, _ = self._free.popitem()  # the last used, so that those that are not needed grow old
            if connection.capacity:  # the service may have taken room back
                self._under_way[exchange] = connection
                connection.send(exchange)
                if connection.capacity:
                    self._free[connection] = None
                return
        self._under_way[exchange] = None
        self._waiting[exchange] = None
        self._open_more()

    async def aclose(self) -> None:
        """What is under way fails."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        opening = [*self._opening]
        for task in opening:
            task.cancel()
        self._connector.close()
        await asyncio.gather(*opening, return_exceptions=True)
        for connection in {*self._connections, *self._under_way.values()}:  # also those that finish what they began
            if connection is not None:
                connection.close()
        for exchange in [*self._waiting]:
            exchange.failed("the client is closed")

    # -- requests

    def _ended(self, exchange: Exchange) -> None:
        self._under_way.pop(exchange, None)
        self._waiting.pop(exchange, None)

    def _sweep(self) -> None:
        """End what takes too long, and connections that nobody needs."""
        now = time.monotonic()
        try:
            for exchange in [one for one in self._under_way if one.deadline <= now]:
                if exchange in self._under_way:  # it may have ended with another's connection
                    self._overdue(exchange, self._under_way[exchange])
            for connection in [one for one in self._free if one.idle and one.heard_at < now - _IDLE]:
                connection.close()
        finally:
            again = self._connections or self._under_way
            wait = self._request_timeout / _PRECISION
            self._timer = asyncio.get_running_loop().call_later(wait, self._sweep) if again else None

    def _overdue(self, exchange: Exchange, connection: Connection | None) -> None:
        if connection is None:
            exchange.failed(f"no connection was free within {self._request_timeout:g} s")
            return
        connection.cancel(exchange, f"no answer within {self._request_timeout:g} s")
        if connection.heard_at < exchange.deadline - self._request_timeout:
            connection.close()  # it is dead: nothing at all has come since

    # -- connections

    def _open_more(self) -> None:
        """Open what those who wait need: a connection each, or one for all where one carries many."""
        wanted = len(self._waiting) if self._multiplexed is False else min(1, len(self._waiting))
        while len(self._opening) < wanted and len(self._connections) + len(self._opening) < self._max_connections:
            task = asyncio.get_running_loop().create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    async def _open(self) -> None:
        connection = await self._connector.open(self._new_connection)
        self._multiplexed = isinstance(connection, Http2)
        self._connections[connection] = None
        self._on_capacity(connection)

    def _new_connection(self, protocol: str | None) -> Connection:
        kind = Http2 if protocol == "h2" else Http1
        return kind(self._on_closed, self._on_capacity)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if self._closed or task.cancelled():
            return
        if error := task.exception():
            text = self._connector.describe(error) if isinstance(error, ConnectError) else repr(error)
            left_out = max(0, len(self._waiting) - len(self._opening))
            for exchange in [*self._waiting][: min(1, left_out) if self._connections else left_out]:
                exchange.failed(text, error=error if isinstance(error, ConnectError) else None)
        self._open_more()

    def _on_capacity(self, connection: Connection) -> None:
        while self._waiting and connection.capacity:
            exchange = next(iter(self._waiting))
            del self._waiting[exchange]
            self._under_way[exchange] = connection
            connection.send(exchange)
        if connection.capacity:
            self._free[connection] = None

    def _on_closed(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        self._free.pop(connection, None)
        if not self._closed:
            self._open_more()


class ForwardingPool(Pool):
    """Sends requests without TLS to an HTTP proxy, which sends them on."""

    def send(self, request: PreparedRequest, on_response: OnResponse) -> None:
        assert self._connector.proxy is not None
        super().send(self._connector.proxy.forwarded(request), on_response)
