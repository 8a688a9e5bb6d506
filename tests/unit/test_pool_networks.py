"""The pool of connections with real-world services, gateways and networks, which close, move, stall and fail."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from h2.errors import ErrorCodes
from h2.events import RequestReceived
from h2.settings import SettingCodes

from bridge.asm.http import addresses
from bridge.asm.http.connect_error import lost
from bridge.asm.http.pool import Pool
from bridge.asm.http.request import PreparedRequest, Target
from bridge.asm.http.response import Failure, Response
from bridge.asm.transport import fetch
from bridge.settings import AsmSettings
from bridge.settings.types import ssl_context
from tests.support.http2 import Server, at_request, until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


def pool_to(url: str, **options: Any) -> Pool:
    return Pool(httpx.URL(url), **AsmSettings().transport_arguments() | options)


async def ask(pool: Pool, *, repeatable: bool = True) -> Response | Failure:
    request = PreparedRequest(Target("https", "asm.test", "/"), {}, b"{}", repeatable=repeatable)
    return await fetch(pool, request)


async def answered(pool: Pool, times: int, *, repeatable: bool = True) -> None:
    """Returns whether so many concurrent requests are answered."""
    results = await asyncio.gather(*(ask(pool, repeatable=repeatable) for _ in range(times)))
    assert [one for one in results if not isinstance(one, Response)] == []


# -- HTTP/1.1


class Http1Service:
    """Calls ``handle`` with the request's number, its connection's number, and the writer."""

    def __init__(self, handle: Callable[[int, int, asyncio.StreamWriter], None]) -> None:
        self.handle = handle
        self.requests = self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        with contextlib.suppress(OSError, EOFError):
            while True:
                await reader.readuntil(b"{}")
                self.requests += 1
                self.handle(self.requests, connection, writer)
        writer.close()


@contextlib.asynccontextmanager
async def http1(
    handle: Callable[[int, int, asyncio.StreamWriter], None], **options: Any
) -> AsyncIterator[tuple[Http1Service, Pool]]:
    service = Http1Service(handle)
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    pool = pool_to(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", **options)
    try:
        yield service, pool
    finally:
        await pool.aclose()
        server.close()


def close_at(number: int) -> Callable[[int, int, asyncio.StreamWriter], None]:
    """Answers every request except this one, whose connection it closes."""

    def handle(request: int, _: int, writer: asyncio.StreamWriter) -> None:
        if request == number:
            writer.transport.abort()
        else:
            writer.write(OK)

    return handle


async def test_a_plain_poll_that_meets_a_closed_connection_is_sent_again() -> None:
    """A request without events is repeated once when the service closes the connection before it answers."""
    async with http1(close_at(2)) as (service, pool):
        for _ in range(3):
            assert isinstance(await ask(pool), Response)
        assert (service.requests, service.connections) == (4, 2)


async def test_a_request_with_events_is_not_repeated() -> None:
    """A request that the service may have processed is never sent again by the pool; the caller decides."""
    async with http1(close_at(2)) as (service, pool):
        assert isinstance(await ask(pool, repeatable=False), Response)
        failure = await ask(pool, repeatable=False)
        assert isinstance(failure, Failure)
        assert failure.sent
        assert service.requests == 2


async def test_a_service_that_closes_each_time_is_asked_twice() -> None:
    """A request is repeated only once for lost connections, and then fails."""

    def handle(request: int, connection: int, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with http1(handle) as (service, pool):
        assert isinstance(await ask(pool), Failure)
        assert service.requests == 2


async def test_idle_connections_that_are_all_closed_cost_no_request() -> None:
    """Requests that meet idle connections closed by a reload are repeated over new ones, and none fails."""

    def handle(request: int, connection: int, writer: asyncio.StreamWriter) -> None:
        if connection <= 3 and request > 3:
            writer.transport.abort()
        else:
            writer.write(OK)

    async with http1(handle) as (service, pool):
        await answered(pool, 3)
        assert service.connections == 3
        await answered(pool, 1)
        await answered(pool, 3)


async def test_an_answer_that_has_begun_is_not_asked_for_again() -> None:
    """A response that breaks off in the middle fails at once: the service has processed the request."""

    def handle(request: int, connection: int, writer: asyncio.StreamWriter) -> None:
        writer.write(OK[:20])
        writer.close()

    async with http1(handle) as (service, pool):
        assert isinstance(await ask(pool), Failure)
        assert service.requests == 1


async def test_keep_alive_is_obeyed() -> None:
    """An idle connection is closed before the time-out that the service announces has passed."""

    def handle(request: int, connection: int, writer: asyncio.StreamWriter) -> None:
        writer.write(OK.replace(b"OK\r\n", b"OK\r\nKeep-Alive: max=100, timeout=2\r\n"))

    async with http1(handle, request_timeout=1.0) as (_, pool):
        await answered(pool, 5)
        begin = time.monotonic()
        await until(lambda: not pool._connections)
        assert 0.5 < time.monotonic() - begin < 2


async def test_an_old_connection_is_replaced() -> None:
    """A connection that reaches its greatest age is replaced without a failed or delayed request."""

    def handle(request: int, connection: int, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)

    async with http1(handle, max_connection_age=0.3, request_timeout=1.0) as (service, pool):
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            assert isinstance(await ask(pool), Response)
            await asyncio.sleep(0.01)
        assert 3 <= service.connections <= 6


# -- HTTP/2


@contextlib.asynccontextmanager
async def http2(
    authority: Path, script: Callable[[Server, Any], None], **options: Any
) -> AsyncIterator[tuple[list[Server], Pool]]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / "good.pem", authority / "good.key")
    context.set_alpn_protocols(["h2"])
    made: list[Server] = []

    def accept() -> asyncio.Protocol:
        made.append(Server(script))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pool = pool_to(url, new_tls=partial(ssl_context, authority / "ca.pem"), **options)
    try:
        yield made, pool
    finally:
        await pool.aclose()
        server.close()


def later(seconds: float) -> Callable[[Server, int], None]:
    def script(server: Server, stream: int) -> None:
        def answer() -> None:
            server.answer(stream)
            server.flush()

        asyncio.get_running_loop().call_later(seconds, answer)

    return script


def good_bye_after(requests: int) -> Callable[[Server, Any], None]:
    """Answers so many requests of a connection, then sends GOAWAY and closes it, as nginx does."""

    def script(server: Server, event: Any) -> None:
        if not isinstance(event, RequestReceived):
            return
        count = len(server.saw(RequestReceived))
        if count <= requests:
            server.answer(event.stream_id)
        if count == requests:
            server.h2.close_connection(last_stream_id=event.stream_id)
            server.flush()
            server.transport.close()

    return script


@pytest.mark.parametrize("requests", [1000, 10])
async def test_a_limit_of_requests_for_each_connection_costs_nothing(authority: Path, requests: int) -> None:
    """Requests beyond the last that a connection accepts are sent again over the next one, and none fails, not even one
    with events.
    """
    async with http2(authority, good_bye_after(requests)) as (made, pool):
        for _ in range(10 if requests == 1000 else 2):
            await answered(pool, 60 if requests == 10 else 300, repeatable=False)
        assert len(made) >= 2


async def test_refused_streams_are_sent_again(authority: Path) -> None:
    """A stream that the service refuses without a head was not processed, and its request is sent again."""
    refused: set[int] = set()

    def script(server: Server, event: Any) -> None:
        if isinstance(event, RequestReceived):
            if len(refused) < 10:
                refused.add(event.stream_id)
                server.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
                server.flush()
            else:
                server.answer(event.stream_id)

    async with http2(authority, script) as (_, pool):
        await answered(pool, 10, repeatable=False)


async def test_a_service_that_refuses_all_is_given_up(authority: Path) -> None:
    """A request that is refused repeatedly fails in the end, as not processed and as an outage, so that the agents do
    not go on asking all together.
    """

    def script(server: Server, event: Any) -> None:
        if isinstance(event, RequestReceived):
            server.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            server.flush()

    async with http2(authority, script, request_timeout=2.0) as (made, pool):
        failure = await ask(pool)
        assert isinstance(failure, Failure)
        assert (failure.sent, failure.counts_as_outage) == (False, True)
        assert len(made) <= 2
        assert sum(len(server.saw(RequestReceived)) for server in made) <= 30


async def test_a_plain_poll_survives_a_lost_http2_connection(authority: Path) -> None:
    """Requests without events are repeated once when their HTTP/2 connection is cut without GOAWAY."""
    cut: list[Server] = []

    def script(server: Server, event: Any) -> None:
        if isinstance(event, RequestReceived):
            if not cut:
                cut.append(server)
                server.transport.abort()
            elif server not in cut:
                server.answer(event.stream_id)

    async with http2(authority, script) as (_, pool):
        await answered(pool, 20)


async def test_a_service_that_takes_no_streams_gets_no_crowd(authority: Path) -> None:
    """MAX_CONCURRENT_STREAMS 0 does not make the pool open many connections, and all requests are answered when the
    service allows streams again.
    """
    taking = False

    def script(server: Server, event: Any) -> None:
        if isinstance(event, RequestReceived):
            if taking:
                server.answer(event.stream_id)
            else:
                server.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
                if len(server.saw(RequestReceived)) == 1:
                    server.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 0})
                server.flush()

    async with http2(authority, script, request_timeout=5.0) as (made, pool):
        asked = [asyncio.ensure_future(ask(pool)) for _ in range(200)]
        await asyncio.sleep(1)
        assert len(made) <= 2
        taking = True
        for server in made:
            server.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 100})
            server.flush()
        assert {type(one) for one in await asyncio.gather(*asked)} == {Response}


async def test_a_service_that_takes_no_streams_is_named_as_the_reason(authority: Path) -> None:
    """A request that waits in vain for a service with MAX_CONCURRENT_STREAMS 0 fails as not sent, and says why."""

    def script(server: Server, event: Any) -> None:
        if isinstance(event, RequestReceived):
            server.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 0})
            server.answer(event.stream_id)

    async with http2(authority, script, request_timeout=0.5) as (made, pool):
        await answered(pool, 1)
        await until(lambda: not next(iter(pool._connections)).capacity)
        failure = await ask(pool, repeatable=False)
        assert isinstance(failure, Failure)
        assert (failure.text, failure.sent) == ("the service allowed no more requests within 0.5 s", False)
        await answered(pool, 1)
        assert len(made) == 2


async def test_a_dead_peer_is_noticed_by_ping(authority: Path) -> None:
    """A connection without any data, not even an answer to PING, is closed long before the requests' own time-out, and
    is replaced.
    """
    async with http2(authority, at_request(lambda server, stream: server.answer(stream)), request_timeout=3.0) as (
        made,
        pool,
    ):
        await answered(pool, 1)
        made[0].transport.pause_reading()  # as one whose machine is gone
        begin = time.monotonic()
        failure = await ask(pool, repeatable=False)
        assert isinstance(failure, Failure)
        assert "PING" in failure.text
        assert time.monotonic() - begin < 2
        await answered(pool, 1)


async def test_a_slow_service_that_answers_pings_is_waited_for(authority: Path) -> None:
    """A slow service that answers PING keeps its connection."""

    async with http2(authority, at_request(later(1.2)), request_timeout=2.0) as (made, pool):
        await answered(pool, 3)
        assert len(made) == 1


async def test_a_connection_that_brings_frames_but_no_answers_is_left(authority: Path) -> None:
    """A connection whose service sends PING frames but no responses gets no more requests after a time-out."""
    dead: list[Server] = []

    def script(server: Server, event: Any) -> None:
        if isinstance(event, RequestReceived):
            if not dead:
                dead.append(server)
            if server in dead:
                server.h2.ping(b"12345678")
                server.flush()
            else:
                server.answer(event.stream_id)

    async with http2(authority, script, request_timeout=0.5) as (made, pool):

        async def pings() -> None:
            while True:
                await asyncio.sleep(0.05)
                for server in dead:
                    server.h2.ping(b"12345678")
                    server.flush()

        pinging = asyncio.ensure_future(pings())
        assert isinstance(await ask(pool), Failure)
        await answered(pool, 5)
        assert len(made) == 2
        pinging.cancel()


async def test_an_http2_connection_is_replaced_without_a_gap(authority: Path) -> None:
    """A new HTTP/2 connection is open before the old one is left, and no request fails."""
    async with http2(
        authority,
        at_request(later(0.05)),
        max_connection_age=0.3,
        request_timeout=1.0,
    ) as (made, pool):
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            await answered(pool, 3, repeatable=False)
        assert 3 <= len(made) <= 6
        assert len(pool._connections) + len(pool._retiring) <= 3


# -- names and addresses


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Resolves names to these addresses on this machine."""
    known: dict[str, list[str]] = {}
    original = addresses._addresses

    async def resolved(host: str, port: int) -> list[addresses.Address]:
        if host not in known:
            return await original(host, port)
        return [(socket.AF_INET, (address, port)) for address in known[host]]

    monkeypatch.setattr(addresses, "_addresses", resolved)
    return known


def ok(request: int, connection: int, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nothing ever answers."""
    original = addresses._connect

    async def connect(address: addresses.Address) -> socket.socket:
        if address[1][0] == "192.0.2.1":
            await asyncio.sleep(3600)
        return await original(address)

    monkeypatch.setattr(addresses, "_connect", connect)
    return "192.0.2.1"


async def test_a_dead_address_among_several_is_passed_over(names: dict[str, list[str]], dead: str) -> None:
    """Addresses are tried a quarter of a second apart, and the next connection begins with the one that worked."""
    names["asm.test"] = [dead, "127.0.0.1"]
    service = Http1Service(ok)
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    pool = pool_to(f"http://asm.test:{server.sockets[0].getsockname()[1]}")
    took = []
    for _ in range(2):
        begin = time.monotonic()
        await answered(pool, 3)
        took.append(time.monotonic() - begin)
        for connection in [*pool._connections]:
            connection.close()
    assert addresses.STAGGER <= took[0] < 1
    assert took[1] < addresses.STAGGER
    await pool.aclose()
    server.close()


async def test_an_address_that_refuses_is_passed_over_at_once(names: dict[str, list[str]]) -> None:
    """After a refused connection the next address is tried without a pause."""
    service = Http1Service(ok)
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    names["asm.test"] = ["127.0.0.2", "127.0.0.1"]
    pool = pool_to(f"http://asm.test:{server.sockets[0].getsockname()[1]}")
    begin = time.monotonic()
    await answered(pool, 3)
    assert time.monotonic() - begin < addresses.STAGGER
    await pool.aclose()
    server.close()


async def test_an_address_without_tls_is_passed_over(names: dict[str, list[str]], authority: Path) -> None:
    """An address that accepts connections and closes them in TLS does not prevent the use of one that works."""
    async with http2(authority, at_request(lambda server, stream: server.answer(stream))) as (_, good):
        port = good._connector.port

        async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        bad = await asyncio.start_server(close, "127.0.0.2", port)
        names["127.0.0.1"] = ["127.0.0.2", "127.0.0.1"]  # the certificate's name
        await answered(good, 5)
        bad.close()


async def test_a_moved_address_is_followed(names: dict[str, list[str]]) -> None:
    """A name's new address is used within the greatest age of a connection, even if the old one still answers."""
    old, new = Http1Service(ok), Http1Service(ok)
    first = await asyncio.start_server(old.serve, "127.0.0.1", 0)
    port = first.sockets[0].getsockname()[1]
    second = await asyncio.start_server(new.serve, "127.0.0.2", port)
    names["asm.test"] = ["127.0.0.1"]
    pool = pool_to(f"http://asm.test:{port}", max_connection_age=0.2, request_timeout=1.0)
    await answered(pool, 3)
    names["asm.test"] = ["127.0.0.2"]
    async with asyncio.timeout(3):
        while not new.requests:
            await answered(pool, 3)
            await asyncio.sleep(0.02)
    await pool.aclose()
    first.close()
    second.close()


async def test_a_name_look_up_has_a_deadline_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer is reported after the connection's time-out."""

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(3600)

    monkeypatch.setattr(addresses, "_addresses", never)
    pool = pool_to("http://asm.test", connect_timeout=0.2)
    results = await asyncio.gather(*(ask(pool) for _ in range(5)))
    assert {one.text for one in results if isinstance(one, Failure)} == {
        "cannot connect to asm.test:80: the name look-up took longer than 0.2 s"
    }
    await pool.aclose()


async def test_a_service_that_restarts_is_waited_for_a_moment() -> None:
    """A refused connection is retried within the connection's time-out, so no request fails in a restart."""
    service = Http1Service(ok)
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    pool = pool_to(f"http://127.0.0.1:{port}")
    asked = asyncio.ensure_future(ask(pool, repeatable=False))
    await asyncio.sleep(0.05)
    server = await asyncio.start_server(service.serve, "127.0.0.1", port)
    assert isinstance(await asked, Response)
    await pool.aclose()
    server.close()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "it was reset"),
        (BrokenPipeError(32, "Broken pipe"), "it was reset"),
        (TimeoutError(110, "Connection timed out"), "no answer in time"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol (_ssl.c:2580)"), "it was reset"),
    ],
)
def test_a_lost_connection_is_described_in_words(error: Exception, text: str) -> None:
    """A connection that is lost is described in words, without the numbers of the operating system."""
    assert lost(error).startswith(f"the connection was lost: {text}")
    assert "[Errno" not in lost(error)
