"""The connections to one service, and the requests that are sent over them."""

import asyncio
import time

import httpx

from bridge.asm.http.connect_error import ConnectError
from bridge.asm.http.connector import Connection, Connector, NewTls
from bridge.asm.http.http1 import Http1
from bridge.asm.http.http2 import Http2
from bridge.asm.http.request import Exchange, PreparedRequest
from bridge.asm.http.response import BodyBudget, OnResponse

_IDLE = 45.0
"""Seconds after which an unused connection is closed: before the other side does it while a request is on its way."""
_PRECISION = 20
"""How many times within a time-out the requests are checked."""
_PATIENCE = 5
"""A PING is sent after the time-out divided by this without a byte; after as long again, the connection is dead."""
_RESENDS = 20
"""How often a request that was certainly not processed is sent again; its deadline stays the same."""
_REPLACED_AT_ONCE = 8
_REPLACE_AGAIN = 30.0
"""Seconds between two attempts to replace an old connection."""


class Pool:
    """Sends requests to one service over as few connections as necessary, at most ``max_connections``.

    Times in seconds: ``connect_timeout`` for the name, and again for a connection and its TLS; ``request_timeout`` from
    ``send`` to the whole response, the wait for a connection included; ``max_connection_age`` until a connection is
    replaced by a new one, so that a changed address takes effect. The service chooses HTTP/1.1 or HTTP/2 (ALPN).
    Requests that it has certainly not processed are sent again within the same deadline.
    """

    def __init__(
        self,
        url: httpx.URL,
        *,
        new_tls: NewTls,
        proxy: str | None,
        connect_timeout: float,
        request_timeout: float,
        max_connections: int,
        max_connection_age: float,
        http2: bool,
    ) -> None:
        self._connector = Connector(url, new_tls=new_tls, proxy=proxy, http2=http2, timeout=connect_timeout)
        self._request_timeout = request_timeout
        self._max_connections = max_connections
        self._max_connection_age = max_connection_age
        self._multiplexed: bool | None = None if url.scheme == "https" and http2 else False
        """Whether a connection carries many requests at once; None: not known yet."""
        self._connections: dict[Connection, float] = {}
        """The connections that accept requests, and when they were opened (monotonic seconds)."""
        self._retiring: set[Connection] = set()
        """The connections that accept no more requests, and finish those that they have."""
        self._free: dict[Connection, None] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._replacing: dict[Connection, asyncio.Task[None]] = {}
        self._under_way: dict[Exchange, Connection | None] = {}
        self._waiting: dict[Exchange, None] = {}
        self._body_budget = BodyBudget()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._on_end, self._on_resend = self._ended, self._resend  # bound once, not for each request

    def send(self, request: PreparedRequest, on_response: OnResponse) -> None:
        """Sends a request; ``on_response`` is called once, later. The same request may be sent again, even
        before that.
        """
        deadline = time.monotonic() + self._request_timeout
        exchange = Exchange(request, on_response, deadline, self._on_end, self._on_resend)
        if self._closed:
            asyncio.get_running_loop().call_soon(exchange.failed, "the client is closed")
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._request_timeout / _PRECISION, self._sweep)
        while self._free:
            connection, _ = self._free.popitem()  # the last used, so that those that are not needed grow old
            if connection.capacity:  # the service may have taken it back
                self._under_way[exchange] = connection
                connection.send(exchange)
                if connection.capacity:
                    self._free[connection] = None
                return
        self._under_way[exchange] = None
        self._waiting[exchange] = None
        self._open_more()

    async def aclose(self) -> None:
        """Closes all connections; requests in flight fail, and so do later ones."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        opening = [*self._opening, *self._replacing.values()]
        for task in opening:
            task.cancel()
        self._connector.close()
        await asyncio.gather(*opening, return_exceptions=True)
        for connection in {*self._connections, *self._retiring, *self._under_way.values()}:
            if connection is not None:
                connection.close()
        for exchange in [*self._waiting]:
            exchange.failed("the client is closed")

    # -- requests

    def _ended(self, exchange: Exchange) -> None:
        self._under_way.pop(exchange, None)
        self._waiting.pop(exchange, None)

    def _resend(self, exchange: Exchange, most: int = _RESENDS) -> bool:
        """Sends an exchange again, unless it was sent again ``most`` times before. Returns whether it will be sent."""
        resends = getattr(exchange, "resends", 0)
        if self._closed or resends >= most or time.monotonic() >= exchange.deadline:
            return False
        exchange.resends = resends + 1
        self._under_way[exchange] = None
        self._waiting[exchange] = None
        if self._multiplexed:  # where one idle connection of HTTP/1.1 was closed, the others may have been, too
            while self._waiting and self._free:
                self._on_capacity(self._free.popitem()[0])
        self._open_more()
        return True

    # -- time-outs and age

    def _sweep(self) -> None:
        """Ends requests that take too long, and connections that are dead, old or not needed."""
        now = time.monotonic()
        try:
            self._end_overdue(now)
            self._ping_silent(now)
            self._close_idle(now)
            self._replace_old(now)
            self._open_more()
        finally:
            again = self._connections or self._retiring or self._under_way
            wait = self._request_timeout / _PRECISION
            self._timer = asyncio.get_running_loop().call_later(wait, self._sweep) if again else None

    def _end_overdue(self, now: float) -> None:
        for exchange in [one for one in self._under_way if one.deadline <= now]:
            if exchange not in self._under_way:  # it has ended with another's connection
                continue
            connection = self._under_way[exchange]
            if connection is None:
                stalled = [one for one in self._connections if _is_stalled(one)]
                why = "the service allowed no more requests" if stalled else "no connection was free"
                exchange.failed(f"{why} within {self._request_timeout:g} s")
                for one in stalled:
                    one.close()
                continue
            connection.cancel(exchange, f"no answer within {self._request_timeout:g} s")
            since = self._sent_at(exchange, connection)
            if connection.heard_at < since:
                connection.close()  # it is dead: nothing at all has come since
            elif connection.answered_at < since:
                self._retire(connection)  # something comes, but no answers

    def _ping_silent(self, now: float) -> None:
        patience = self._request_timeout / _PATIENCE
        silent = {
            connection
            for exchange, connection in self._under_way.items()
            if isinstance(connection, Http2)
            and connection.heard_at < self._sent_at(exchange, connection) <= now - patience
        }
        for connection in silent:
            if connection.pinged_at is None:
                connection.ping()
            elif connection.pinged_at <= now - patience:
                connection.abandon("the service did not answer a PING")

    def _sent_at(self, exchange: Exchange, connection: Connection) -> float:
        return max(exchange.deadline - self._request_timeout, self._connections.get(connection, 0.0))

    def _close_idle(self, now: float) -> None:
        for connection in [one for one in (*self._free, *self._retiring) if one.idle]:
            keep_alive = connection.idle_timeout
            limit = _IDLE if keep_alive is None else min(_IDLE, keep_alive - 1 - self._request_timeout / _PRECISION)
            if connection.heard_at < now - limit or connection in self._retiring:
                connection.close()

    def _replace_old(self, now: float) -> None:
        old = [one for one, opened_at in self._connections.items() if opened_at < now - self._max_connection_age]
        for connection in old[:_REPLACED_AT_ONCE]:
            if connection.idle:
                connection.close()
            elif connection not in self._replacing:
                task = asyncio.get_running_loop().create_task(self._replace(connection))
                self._replacing[connection] = task

    # -- connections

    def _open_more(self) -> None:
        """Opens connections for waiting requests: one each, or one for all if it carries many."""
        if not self._waiting or len(self._connections) + len(self._opening) >= self._max_connections:
            return
        wanted = len(self._waiting)
        if self._multiplexed is not False:
            wanted = 0 if self._opening or any(map(_is_stalled, self._connections)) else 1
        while len(self._opening) < wanted and len(self._connections) + len(self._opening) < self._max_connections:
            task = asyncio.get_running_loop().create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    async def _open(self) -> None:
        connection = await self._connector.open(self._new_connection)
        self._multiplexed = isinstance(connection, Http2)
        self._connections[connection] = time.monotonic()
        self._on_capacity(connection)

    async def _replace(self, old: Connection) -> None:
        try:
            await self._open()
            self._retire(old)
        except ConnectError:  # the old one still works
            if old in self._connections:
                self._connections[old] += _REPLACE_AGAIN
        finally:
            del self._replacing[old]

    def _new_connection(self, protocol: str | None) -> Connection:
        if protocol == "h2":
            return Http2(self._on_closed, self._on_capacity, self._body_budget)
        return Http1(self._on_closed, self._on_capacity, self._body_budget)

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

    def _retire(self, connection: Connection) -> None:
        """Sends no more requests over a connection, which is closed when it has none in flight."""
        if self._connections.pop(connection, None) is not None:
            self._free.pop(connection, None)
            self._retiring.add(connection)
            self._open_more()

    def _on_capacity(self, connection: Connection) -> None:
        if self._retiring and connection in self._retiring:
            return
        while self._waiting and connection.capacity:
            exchange = next(iter(self._waiting))
            del self._waiting[exchange]
            self._under_way[exchange] = connection
            connection.send(exchange)
        if connection.capacity:
            self._free[connection] = None
        elif self._waiting:
            self._open_more()

    def _on_closed(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        self._retiring.discard(connection)
        self._free.pop(connection, None)
        if not self._closed:
            self._open_more()


def _is_stalled(connection: Connection) -> bool:
    """Whether the service has not sent its settings yet, or accepts no requests now, so that more connections would not
    help.
    """
    return isinstance(connection, Http2) and not (connection.allowed and connection.settings_read)


class ForwardingPool(Pool):
    """Sends requests without TLS to an HTTP proxy, which forwards them."""

    def send(self, request: PreparedRequest, on_response: OnResponse) -> None:
        assert self._connector.proxy is not None
        super().send(self._connector.proxy.forwarded(request), on_response)
