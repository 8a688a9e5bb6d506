"""An HTTP/2 server that follows a test's script for each event."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any, cast

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from hpack import Encoder

HEAD = [(":status", "200"), ("content-type", "application/json"), ("date", "Wed, 25 Nov 2026 09:18:17 GMT")]
Script = Callable[["Server", Any], None]


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(content) << 8 | kind, flags, stream) + content


class Server(asyncio.Protocol):
    """An h2 server, except for what the script does for each event."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.h2 = H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False))
        self.seen: list[events.Event] = []
        self.bodies: dict[int, bytes] = {}
        self.lost = asyncio.Event()
        self.encoder = Encoder()
        self.backlog: dict[int, memoryview] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.h2.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.seen.append(event)
            if isinstance(event, events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            self.script(self, event)
            self.send_backlog()
            self.flush()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def raw(self, data: bytes) -> None:
        self.flush()
        self.transport.write(data)

    def answer(self, stream: int, body: bytes = b"{}", head: list[tuple[str, str]] = HEAD) -> None:
        self.h2.send_headers(stream, head)
        self.backlog[stream] = memoryview(body)
        self.send_backlog()

    def send_backlog(self) -> None:
        """Sends the backlog as far as the client's windows allow."""
        for stream, body in list(self.backlog.items()):
            while (size := min(len(body), self.h2.local_flow_control_window(stream), 16384)) > 0:
                self.h2.send_data(stream, bytes(body[:size]))
                body = body[size:]
            self.backlog[stream] = body
            if not body:
                del self.backlog[stream]
                self.h2.end_stream(stream)

    def saw(self, kind: type[events.Event]) -> list[Any]:
        return [event for event in self.seen if isinstance(event, kind)]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def on(kind: type[Any], act: Callable[[Server, int], None]) -> Script:
    return lambda server, event: act(server, event.stream_id) if isinstance(event, kind) else None


def at_request(act: Callable[[Server, int], None]) -> Script:
    return on(events.StreamEnded, act)


def silent(_server: Server, _event: events.Event) -> None:
    pass
