"""HTTP/1.1 without a socket: bytes in, responses out, within limits (RFC 9112)."""

import gzip
import time
import tracemalloc

import pytest

from bridge.asm.http.http1_protocol import MAX_HEAD, Http1Protocol, InvalidResponse
from bridge.asm.http.response import MAX_BODY, BodyBudget, Response

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def expecting(budget: BodyBudget | None = None) -> Http1Protocol:
    protocol = Http1Protocol(budget or BodyBudget())
    protocol.expecting = True
    return protocol


def receive(data: bytes, protocol: Http1Protocol | None = None) -> Response:
    received = (protocol or expecting()).receive_data(data)
    assert received is not None
    return received[0]


@pytest.mark.parametrize(
    ("head", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
    ],
)
def test_whether_the_connection_can_be_used_again(head: bytes, keep: bool) -> None:
    """The HTTP version or the Connection header decides whether a connection can be reused."""
    assert expecting().receive_data(head + b"Content-Length: 2\r\n\r\n{}") == (Response(200, b"{}"), keep)


def test_a_response_in_any_pieces() -> None:
    """A response is the same however its bytes are split, and the next one follows it."""
    protocol = expecting()
    for _ in range(3):
        protocol.expecting = True
        for at in range(len(OK) - 1):
            assert protocol.receive_data(OK[at : at + 1]) is None
        assert protocol.receive_data(OK[-1:]) == (Response(200, b"{}"), True)


@pytest.mark.parametrize("status", [b"101 Switching Protocols", b"099 Low", b"000 None"])
def test_an_invalid_status_is_no_response(status: bytes) -> None:
    """A status of 101 or below 100 ends the connection, with or without Upgrade."""
    for upgrade in (b"", b"Connection: upgrade\r\nUpgrade: h2c\r\n"):
        with pytest.raises(InvalidResponse, match="invalid HTTP response"):
            expecting().receive_data(b"HTTP/1.1 " + status + b"\r\n" + upgrade + b"\r\n" + OK)


def test_an_unsolicited_response_is_refused() -> None:
    """An unsolicited response is not taken for that of the next request."""
    with pytest.raises(InvalidResponse, match="unsolicited"):
        Http1Protocol(BodyBudget()).receive_data(OK)
    assert expecting().receive_data(OK + OK) == (Response(200, b"{}"), False)


def test_retry_after_in_a_trailer_is_not_the_heads() -> None:
    """Retry-After in a trailer or an interim response is ignored."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert receive(head + b"2\r\n{}\r\n0\r\nRetry-After: 9\r\n\r\n") == Response(200, b"{}")
    assert receive(b"HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\n\r\n" + OK) == Response(200, b"{}")


def test_a_date_comes_with_what_is_not_a_success() -> None:
    """The Date header is returned with every response that is not a success or has Retry-After."""
    fields = b"Date: now\r\nContent-Length: 0\r\n\r\n"
    assert receive(b"HTTP/1.1 503 No\r\n" + fields) == Response(503, b"", None, "now")
    assert receive(b"HTTP/1.1 200 OK\r\nRetry-After: 7\r\n" + fields) == Response(200, b"", "7", "now")
    assert receive(b"HTTP/1.1 200 OK\r\n" + fields) == Response(200, b"")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"timeout=5", 5.0), (b"max=100, Timeout=20", 20.0), (b"timeout=abc", None), (b"max=1", None)],
)
def test_keep_alive_says_how_long(value: bytes, seconds: float | None) -> None:
    """Keep-Alive's timeout is read as the seconds after which the service closes an unused connection."""
    protocol = expecting()
    receive(OK.replace(b"OK\r\n", b"OK\r\nKeep-Alive: " + value + b"\r\n"), protocol)
    assert protocol.idle_timeout == seconds


def test_a_compressed_body_is_decoded() -> None:
    """A compressed body is decoded, and one that is not in its declared coding makes the response invalid."""
    body = gzip.compress(b"{}")
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    assert receive(head % len(body) + body) == Response(200, b"{}")
    with pytest.raises(InvalidResponse, match="cannot be decompressed"):
        receive(head % 2 + b"{}")


def test_what_has_no_length_ends_with_its_connection() -> None:
    """A body without a length ends with its connection; one with a length that is cut short is an error."""
    protocol = expecting()
    assert protocol.receive_data(b"HTTP/1.1 200 OK\r\n\r\n{") is None
    assert protocol.receive_data(b"}") is None
    assert protocol.receive_eof() == Response(200, b"{}")
    protocol = expecting()
    protocol.receive_data(OK[:-1])
    assert protocol.receive_eof() is None


# Limits


def endless(protocol: Http1Protocol, begin: bytes, again: bytes, most: int) -> int:
    """Returns how many bytes of an endless response are read before it is given up; ``most`` are tried."""
    received = 0
    try:
        protocol.receive_data(begin)
        while received <= most:
            protocol.receive_data(again)
            received += len(again)
    except InvalidResponse:
        pass
    return received


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 4096),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 500),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: y\r\n" * 500),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=", b"x" * 4096),
        (b"", b"\r\n" * 2048),
    ],
)
def test_what_brings_no_body_has_an_end(begin: bytes, again: bytes) -> None:
    """Endless heads, interim responses, trailers and chunk extensions are given up early, with little memory and
    without a stall.
    """
    tracemalloc.start()
    received = endless(expecting(), begin, again, 10 * MAX_HEAD)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert received <= MAX_HEAD + 2 * len(again)
    assert most < 2 * 2**20


def test_a_body_in_small_parts_takes_no_more_than_its_bytes() -> None:
    """A body in chunks of two bytes takes no object per chunk, and does not stall the loop."""
    protocol, part = expecting(), b"2\r\nab\r\n" * 10_000
    protocol.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    tracemalloc.start()
    begin = time.process_time()
    for _ in range(40):
        assert protocol.receive_data(part) is None
    assert time.process_time() - begin < 10
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * 2**20
    assert protocol.receive_data(b"0\r\n\r\n") == (Response(200, b"ab" * 400_000), True)


def test_a_body_over_the_limit_is_given_up() -> None:
    """A body over the limit is given up, with or without a length."""
    for head in (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n"):
        assert endless(expecting(), head, bytes(2**20), 2 * MAX_BODY) == MAX_BODY


def test_unfinished_bodies_are_bounded_together() -> None:
    """Unfinished bodies share a budget over all connections, and return their part when they end or are given up."""
    budget = BodyBudget(limit=1000)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 700\r\n\r\n"
    first, second = expecting(budget), expecting(budget)
    first.receive_data(head + bytes(600))
    with pytest.raises(InvalidResponse, match="too many unfinished responses"):
        second.receive_data(head + bytes(600))
    second.forget()
    assert budget.used == 600
    assert receive(bytes(100), first).body == bytes(700)
    assert budget.used == 0
