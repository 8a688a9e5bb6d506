"""Opens connections to one service: passes a proxy, and starts TLS."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import cast

import httpx

from bridge.asm.http.addresses import Addresses, place
from bridge.asm.http.connect_error import ConnectError, step
from bridge.asm.http.http1 import Http1
from bridge.asm.http.http2 import Http2
from bridge.asm.http.proxy import Proxy

_RETRIES = (0.1, 0.2)
"""Seconds before a connection that was refused or cut is tried again: a service that restarts is back by then."""

Connection = Http1 | Http2
NewConnection = Callable[[str | None], Connection]
"""By the protocol that was agreed on in TLS, such as ``h2``; None: no TLS, or no agreement."""
NewTls = Callable[[list[str]], ssl.SSLContext]
"""By the protocols to offer (ALPN); trusts the right authorities."""
Step = Callable[..., AbstractAsyncContextManager[None]]
"""``step`` with its deadline."""


class Connector:
    """``timeout``: seconds for looking the name up, and again for the connection, the proxy and TLS together."""

    def __init__(self, url: httpx.URL, *, new_tls: NewTls, proxy: str | None, http2: bool, timeout: float) -> None:
        secure = url.scheme == "https"
        self.host, self.port = url.host, url.port or (443 if secure else 80)
        self._tls = new_tls(["h2", "http/1.1"] if http2 else ["http/1.1"]) if secure else None
        self.proxy = Proxy.parse(proxy) if proxy else None
        self._proxy_tls = new_tls(["http/1.1"]) if self.proxy and self.proxy.scheme == "https" else None
        self.forwards = not secure and self.proxy is not None and not self.proxy.is_socks
        """Whether the proxy gets the requests themselves and forwards them, as proxies do without TLS."""
        self._timeout = timeout
        self._addresses = Addresses()

    def describe(self, error: ConnectError) -> str:
        """Which peer the connection failed with, and why."""
        proxy = f"the proxy {place(self.proxy.host, self.proxy.port)}" if self.proxy else ""
        where = f": {proxy}: " if error.at_proxy else f" through {proxy}: " if proxy else ": "
        return f"cannot connect to {place(self.host, self.port)}{where}{error}"

    def close(self) -> None:
        self._addresses.close()

    async def open(self, new_connection: NewConnection) -> Connection:
        """Opens a connection that is ready for its first request. Raises ``ConnectError``."""
        begin = time.monotonic()
        for pause in _RETRIES:
            try:
                return await self._open(new_connection)
            except ConnectError as error:
                spent = time.monotonic() - begin
                if error.cause not in ("refused", "closed") or spent + pause > self._timeout:
                    raise
            await asyncio.sleep(pause)
        return await self._open(new_connection)

    async def _open(self, new_connection: NewConnection) -> Connection:
        clock, has_proxy = asyncio.get_running_loop().time, self.proxy is not None
        first, target = self.proxy or self, self.host
        too_late = f"the name look-up took longer than {self._timeout:g} s"
        async with step(at_proxy=has_proxy, until=clock() + self._timeout, too_late=too_late):
            addresses = await self._addresses.look_up(first.host, first.port)
        if self.proxy is not None and self.proxy.scheme == "socks5":
            async with step(at_proxy=False, until=clock() + self._timeout, too_late=too_late):
                (_, (target, *_)), *_ = await self._addresses.look_up(self.host, self.port)
        within = partial(step, until=clock() + self._timeout, too_late=f"no connection within {self._timeout:g} s")
        while True:
            async with within(at_proxy=has_proxy):
                sock, used = await self._addresses.connect(addresses)
            try:
                connection = await self._greet(sock, target, new_connection, within)
            except BaseException as error:
                self._addresses.mark(used)
                addresses.remove(used)
                if not addresses or not isinstance(error, ConnectError) or error.cause == "timeout":
                    raise
            else:
                self._addresses.unmark(used)
                return connection

    async def _greet(self, sock: socket.socket, target: str, new_connection: NewConnection, within: Step) -> Connection:
        """Passes the proxy, if there is one, and starts TLS."""
        loop, alpn = asyncio.get_running_loop(), AlpnProtocol(new_connection)
        if self.proxy is None:
            async with within(at_proxy=False):
                name = self.host if self._tls else None
                await loop.create_connection(lambda: alpn, sock=sock, ssl=self._tls, server_hostname=name)
                if alpn.connection.closed:
                    raise ConnectionResetError("closed at once")
            return alpn.connection
        reader = asyncio.StreamReader()
        async with within(at_proxy=True):
            name = self.proxy.host if self._proxy_tls else None
            transport, _ = await loop.create_connection(
                lambda: asyncio.StreamReaderProtocol(reader), sock=sock, ssl=self._proxy_tls, server_hostname=name
            )
        try:
            if not self.forwards:
                async with within(at_proxy=True):
                    await self.proxy.ask(target, self.port, reader, transport)
            if self._tls is not None:
                async with within(at_proxy=False):
                    secured = await loop.start_tls(transport, alpn, self._tls, server_hostname=self.host)
                assert secured is not None
                transport = secured
            alpn.connection_made(transport)
        except BaseException:
            transport.abort()
            raise
        return alpn.connection


class AlpnProtocol(asyncio.Protocol):
    """Stands in for a connection until its protocol is known; keeps the data that arrives before."""

    connection: Connection

    def __init__(self, new_connection: NewConnection) -> None:
        self._new_connection = new_connection
        self._early: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        secured = transport.get_extra_info("ssl_object")
        self.connection = self._new_connection(secured.selected_alpn_protocol() if secured else None)
        cast("asyncio.Transport", transport).set_protocol(self.connection)
        self.connection.connection_made(transport)
        for data in self._early:
            self.connection.data_received(data)
