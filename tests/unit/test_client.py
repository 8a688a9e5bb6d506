"""The vendor's client: every answer is decoded, and every failure becomes one of the bridge's own errors."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from hpack import Decoder

from asm_bridge_schemas.asm import GetStatusRes
from bridge.asm.answer import CODES, UNCHANGED, Answer
from bridge.asm.client import AsmClient
from bridge.asm.errors import (
    AsmError,
    ForeignAnswer,
    Malformed,
    Refused,
    Throttled,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from bridge.asm.http.request import PreparedRequest
from bridge.asm.transport import build_transport
from bridge.settings import AsmSettings
from bridge.testing.httpx_transport import HttpxAdapter, TransportForHttpx
from bridge.testing.simulator import Fault, Faults, Options, Simulator, serve

BASE = "https://asm.test"
BEARER = {"Authorization": "Bearer sim-token-agent-0"}
NOWHERE = AsmSettings(base_url="http://127.0.0.1:1")
TOKEN = "tok-3f9a7c12"
TOKEN_0 = "sim-token-agent-0"


def client(answer: Callable[[httpx.Request], httpx.Response] | httpx.Response) -> AsmClient:
    return AsmClient(HttpxAdapter(httpx.MockTransport(answer if callable(answer) else lambda _: answer)), BASE)


async def outcome(asm: AsmClient, request: PreparedRequest) -> Answer:
    """Returns the answer, or raises the error that is handed on instead."""
    outcomes: asyncio.Queue[Answer | AsmError] = asyncio.Queue()
    asm.send(request, outcomes.put_nowait)
    found = await outcomes.get()
    if isinstance(found, AsmError):
        raise found
    return found


async def sent(asm: AsmClient, call: str = "getstatus", token: str = TOKEN) -> bytes:
    return (await outcome(asm, asm.request(call, token, b"{}"))).body


async def error_of(asm: AsmClient, call: str = "getstatus", token: str = TOKEN) -> AsmError:
    with pytest.raises(AsmError) as caught:
        await sent(asm, call, token)
    assert token not in str(caught.value)
    return caught.value


async def test_a_request_is_what_the_vendor_asks_for() -> None:
    """A request is a POST with a JSON body and the agent's bearer token, and is the same when it is sent again."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"{}")

    asm = client(answer)
    request = asm.request("getstatus", TOKEN, b'{"a": 1}')
    answers = [await outcome(asm, request), await outcome(asm, request)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"{}"), (200, b"{}")]
    first, second = seen
    assert (first.method, str(first.url)) == ("POST", f"{BASE}/api/v1alpha1/asm/asmapi/getstatus")
    assert first.headers["authorization"] == f"Bearer {TOKEN}"
    assert first.headers["content-type"] == "application/json"
    assert first.content == second.content == b'{"a": 1}'


@pytest.mark.parametrize("token", ["one", "two"])
def test_requests_share_all_headers_but_their_token(token: str) -> None:
    """A request has its own token, in HTTP/1.1 and in HTTP/2, beside the headers that all requests share."""
    asm = client(httpx.Response(200))
    request, other = asm.request("getstatus", token, b"{}"), asm.request("getstatus", "other", b"{}")
    assert request.http1.count(b"\r\nauthorization: ") == 1
    assert f"\r\nauthorization: Bearer {token}\r\n".encode() in request.http1
    fields, others = (
        {(name.decode(), value.decode()) for name, value in Decoder().decode(one.http2, raw=True)}
        for one in (request, other)
    )
    assert fields >= set(request.headers.items())
    assert fields - others == {("authorization", f"Bearer {token}")}


@pytest.mark.parametrize("status", CODES)
async def test_a_refusal_of_the_service_is_handed_on(status: int) -> None:
    """A refusal raises the error of ``read_response``, without the request's token in its text."""
    body = {"code": CODES[status][0], "message": f"Bearer {TOKEN}"}
    error = await error_of(client(httpx.Response(status, json=body)))
    assert not isinstance(error, ForeignAnswer)
    assert error.http_status == status


async def test_no_status_leaks() -> None:
    """Any status of an empty answer raises an ``AsmError``, and never another exception."""
    for status in {*range(201, 600)}:
        with pytest.raises(Unreachable if status == 407 else ForeignAnswer):
            await sent(client(httpx.Response(status)))


@pytest.mark.parametrize("status", [201, 202, 204])
async def test_any_2xx_is_an_answer(status: int) -> None:
    """Any 2xx status counts as an answer and delivers the request's events."""
    assert await sent(client(httpx.Response(status, content=b"{}"))) == b"{}"


async def test_redirects_are_not_followed() -> None:
    """Redirects are not followed, so that a token is not sent to another host."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(307, headers={"Location": "https://elsewhere.test/"})

    assert isinstance(await error_of(client(answer)), ForeignAnswer)
    assert seen == [f"{BASE}/api/v1alpha1/asm/asmapi/getstatus"]


async def test_retry_after_is_bounded_by_the_setting() -> None:
    """A Retry-After is limited to asm.max_retry_after."""
    answer = httpx.Response(503, headers={"Retry-After": "3600", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"})
    asm = AsmClient(HttpxAdapter(httpx.MockTransport(lambda _: answer)), BASE, max_retry_after=20)
    assert (await error_of(asm)).retry_after == 20


def exceptions(*bases: type[Exception]) -> Iterator[type[Exception]]:
    for base in bases:
        yield base
        yield from exceptions(*base.__subclasses__())


def raised(cls: type[Exception]) -> Exception:
    if issubclass(cls, httpx.HTTPStatusError):
        return cls("x", request=httpx.Request("POST", BASE), response=httpx.Response(500))
    with contextlib.suppress(TypeError):
        return cls("x")
    return cls()


HTTPX = {httpx.HTTPError, *exceptions(httpx.HTTPError, httpx.StreamError)}
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@pytest.mark.parametrize("cls", sorted(HTTPX, key=str), ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
async def test_no_exception_of_the_libraries_leaks(cls: type[Exception]) -> None:
    """An exception of a library becomes an error that says whether the request may have been sent."""

    def fail(_: httpx.Request) -> httpx.Response:
        raise raised(cls)

    error = await error_of(client(fail))
    assert isinstance(error, Unreachable)
    assert error.possibly_processed is not issubclass(cls, UNSENT)
    assert error.http_status is None


async def test_an_answer_that_breaks_off_may_have_been_acted_upon() -> None:
    """A request whose answer breaks off may have been processed."""

    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"{"
            raise httpx.ReadError("cut")

    error = await error_of(client(lambda _: httpx.Response(200, stream=Broken())))
    assert isinstance(error, Unreachable)
    assert error.possibly_processed


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'{"asmSessionSid": 1.5}', b"<html>", b"[" * 9999]
)
async def test_an_answer_that_cannot_be_read_is_an_error(body: bytes) -> None:
    """An unreadable answer raises an error."""
    error = await error_of(client(httpx.Response(200, content=body)), "getcurrentsession")
    assert isinstance(error, Malformed if b"asmSessionSid" in body else ForeignAnswer)
    assert error.http_status == 200


async def test_an_answer_that_is_known_is_not_read() -> None:
    """The client returns UNCHANGED for the body that its caller already knows, and decodes any other one."""
    asm = client(httpx.Response(200, content=b"{}"))
    found: list[Answer | AsmError] = []
    for known in (None, b"{}", b"{ }"):
        asm.send(asm.request("getstatus", TOKEN, b"{}"), found.append, known)
        while not found:
            await asyncio.sleep(0)
        answer = found.pop()
        assert isinstance(answer, Answer)
        assert (answer is UNCHANGED) == (known == b"{}")
        assert (answer.message is None) == (known == b"{}")


async def test_the_current_session_is_none_where_the_service_refuses() -> None:
    """A refusal of getcurrentsession gives no session."""
    refused = httpx.Response(404, json={"code": 5, "message": "no session"})
    assert (await client(refused).current_session(TOKEN)).asm_session_sid == "0"
    found = await client(httpx.Response(200, json={"asmSessionSid": "9007199254740993"})).current_session(TOKEN)
    assert found.asm_session_sid == "9007199254740993"


# -- over a real socket


@contextlib.asynccontextmanager
async def against(base_url: str, **options: Any) -> AsyncIterator[AsmClient]:
    asm = AsmClient(build_transport(AsmSettings(base_url=base_url, **options)), base_url)
    try:
        yield asm
    finally:
        await asm.aclose()


@contextlib.asynccontextmanager
async def service(faults: Faults | None = None, **options: Any) -> AsyncIterator[AsmClient]:
    simulator = Simulator(Options(agents=2, change_rate=0.0, logouts=False, faults=faults or {}))
    async with serve(simulator) as base_url, against(base_url, **options) as asm:
        yield asm


async def test_a_real_answer_arrives() -> None:
    """One client gets the session and then its status from a real server."""
    async with service() as asm:
        session = await asm.current_session(TOKEN_0)
        body = b'{"asm_session_sid": "%s"}' % session.asm_session_sid.encode()
        request = asm.request("getstatus", TOKEN_0, body)
        first, second = await outcome(asm, request), await outcome(asm, request)
        assert isinstance(first.message, GetStatusRes)
        assert first.message.voice_status is not None
        assert first == second


async def test_a_real_refusal_arrives() -> None:
    """A real server's refusal raises the same error as a scripted one."""
    async with service() as asm:
        request = asm.request("getstatus", TOKEN_0, b'{"asm_session_sid": "1"}')
        with pytest.raises(Refused):
            await outcome(asm, request)
        assert isinstance(await error_of(asm, token="wrong-token"), Unauthorized)


REAL: dict[str, tuple[Faults, type[AsmError], bool]] = {
    "401": ({"status_401": Fault()}, Unauthorized, False),
    "429": ({"status_429": Fault(retry_after=7)}, Throttled, False),
    "500": ({"status_500": Fault()}, Unavailable, True),
    "503": ({"status_503": Fault()}, Throttled, True),
    "hang": ({"hang": Fault()}, Unreachable, True),
    "cut": ({"cut": Fault()}, Unreachable, True),
    "cut_after": ({"cut_after": Fault()}, Unreachable, True),
}


@pytest.mark.parametrize("name", REAL)
async def test_real_failures_are_the_same_errors(name: str) -> None:
    """Real time-outs and cut connections raise the same errors, and the next request succeeds."""
    faults, kind, possibly_processed = REAL[name]
    async with service(faults, request_timeout=0.3) as asm:
        for _ in range(2):
            error = await error_of(asm, "getcurrentsession", TOKEN_0)
            assert (type(error), error.possibly_processed) == (kind, possibly_processed)
        if name == "429":
            assert error.retry_after == 7  # type: ignore[attr-defined]


async def test_a_refused_connection_sent_nothing() -> None:
    """A request that could not connect was not sent, so its events are not possibly repeated."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with against(f"http://127.0.0.1:{taken.getsockname()[1]}") as asm:
            error = await error_of(asm)
    assert isinstance(error, Unreachable)
    assert not error.possibly_processed


async def test_a_name_that_does_not_exist_sent_nothing() -> None:
    """A request to a host name that does not exist was not sent."""
    async with against("http://asm.invalid", connect_timeout=2) as asm:
        error = await error_of(asm)
    assert isinstance(error, Unreachable)
    assert not error.possibly_processed


async def test_waiting_for_a_connection_sent_nothing() -> None:
    """A request that waited in vain for one of max_connections was not sent."""
    simulator = Simulator(Options(agents=4, faults={"hang": Fault()}))
    async with (
        serve(simulator) as base_url,
        against(base_url, request_timeout=0.4, max_connections=1) as asm,
        asyncio.TaskGroup() as tasks,
    ):
        calls = [tasks.create_task(error_of(asm, "getcurrentsession", f"sim-token-agent-{n}")) for n in range(4)]
        await asyncio.wait(calls)
    waited = [error for error in (call.result() for call in calls) if not error.possibly_processed]
    assert waited
    assert len(waited) + simulator.requests == len(calls)


async def test_real_redirects_are_not_followed() -> None:
    """A real server's redirect is not followed."""
    hosts = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal hosts
        hosts += 1
        await reader.readuntil(b"{}")  # closing with something unread would reset the connection
        writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, against(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as asm:
        error = await error_of(asm)
    assert (type(error), error.http_status, hosts) == (ForeignAnswer, 307, 1)


async def test_what_speaks_no_http_is_unreachable() -> None:
    """A server that does not speak HTTP counts as unreachable."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x15\x03\x01 nonsense\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, against(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as asm:
        assert isinstance(await error_of(asm), Unreachable)


async def test_a_closed_client_raises_an_error_of_the_bridge() -> None:
    """A closed client raises an error of the bridge, even while the process is stopping."""
    async with service() as asm:
        await asm.aclose()
        assert isinstance(await error_of(asm), Unreachable)


def test_the_libraries_exceptions_are_all_tried() -> None:
    """The tests above cover every exception class of the installed httpx."""
    assert httpx.RemoteProtocolError in HTTPX


async def test_an_answer_that_kafka_cannot_hold_is_none() -> None:
    """An answer of 8 MiB or more is an error, but has delivered the request's events."""
    error = await error_of(
        client(httpx.Response(200, content=b'{"voiceStatus":{"message":"' + b"x" * (8 * 1024 * 1024) + b'"}}'))
    )
    assert isinstance(error, Malformed)
    assert error.possibly_processed


async def test_a_client_of_httpx_speaks_over_the_pool() -> None:
    """An httpx client with a TransportForHttpx gets the same status, body and errors as with httpx's own transport."""
    simulator = Simulator(Options(agents=1, faults={"status_429": Fault(retry_after=7)}))
    async with serve(simulator) as base_url:
        transport = TransportForHttpx(build_transport(AsmSettings(base_url=base_url)))
        async with httpx.AsyncClient(transport=transport) as http:
            answer = await http.post(f"{base_url}/api/v1alpha1/asm/asmapi/getcurrentsession", json={}, headers=BEARER)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
            with pytest.raises(httpx.UnsupportedProtocol):
                await http.get(base_url)
    with pytest.raises(httpx.ConnectError):
        await httpx.AsyncClient(transport=TransportForHttpx(build_transport(NOWHERE))).post(NOWHERE.base_url, json={})
