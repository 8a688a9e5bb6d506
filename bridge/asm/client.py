"""Requests to the ASM service: over any transport of httpx, or over ``wire``, which is made for sending them again.

Through a proxy, and for ``asm-bridge check``, the transport is pyreqwest's (Rust's hyper). httpx's and pyreqwest's
exceptions become the bridge's own here and nowhere else.
"""

import asyncio
import email.utils
import time
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
from pyreqwest.client import ClientBuilder
from pyreqwest.compatibility.httpx import HttpxTransport
from pyreqwest.exceptions import ConnectError, ConnectTimeoutError, PoolTimeoutError, PyreqwestError
from pyreqwest.proxy import ProxyBuilder

from asm_bridge_schemas import protojson
from asm_bridge_schemas.asm import AsmSession
from bridge.asm.errors import AsmError, Malformed, Refused, Throttled, Unauthorized, Unavailable, Unreachable
from bridge.asm.http.pool import Pool
from bridge.asm.http.request import Failure, OnResponse, PreparedRequest, Response, Target

T = TypeVar("T", bound=msgspec.Struct)

Kept = httpx.Request | PreparedRequest
"""A request as the transport at hand sends it."""

PATH = "/api/v1alpha1/asm/asmapi/"
MAX_ANSWER = 8 * 1024 * 1024
"""Bytes of an answer: some 30,000 calls. What cannot be written must not stop the agents of a whole partition."""
_HEADERS = {"content-type": "application/json", "accept": "application/json", "user-agent": "asm-kafka-bridge"}
_LONGEST_WAIT = 86400.0
"""Seconds; a Retry-After beyond a day is a mistake."""
_REFUSALS = frozenset({400, 404, 409, 412, 422})


def transport(
    *,
    ca_file: Path | None = None,
    proxy: str | None = None,
    connect_timeout: float = 5.0,
    request_timeout: float = 10.0,
    max_connections: int = 512,
    http2: bool = True,
) -> httpx.AsyncBaseTransport:
    """pyreqwest, which knows proxies and says best what is wrong. Times in seconds; ``max_connections`` bounds the
    requests under way."""
    builder = (
        ClientBuilder()
        .follow_redirects(False)
        .connect_timeout(timedelta(seconds=connect_timeout))
        .timeout(timedelta(seconds=request_timeout))
        .pool_timeout(timedelta(seconds=request_timeout))
        .max_connections(max_connections)
        .pool_max_idle_per_host(max_connections)
        .http2(http2)
        .user_agent("asm-kafka-bridge")
    )
    if ca_file is not None:
        builder = builder.add_root_certificate_pem(ca_file.read_bytes())
    builder = builder.proxy(ProxyBuilder.all(proxy)) if proxy else builder.no_proxy()
    return HttpxTransport(builder.build())


class AsmClient:
    """Calls of the ASM service. Raises only ``AsmError``; every call is bounded by the transport's time-outs."""

    def __init__(self, transport: httpx.AsyncBaseTransport | Pool, base_url: str) -> None:
        self._transport = transport
        self._urls = {call: httpx.URL(base_url + PATH + call) for call in ("getstatus", "getcurrentsession")}
        self._targets = {call: Target.of(url) for call, url in self._urls.items()}
        self._asking: set[asyncio.Task[None]] = set()

    def request(self, call: str, token: str, body: bytes) -> Kept:
        """A request that may be sent any number of times, one after the other."""
        headers = {**_HEADERS, "authorization": f"Bearer {token}"}
        if isinstance(self._transport, Pool):
            return PreparedRequest(self._targets[call], headers, body)
        return httpx.Request("POST", self._urls[call], headers=headers, content=body)

    def ask(self, request: Kept, on_response: OnResponse) -> None:
        """Send; ``on_response`` is called once, later, with the response or ``Failure``, both for ``usable``."""
        if isinstance(request, PreparedRequest):
            self._transport.send(request, on_response)  # type: ignore[union-attr]  # only a Pool makes it
        else:
            task = asyncio.get_running_loop().create_task(self._relay(request, on_response))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _relay(self, request: httpx.Request, on_response: OnResponse) -> None:
        try:
            answer = await self._fetch(request)
        except Exception as error:  # noqa: BLE001 - a fault in a library must not leave an agent waiting for ever
            answer = Failure(f"{type(error).__name__}: {error}", sent=True)
        on_response(answer)

    async def send(self, request: Kept) -> tuple[int, bytes]:
        """Status and body of a 2xx answer."""
        return usable(await self._fetch(request))

    async def _fetch(self, request: Kept) -> Response | Failure:
        if isinstance(self._transport, Pool):
            assert isinstance(request, PreparedRequest)
            return await self._transport.fetch(request)
        assert isinstance(request, httpx.Request)
        try:
            response = await self._transport.handle_async_request(request)
            try:
                body = await response.aread()
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.StreamError, PyreqwestError) as error:
            return Failure(f"{type(error).__name__}: {error}", sent=not _unsent(error))
        return Response(response.status_code, body, response.headers.get("Retry-After"), response.headers.get("Date"))

    async def current_session(self, token: str) -> AsmSession:
        """The caller's session; ``asm_session_sid`` is "0" where there is none (undocumented: any refusal is taken
        for it)."""
        try:
            return read(AsmSession, (await self.send(self.request("getcurrentsession", token, b"{}")))[1])
        except Refused:
            return AsmSession()

    async def aclose(self) -> None:
        await self._transport.aclose()


def usable(answer: Response | Failure) -> tuple[int, bytes]:
    """Status and body of a 2xx answer. Raises ``AsmError`` for any other, and for none."""
    if isinstance(answer, Failure):
        raise Unreachable(answer.text, possibly_processed=answer.sent, counts_as_outage=answer.counts_as_outage)
    status, body, retry_after, _ = answer
    if not 200 <= status < 300:
        raise _failure(status, retry_after)
    if len(body) > MAX_ANSWER:
        text = f"the answer has {len(body)} bytes; its records would not fit into Kafka"
        raise Malformed(text, http_status=status, possibly_processed=True)
    return status, body


def read(cls: type[T], body: bytes) -> T:
    """The answer as a Struct. Raises ``Malformed``."""
    try:
        return protojson.read(cls, body)
    except protojson.ProtoJSONError as error:
        raise Malformed(f"the answer is not a {cls.__name__}: {error}", http_status=200) from error


def _unsent(error: Exception) -> bool:
    """Whether the request certainly never left.

    pyreqwest calls any time-out, and a connection that was cut, a failure to connect, too: only its details tell.
    """
    error = error.__cause__ if isinstance(error.__cause__, PyreqwestError) else error
    if isinstance(error, ConnectError | ConnectTimeoutError):
        causes = error.details.get("causes") or ()
        return any("(Connect)" in one.get("message", "") for one in causes)
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | PoolTimeoutError)


def _failure(status: int, retry_after: str | None) -> AsmError:
    text = f"HTTP {status}"
    if status in (401, 403):
        return Unauthorized(text, http_status=status)
    if status in (429, 503):
        return Throttled(text, http_status=status, retry_after=_retry_after(retry_after))
    if status in _REFUSALS:
        return Refused(text, http_status=status)
    if status >= 500:
        return Unavailable(text, http_status=status, possibly_processed=status != 501)
    return Malformed(
        f"HTTP {status}, which is no answer to this call", http_status=status, possibly_processed=200 <= status < 300
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait (RFC 9110, section 10.2.3: a number or a date)."""
    if value is None:
        return None
    value = value.strip()
    try:
        wait = float(value) if value.isascii() and value.isdigit() else _date(value) - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, wait), _LONGEST_WAIT)


def _date(value: str) -> float:
    return email.utils.parsedate_to_datetime(value).timestamp()
