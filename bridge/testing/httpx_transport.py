"""Between httpx and the bridge's transport to the service, both ways: httpx's own mock transports serve a client of the
bridge, and a client of httpx sends its requests over the bridge's pool.
"""

import asyncio

import httpx

from bridge.asm.http.connect_error import ConnectError
from bridge.asm.http.request import PreparedRequest, Target
from bridge.asm.http.response import Failure, OnResponse, Response
from bridge.asm.transport import Transport, fetch

_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class HttpxAdapter:
    """A ``Transport`` over any transport of httpx, such as ``httpx.MockTransport``; each request is a task."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, request: PreparedRequest, on_response: OnResponse) -> None:
        task = asyncio.get_running_loop().create_task(self._send(request, on_response))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, request: PreparedRequest, on_response: OnResponse) -> None:
        url = httpx.URL(f"{request.target.scheme}://{request.target.authority}{request.target.path}")
        try:
            response = await self._transport.handle_async_request(
                httpx.Request("POST", url, headers=request.headers, content=request.body)
            )
            try:
                body = await response.aread()
            finally:
                await response.aclose()
        except Exception as error:  # noqa: BLE001 - an error of any library must reach the caller who waits for it
            on_response(Failure(f"{type(error).__name__}: {error}", sent=not isinstance(error, _UNSENT)))
        else:
            head = response.headers
            on_response(Response(response.status_code, body, head.get("Retry-After"), head.get("Date")))

    async def aclose(self) -> None:
        await self._transport.aclose()


class TransportForHttpx(httpx.AsyncBaseTransport):
    """A transport of httpx over a ``Transport``: POST requests, whose answers have the headers that a poll needs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method != "POST":
            raise httpx.UnsupportedProtocol(f"only POST can be sent, not {request.method}", request=request)
        headers = {name.lower(): value for name, value in request.headers.items() if name.lower() not in _GENERATED}
        prepared = PreparedRequest(Target.of(request.url), headers, await request.aread())
        response = await fetch(self._transport, prepared)
        if isinstance(response, Failure):
            raise _error_of(response)(response.text, request=request)
        fields = {"retry-after": response.retry_after, "date": response.date}
        found = {name: value for name, value in fields.items() if value is not None}
        return httpx.Response(response.status, headers=found, content=response.body)

    async def aclose(self) -> None:
        await self._transport.aclose()


def _error_of(failure: Failure) -> type[httpx.TransportError]:
    """The error that httpx raises in this case."""
    if failure.sent:
        return httpx.ReadError
    if isinstance(failure.error, ConnectError) and failure.error.cause == "timeout":
        return httpx.ConnectTimeout
    is_proxys = isinstance(failure.error, ConnectError) and failure.error.cause in ("proxy", "proxy_login")
    return httpx.ProxyError if is_proxys else httpx.ConnectError


_GENERATED = {"host", "accept-encoding", "content-length", "transfer-encoding", "connection"}
"""Headers that the request generates itself, or that concern a connection."""
