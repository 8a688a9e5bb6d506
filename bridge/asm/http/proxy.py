"""The handshake with a proxy: HTTP's CONNECT (RFC 9110, section 9.3.6), or SOCKS5 (RFC 1928 and 1929).

SOCKS5 is four messages. python-socks (3.2) would open its own socket, to one address of the proxy, and takes neither an
empty password nor one beyond ASCII.
"""

import asyncio
import base64
import ipaddress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from bridge.asm.http.request import PreparedRequest, Target

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


class ProxyRefusal(Exception):
    """The proxy answered, but refuses to connect. ``login``: because of the user or the password."""

    def __init__(self, text: str, *, login: bool = False) -> None:
        super().__init__(text)
        self.login = login


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
        """Makes the proxy connect to a host, by name or address. Raises ``ProxyRefusal``, and ``EOFError`` if the proxy
        closes the connection."""
        if self.is_socks:
            await self._socks5(host, port, reader, transport)
        else:
            await self._connect(host, port, reader, transport)

    async def _connect(self, host: str, port: int, reader: asyncio.StreamReader, transport: asyncio.Transport) -> None:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        login = f"proxy-authorization: {self.authorization}\r\n" if self.user is not None else ""
        transport.write(f"CONNECT {place} HTTP/1.1\r\nhost: {place}\r\n{login}\r\n".encode())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise ProxyRefusal("it answers CONNECT with something that is not HTTP") from error
        version, _, rest = head.partition(b" ")
        status = rest[:3]
        if not version.startswith(b"HTTP/1.") or not status.isdigit():
            raise ProxyRefusal("it answers CONNECT with something that is not HTTP")
        told = f"(HTTP {status.decode()})"
        if status in (b"407", b"401"):  # tinyproxy answers 401 to a wrong password
            raise ProxyRefusal(
                f"it requires a user name and password, or other ones {told}: add them to its address", login=True
            )
        if status[:1] == b"5":
            raise ProxyRefusal(f"it cannot reach {place} {told}: check the address, and the proxy's own network")
        if status[:1] != b"2":
            raise ProxyRefusal(f"it refused to connect to {place} {told}: allow it in the proxy's configuration")

    async def _socks5(self, host: str, port: int, reader: asyncio.StreamReader, transport: asyncio.Transport) -> None:
        methods = b"\x00" if self.user is None else b"\x00\x02"
        transport.write(b"\x05" + bytes([len(methods)]) + methods)
        version, method = await reader.readexactly(2)
        if version != 5:
            raise ProxyRefusal("it does not speak SOCKS5")
        if method == 2 and self.user is not None:
            user, password = self.user.encode()[:255], self.password.encode()[:255]
            transport.write(b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password)
            if (await reader.readexactly(2))[1]:
                raise ProxyRefusal("it rejected the user name or password: correct them in its address", login=True)
        elif method:
            raise ProxyRefusal("it requires a user name and password: add them to its address", login=True)
        transport.write(b"\x05\x01\x00" + _socks_address(host) + port.to_bytes(2, "big"))
        version, reply, _, kind = await reader.readexactly(4)
        if version != 5 or reply:
            raise ProxyRefusal(f"it refused to connect to {host}:{port}: {_SOCKS_REPLIES.get(reply, f'error {reply}')}")
        await reader.readexactly((await reader.readexactly(1))[0] + 2 if kind == 3 else {1: 6, 4: 18}.get(kind, 6))


def _socks_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        name = host.encode("idna") if not host.isascii() else host.encode()
        return b"\x03" + bytes([len(name)]) + name
    return (b"\x01" if address.version == 4 else b"\x04") + address.packed
