"""Requests to the ASM service over httpx, with pyreqwest (Rust's hyper) as the engine.

The transport is called with requests that are kept and sent again: httpx's client layer would cost more than the
rest of a
poll (docs/architecture.md). httpx's and pyreqwest's exceptions become the bridge's own here and nowhere else.
"""

import email.utils
import time
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
from pyreqwest.client import ClientBuilder
from pyreqwest.compatibility.httpx import HttpxTransport
from pyreqwest.exceptions import DetailedPyreqwestError, PyreqwestError
from pyreqwest.proxy import ProxyBuilder

from bridge.vendor.errors import Malformed, Refused, Throttled, Unauthorized, Unavailable, Unreachable, VendorError
from schemas import protojson
from schemas.asm import AsmSession

T = TypeVar("T", bound=msgspec.Struct)

PATH = "/api/v1alpha1/asm/asmapi/"
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
    """The engine under the client. Times in seconds; ``max_connections`` bounds the requests under way."""
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
    """Calls of the ASM service. Raises only ``VendorError``; every call is bounded by the transport's time-outs."""

    def __init__(self, transport: httpx.AsyncBaseTransport, base_url: str) -> None:
        self._transport = transport
        self._urls = {call: httpx.URL(base_url + PATH + call) for call in ("getstatus", "getcurrentsession")}

    def request(self, call: str, token: str, body: bytes) -> httpx.Request:
        """A request that may be sent any number of times, one after the other."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept": "application/json"}
        return httpx.Request("POST", self._urls[call], headers=headers, content=body)

    async def send(self, request: httpx.Request) -> tuple[int, bytes]:
        """Status and body of a 2xx answer."""
        try:
            response = await self._transport.handle_async_request(request)
            try:
                body = await response.aread()
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.StreamError, PyreqwestError) as error:
            raise _unreachable(error) from error
        if not response.is_success:
            raise _failure(response)
        return response.status_code, body

    async def current_session(self, token: str) -> AsmSession:
        """The caller's session; ``asm_session_sid`` is "0" where there is none (undocumented: any refusal is taken
        for it)."""
        try:
            return read(AsmSession, (await self.send(self.request("getcurrentsession", token, b"{}")))[1])
        except Refused:
            return AsmSession()

    async def aclose(self) -> None:
        await self._transport.aclose()


def read(cls: type[T], body: bytes) -> T:
    """The answer as a Struct. Raises ``Malformed``."""
    try:
        return protojson.read(cls, body)
    except protojson.ProtoJSONError as error:
        raise Malformed(f"the answer is not a {cls.__name__}: {error}", http_status=200) from error


def _unreachable(error: Exception) -> VendorError:
    return Unreachable(f"{type(error).__name__}: {error}", maybe_acted=not _unsent(error))


def _unsent(error: Exception) -> bool:
    """Whether the request certainly never left.

    pyreqwest calls any time-out, and a connection that was cut, a failure to connect, too: only its details tell.
    """
    cause = error.__cause__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and isinstance(cause, DetailedPyreqwestError):
        causes = cause.details.get("causes") or ()
        return any("(Connect)" in one.get("message", "") for one in causes)
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def _failure(response: httpx.Response) -> VendorError:
    status = response.status_code
    text = f"HTTP {status}"
    if status in (401, 403):
        return Unauthorized(text, http_status=status)
    if status in (429, 503):
        return Throttled(text, http_status=status, retry_after=_retry_after(response.headers.get("Retry-After")))
    if status in _REFUSALS:
        return Refused(text, http_status=status)
    if status >= 500:
        return Unavailable(text, http_status=status, maybe_acted=status != 501)
    return Malformed(
        f"HTTP {status}, which is no answer to this call", http_status=status, maybe_acted=200 <= status < 300
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
