"""The HTTP/2 client over a real socket, with a server that follows the protocol (h2) or breaks it."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.asm.http.http2 import Http2
from bridge.asm.http.request import Exchange, PreparedRequest, Target
from bridge.asm.http.response import MAX_BODY, Failure, Response
from tests.support.http2 import HEAD, Script, Server, at_request, frame, silent, until


class ClientAndServer:
    """A client's connection, its server, and the calls that the pool received."""

    def __init__(self) -> None:
        self.gone: list[Http2] = []
        self.rooms: list[Http2] = []
        self.conn: Http2
        self.server: Server

    def ask(self, body: bytes = b"", headers: dict[str, str] | None = None) -> "PendingCall":
        asked = PendingCall(body, headers)
        self.conn.send(asked.exchange)
        return asked


class PendingCall:
    def __init__(self, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.result: asyncio.Future[Response | Failure] = asyncio.get_running_loop().create_future()
        request = PreparedRequest(Target("https", "127.0.0.1", "/getstatus"), headers or {}, body)
        self.exchange = Exchange(request, self.result.set_result, 0.0)

    async def answer(self) -> Response:
        result = await asyncio.wait_for(self.result, 10)
        assert isinstance(result, Response), result
        return result

    async def failure(self) -> Failure:
        result = await asyncio.wait_for(self.result, 10)
        assert isinstance(result, Failure), result
        return result


@asynccontextmanager
async def talking(script: Script) -> AsyncIterator[ClientAndServer]:
    loop, talk, server = asyncio.get_running_loop(), ClientAndServer(), Server(script)
    listener = await loop.create_server(lambda: server, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    _, talk.conn = await loop.create_connection(lambda: Http2(talk.gone.append, talk.rooms.append), host, port)
    talk.server = server
    try:
        await until(lambda: talk.conn.allowed == 100)  # its settings have come
        yield talk
    finally:
        talk.conn.close()
        listener.close()
        await asyncio.wait_for(server.lost.wait(), 10)
        assert talk.gone == [talk.conn]


answering = at_request(lambda server, stream: server.answer(stream, b"%d" % stream))


# Answers


async def test_many_at_once() -> None:
    """Many concurrent requests each get their own response, in any order, and leave no open stream."""
    held: list[int] = []

    def backwards(server: Server, stream: int) -> None:
        held.append(stream)
        if len(held) == 90:
            for number in reversed(held):
                server.answer(number, b"%d" % number)

    async with talking(at_request(backwards)) as talk:
        before = talk.conn.heard_at
        asked = [talk.ask() for _ in range(90)]
        assert talk.conn.capacity == 10
        assert all(one.exchange.sent for one in asked)
        assert [await one.answer() for one in asked] == [Response(200, b"%d" % (2 * i + 1)) for i in range(90)]
        assert talk.conn.capacity == 100
        assert talk.conn.idle
        assert talk.conn.heard_at > before


async def test_the_request_arrives_as_it_is() -> None:
    """A request arrives with its method, path, host, headers and body, and ends with the body."""
    async with talking(answering) as talk:
        await talk.ask(b'{"a": 1}', {"authorization": "Bearer tok-1"}).answer()
        (request,) = talk.server.saw(events.RequestReceived)
        found = {bytes(name): bytes(value) for name, value in request.headers}
        assert found[b":method"] == b"POST"
        assert found[b":path"] == b"/getstatus"
        assert found[b":authority"] == b"127.0.0.1"
        assert found[b"authorization"] == b"Bearer tok-1"
        assert talk.server.bodies == {1: b'{"a": 1}'}


async def test_status_and_retry_after() -> None:
    """Status and Retry-After are read even without a body, and for uncommon statuses."""

    def throttled(server: Server, stream: int) -> None:
        server.h2.send_headers(stream, [(":status", "429"), ("retry-after", "7")], end_stream=True)

    async with talking(at_request(throttled)) as talk:
        for _ in range(3):
            assert await talk.ask().answer() == Response(429, b"", "7")


async def test_an_answer_in_parts() -> None:
    """Informational heads, padding, empty DATA frames and trailers are read correctly."""

    def parts(server: Server, stream: int) -> None:
        server.h2.send_headers(stream, [(":status", "103"), ("link", "</a>")])
        server.h2.send_headers(stream, HEAD)
        server.h2.send_data(stream, b"on", pad_length=200)
        server.h2.send_data(stream, b"")
        server.h2.send_data(stream, b"e ", pad_length=0)
        server.h2.send_data(stream, b"two")
        server.h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)

    async with talking(at_request(parts)) as talk:
        for _ in range(3):
            assert await talk.ask().answer() == Response(200, b"one two")


async def test_the_end_comes_in_an_empty_frame() -> None:
    """A response may end with an empty DATA frame."""

    def parts(server: Server, stream: int) -> None:
        server.h2.send_headers(stream, HEAD)
        server.h2.send_data(stream, b"one")
        server.h2.send_data(stream, b"", end_stream=True)

    async with talking(at_request(parts)) as talk:
        assert await talk.ask().answer() == Response(200, b"one")


async def test_a_head_with_priority_and_padding() -> None:
    """Priority and padding in a HEADERS frame are skipped."""

    def padded(server: Server, stream: int) -> None:
        block = server.encoder.encode(HEAD)
        server.raw(frame(1, 0x4 | 0x8 | 0x20, stream, b"\x03" + bytes(5) + block + bytes(3)))
        server.raw(frame(0, 0x1, stream, b"{}"))

    async with talking(at_request(padded)) as talk:
        assert await talk.ask().answer() == Response(200, b"{}")


async def test_long_heads() -> None:
    """A head longer than a frame continues in the next one, in both directions."""
    long = "x" * 20000
    head = [*HEAD, ("set-cookie", long)]
    async with talking(at_request(lambda server, stream: server.answer(stream, b"{}", head))) as talk:
        assert await talk.ask(b"body", {"authorization": long}).answer() == Response(200, b"{}")
        assert await talk.ask(b"", {"authorization": long}).answer() == Response(200, b"{}")
        for request in talk.server.saw(events.RequestReceived):
            assert (b"authorization", long.encode()) in [(bytes(k), bytes(v)) for k, v in request.headers]


async def test_big_answers() -> None:
    """Responses of up to 16 MiB are read, even if together they exceed the connection's window of 64 MiB."""
    body = bytes(range(256)) * 4096 * 15
    async with talking(at_request(lambda server, stream: server.answer(stream, body))) as talk:
        for _ in range(5):
            assert await talk.ask().answer() == Response(200, body)


async def test_an_answer_without_end() -> None:
    """An endless response fails at 16 MiB, and the connection stays usable."""

    def endless(server: Server, stream: int) -> None:
        server.answer(stream, bytes(17 * 1024 * 1024) if stream == 1 else b"{}")

    async with talking(at_request(endless)) as talk:
        assert "16777216" in (await talk.ask().failure()).text
        assert await talk.ask().answer() == Response(200, b"{}")


# Header blocks


async def test_a_server_that_uses_the_dynamic_table() -> None:
    """Blocks that use a dynamic table, although none is allowed, are decoded in order, including those of cancelled
    requests.
    """
    encoder = Encoder()

    def indexed(server: Server, stream: int) -> None:
        turn = stream // 2
        if turn == 6:
            encoder.header_table_size = 0
        if turn == 9:
            encoder.header_table_size = 4096
        head = [(":status", "200" if turn % 2 else "503"), ("retry-after", str(turn // 2)), ("x", "y")]
        server.raw(frame(1, 0x5, stream, encoder.encode(head)))

    async with talking(at_request(indexed)) as talk:
        for turn in range(12):
            expected = Response(200 if turn % 2 else 503, b"", str(turn // 2))
            assert await talk.ask().answer() == expected
        given_up = talk.ask()
        talk.conn.cancel(given_up.exchange, "late")
        assert await talk.ask().answer() == Response(200, b"", "6")


# Uploads


@pytest.mark.parametrize("size", [1, 16384, 16385, 65535, 65536, 1_100_000])
async def test_an_upload_keeps_to_the_windows(size: int) -> None:
    """An upload respects the windows of the stream and the connection and the largest frame size."""
    body = bytes(i * 7 % 251 for i in range(size))

    def slowly(server: Server, event: events.Event) -> None:
        if isinstance(event, events.DataReceived) and event.flow_controlled_length:
            server.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        answering(server, event)

    async with talking(slowly) as talk:
        asked = [talk.ask(body) for _ in range(3)]
        assert [await one.answer() for one in asked] == [Response(200, b"%d" % n) for n in (1, 3, 5)]
        assert talk.server.bodies == dict.fromkeys((1, 3, 5), body)


async def test_a_window_that_shrinks_below_zero() -> None:
    """An upload stops while the window is negative, and continues at the right byte, also when settings enlarge it."""
    conn, wire = offline()
    conn.send(PendingCall(bytes(100_000)).exchange)
    conn.data_received(frame(8, 0, 0, struct.pack(">I", 10**6)))
    for told, allowed in (
        (b"", 65535),
        (frame(4, 0, 0, struct.pack(">HI", 4, 10)), 65535),
        (frame(8, 0, 1, struct.pack(">I", 65525)), 65535),
        (frame(8, 0, 1, struct.pack(">I", 5)), 65540),
        (frame(4, 0, 0, struct.pack(">HI", 4, 110)), 65640),
        (frame(8, 0, 1, struct.pack(">I", 10**6)), 100_000),
    ):
        conn.data_received(told)
        await asyncio.sleep(0)
        assert sum(len(content) for kind, _, _, content in wire.frames() if kind == 0) == allowed


async def test_a_head_that_fills_its_frames() -> None:
    """A head that fills its frames exactly ends with the last of them."""
    conn, wire = offline()
    asked = PendingCall()
    asked.exchange.request._http2 = bytes(2 * 16384)
    conn.send(asked.exchange)
    await asyncio.sleep(0)
    assert [(kind, flags, len(content)) for kind, flags, number, content in wire.frames() if number] == [
        (1, 0x1, 16384),
        (9, 0x4, 16384),
    ]


async def test_larger_frames_where_allowed() -> None:
    """SETTINGS_MAX_FRAME_SIZE and INITIAL_WINDOW_SIZE apply to the requests after them."""
    body = bytes(60_000)
    async with talking(answering) as talk:
        talk.server.h2.update_settings({SettingCodes.MAX_FRAME_SIZE: 50_000, SettingCodes.INITIAL_WINDOW_SIZE: 10**6})
        talk.server.flush()
        await until(lambda: len(talk.server.saw(events.SettingsAcknowledged)) == 2)
        await talk.ask(body).answer()
        assert [len(event.data) for event in talk.server.saw(events.DataReceived)] == [50_000, 10_000]


async def test_an_answer_before_the_upload_is_over() -> None:
    """A response before the end of the upload counts, and the rest of the body is not sent."""

    def hasty(server: Server, event: events.Event) -> None:
        if isinstance(event, events.DataReceived) and len(server.bodies[1]) == 65535:
            server.answer(1, b"enough")

    async with talking(hasty) as talk:
        assert await talk.ask(bytes(200_000)).answer() == Response(200, b"enough")
        await until(lambda: talk.server.saw(events.StreamReset))


# How many at once


async def test_the_service_says_how_many() -> None:
    """``capacity`` follows the service's settings, and the pool is notified once when a full connection has capacity
    again.
    """
    async with talking(silent) as talk:
        server = talk.server
        server.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 2})
        server.flush()
        await until(lambda: talk.conn.capacity == 2)
        asked = [talk.ask(), talk.ask()]
        await until(lambda: len(server.saw(events.StreamEnded)) == 2)
        assert (talk.conn.capacity, talk.rooms) == (0, [])
        server.answer(1)
        server.answer(3)
        server.flush()
        for one in asked:
            await one.answer()
        await until(lambda: talk.rooms)
        assert (talk.conn.capacity, len(talk.rooms)) == (2, 1)
        one = talk.ask()
        server.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 0})
        server.flush()
        await until(lambda: talk.conn.capacity == 0)
        server.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 250})
        server.flush()
        await until(lambda: len(talk.rooms) == 2)
        assert talk.conn.capacity == 249
        assert not one.result.done()


async def test_a_request_given_up() -> None:
    """A cancelled request is reset, frees its stream at once, and ignores a late response."""
    late: list[int] = []

    def crossing(server: Server, stream: int) -> None:
        if late:
            server.answer(stream)
        else:
            late.append(stream)

    async with talking(at_request(crossing)) as talk:
        one = talk.ask()
        await until(lambda: late)
        block = talk.server.encoder.encode([(":status", "200"), ("x", "y")])
        talk.server.raw(frame(1, 0x4, 1, b"\x20" + block) + frame(0, 0x1, 1, b"late"))
        talk.conn.cancel(one.exchange, "no answer in time")
        talk.conn.cancel(one.exchange, "again")
        failure = await one.failure()
        assert (failure.text, failure.sent, talk.conn.capacity) == ("no answer in time", True, 100)
        await until(lambda: talk.server.saw(events.StreamReset))
        assert await talk.ask().answer() == Response(200, b"{}")


async def test_stream_numbers_end() -> None:
    """After its last stream number a connection takes no more requests, answers the open ones, and closes."""
    conn, wire = offline()
    conn._protocol._next = 2**31 - 1
    asked = PendingCall()
    conn.send(asked.exchange)
    conn.data_received(frame(4, 0, 0, struct.pack(">HI", 3, 50)))
    assert (conn.capacity, wire.gone) == (0, 1)
    conn.data_received(frame(1, 0x5, 2**31 - 1, b"\x88"))
    assert await asked.answer() == Response(200, b"")
    assert wire.closed


# Ends


async def test_a_request_refused() -> None:
    """A refused request may be sent again; one that is reset for another reason may have been processed."""

    def refuse(server: Server, stream: int) -> None:
        server.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM if stream == 1 else ErrorCodes.INTERNAL_ERROR)

    async with talking(at_request(refuse)) as talk:
        assert not (await talk.ask().failure()).sent
        failure = await talk.ask().failure()
        assert failure.sent
        assert "INTERNAL_ERROR" in failure.text
        assert not talk.gone


async def test_the_service_says_good_bye() -> None:
    """After GOAWAY the service answers what it has begun, the rest may be sent again, and the connection closes."""
    async with talking(silent) as talk:
        asked = [talk.ask() for _ in range(3)]
        await until(lambda: len(talk.server.saw(events.StreamEnded)) == 3)
        talk.server.raw(frame(7, 0, 0, struct.pack(">II", 2**31 - 1, 0)))
        await until(lambda: talk.gone)
        assert talk.conn.capacity == 0
        assert not any(one.result.done() for one in asked)
        talk.server.raw(frame(7, 0, 0, struct.pack(">II", 3, 0) + b"maintenance"))
        assert not (await asked[2].failure()).sent
        talk.server.answer(1, b"a")
        talk.server.answer(3, b"b")
        talk.server.flush()
        assert [(await one.answer()).body for one in asked[:2]] == [b"a", b"b"]
        await asyncio.wait_for(talk.server.lost.wait(), 10)


async def test_the_connection_is_cut() -> None:
    """A cut connection fails the open requests as possibly processed, even in the middle of a response."""

    def cut(server: Server, stream: int) -> None:
        if stream == 3:
            server.h2.send_headers(stream, HEAD)
            server.h2.send_data(stream, b"half")
            server.flush()
            server.transport.close()

    async with talking(at_request(cut)) as talk:
        for one in [talk.ask(), talk.ask()]:
            failure = await one.failure()
            assert failure.sent
            assert "connection" in failure.text
        assert talk.gone


async def test_closing() -> None:
    """Closing fails the open requests, sends GOAWAY, and can be done twice."""
    async with talking(silent) as talk:
        one = talk.ask()
        talk.conn.close()
        talk.conn.close()
        assert (await one.failure()).sent
        assert (talk.conn.capacity, len(talk.gone)) == (0, 1)
        await until(lambda: talk.server.saw(events.ConnectionTerminated))


async def test_pings_and_unknown_frames() -> None:
    """A PING is answered; frames of unknown types, PING acknowledgements and priorities are ignored."""
    async with talking(answering) as talk:
        talk.server.raw(frame(0xBE, 0xFF, 77, b"?") + frame(6, 1, 0, bytes(8)) + frame(2, 0, 1, bytes(5)))
        talk.server.h2.ping(b"12345678")
        talk.server.flush()
        await until(lambda: talk.server.saw(events.PingAckReceived))
        assert await talk.ask().answer() == Response(200, b"1")


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ErrorCodes.FRAME_SIZE_ERROR),
        (frame(0, 0, 1, bytes(16385)), ErrorCodes.FRAME_SIZE_ERROR),
        (frame(0, 0, 0, b"x"), ErrorCodes.PROTOCOL_ERROR),
        (frame(0, 0, 5, b"x"), ErrorCodes.PROTOCOL_ERROR),
        (frame(0, 0x8, 1, b"\x05abc"), ErrorCodes.PROTOCOL_ERROR),
        (frame(0, 0x8, 1), ErrorCodes.FRAME_SIZE_ERROR),
        (frame(1, 0x24, 1, b"\x88"), ErrorCodes.PROTOCOL_ERROR),
        (frame(1, 0x5, 2, b"\x88"), ErrorCodes.PROTOCOL_ERROR),
        (frame(1, 0x5, 1, b"\xff\xff\xff\xff"), ErrorCodes.COMPRESSION_ERROR),
        (frame(1, 0x5, 1, b"\xbf"), ErrorCodes.COMPRESSION_ERROR),
        (frame(1, 0, 1, b"\x88") + frame(0, 1, 1), ErrorCodes.PROTOCOL_ERROR),
        (frame(1, 0, 1, b"\x88") + frame(9, 4, 3), ErrorCodes.PROTOCOL_ERROR),
        (frame(1, 0, 1) + frame(9, 0, 1, bytes(16384)) * 5, ErrorCodes.ENHANCE_YOUR_CALM),
        (frame(9, 4, 1, b"\x88"), ErrorCodes.PROTOCOL_ERROR),
        (frame(3, 0, 1, b"123"), ErrorCodes.FRAME_SIZE_ERROR),
        (frame(3, 0, 9, bytes(4)), ErrorCodes.PROTOCOL_ERROR),
        (frame(4, 0, 0, b"12345"), ErrorCodes.FRAME_SIZE_ERROR),
        (frame(4, 1, 0, bytes(6)), ErrorCodes.FRAME_SIZE_ERROR),
        (frame(4, 0, 1), ErrorCodes.PROTOCOL_ERROR),
        (frame(4, 0, 0, struct.pack(">HI", 2, 1)), ErrorCodes.PROTOCOL_ERROR),
        (frame(4, 0, 0, struct.pack(">HI", 4, 2**31)), ErrorCodes.FLOW_CONTROL_ERROR),
        (frame(4, 0, 0, struct.pack(">HI", 5, 100)), ErrorCodes.PROTOCOL_ERROR),
        (frame(5, 4, 1, b"\0\0\0\x02\x88"), ErrorCodes.PROTOCOL_ERROR),
        (frame(6, 0, 0, b"short"), ErrorCodes.FRAME_SIZE_ERROR),
        (frame(6, 0, 1, bytes(8)), ErrorCodes.PROTOCOL_ERROR),
        (frame(7, 0, 0, b"short"), ErrorCodes.PROTOCOL_ERROR),
        (frame(8, 0, 0, bytes(4)), ErrorCodes.PROTOCOL_ERROR),
        (frame(8, 0, 0, b"\x7f\xff\xff\xff"), ErrorCodes.FLOW_CONTROL_ERROR),
        (frame(8, 0, 0, b"1"), ErrorCodes.FRAME_SIZE_ERROR),
        (frame(8, 0, 7, b"\0\0\0\1"), ErrorCodes.PROTOCOL_ERROR),
    ],
)
async def test_a_broken_protocol(wrong: bytes, code: ErrorCodes) -> None:
    """A protocol violation is reported to the service and fails the open requests; nothing more is sent or read."""
    async with talking(silent) as talk:
        asked = [talk.ask(), talk.ask()]
        await until(lambda: len(talk.server.saw(events.StreamEnded)) == 2)
        talk.server.raw(wrong)
        for one in asked:
            assert "invalid HTTP/2" in (await one.failure()).text
        await asyncio.wait_for(talk.server.lost.wait(), 10)
        (good_bye,) = talk.server.saw(events.ConnectionTerminated)
        assert good_bye.error_code == code
        assert talk.conn.capacity == 0


@pytest.mark.parametrize(
    "wrong",
    [
        frame(0, 1, 1, b"no head"),
        frame(1, 0x5, 1, b"\x48\x01x"),
        frame(1, 0x5, 1, b"\x0f\x0d\x01" + b"1"),
        frame(1, 0x5, 1, b"\x48\x03103"),
        frame(1, 0x4, 1, b"\x88") + frame(1, 0x4, 1, b"\x88"),
        frame(1, 0x4, 1, b"\x88") + frame(1, 0x5, 1, b"\x88"),
        frame(8, 0, 1, bytes(4)),
        frame(8, 0, 1, b"\x7f\xff\xff\xff"),
    ],
)
async def test_a_broken_answer(wrong: bytes) -> None:
    """An invalid response fails only its own request, resets the stream, and leaves the connection open."""

    def broken(server: Server, stream: int) -> None:
        if stream == 1:
            server.raw(wrong)
        else:
            server.raw(frame(1, 0x4, stream, b"\x88") + frame(0, 1, stream, b"{}"))

    async with talking(at_request(broken)) as talk:
        assert (await talk.ask().failure()).sent
        assert await talk.ask().answer() == Response(200, b"{}")
        assert talk.server.saw(events.StreamReset)


# Without a socket: how bytes are cut, what is written when


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False
        self.gone = 0
        self.resume: Callable[[], None] | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))
        resume, self.resume = self.resume, None
        if resume is not None:
            resume()

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """The type, flags, stream and content of every frame that was written."""
        data = b"".join(self.writes)
        at, found = data.index(b"SM\r\n\r\n") + 6, []
        while at < len(data):
            word, flags, number = struct.unpack_from(">IBI", data, at)
            found.append((word & 0xFF, flags, number, data[at + 9 : at + 9 + (word >> 8)]))
            at += 9 + (word >> 8)
        return found

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


def offline() -> tuple[Http2, Wire]:
    wire = Wire()

    def gone(_conn: Http2) -> None:
        wire.gone += 1

    conn = Http2(gone, lambda _: None)
    conn.connection_made(wire)
    return conn, wire


def cuts(data: bytes) -> Iterable[list[bytes]]:
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


async def test_bytes_cut_anywhere() -> None:
    """Frames that are split at any byte give the same responses."""
    encoder = Encoder()
    block = encoder.encode([*HEAD, ("retry-after", "3")])
    data = (
        frame(4, 0, 0, struct.pack(">HI", 3, 7))
        + frame(1, 0x4, 1, block)
        + frame(1, 0, 3, block[:5])
        + frame(9, 0x4, 3, block[5:])
        + frame(0, 0x8, 3, b"\x02thr__")
        + frame(0, 0x1, 1, b"one")
        + frame(6, 0, 0, bytes(8))
        + frame(0, 0x1, 3, b"ee")
    )
    for parts in cuts(data):
        conn, wire = offline()
        asked = [PendingCall(), PendingCall()]
        for one in asked:
            conn.send(one.exchange)
        for part in parts:
            conn.data_received(part)
        date = dict(HEAD)["date"]
        expected = [Response(200, body, "3", date) for body in (b"one", b"three")]
        assert [one.result.result() for one in asked] == expected
        assert (conn.capacity, wire.closed) == (7, False)


async def test_anything_after_a_ping_shows_that_the_service_is_there() -> None:
    """A service that ignores PING but sends other frames is not taken for a dead one when it is silent later."""
    async with talking(silent) as talk:
        talk.conn.ping()
        assert talk.conn.pinged_at is not None
        talk.conn.data_received(frame(8, 0, 0, struct.pack(">I", 1)))
        assert talk.conn.pinged_at is None


async def test_one_write_a_round() -> None:
    """The requests of one iteration of the event loop are sent in one write."""
    conn, wire = offline()
    await asyncio.sleep(0)
    for _ in range(100):
        conn.send(PendingCall(b"{}").exchange)
    await asyncio.sleep(0)
    assert len(wire.writes) == 2


async def test_an_upload_waits_for_the_socket() -> None:
    """While the socket's buffer is full an upload adds nothing to it."""
    conn, wire = offline()
    conn.pause_writing()
    conn.data_received(frame(4, 0, 0, struct.pack(">HI", 4, 10**6)) + frame(8, 0, 0, struct.pack(">I", 10**6)))
    conn.send(PendingCall(bytes(50_000)).exchange)
    await asyncio.sleep(0)
    sent = sum(map(len, wire.writes))
    assert sent < 1000
    conn.resume_writing()
    await asyncio.sleep(0)
    assert sum(map(len, wire.writes)) - sent == 50_000 + 4 * 9


async def test_the_socket_resumes_within_a_write() -> None:
    """A socket that resumes within a write, as TLS transports do, loses nothing."""
    conn, wire = offline()
    conn.pause_writing()
    conn.send(PendingCall(bytes(50_000)).exchange)
    wire.resume = conn.resume_writing
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sum(map(len, wire.writes)) > 50_000


async def test_callbacks_may_call_back() -> None:
    """A response's callback may send the next request or close the connection during one read, whose other responses
    still arrive.
    """
    conn, wire = offline()
    later, closing, answered = PendingCall(), PendingCall(), PendingCall()
    first = Exchange(later.exchange.request, lambda _: conn.send(later.exchange), 0.0)
    second = Exchange(later.exchange.request, lambda _: conn.close(), 0.0)
    for exchange in (first, second, closing.exchange, answered.exchange):
        conn.send(exchange)
    conn.data_received(b"".join(frame(1, 0x5, number, b"\x88") for number in (1, 3, 7)))
    assert answered.result.result() == Response(200, b"")
    assert isinstance(closing.result.result(), Failure)
    assert isinstance(later.result.result(), Failure)
    assert (wire.closed, wire.gone, conn.capacity) == (True, 1, 0)
    conn.connection_lost(None)
    assert wire.gone == 1


async def test_limits_are_announced() -> None:
    """The client announces no dynamic table, no push, and windows larger than any response may be."""
    peer = H2Connection(H2Configuration(client_side=False))
    peer.initiate_connection()
    _, wire = offline()
    await asyncio.sleep(0)
    peer.receive_data(wire.writes[0])
    told = peer.remote_settings
    assert (told.header_table_size, told.enable_push) == (0, 0)
    assert told.initial_window_size > MAX_BODY
    assert peer.outbound_flow_control_window > MAX_BODY


FRAMES = st.builds(
    frame,
    st.integers(0, 10),
    st.integers(0, 255),
    st.integers(0, 6),
    st.one_of(st.binary(max_size=12), st.sampled_from([b"\x88", b"\x48\x03103", bytes(4), bytes(8), b"\0\0\0\1"])),
)


@settings(deadline=None)
@given(st.lists(FRAMES, max_size=12), st.binary(max_size=20))
def test_any_bytes_end_well(frames: list[bytes], rest: bytes) -> None:
    """Any bytes from the service end each request exactly once and raise nothing."""

    async def feed() -> None:
        conn, wire = offline()
        ends: list[Response | Failure] = []
        request = PendingCall(bytes(70_000)).exchange.request
        for _ in range(3):
            conn.send(Exchange(request, ends.append, 0.0))
        for part in (*frames, rest):
            conn.data_received(part)
            assert not (wire.gone and conn.capacity)
        conn.connection_lost(None)
        assert (len(ends), wire.gone, conn.capacity) == (3, 1, 0)
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(feed())
    loop.close()
