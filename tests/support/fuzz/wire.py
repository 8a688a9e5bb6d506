"""What the network brings: responses in HTTP/1.1 and HTTP/2, header blocks, coded bodies, a proxy's answers."""

import asyncio
import contextlib
import gzip
import zlib
from typing import Any
from unittest.mock import Mock

from hpack import Encoder

from bridge.asm.http.connect_error import ConnectError
from bridge.asm.http.content_encoding import ContentError, decode
from bridge.asm.http.frames import frame
from bridge.asm.http.http1_protocol import Http1Protocol, InvalidResponse
from bridge.asm.http.http2_protocol import Http2Protocol
from bridge.asm.http.proxy import Proxy
from bridge.asm.http.request import Exchange, PreparedRequest, Target
from bridge.asm.http.response import BodyBudget, Failure, Response
from tests.support.fuzz.data import Data
from tests.support.header_blocks import compare, connections

_REQUEST = PreparedRequest(Target("https", "asm.test", "/getstatus"), {"authorization": "Bearer t"}, b"{}" * 20)
_LIMIT = 65536


def http1(data: bytes) -> None:
    """The response is the same however its bytes are split; nothing but ``InvalidResponse`` is raised; the budget of
    unfinished bodies is given back.
    """
    given = Data(data)
    pieces = given.pieces()
    whole, split = _http1([b"".join(pieces)]), _http1(pieces)
    if isinstance(whole, Response) and isinstance(split, Response):
        assert whole == split


def _http1(pieces: list[bytes]) -> Response | str | None:
    budget = BodyBudget()
    protocol = Http1Protocol(budget)
    protocol.expecting = True
    try:
        for piece in pieces:
            if (received := protocol.receive_data(piece)) is not None:
                assert budget.used == 0
                return received[0]
            assert budget.used <= sum(map(len, pieces))
        return protocol.receive_eof()
    except InvalidResponse as error:
        return str(error)
    finally:
        protocol.forget()
        assert budget.used == 0


def http2(data: bytes) -> None:
    """Each request ends once, and in the same way however the bytes are split; nothing is raised; what is sent back is
    bounded by what came; the budget of unfinished bodies is given back.
    """
    given = Data(data)
    framed = given.byte() % 2
    pieces = given.pieces()
    whole = b"".join(pieces)
    if framed:
        whole = _frames(whole)
        pieces = [whole[at : at + 1 + len(pieces) * 7] for at in range(0, len(whole), 1 + len(pieces) * 7)]
    assert _http2([whole]) == _http2(pieces)


def _frames(data: bytes) -> bytes:
    """Frames of the data: each from its kind, flags, stream and payload."""
    given, found = Data(data), list[bytes]()
    while given.rest() and len(found) < 200:
        kind, flags, stream = given.byte() % 12, given.byte(), given.byte() % 9
        found.append(frame(kind, flags, stream, given.part()))
    return b"".join(found)


def _http2(pieces: list[bytes]) -> dict[int, Response | Failure]:
    budget, ended = BodyBudget(), []
    protocol = Http2Protocol(budget)
    for _ in range(3):
        protocol.send(Exchange(_REQUEST, lambda _: None, 0.0))
    sent = len(protocol.data_to_send())
    for piece in pieces:
        ended += protocol.receive_data(piece)
    received = sum(map(len, pieces))
    assert budget.used <= received
    ended += protocol.lost("the end")
    sent = len(protocol.data_to_send())
    assert sent <= 512 + 4 * received
    assert sorted(stream.number for stream in ended) == [1, 3, 5]
    assert budget.used == 0
    return {stream.number: stream.outcome for stream in ended}


def header_blocks(data: bytes) -> None:
    """The blocks of a connection are read as ``hpack`` reads them."""
    given = Data(data)
    blocks = [given.part() for _ in range(1 + given.byte() % 4)]
    compare([*blocks, given.rest()])


def coded_body(data: bytes) -> None:
    """A body in any coding is decoded within the limit, or refused with ``ContentError``."""
    given = Data(data)
    encoding, body = given.part().decode("latin-1"), given.rest()
    with contextlib.suppress(ContentError):
        assert len(decode(body, encoding, _LIMIT)) <= max(_LIMIT, len(body))


def proxy(data: bytes) -> None:
    """Whatever a proxy answers, the connection is made, or refused with ``ConnectError`` or an end of file."""
    given = Data(data)
    address = given.choice(("http://p:1", "http://u:w@p:1", "socks5://p", "socks5h://u:w@p"))
    host = given.choice(("asm.test", "10.0.0.1", "::1", "bücher.example"))
    reader = asyncio.StreamReader(limit=_LIMIT, loop=Mock())
    reader.feed_data(given.rest())
    reader.feed_eof()
    with contextlib.suppress(ConnectError, EOFError):
        _finish(Proxy.parse(address).ask(host, 443, reader, Mock()))


def _finish(coroutine: Any) -> None:
    """Runs a coroutine that never has to wait, since all of its input is there."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits for more, after the end of the stream")


def _block(*fields: tuple[str, str]) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    found: bytes = encoder.encode(fields)
    return found


_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\n\r\n{}"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n0\r\nRetry-After: 9\r\n\r\n"
_ZIPPED = gzip.compress(b'{"voiceStatus": {}}' * 20)
_ANSWERS = [
    _block((":status", "200"), ("content-type", "application/json")),
    _block((":status", "503"), ("retry-after", "9"), ("date", "Mon, 23 Nov 2026 09:30:00 GMT")),
    _block((":status", "200"), ("content-encoding", "gzip")),
]

HTTP1_SEEDS = [
    b"\x00" + _OK,
    b"\x02\x05\x09" + _OK,
    b"\x01\x30" + _CHUNKED,
    b"\x00HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _OK,
    b"\x00HTTP/1.0 503 No\r\nRetry-After: 1\r\nDate: Mon, 23 Nov 2026 09:30:00 GMT\r\n\r\nwords",
    b"\x00HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(_ZIPPED) + _ZIPPED,
    b"\x00HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
]
HTTP2_SEEDS = [
    b"\x00\x00" + frame(4, 0, 0) + frame(1, 4, 1, _ANSWERS[0]) + frame(0, 1, 1, b"{}"),
    b"\x00\x03\x09\x05\x20" + frame(1, 0, 3, _ANSWERS[1][:2]) + frame(9, 4, 3, _ANSWERS[1][2:]) + frame(0, 1, 3, b"no"),
    b"\x00\x00" + frame(1, 4, 1, _ANSWERS[2]) + frame(0, 1, 1, _ZIPPED) + frame(7, 0, 0, bytes(8)),
    b"\x01\x00\x04\x00\x00\x00\x03\x00\x00\x00\x07\xfe\x01\x05\x01\x88\xfe\x06\x00\x0012345678\xfe\x08\x00\x00\x00\x00\x00\x05",
    b"\x01\x02\x01\x04\x01\x88\xfe\x00\x09\x01\x01ab\x00\xfe\x03\x00\x03\x00\x00\x00\x07\xfe\x07\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00",
]
HEADER_SEEDS = [b"\x02" + b"\xfe".join(blocks) for blocks in connections()]
CODED_SEEDS = [
    b"gzip\xfe" + _ZIPPED,
    b"gzip, deflate\xfe" + gzip.compress(zlib.compress(b"{}")),
    b"deflate\xfe" + zlib.compress(b"a" * 100_000),
    b"br\xfe{}",
    b"x-gzip\xfe" + _ZIPPED + _ZIPPED,
]
PROXY_SEEDS = [
    b"\x00\x00HTTP/1.1 200 Connection established\r\n\r\n",
    b"\x01\x01HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n",
    b"\x02\x00\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50",
    b"\x03\x02\x05\x02\x01\x00\x05\x00\x00\x03\x04name\x00\x50",
]
