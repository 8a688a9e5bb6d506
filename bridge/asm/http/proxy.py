"""The handshake with a proxy: HTTP's CONNECT (RFC 9110, section 9.3.6), or SOCKS5 (RFC 1928 and 1929).

SOCKS5 is four messages. python-socks (3.2) would open its own socket, to one address of the proxy, and takes neither an
empty password nor one beyond ASCII.
"""

import asyncio
import base64
import contextlib
import ipaddress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from bridge.asm.http.addresses import place
from bridge.asm.http.connect_error import ConnectError
from bridge.asm.http.request import PreparedRequest, Target
from bridge.asm.http.response import LOGIN_REQUIRED

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_SOCKS_REPLIES = {
    1: "it failed",
    2: "forbidden by its rules",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "the service refused the connection",
    6: "the connection timed out",
    7: "it does not support CONNECT",
    8: "it does not support this kind of address",
}
"""RFC 1928, section 6."""


@dataclass(frozen=True)
class Proxy:
    """``scheme``: http, https (TLS to the proxy), socks5 (the bridge resolves names) or socks5h (the proxy does)."""

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, address: str) -> "Proxy":
        """Parses ``scheme://user:password@host:port``; in user and password, %XX stands for any byte."""
        url = urlsplit(address)
        user = None if url.username is None else unquote(url.username)
        host, port = url.hostname or "", url.port or _PORTS[url.scheme]
        return cls(url.scheme, host, port, user, unquote(url.password or ""))

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks")

    @property
    def authorization(self) -> str:
        """User and password as a header value (RFC 7617); empty without a user."""
        login = f"{self.user}:{self.password}".encode()
        return "" if self.user is None else f"Basic {base64.b64encode(login).decode()}"

    def forwarded(self, request: PreparedRequest) -> PreparedRequest:
        """A request without TLS as an HTTP proxy forwards it (RFC 9112, section 3.2.2)."""
        scheme, authority, path = request.target
        login = {"proxy-authorization": self.authorization} if self.user is not None else {}
        target = Target(scheme, authority, f"{scheme}://{authority}{path}")
        return PreparedRequest(target, request.headers | login, request.body, repeatable=request.repeatable)

    async def ask(self, host: str, port: int, reader: asyncio.StreamReader, transport: asyncio.Transport) -> None:
        """Makes the proxy connect to a host, by name or address. Raises ``ConnectError``, and ``EOFError`` if the proxy
        closes the connection."""
        if self.is_socks:
            await self._socks5(host, port, reader, transport)
        else:
            await self._connect(host, port, reader, transport)

    async def _connect(self, host: str, port: int, reader: asyncio.StreamReader, transport: asyncio.Transport) -> None:
        target = place(host, port)
        login = f"proxy-authorization: {self.authorization}\r\n" if self.user is not None else ""
        transport.write(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n{login}\r\n".encode())
        status = b"1"
        while status[:1] == b"1":  # an interim response (section 15.2)
            head = b""
            with contextlib.suppress(asyncio.LimitOverrunError):
                head = await reader.readuntil(b"\r\n\r\n")
            version, _, rest = head.partition(b" ")
            status = rest[:3]
            if not version.startswith(b"HTTP/1.") or not status.isdigit():
                raise _refusal("it answers CONNECT with something that is not HTTP: check the proxy's address")
        told = f"(HTTP {status.decode()})"
        if status in (b"407", b"401"):  # tinyproxy answers 401 to a wrong password
            raise _refusal(f"{LOGIN_REQUIRED} {told}: add them to the proxy's address", login=True)
        if status[:1] == b"5":
            raise _refusal(f"it cannot reach {target} {told}: check the address, and the proxy's own network")
        if status[:1] != b"2":
            raise _refusal(f"it refused to connect to {target} {told}: allow it in the proxy's configuration")

    async def _socks5(self, host: str, port: int, reader: asyncio.StreamReader, transport: asyncio.Transport) -> None:
        methods = b"\x00" if self.user is None else b"\x00\x02"
        transport.write(b"\x05" + bytes([len(methods)]) + methods)
        version, method = await reader.readexactly(2)
        if version != 5:
            raise _refusal("it does not speak SOCKS5: check the proxy's address")
        if method == 2 and self.user is not None:
            user, password = self.user.encode()[:255], self.password.encode()[:255]
            transport.write(b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password)
            if (await reader.readexactly(2))[1]:
                raise _refusal("it rejected the user name or password: correct them in the proxy's address", login=True)
        elif method:
            raise _refusal(f"{LOGIN_REQUIRED}: add them to the proxy's address", login=True)
        transport.write(b"\x05\x01\x00" + _socks_address(host) + port.to_bytes(2, "big"))
        version, reply, _, kind = await reader.readexactly(4)
        if version != 5 or reply:
            why = _SOCKS_REPLIES.get(reply, f"error {reply}")
            raise _refusal(f"it refused to connect to {place(host, port)} ({why}): check its rules and its network")
        await reader.readexactly((await reader.readexactly(1))[0] + 2 if kind == 3 else {1: 6, 4: 18}.get(kind, 6))


def _socks_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        name = host.encode("idna") if not host.isascii() else host.encode()
        return b"\x03" + bytes([len(name)]) + name
    return (b"\x01" if address.version == 4 else b"\x04") + address.packed


def _refusal(text: str, *, login: bool = False) -> ConnectError:
    """The proxy answers, but does not connect; ``login``: because of the user or the password."""
    return ConnectError("proxy_login" if login else "proxy", text, at_proxy=True)
