"""The simulator on a socket: HTTP/1.1 by uvicorn's protocol class and a raw ASGI application, without its server loop.

That loop would handle the signals of the process, and would report neither the port nor when it listens.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from bridge.settings.types import show_host_port
from bridge.testing.simulator import answers, control, gateway
from bridge.testing.simulator.answers import Answer
from bridge.testing.simulator.service import Simulator

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

KEEP_ALIVE = 75
"""Seconds that an idle connection is kept; as long as common gateways do."""
PATIENCE = 0.5
"""Seconds that requests under way have to end when the server stops."""

_CALL_PATHS = frozenset(gateway.BASE + call for call in gateway.CALLS)


class _Protocol(HttpToolsProtocol):
    """Hands the transport to the application, which can then cut it, and counts connections."""

    simulator: Simulator

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.simulator.connections_open += 1
        self.simulator.connections_made += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.simulator.connections_open -= 1
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"transport": self.transport}  # type: ignore[dict-item]


def application(simulator: Simulator) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The ASGI application: the vendor's calls, and the levers under ``/sim/``."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        path: str = scope["path"]
        if path in _CALL_PATHS and scope["method"] == "POST":
            await _serve_call(simulator, scope, body, receive, send)
        elif path.startswith(control.PREFIX):
            status, content = control.answer(simulator, scope["method"], path, scope["query_string"], body)
            await _send(send, answers.ok(content)._replace(status=status))
        else:
            status, text = (405, "Method Not Allowed") if path in _CALL_PATHS else (404, "Not Found")
            await _send(send, answers.error(status, text))

    return app


@asynccontextmanager
async def serve(
    simulator: Simulator,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
) -> AsyncIterator[str]:
    """Listens while the block runs; gives the base URL. Port 0: any free one. Raises OSError if it cannot listen."""
    config = uvicorn.Config(
        application(simulator),
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
    )
    config.load()
    state = ServerState()
    protocol = type("_BoundProtocol", (_Protocol,), {"simulator": simulator})
    server = await asyncio.get_running_loop().create_server(
        lambda: protocol(config=config, server_state=state, app_state={}), host, port, ssl=config.ssl, backlog=4096
    )
    scheme = "https" if config.ssl else "http"
    try:
        yield f"{scheme}://{show_host_port(*server.sockets[0].getsockname()[:2])}"
    finally:
        server.close()
        await _close(state)


async def _close(state: ServerState) -> None:
    for connection in list(state.connections):
        connection.shutdown()
    if state.tasks:
        await asyncio.wait(list(state.tasks), timeout=PATIENCE)
    for connection in list(state.connections):
        connection.transport.abort()
    if state.tasks:
        await asyncio.wait(list(state.tasks), timeout=PATIENCE)


async def _serve_call(simulator: Simulator, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    call = scope["path"].removeprefix(gateway.BASE)
    visit = simulator.begin(call, _authorization(scope["headers"]), body)
    result = "gone"
    try:
        if visit.delay and await _left_within(visit.delay, receive):
            return
        answer = simulator.process(visit, body)
        result = answer.result
        if answer.cut is None:
            await _send(send, answer)
    finally:
        simulator.finish(visit, result)
    if answer.cut is not None:
        await _cut(scope["extensions"]["transport"], answer, receive, send)


async def _cut(transport: asyncio.Transport, answer: Answer, receive: Receive, send: Send) -> None:
    """Closes the connection after sending nothing, or half of the answer; waits until that is done."""
    if answer.cut == "during":
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        half = answer.body[: len(answer.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        transport.close()
    else:
        transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _left_within(seconds: float, receive: Receive) -> bool:
    """Waits; True as soon as the client has gone."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


def _authorization(headers: list[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if name == b"authorization":
            return value
    return b""


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    chunks = [body]
    while message.get("more_body"):
        message = await receive()
        chunks.append(message.get("body", b""))
    return b"".join(chunks)


async def _send(send: Send, answer: Answer) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
