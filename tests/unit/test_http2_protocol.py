"""HTTP/2 without a socket: bytes in, ended streams and bytes out; each type of frame, and each limit (RFC 9113)."""

import gzip
import struct
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hpack import Encoder

from bridge.asm.http import frames
from bridge.asm.http.flow_control import Stream
from bridge.asm.http.frames import ErrorCode
from bridge.asm.http.header_block import MAX_HEAD
from bridge.asm.http.http2_protocol import MAX_OVERHEAD, STREAMS_BEFORE_SETTINGS, Http2Protocol
from bridge.asm.http.request import Exchange, PreparedRequest, Target
from bridge.asm.http.response import MAX_BODY, BodyBudget, Failure, Response
from tests.support.http2 import frame

OK = b"\x88"
"""A header block: status 200."""
ANSWER = frame(1, 0x5, 1, OK)


def block(*fields: tuple[str, str]) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    found: bytes = encoder.encode(fields)
    return found.lstrip(b"\x20")


class Client:
    """A protocol with requests in flight; what it sent is in ``sent``."""

    def __init__(self, requests: int = 1, body: bytes = b"", budget: BodyBudget | None = None) -> None:
        self.budget = budget or BodyBudget()
        self.protocol = Http2Protocol(self.budget)
        request = PreparedRequest(Target("https", "asm.test", "/getstatus"), {}, body)
        for _ in range(requests):
            self.protocol.send(Exchange(request, lambda _: None, 0.0))
        self.sent: list[tuple[int, int, int, bytes]] = []
        self.flush(self.protocol.data_to_send().removeprefix(frames.PREFACE))
        self.sent.clear()

    def receive(self, data: bytes) -> list[Response | Failure]:
        ended: list[Stream] = self.protocol.receive_data(data)
        self.flush(self.protocol.data_to_send())
        return [stream.outcome for stream in ended]

    def flush(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            word, flags, number = struct.unpack_from(">IBI", data, at)
            self.sent.append((word & 0xFF, flags, number, data[at + 9 : at + 9 + (word >> 8)]))
            at += 9 + (word >> 8)

    @property
    def error(self) -> int | None:
        """The error code of the last GOAWAY that was sent."""
        code: int | None = struct.unpack(">I", self.sent[-1][3][4:])[0] if self.sent and self.sent[-1][0] == 7 else None
        return code


def test_data_and_headers_make_a_response() -> None:
    """A request is answered when its stream has ended, and not before."""
    client = Client()
    assert client.receive(frame(1, 0x4, 1, OK)) == []
    assert client.receive(frame(0, 0, 1, b"one ")) == []
    assert client.receive(frame(0, 1, 1, b"two")) == [Response(200, b"one two")]
    assert client.protocol.open == {}


def test_priority_and_unknown_frames_are_ignored() -> None:
    """Frames that mean nothing to a client are ignored, and the request after them is answered."""
    assert Client().receive(frame(2, 0, 1, bytes(5)) + frame(0xBE, 0xFF, 9, b"?") + ANSWER) == [Response(200, b"")]


@pytest.mark.parametrize(
    ("code", "head", "sent"),
    [
        (ErrorCode.REFUSED_STREAM, b"", False),
        (ErrorCode.REFUSED_STREAM, frame(1, 0x4, 1, OK), True),
        (ErrorCode.CANCEL, b"", True),
    ],
)
def test_a_reset_ends_its_stream_alone(code: ErrorCode, head: bytes, sent: bool) -> None:
    """Only a refused stream without a head was certainly not processed (section 8.7), and no reset counts
    as an outage.
    """
    client = Client(2)
    (failure,) = client.receive(head + frame(3, 0, 1, struct.pack(">I", code)))
    assert isinstance(failure, Failure)
    assert (failure.sent, failure.counts_as_outage) == (sent, False)
    assert code.name in failure.text
    assert [*client.protocol.open] == [3]


def test_settings_are_obeyed_and_acknowledged() -> None:
    """The service's settings limit streams, windows and frame sizes, and an acknowledgement changes nothing."""
    client = Client()
    client.receive(frame(4, 0, 0, b"".join(struct.pack(">HI", *one) for one in ((3, 7), (4, 10), (5, 20_000), (9, 9)))))
    assert client.protocol.allowed == 7
    assert (client.protocol.sender.initial_window, client.protocol.sender.frame_size) == (10, 20_000)
    assert client.sent == [(4, 1, 0, b"")]
    client.receive(frame(4, 1, 0))
    assert len(client.sent) == 1


def test_few_streams_until_the_settings_have_come() -> None:
    """Few streams are opened until the service's settings arrive; settings without a limit allow a thousand."""
    client = Client(0)
    assert (client.protocol.allowed, client.protocol.settings_read) == (STREAMS_BEFORE_SETTINGS, False)
    client.receive(frame(4, 0, 0))
    assert (client.protocol.allowed, client.protocol.settings_read) == (1000, True)
    client.receive(frame(4, 0, 0, struct.pack(">HI", 3, 0)))
    assert client.protocol.allowed == 0
    assert not client.protocol.closing


def test_a_push_is_a_violation() -> None:
    """A pushed stream ends the connection, since our settings forbid it."""
    client = Client()
    (failure,) = client.receive(frame(5, 4, 1, b"\0\0\0\x02" + OK))
    assert isinstance(failure, Failure)
    assert client.error == ErrorCode.PROTOCOL_ERROR


def test_pings_go_both_ways() -> None:
    """The service's PING is answered, and its answer to our own is not."""
    client = Client(0)
    client.receive(frame(6, 0, 0, b"12345678"))
    assert client.sent == [(6, 1, 0, b"12345678")]
    client.protocol.ping()
    client.receive(frame(6, 1, 0, bytes(8)))
    assert client.sent[1:] == [(6, 0, 0, bytes(8))]


def test_streams_beyond_a_goaway_were_not_processed() -> None:
    """After GOAWAY streams up to its last one are answered, later ones were not processed, and new ones are not
    allowed.
    """
    client = Client(3)
    (failure,) = client.receive(frame(7, 0, 0, struct.pack(">II", 3, 0)))
    assert isinstance(failure, Failure)
    assert (failure.sent, failure.counts_as_outage) == (False, False)
    assert (client.protocol.closing, client.protocol.closed, client.protocol.allowed) == (True, False, 0)
    assert client.receive(ANSWER + frame(1, 0x5, 3, OK)) == [Response(200, b"")] * 2


def test_a_head_disproves_that_a_request_was_not_processed() -> None:
    """A request whose head has come was processed, although GOAWAY says that it was not: its events are not sent again
    as if they had never left.
    """
    client = Client(2)
    headed, other = client.receive(frame(1, 0x4, 1, OK) + frame(7, 0, 0, struct.pack(">II", 0, 0)))
    assert isinstance(headed, Failure)
    assert isinstance(other, Failure)
    assert (headed.sent, other.sent) == (True, False)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (ErrorCode.NO_ERROR, "cut"),
        (ErrorCode.COMPRESSION_ERROR, "cut: COMPRESSION_ERROR"),
        (ErrorCode.ENHANCE_YOUR_CALM, "cut: ENHANCE_YOUR_CALM (it wants fewer requests)"),
        (ErrorCode.HTTP_1_1_REQUIRED, "cut: HTTP_1_1_REQUIRED (it wants HTTP/1.1)"),
        (99, "cut: error 99"),
    ],
)
def test_the_end_of_a_connection_says_what_its_goaway_said(code: int, text: str) -> None:
    """A request that the service accepted before GOAWAY, and that ends with the connection, fails with the reason that
    GOAWAY gave.
    """
    client = Client()
    assert client.receive(frame(7, 0, 0, struct.pack(">II", 1, code))) == []
    (stream,) = client.protocol.lost("cut")
    assert stream.outcome == Failure(text, sent=True)


def test_http1_on_a_connection_of_http2_is_recognised() -> None:
    """A service that agrees on HTTP/2 and then speaks HTTP/1.1 is described as that, not as a broken frame."""
    (failure,) = Client().receive(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
    assert isinstance(failure, Failure)
    assert failure.text == "invalid HTTP/2 from the service: it agreed on HTTP/2 but speaks HTTP/1.1"


def test_window_updates_let_bodies_go_on() -> None:
    """A body waits for window updates and never exceeds the window of the stream or the connection."""
    client = Client(body=bytes(100_000))
    client.receive(frame(8, 0, 0, struct.pack(">I", 10)))
    assert client.sent == []
    client.receive(frame(8, 0, 1, struct.pack(">I", 6)))
    assert client.sent == [(0, 0, 1, bytes(6))]


def test_continuations_make_one_header_block() -> None:
    """A head that is split at any byte into CONTINUATION frames is the same head."""
    whole = block((":status", "429"), ("retry-after", "7"), ("date", "now"))
    for at in range(len(whole)):
        data = frame(1, 0x1, 1, whole[:at]) + frame(9, 0, 1) + frame(9, 4, 1, whole[at:])
        assert Client().receive(data) == [Response(429, b"", "7", "now")]


def test_a_violation_keeps_what_was_answered_before_it() -> None:
    """A violation keeps the responses read before it, fails the other requests as one outage, and stops reading."""
    client = Client(3)
    answered, first, second = client.receive(ANSWER + frame(0, 0, 0, b"x") + frame(1, 0x5, 3, OK))
    assert answered == Response(200, b"")
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert [first.counts_as_outage, second.counts_as_outage] == [True, False]
    assert client.receive(frame(1, 0x5, 3, OK)) == []


@pytest.mark.parametrize("status", ["101", "099", "000", "20", "2000", "abc", "", "٢٠٠"])
def test_an_invalid_status_is_no_response(status: str) -> None:
    """A status of 101 (section 8.6) or below 100 resets its stream, and the other streams continue."""
    client = Client(2)
    (failure,) = client.receive(frame(1, 0x4, 1, block((":status", status))))
    assert isinstance(failure, Failure)
    assert failure.sent
    assert client.sent == [(3, 0, 1, struct.pack(">I", ErrorCode.PROTOCOL_ERROR))]
    assert client.receive(frame(1, 0x5, 3, OK)) == [Response(200, b"")]


def test_retry_after_in_a_trailer_is_not_the_heads() -> None:
    """Retry-After in a trailer or an interim response is ignored."""
    interim = frame(1, 0x4, 1, block((":status", "103"), ("retry-after", "9")))
    trailer = frame(1, 0x5, 1, block(("retry-after", "9")))
    assert Client().receive(interim + frame(1, 0x4, 1, OK) + frame(0, 0, 1, b"{}") + trailer) == [Response(200, b"{}")]


def test_a_date_comes_with_what_is_not_a_success() -> None:
    """The Date header is returned with failures, so that a Retry-After date is read against the service's clock."""
    head = frame(1, 0x5, 1, block((":status", "503"), ("date", "now")))
    assert Client().receive(head) == [Response(503, b"", None, "now")]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "identity, gzip"])
def test_a_compressed_body_is_decoded(encoding: str) -> None:
    """A compressed body is decoded although the request asked for identity."""
    head = frame(1, 0x4, 1, block((":status", "200"), ("content-encoding", encoding)))
    assert Client().receive(head + frame(0, 1, 1, gzip.compress(b"{}"))) == [Response(200, b"{}")]


def test_a_body_that_cannot_be_decoded_fails_its_request_alone() -> None:
    """A body that cannot be decoded fails only its own request."""
    client = Client(2)
    head = frame(1, 0x4, 1, block((":status", "200"), ("content-encoding", "gzip")))
    (failure,) = client.receive(head + frame(0, 1, 1, b"{}"))
    assert isinstance(failure, Failure)
    assert failure.sent
    assert client.receive(frame(1, 0x5, 3, OK)) == [Response(200, b"")]


# Limits


FLOODS: dict[str, Callable[[int], bytes]] = {
    "ping": lambda _: frame(6, 0, 0, bytes(8)),
    "ping_ack": lambda _: frame(6, 1, 0, bytes(8)),
    "settings": lambda _: frame(4, 0, 0, struct.pack(">HI", 4, 65535) * 2730),
    "settings_ack": lambda _: frame(4, 1, 0),
    "reset": lambda _: frame(3, 0, 1, bytes(4)),
    "priority": lambda _: frame(2, 0, 1, bytes(5)),
    "unknown": lambda _: frame(0x77, 0, 0),
    "window_update": lambda _: frame(8, 0, 0, b"\0\0\0\1"),
    "goaway": lambda _: frame(7, 0, 0, struct.pack(">II", 2**31 - 1, 0)),
    "empty_data": lambda _: frame(0, 0, 3),
    "late_data": lambda _: frame(0, 0, 1, b"x"),
    "late_head": lambda turn: frame(1, 0x4, 1, block((":status", "200"), ("x", str(turn)))),
    "interim": lambda turn: frame(1, 0x4, 5, block((":status", "103"), ("link", str(turn)))),
    "interim_undecoded": lambda turn: frame(1, 0x4, 5, block((":status", "103"), ("retry-after", str(turn)))),
    "continuation": lambda turn: frame(9, 0, 5) if turn else frame(1, 0, 5),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_the_connection(kind: str) -> None:
    """Too many frames that do not advance a response end the connection (section 10.5)."""
    client = Client(1000)
    client.receive(ANSWER + frame(1, 0x4, 3, OK))
    flood = [FLOODS[kind](turn) for turn in range(MAX_OVERHEAD + 2)]
    begin = time.process_time()
    for at in range(0, len(flood), 100):
        failures = client.receive(b"".join(flood[at : at + 100]))
        if failures:
            break
    assert time.process_time() - begin < 5
    assert len(failures) == 999
    assert client.error == ErrorCode.ENHANCE_YOUR_CALM


def test_settings_weigh_more_than_other_frames() -> None:
    """A hundred SETTINGS frames without a response end the connection, since each concerns all streams."""
    client = Client(1000)
    client.receive(frame(4, 0, 0) * 90)
    assert client.error is None
    client.receive(frame(4, 0, 0) * 20)
    assert client.error == ErrorCode.ENHANCE_YOUR_CALM


def test_what_a_service_sends_beside_its_responses_is_no_flood() -> None:
    """A PING, two window updates and an interim response for each of many requests do not count as a flood."""
    client = Client(5000)
    for number in range(1, 10_000, 2):
        data = frame(6, 0, 0, bytes(8)) + frame(8, 0, 0, b"\0\0\0\1") + frame(8, 0, number, b"\0\0\0\1")
        data += frame(1, 0x4, number, block((":status", "103"))) + frame(1, 0x5, number, OK)
        assert client.receive(data) == [Response(200, b"")]


def test_a_header_block_without_end_is_given_up() -> None:
    """An endless header block ends the connection with bounded memory (CVE-2024-27316, the CONTINUATION flood)."""
    client = Client()
    (failure,) = client.receive(frame(1, 0, 1) + frame(9, 0, 1, bytes(16384)) * (MAX_HEAD // 16384 + 1))
    assert isinstance(failure, Failure)
    assert client.error == ErrorCode.ENHANCE_YOUR_CALM


def test_remembered_header_blocks_are_bounded() -> None:
    """The cache of header blocks is bounded, even if every head is large and different."""
    client = Client(1000)
    tracemalloc.start()
    for number in range(1, 2000, 2):
        head = OK + b"\0\x01x\x7f\xd8\x5c" + b"%11991d" % number  # a value of 127 + 0x58 + (0x5c << 7) bytes
        assert client.receive(frame(1, 0x5, number, head)) == [Response(200, b"")]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * 2**20


def test_a_body_in_small_parts_takes_no_more_than_its_bytes() -> None:
    """A body in frames of two bytes takes no object per frame."""
    client = Client()
    client.receive(frame(1, 0x4, 1, OK))
    tracemalloc.start()
    data = frame(0, 0, 1, b"ab") * 1000
    for _ in range(200):
        client.receive(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * 2**20
    assert client.receive(frame(0, 1, 1, b"ab")) == [Response(200, b"ab" * 200_001)]


def test_a_body_over_the_limit_is_given_up() -> None:
    """A body over the limit fails only its request; one of exactly the limit is read."""
    client = Client(3)
    part = bytes(16384)
    client.receive(frame(1, 0x4, 1, OK) + frame(1, 0x4, 3, OK))
    assert client.receive(frame(0, 0, 1, part) * (MAX_BODY // 16384)) == []
    assert client.receive(frame(0, 1, 1)) == [Response(200, bytes(MAX_BODY))]
    (failure,) = client.receive(frame(0, 0, 3, part) * (MAX_BODY // 16384) + frame(0, 0, 3, b"x"))
    assert isinstance(failure, Failure)
    assert str(MAX_BODY) in failure.text
    assert client.receive(frame(1, 0x5, 5, OK)) == [Response(200, b"")]


def test_unfinished_bodies_are_bounded_together() -> None:
    """Unfinished bodies share a budget over all connections, and return their part when they end or fail."""
    budget = BodyBudget(limit=100_000)
    client, other = Client(3, budget=budget), Client(2, budget=budget)
    client.receive(b"".join(frame(1, 0x4, number, OK) for number in (1, 3)))
    other.receive(frame(1, 0x4, 1, OK))
    assert client.receive(frame(0, 0, 1, bytes(16384)) * 4) == []
    (failure,) = other.receive(frame(0, 0, 1, bytes(16384)) * 3)
    assert isinstance(failure, Failure)
    assert failure.text == "too many unfinished responses"
    assert client.receive(frame(0, 0, 3, bytes(16384)) + frame(0, 1, 3)) == [Response(200, bytes(16384))]
    assert budget.used == 4 * 16384
    client.protocol.lost("gone")
    assert budget.used == 0


def test_a_frame_that_is_never_finished_is_bounded() -> None:
    """An unfinished frame takes no more memory than the largest allowed frame."""
    client = Client()
    (failure,) = client.receive(frame(0, 0, 1, bytes(20_000))[:100])
    assert isinstance(failure, Failure)
    assert client.error == ErrorCode.FRAME_SIZE_ERROR


def test_one_fault_has_one_text() -> None:
    """A header block that cannot be decoded gives the same text each time, so that its repetitions are not news."""
    bad = frame(1, 0x4, 1, b"?" * 21 + b"=?" + b"\xf8" * 100)
    texts = {outcome.text for client in (Client(), Client()) for outcome in client.receive(bad) if outcome.text}  # type: ignore[union-attr]
    assert texts == {"invalid HTTP/2 from the service: a header block that cannot be decoded (HPACKDecodingError)"}
