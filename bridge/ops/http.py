"""An HTTP server for an application, on a socket that is bound before anything else starts."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp


def listen(host: str, port: int) -> socket.socket:
    """Raises ``OSError`` where the address is taken."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


@contextlib.asynccontextmanager
async def answering(listener: socket.socket, application: ASGIApp) -> AsyncIterator[None]:
    """Answer on the socket as long as the block runs."""
    server = _Server(uvicorn.Config(application, log_config=None, access_log=False, lifespan="off"))
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
