"""The pool of connections to the service over real sockets, with servers that follow the rules or break them."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from h2.events import RequestReceived
from h2.settings import SettingCodes

from bridge.asm.http import pool as module
from bridge.asm.http.connect_error import ConnectError
from bridge.asm.http.connector import Connection, NewConnection
from bridge.asm.http.pool import Pool
from bridge.asm.http.request import PreparedRequest, Target
from bridge.asm.http.response import Failure, Response
from bridge.asm.transport import fetch
from bridge.ops.http import free_port
from bridge.settings import AsmSettings
from bridge.settings.types import ssl_context
from tests.support.http2 import Server, at_request, until

HEADERS = {"authorization": "Bearer tok-1", "user-agent": "asm-kafka-bridge"}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

Reply = Callable[["Peer", bytes], None]


class Peer(asyncio.Protocol):
    """A connection to the server: ``reply`` is called with each request, and with ``{}`` at its end."""

    def __init__(self, server: "Service") -> None:
        self.server = server
        self.read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.server.peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.peers.remove(self)

    def data_received(self, data: bytes) -> None:
        self.read += data
        while (end := self.read.find(b"{}")) >= 0:
            request, self.read = self.read[: end + 2], self.read[end + 2 :]
            self.server.requests.append(request)
            self.server.reply(self, request)

    def write(self, answer: bytes = OK) -> None:
        self.transport.write(answer)


class Service:
    """A scripted service and a pool that sends requests to it."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.peers: list[Peer] = []
        self.requests: list[bytes] = []
        self.pool: Pool
        self.url: httpx.URL

    def request(self) -> PreparedRequest:
        return PreparedRequest(Target.of(self.url), HEADERS, b"{}")

    async def ask(self) -> Response:
        result = await fetch(self.pool, self.request())
        assert isinstance(result, Response), result
        return result

    async def error(self) -> Failure:
        result = await fetch(self.pool, self.request())
        assert isinstance(result, Failure), result
        return result


def pool_to(url: httpx.URL, **options: Any) -> Pool:
    """A pool with the default settings, except for ``options``."""
    return Pool(url, **AsmSettings().transport_arguments() | options)


@contextlib.asynccontextmanager
async def service(reply: Reply = lambda peer, _: peer.write(), **options: Any) -> AsyncIterator[Service]:
    serving = Service(reply)
    server = await asyncio.get_running_loop().create_server(lambda: Peer(serving), "127.0.0.1", 0)
    serving.url = httpx.URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/getstatus?a=b")
    serving.pool = pool_to(serving.url, **options)
    try:
        yield serving
    finally:
        await serving.pool.aclose()
        server.close()
        for peer in [*serving.peers]:
            peer.transport.abort()


async def test_a_request_is_built_once_and_its_connection_kept() -> None:
    """A request that is sent a hundred times has the same bytes, the vendor's headers, and uses one connection."""
    async with service() as serving:
        request = serving.request()
        written = request.http1
        for _ in range(100):
            assert await fetch(serving.pool, request) == Response(200, b"{}")
        assert request.http1 is written
        assert {*serving.requests} == {written}
        assert len(serving.peers) == 1
    head, _, body = written.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    assert (first, body) == ("POST /v1/getstatus?a=b HTTP/1.1", b"{}")
    assert {"authorization: Bearer tok-1", "user-agent: asm-kafka-bridge", "content-length: 2"} < {*fields}
    assert f"host: 127.0.0.1:{serving.url.port}" in fields


async def test_requests_at_once_have_a_connection_each_up_to_the_limit() -> None:
    """Concurrent requests use up to ``max_connections`` connections, and the others are served in order as these become
    free.
    """
    held: list[Peer] = []
    async with service(lambda peer, _: held.append(peer), max_connections=3) as serving:
        asked = [asyncio.ensure_future(serving.ask()) for _ in range(10)]
        for done in range(10):
            await until(lambda done=done: len(held) >= min(3, 10 - done))  # type: ignore[misc]
            assert len(serving.peers) <= 3
            held.pop(0).write()
        assert await asyncio.gather(*asked) == [Response(200, b"{}")] * 10


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 5\r\nX: y\r\n\r\n12345", b"12345"),
    ],
)
async def test_answers_come_in_every_framing(answer: bytes, body: bytes) -> None:
    """A response is read with a length, in chunks, after interim responses or without a body, however its bytes are
    split.
    """

    def piecemeal(peer: Peer, _: bytes) -> None:
        for at in range(0, len(answer), 7):
            asyncio.get_running_loop().call_later(at / 2000, peer.write, answer[at : at + 7])

    async with service(piecemeal) as serving:
        for _ in range(2):
            response = await serving.ask()
            assert (response.status // 100, response.retry_after, response.body) == (2, None, body)
        assert len(serving.peers) == 1


@pytest.mark.parametrize("head", [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"])
async def test_an_answer_without_a_length_ends_with_its_connection(head: bytes) -> None:
    """A response without a length ends with its connection, and the next request has a new one."""

    def reply(peer: Peer, _: bytes) -> None:
        peer.write(head + b'{"a":1}')
        peer.transport.close()

    async with service(reply) as serving:
        assert [(await serving.ask()).body for _ in range(3)] == [b'{"a":1}'] * 3


async def test_an_answer_that_is_cut_short_is_none() -> None:
    """A response that is shorter than its length is an error."""

    def reply(peer: Peer, _: bytes) -> None:
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        peer.transport.close()

    async with service(reply) as serving:
        assert (await serving.error()).sent


async def test_who_asks_for_the_end_of_the_connection_has_it() -> None:
    """``Connection: close`` and HTTP/1.0 end the connection, although the length is known."""
    async with service(lambda peer, _: peer.write(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))) as serving:
        await serving.ask()
        await until(lambda: not serving.peers)
        await serving.ask()


async def test_retry_after_is_told() -> None:
    """Retry-After is returned with the response."""
    answer = b"HTTP/1.1 429 Too Many Requests\r\nRETRY-after: 7\r\nContent-Length: 0\r\n\r\n"
    async with service(lambda peer, _: peer.write(answer)) as serving:
        assert await serving.ask() == Response(429, b"", "7")
        serving.reply = lambda peer, _: peer.write()
        assert await serving.ask() == Response(200, b"{}")


async def test_a_time_out_costs_its_own_connection_alone() -> None:
    """A time-out closes its connection, so that a late response cannot be taken for that of the next request."""

    def late(peer: Peer, _: bytes) -> None:
        asyncio.get_running_loop().call_later(0.6, peer.write, OK[:-2] + b"[]")

    async with service(late, request_timeout=0.3) as serving:
        error = await serving.error()
        assert error.sent
        assert "no answer within 0.3 s" in error.text
        serving.reply = lambda peer, _: peer.write()
        for _ in range(20):
            assert (await serving.ask()).body == b"{}"
            await asyncio.sleep(0.03)


async def test_what_nobody_asked_for_ends_the_connection() -> None:
    """An unsolicited response closes the connection and is not kept for the next request."""
    async with service(lambda peer, _: peer.write(OK + OK.replace(b"{}", b"[]"))) as serving:
        for _ in range(5):
            assert (await serving.ask()).body == b"{}"


async def test_an_endless_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless response fails, with bounded memory."""
    monkeypatch.setattr("bridge.asm.http.http1_protocol.MAX_BODY", 100_000)
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000
    async with service(lambda peer, _: peer.write(answer)) as serving:
        assert "longer than 100000 bytes" in (await serving.error()).text


async def test_a_closed_connection_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle connection is replaced after the service has closed it, and is closed by the pool before the service
    does.
    """
    async with service(request_timeout=1.0) as serving:
        await serving.ask()
        serving.peers[0].transport.close()
        await until(lambda: not serving.pool._connections)
        await serving.ask()
        monkeypatch.setattr(module, "_IDLE", 0.05)
        await until(lambda: not serving.peers)
        assert (await serving.ask())[0] == 200


async def test_a_lost_connection_fails_its_own_request_alone() -> None:
    """A lost connection fails only its own requests."""
    held: list[Peer] = []
    async with service(lambda peer, _: held.append(peer)) as serving:
        asked = [asyncio.ensure_future(fetch(serving.pool, serving.request())) for _ in range(3)]
        await until(lambda: len(held) == 3)
        held[0].transport.abort()
        for peer in held[1:]:
            peer.write()
        results = await asyncio.gather(*asked)
    assert sorted(type(one).__name__ for one in results) == ["Failure", "Response", "Response"]


async def test_a_host_that_is_gone_fails_all_who_wait_and_is_found_again() -> None:
    """Requests that wait for an unreachable host fail as not sent, and the next one succeeds when it is back."""
    async with service() as serving:
        port = serving.url.port
        gone = httpx.URL(f"http://127.0.0.1:{free_port()}/")
        pool = pool_to(gone)
        request = PreparedRequest(Target.of(gone), {}, b"{}")
        results = await asyncio.gather(*(fetch(pool, request) for _ in range(50)))
        assert all(isinstance(one, Failure) and not one.sent for one in results)
        assert f"cannot connect to 127.0.0.1:{gone.port}" in results[0].text
        server = await asyncio.get_running_loop().create_server(lambda: Peer(serving), "127.0.0.1", gone.port)
        assert port != gone.port
        assert await fetch(pool, request) == Response(200, b"{}")
        await pool.aclose()
        server.close()


async def test_a_connection_that_takes_too_long_is_given_up() -> None:
    """A connection whose TLS handshake does not finish fails after ``connect_timeout``."""

    async def mute(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await asyncio.sleep(10)
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    url = httpx.URL(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    pool = pool_to(url, connect_timeout=0.2)
    failure = await fetch(pool, PreparedRequest(Target.of(url), {}, b"{}"))
    assert isinstance(failure, Failure)
    assert "no connection within 0.2 s" in failure.text
    assert not failure.sent
    await pool.aclose()
    server.close()


async def test_a_closed_pool_answers_nobody() -> None:
    """Closing the pool fails requests in flight as possibly sent, and later ones as not sent."""
    held: list[Peer] = []
    async with service(lambda peer, _: held.append(peer), max_connections=1) as serving:
        under_way, waiting = asyncio.ensure_future(serving.error()), asyncio.ensure_future(serving.error())
        await until(lambda: len(held) == 1)
        await serving.pool.aclose()
        assert [(await under_way).sent, (await waiting).sent] == [True, False]
        assert not (await serving.error()).sent


# -- TLS: the service chooses the version


@contextlib.asynccontextmanager
async def secured(authority: Path, protocols: list[str], **options: Any) -> AsyncIterator[tuple[Service, list[Any]]]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "good.pem", authority / "good.key")
    context.set_alpn_protocols(protocols)
    serving, made = Service(lambda peer, _: peer.write()), list[Any]()

    def speak() -> asyncio.Protocol:
        both = "h2" in protocols and options.get("http2", True)
        made.append(Server(at_request(lambda server, stream: server.answer(stream))) if both else Peer(serving))
        protocol: asyncio.Protocol = made[-1]
        return protocol

    server = await asyncio.get_running_loop().create_server(speak, "127.0.0.1", 0, ssl=context)
    serving.url = httpx.URL(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    serving.pool = pool_to(serving.url, **{"new_tls": partial(ssl_context, authority / "ca.pem"), **options})
    try:
        yield serving, made
    finally:
        await serving.pool.aclose()
        server.close()


async def test_http2_carries_all_over_one_connection(authority: Path) -> None:
    """HTTP/2 carries all requests over one connection if the service speaks it."""
    async with secured(authority, ["h2", "http/1.1"]) as (serving, made):
        answers = await asyncio.gather(*(serving.ask() for _ in range(300)))
        assert {one[0] for one in answers} == {200}
        await until(lambda: len(made) == len(serving.pool._connections))
        assert len(made) <= 3


async def test_a_service_without_http2_has_http1(authority: Path) -> None:
    """A service without HTTP/2 is used over HTTP/1.1, without a setting."""
    async with secured(authority, ["http/1.1"]) as (serving, _):
        answers = await asyncio.gather(*(serving.ask() for _ in range(20)))
        assert {*answers} == {Response(200, b"{}")}
        assert 1 <= len(serving.peers) <= 20


async def test_http2_can_be_switched_off(authority: Path) -> None:
    """With ``asm.http2`` false, HTTP/1.1 is used even if the service speaks both."""
    async with secured(authority, ["h2", "http/1.1"], http2=False) as (serving, _):
        assert await serving.ask() == Response(200, b"{}")


async def test_an_unknown_authority_is_not_trusted(authority: Path) -> None:
    """Nothing is sent to a server whose certificate is not trusted."""
    async with secured(authority, ["h2"], new_tls=partial(ssl_context, None)) as (serving, _):
        error = await serving.error()
        assert "the certificate is signed by an authority that is not trusted" in error.text
        assert not error.sent


async def test_a_dead_connection_is_left(authority: Path) -> None:
    """A connection over which nothing has come since a time-out fails its requests and is replaced, and later time-outs
    are still noticed.
    """
    async with secured(authority, ["h2"], request_timeout=0.3) as (serving, made):
        await serving.ask()
        for dead in range(2):
            made[dead].transport.pause_reading()  # as one whose machine is gone
            errors = await asyncio.gather(*(serving.error() for _ in range(5)))
            assert all(error.sent for error in errors)
            assert (await serving.ask())[0] == 200
            assert len(made) == dead + 2


async def test_room_that_the_service_takes_back_is_not_used(authority: Path) -> None:
    """If the service reduces the number of streams, further requests wait and none is refused."""
    async with secured(authority, ["h2"], max_connections=1) as (serving, made):
        await serving.ask()
        made[0].h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 2})
        made[0].flush()
        await until(lambda: next(iter(serving.pool._connections)).capacity == 2)
        answers = await asyncio.gather(*(serving.ask() for _ in range(50)))
        assert {one[0] for one in answers} == {200}


async def test_a_connection_lost_is_one_silence(authority: Path) -> None:
    """Of the requests that a lost connection carried, only one counts as an outage."""
    async with secured(authority, ["h2"], max_connections=1) as (serving, made):
        await serving.ask()
        made[-1].script = lambda *_: None
        asked = [asyncio.ensure_future(serving.error()) for _ in range(20)]
        await until(lambda: len(made[-1].saw(RequestReceived)) == 21)
        made[-1].transport.close()
        errors = await asyncio.gather(*asked)
        assert sum(error.counts_as_outage for error in errors) == 1
        assert all(error.sent for error in errors)


async def test_closing_ends_what_a_leaving_connection_carries(authority: Path) -> None:
    """After GOAWAY a connection finishes its requests, unless the pool is closed."""
    async with secured(authority, ["h2"]) as (serving, made):
        await serving.ask()
        made[0].script = lambda *_: None
        asked = asyncio.ensure_future(serving.error())
        await until(lambda: len(made[0].saw(RequestReceived)) == 2)
        made[0].h2.close_connection(last_stream_id=3)
        made[0].flush()
        await until(lambda: not serving.pool._connections)
        await serving.pool.aclose()
        async with asyncio.timeout(2):
            assert (await asked).sent


async def test_a_connection_that_fails_to_open_fails_no_one_who_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that fails to open fails only those waiting requests for which no other connection is
    being opened.
    """
    async with service() as serving:
        connector = serving.pool._connector
        original, opened = connector.open, 0

        async def third_fails(new_connection: NewConnection) -> Connection:
            nonlocal opened
            opened += 1
            if opened == 3:
                raise ConnectError("refused", "no")
            await asyncio.sleep(0.02 * opened)
            return await original(new_connection)

        monkeypatch.setattr(connector, "open", third_fails)
        results = await asyncio.gather(*(fetch(serving.pool, serving.request()) for _ in range(9)))
        assert [type(one) for one in results].count(Failure) == 1


async def test_a_connection_whose_other_side_has_closed_is_not_used() -> None:
    """Nothing is sent over a connection that the other side has closed, so no event is possibly repeated."""
    async with service() as serving:
        for _ in range(20):
            assert (await serving.ask())[0] == 200
            connection = next(iter(serving.pool._connections))
            connection.eof_received()
            assert connection.closed
            assert connection not in serving.pool._free


async def test_a_connection_whose_request_was_answered_early_is_not_used_again() -> None:
    """A service that refuses a large request before it has read it may never read the rest: the next request does not
    wait behind it.
    """

    class Refusing(Peer):
        def data_received(self, data: bytes) -> None:
            if len(self.server.peers) == 1:
                self.transport.pause_reading()
                self.write(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n")
            else:
                super().data_received(data)

    serving = Service(lambda peer, _: peer.write())
    server = await asyncio.get_running_loop().create_server(lambda: Refusing(serving), "127.0.0.1", 0)
    serving.url = httpx.URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    serving.pool = pool_to(serving.url, request_timeout=5.0)
    large = PreparedRequest(Target.of(serving.url), HEADERS, bytes(32 * 1024 * 1024))
    assert await fetch(serving.pool, large) == Response(413, b"")
    begin = asyncio.get_running_loop().time()
    assert await serving.ask() == Response(200, b"{}")
    assert asyncio.get_running_loop().time() - begin < 2
    await serving.pool.aclose()
    server.close()
    serving.peers[0].transport.abort()
