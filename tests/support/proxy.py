"""A small proxy: CONNECT and absolute-form HTTP, or SOCKS5; with or without a password, with or without TLS."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator

LOGIN = "us%40er:p%2Fw"
USER, PASSWORD = "us@er", "p/w"


class ProxyServer:
    """``asked``: the targets, as the clients named them. ``refusal``: an HTTP status, or an error of SOCKS5, for all.

    Names are looked up as ``127.0.0.1``.
    """

    def __init__(self, *, socks: bool = False, login: bool = False, refusal: int = 0) -> None:
        self.socks = socks
        self.login = login
        self.refusal = refusal
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError, ssl.SSLError):
            await (self._socks5(reader, writer) if self.socks else self._http(reader, writer))
        writer.close()

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        if not first.isalpha():
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            return
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, _ = head.split(" ", 2)
        self.asked.append(target)
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        status = 407 if self.login and f"proxy-authorization: Basic {expected}\r\n" not in head else self.refusal
        if status:
            writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
        elif method == "CONNECT":
            upstream = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await relay((reader, writer), upstream)
        else:
            authority, path = target.removeprefix("http://").split("/", 1)
            upstream = await asyncio.open_connection("127.0.0.1", int(authority.rpartition(":")[2]))
            upstream[1].write(head.replace(target, f"/{path}", 1).encode())
            await relay((reader, writer), upstream)

    async def _socks5(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        methods = await reader.readexactly((await reader.readexactly(2))[1])
        wanted = 2 if self.login else 0
        if wanted not in methods:
            writer.write(b"\x05\xff")
            return
        writer.write(bytes([5, wanted]))
        if self.login:
            user = await reader.readexactly((await reader.readexactly(2))[1])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            good = (user.decode(), password.decode()) == (USER, PASSWORD)
            writer.write(bytes([1, not good]))
            if not good:
                return
        kind = (await reader.readexactly(4))[3]
        host = await reader.readexactly((await reader.readexactly(1))[0] if kind == 3 else {1: 4, 4: 16}[kind])
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append(f"{host.decode() if kind == 3 else '.'.join(map(str, host))}:{port}")
        writer.write(bytes([5, self.refusal, 0, 1]) + bytes(6))
        if not self.refusal:
            await relay((reader, writer), await asyncio.open_connection("127.0.0.1", port))


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def relay(one: Stream, other: Stream) -> None:
    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    await asyncio.gather(copy(one[0], other[1]), copy(other[0], one[1]))


@contextlib.asynccontextmanager
async def proxy(context: ssl.SSLContext | None = None, **options: bool | int) -> AsyncIterator[tuple[ProxyServer, str]]:
    """Runs a proxy on a port of its own. Yields the proxy and its ``host:port``."""
    serving = ProxyServer(**options)  # type: ignore[arg-type]
    server = await asyncio.start_server(serving.serve, "127.0.0.1", 0, ssl=context)
    try:
        yield serving, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
