"""Health, metrics, the status and the page over HTTP. Everything can be read, nothing can be changed."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.ops.agents import Query, sessions_page
from bridge.ops.http import answering
from bridge.ops.monitor import Monitor
from bridge.ops.snapshot import Snapshot
from bridge.telemetry.metrics import METRICS

_PAGE = Path(__file__).parent / "page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Served(Protocol):
    """What the endpoints ask."""

    def not_ready(self) -> str | None: ...

    def observe(self) -> None:
        """Bring the gauges up to date."""

    def snapshot(self) -> Snapshot: ...


def application(served: Served, monitor: Monitor) -> Starlette:
    """``monitor`` must be running, for rates and streams to move."""
    routes: list[BaseRoute] = [
        *_probes(served),
        *_api(served, monitor),
        Mount("/", StaticFiles(directory=_PAGE, html=True)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(_Headers)])


def _probes(served: Served) -> list[Route]:
    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        reason = served.not_ready()
        return PlainTextResponse(f"{reason or 'ready'}\n", status_code=503 if reason else 200)

    async def metrics(request: Request) -> Response:
        served.observe()
        METRICS.observe(served.snapshot())
        return Response(generate_latest(METRICS.registry), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


def _api(served: Served, monitor: Monitor) -> list[Route]:
    async def status(request: Request) -> Response:
        return Response(monitor.status(), media_type="application/json")

    async def sessions(request: Request) -> Response:
        try:
            query = msgspec.convert({k: v for k, v in request.query_params.items() if v}, Query, strict=False)
        except msgspec.ValidationError as error:
            return Response(msgspec.json.encode({"error": str(error)}), 400, media_type="application/json")
        page = sessions_page(served.snapshot(), query)
        return Response(msgspec.json.encode(page), media_type="application/json")

    async def events(request: Request) -> Response:
        return StreamingResponse(monitor.stream(), media_type="text/event-stream")

    return [Route("/api/status", status), Route("/api/sessions", sessions), Route("/api/events", events)]


@contextlib.asynccontextmanager
async def serve(listener: socket.socket, served: Served) -> AsyncIterator[None]:
    """Answer on the socket as long as the block runs."""
    monitor = Monitor(served)
    async with answering(listener, application(served, monitor)):
        looking = asyncio.create_task(monitor.run())
        try:
            yield
        finally:
            looking.cancel()
            monitor.close()
            await asyncio.gather(looking, return_exceptions=True)


class _Headers:
    """Puts ``_HEADERS`` on every answer; the page gets nothing from elsewhere, and stands in nobody's frame."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
