"""Health and metrics over HTTP."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bridge.ops.metrics import METRICS


class Served(Protocol):
    """What the endpoints ask."""

    def not_ready(self) -> str | None: ...

    def observe(self) -> None:
        """Bring the gauges up to date."""


def application(served: Served) -> Starlette:
    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        reason = served.not_ready()
        return PlainTextResponse(f"{reason or 'ready'}\n", status_code=503 if reason else 200)

    async def metrics(request: Request) -> Response:
        served.observe()
        return Response(generate_latest(METRICS.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])


def listen(host: str, port: int) -> socket.socket:
    """Raises ``OSError`` where the address is taken."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


@contextlib.asynccontextmanager
async def serve(listener: socket.socket, served: Served) -> AsyncIterator[None]:
    """Answer on the socket as long as the block runs."""
    config = uvicorn.Config(application(served), log_config=None, access_log=False, lifespan="off")
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    """Signals are the entry point's alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
