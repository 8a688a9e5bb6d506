"""The connections to one service, and the requests that are sent over them."""

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import certifi
import httpx

from bridge.asm.http.http1 import Http1
from bridge.asm.http.http2 import Http2
from bridge.asm.http.request import Exchange, OnResponse, PreparedRequest

_IDLE = 45.0
"""Seconds after which an unused connection is closed: before the other side does it while a request is on its way."""
_PRECISION = 20
"""A time-out comes at most this part of it too late."""

Connection = Http1 | Http2


def tls(ca_file: Path | None, http2: bool) -> ssl.SSLContext:
    """Trusts whom the system trusts (where that is nobody: whom Mozilla does), and ``ca_file``; offers HTTP/2 first, if
    it may."""
    context = ssl.create_default_context()
    system = ssl.get_default_verify_paths()
    if not (system.cafile or system.capath):  # python.org's Python for macOS, or an image without any
        context.load_verify_locations(certifi.where())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # from Python 3.13 on it refuses many a company's own authority
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    return context


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
        connect_timeout: float,
        request_timeout: float,
        max_connections: int,
        http2: bool,
    ) -> None:
        secure = url.scheme == "https"
        self._host, self._port = url.host, url.port or (443 if secure else 80)
        self._tls = tls(ca_file, http2) if secure else None
        self._connect_timeout, self._request_timeout = connect_timeout, request_timeout
        self._most = max_connections
        self._many: bool | None = None if secure and http2 else False
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
        self._grow()

    async def aclose(self) -> None:
        """What is under way fails."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        opening = [*self._opening]
        for task in opening:
            task.cancel()
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

    def _grow(self) -> None:
        """Open what those who wait need: a connection each, or one for all where one carries many."""
        wanted = len(self._waiting) if self._many is False else min(1, len(self._waiting))
        while len(self._opening) < wanted and len(self._connections) + len(self._opening) < self._most:
            task = asyncio.get_running_loop().create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                hello = _Hello(self._speak)
                await loop.create_connection(lambda: hello, self._host, self._port, ssl=self._tls)
        except TimeoutError:
            raise TimeoutError(f"no connection within {self._connect_timeout:g} s") from None
        assert hello.connection is not None
        self._many = isinstance(hello.connection, Http2)
        if hello.connection.closed:
            raise ConnectionError("the service closed the connection at once")
        self._connections[hello.connection] = None
        self._on_capacity(hello.connection)

    def _speak(self, protocol: str | None) -> Connection:
        return (
            Http2(self._on_closed, self._on_capacity) if protocol == "h2" else Http1(self._on_closed, self._on_capacity)
        )

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if self._closed or task.cancelled():
            return
        if error := task.exception():
            left_out = max(0, len(self._waiting) - len(self._opening))
            for exchange in [*self._waiting][: min(1, left_out) if self._connections else left_out]:
                exchange.failed(f"cannot connect to {self._host}:{self._port}: {str(error) or type(error).__name__}")
        self._grow()

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
            self._grow()


class _Hello(asyncio.Protocol):
    """Hands a new connection to who speaks the protocol that was agreed upon in its TLS."""

    def __init__(self, speak: Callable[[str | None], Connection]) -> None:
        self._speak = speak
        self.connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        secured = transport.get_extra_info("ssl_object")
        self.connection = self._speak(secured.selected_alpn_protocol() if secured else None)
        cast("asyncio.Transport", transport).set_protocol(self.connection)
        self.connection.connection_made(transport)
