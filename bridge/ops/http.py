"""An HTTP server for an application, on a socket that is bound before anything else starts."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from bridge.settings import OpsSettings


def listen(host: str, port: int) -> socket.socket:
    """Binds a listening socket; ``::`` is every address of the machine, IPv4 ones included. Raises ``OSError`` if the
    address is in use.
    """
    if host == "::" and socket.has_dualstack_ipv6():
        return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def cannot_listen(ops: OpsSettings, error: OSError) -> str:
    """The text about a ``listen`` that failed: what is wrong, and what to do."""
    return f"cannot listen on ops.listen {ops.listen}: {error.strerror}. Set another address"


def free_port() -> int:
    """A loopback TCP port without a listener.

    It is below the systems' ephemeral ranges: on a port within them, a client that reconnects while its server is down
    can connect to itself and so keep the port from the server. Raises ``OSError`` where all that were tried are taken.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port on 127.0.0.1 between 20000 and 32000: end a process that listens there")


def verdict(reason: str | None, good: str) -> Response:
    """The answer of a probe: 503 and the reason, or 200 and ``good``."""
    return PlainTextResponse(f"{reason or good}\n", status_code=503 if reason else 200)


@contextlib.asynccontextmanager
async def answering(listener: socket.socket, application: ASGIApp) -> AsyncIterator[None]:
    """Serves the application on the socket within the block."""
    server = _Server(uvicorn.Config(application, log_config=None, access_log=False, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    """Leaves signals to the entry point."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
