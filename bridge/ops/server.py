"""Health, metrics, the status and the page over HTTP. All of it is read-only."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from bridge.ops.access import Guard
from bridge.ops.agents import Query, sessions_page
from bridge.ops.gauges import set_gauges
from bridge.ops.http import answering, verdict
from bridge.ops.monitor import Monitor
from bridge.ops.readiness import STANDING_BY
from bridge.ops.snapshot import StatusSource
from bridge.settings import OpsSettings
from bridge.telemetry.metrics import METRICS

_PAGE = Path(__file__).parent / "page"


def application(snapshot: StatusSource, monitor: Monitor, ops: OpsSettings) -> Starlette:
    """The endpoints. ``monitor`` must be running, since it provides rates and streams."""

    async def healthz(request: Request) -> Response:
        return verdict(snapshot().given_up, "ok")

    async def readyz(request: Request) -> Response:
        now = snapshot()
        return verdict(now.not_ready, f"ready, {STANDING_BY}" if now.standing_by else "ready")

    async def metrics(request: Request) -> Response:
        set_gauges(snapshot())
        return Response(generate_latest(METRICS.registry), media_type=CONTENT_TYPE_LATEST)

    async def status(request: Request) -> Response:
        return Response(monitor.status(), media_type="application/json")

    async def sessions(request: Request) -> Response:
        try:
            query = msgspec.convert({k: v for k, v in request.query_params.items() if v}, Query, strict=False)
        except msgspec.ValidationError as error:
            return Response(msgspec.json.encode({"error": str(error)}), 400, media_type="application/json")
        page = sessions_page(snapshot(), query)
        return Response(msgspec.json.encode(page), media_type="application/json")

    async def events(request: Request) -> Response:
        return StreamingResponse(monitor.stream(), media_type="text/event-stream")

    routes: list[BaseRoute] = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/api/status", status),
        Route("/api/sessions", sessions),
        Route("/api/events", events),
        Mount("/", StaticFiles(directory=_PAGE, html=True)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, ops=ops)])


@contextlib.asynccontextmanager
async def serve(listener: socket.socket, snapshot: StatusSource, ops: OpsSettings) -> AsyncIterator[None]:
    """Serves the endpoints on the socket within the block."""
    monitor = Monitor(snapshot)
    async with answering(listener, application(snapshot, monitor, ops)):
        sampling = asyncio.create_task(monitor.run())
        try:
            yield
        finally:
            sampling.cancel()
            monitor.close()
            await asyncio.gather(sampling, return_exceptions=True)
