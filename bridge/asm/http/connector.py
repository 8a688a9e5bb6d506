"""Opens connections to one service: passes a proxy, starts TLS, and explains failures."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, cast

import certifi
import httpx

from bridge.asm.http.addresses import Addresses
from bridge.asm.http.http1 import Http1
from bridge.asm.http.http2 import Http2
from bridge.asm.http.proxy import Proxy, ProxyRefusal

_RETRIES = (0.1, 0.2)
"""Seconds before a connection that was refused or cut is tried again: a service that restarts is back by then."""

Connection = Http1 | Http2
NewConnection = Callable[[str | None], Connection]
"""By the protocol that was agreed on in TLS, such as ``h2``; None: no TLS, or no agreement."""
Cause = Literal[
    "name", "refused", "timeout", "closed", "no_tls", "untrusted", "wrong_name", "expired", "not_yet_valid",
    "certificate", "proxy_login", "proxy", "other",
]  # fmt: skip

_CERTIFICATES: dict[int, tuple[Cause, str]] = {
    9: ("not_yet_valid", "the certificate is not valid yet"),
    10: ("expired", "the certificate has expired"),
    **dict.fromkeys(
        (2, 18, 19, 20, 21), ("untrusted", "the certificate is signed by an authority that is not trusted")
    ),
    **dict.fromkeys((62, 64), ("wrong_name", "the certificate is for another name")),
}
"""By OpenSSL's X509_V_ERR_... (openssl-verification-options(1))."""


class ConnectError(Exception):
    """The connection failed and nothing was sent. The text says what is wrong with the service, or ``at_proxy``."""

    def __init__(self, cause: Cause, text: str, *, at_proxy: bool = False) -> None:
        super().__init__(text)
        self.cause = cause
        self.at_proxy = at_proxy


def tls(ca_file: Path | None, protocols: list[str]) -> ssl.SSLContext:
    """Trusts the system's authorities (or Mozilla's, if it has none) and those of ``ca_file``."""
    context = ssl.create_default_context()
    system = ssl.get_default_verify_paths()
    if not (system.cafile or system.capath):  # python.org's Python for macOS, or an image without any
        context.load_verify_locations(certifi.where())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # from Python 3.13 on it refuses many a company's own authority
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    context.set_alpn_protocols(protocols)
    return context


class Connector:
    """``timeout``: seconds for looking the name up, and again for the connection, the proxy and TLS together."""

    def __init__(self, url: httpx.URL, *, ca_file: Path | None, proxy: str | None, http2: bool, timeout: float) -> None:
        secure = url.scheme == "https"
        self.host, self.port = url.host, url.port or (443 if secure else 80)
        self._tls = tls(ca_file, ["h2", "http/1.1"] if http2 else ["http/1.1"]) if secure else None
        self.proxy = Proxy.parse(proxy) if proxy else None
        self._proxy_tls = tls(ca_file, ["http/1.1"]) if self.proxy and self.proxy.scheme == "https" else None
        self.forwards = not secure and self.proxy is not None and not self.proxy.is_socks
        """Whether the proxy gets the requests themselves and forwards them, as proxies do without TLS."""
        self._timeout = timeout
        self._addresses = Addresses(timeout)

    def describe(self, error: ConnectError) -> str:
        """Which peer the connection failed with, and why."""
        proxy = f"the proxy {self.proxy.host}:{self.proxy.port}" if self.proxy else ""
        where = f": {proxy}: " if error.at_proxy else f" through {proxy}: " if proxy else ": "
        return f"cannot connect to {self.host}:{self.port}{where}{error}"

    def close(self) -> None:
        self._addresses.close()

    async def open(self, new_connection: NewConnection) -> Connection:
        """Opens a connection that is ready for its first request. Raises ``ConnectError``."""
        begin = time.monotonic()
        for pause in (*_RETRIES, None):
            try:
                return await self._open(new_connection)
            except ConnectError as error:
                spent = time.monotonic() - begin
                if pause is None or error.cause not in ("refused", "closed") or spent + pause > self._timeout:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError

    async def _open(self, new_connection: NewConnection) -> Connection:
        place, target = self.proxy or self, self.host
        too_late = "the name look-up took longer than {:g} s"
        with _explained(self.proxy is not None, self._timeout, too_late):
            addresses = await self._addresses.look_up(place.host, place.port)
        if self.proxy is not None and self.proxy.scheme == "socks5":
            with _explained(False, self._timeout, too_late):
                (_, (target, *_)), *_ = await self._addresses.look_up(self.host, self.port)
        with _explained(self.proxy is not None, self._timeout, "no connection within {:g} s"):
            async with asyncio.timeout(self._timeout):
                while True:
                    sock, used = await self._addresses.connect(addresses)
                    try:
                        connection = await self._greet(sock, target, new_connection)
                    except BaseException as error:
                        self._addresses.mark(used)
                        addresses.remove(used)
                        if not (addresses and isinstance(error, OSError | EOFError | ConnectError)):
                            raise
                    else:
                        self._addresses.unmark(used)
                        return connection

    # -- proxy and TLS

    async def _greet(self, sock: socket.socket, target: str, new_connection: NewConnection) -> Connection:
        loop, alpn = asyncio.get_running_loop(), AlpnProtocol(new_connection)
        if self.proxy is None:
            await loop.create_connection(
                lambda: alpn, sock=sock, ssl=self._tls, server_hostname=self.host if self._tls else None
            )
            if alpn.connection.closed:
                raise ConnectionResetError("closed at once")
            return alpn.connection
        transport, reader = await self._to_proxy(sock)
        try:
            if not self.forwards:
                await self._through_proxy(target, reader, transport)
            if self._tls is not None:
                with _explained(False, self._timeout):
                    secured = await loop.start_tls(transport, alpn, self._tls, server_hostname=self.host)
                assert secured is not None
                transport = secured
            alpn.connection_made(transport)
        except BaseException:
            transport.abort()
            raise
        return alpn.connection

    async def _to_proxy(self, sock: socket.socket) -> tuple[asyncio.Transport, asyncio.StreamReader]:
        assert self.proxy is not None
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: asyncio.StreamReaderProtocol(reader),
            sock=sock,
            ssl=self._proxy_tls,
            server_hostname=self.proxy.host if self._proxy_tls else None,
        )
        return transport, reader

    async def _through_proxy(self, target: str, reader: asyncio.StreamReader, transport: asyncio.Transport) -> None:
        assert self.proxy is not None
        try:
            await self.proxy.ask(target, self.port, reader, transport)
        except ProxyRefusal as error:
            raise ConnectError("proxy_login" if error.login else "proxy", str(error), at_proxy=True) from error


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


@contextlib.contextmanager
def _explained(at_proxy: bool, timeout: float, too_late: str = "") -> Iterator[None]:
    """Raises the errors of the operating system and OpenSSL as ``ConnectError``."""
    try:
        yield
    except TimeoutError as error:
        if not too_late:
            raise
        raise ConnectError("timeout", too_late.format(timeout), at_proxy=at_proxy) from error
    except (OSError, EOFError) as error:
        cause, text = explain(error)
        raise ConnectError(cause, text, at_proxy=at_proxy) from error


def explain(error: Exception) -> tuple[Cause, str]:
    """Describes an error in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        general: tuple[Cause, str] = "certificate", f"the certificate is not valid: {error.verify_message}"
        return _CERTIFICATES.get(error.verify_code, general)
    if isinstance(error, socket.gaierror):
        return "name", "the name cannot be resolved (DNS)"
    if isinstance(error, ConnectionRefusedError):
        return "refused", "connection refused"
    if isinstance(error, EOFError | ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "closed", "the connection was closed immediately"
    if isinstance(error, ssl.SSLError):
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
            return "no_tls", "the server does not speak TLS"
        return "other", f"TLS fails: {(error.reason or str(error)).lower().replace('_', ' ')}"
    return "other", str(error) or type(error).__name__
