"""The service that the clients poll: canned answers of about 1.1 kB, with the head; its statistics are under /stats.

It is made to be cheap, not right (``asm-bridge simulate`` is that one): one process, no framework, requests read only
as far as needed. ``python -m bridge.testing.bench.target --listen HOST:PORT``; agent n is who says ``Bearer tok-n``.
"""

import argparse
import asyncio
import json
import random
import re
import time
from array import array
from collections.abc import Callable, Iterator
from typing import cast
from urllib.parse import parse_qs, urlsplit

from bridge.testing.bench.figures import spread

_TOKEN = re.compile(rb"\r\nauthorization: *bearer tok-(\d{1,7})\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MARK = re.compile(rb'"conversation_?sid" *: *"?(\d{19})"?', re.IGNORECASE)
"""The sid of an injected event is the time when it was produced, in ns since 1970."""

_CALL = (
    '{{"callSid":"{sid}","phoneNumber":"+15555550{n:03d}","callerId":"+1555556{caller:04d}","callType":"INBOUND",'
    '"startDate":"2026-01-01T00:00:00Z","holdDate":null,"skills":["english"],"agentSpecific":false,'
    '"queuedNotificationType":"QUEUED_NOTIFICATION_TYPE_AGENT"}}'
)
_STATUS = (
    '{{"voiceStatus":{{"status":"{status}","statusDesc":"{desc}","paused":false,"queue":"main",'
    '"currentSessionId":"{session}","lastStatusChange":"{changed}","monitoring":false,"callsCount":"{calls}",'
    '"lastSipCode":"200","agentPeerIsLostCall":false,"disabled":false,"keepAliveSucceeded":false,"message":"",'
    '"messageTimestamp":"0","queuedCalls":{{"agentQueueCalls":[{queue}],"onHoldCalls":[],"hqmCalls":[]}},'
    '"callerWasSuspended":false,"transferMembers":[],"alert":null,"agentPeerIsDirectToAgent":false,'
    '"agentIsMuted":false}}}}'
)
_STATES = (("3", "READY"), ("4", "TALKING"), ("5", "WRAPUP"))


def status(agent: int, version: int, queue: str) -> str:
    """An answer in the vendor's JSON; ``queue``: the calls in it, joined."""
    number, desc = _STATES[version % 3]
    return _STATUS.format(
        status=number, desc=desc, session=9_000_000 + agent, changed=1_626_791_817_289 + version * 1000,
        calls=12 + version, queue=queue,
    )  # fmt: skip


def own_queue(agent: int) -> str:
    """Two calls that only this agent sees."""
    first = 5_000_000 + agent * 2
    return ",".join(_CALL.format(sid=first + i, n=(agent + i) % 1000, caller=(agent + i) % 1000) for i in (0, 1))


def shared_queue(size: int, second: int) -> str:
    """``size`` calls that all agents see; each second another one of them has changed."""
    turns = ((second - i) // size % 10_000 for i in range(size))
    return ",".join(_CALL.format(sid=7_000_000 + i, n=i % 1000, caller=turn) for i, turn in enumerate(turns))


class AgentAnswer:
    """The last answer to one agent."""

    __slots__ = ("answer", "last", "queue", "second", "version", "window")

    def __init__(self, agent: int, shared: int) -> None:
        self.version = self.last = self.second = 0
        self.window = -1
        self.queue = "" if shared else own_queue(agent)
        self.answer = b""


class Service:
    """The agents, and statistics since the last reset. Times are ns of the monotonic clock."""

    def __init__(self, change: float, queue: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._change = change
        self._shared = queue
        self._queue = (0, "")
        self._agents: dict[int, AgentAnswer] = {}
        self._window = 0
        self.connections = 0
        self._reset()

    def _reset(self) -> None:
        self._window += 1
        self._begin, self._cpu = time.monotonic(), time.process_time()
        self._polls = self._changes = self._seen = 0
        self._gaps, self._injected = array("d"), array("d")

    def poll(self, number: int, body: bytes) -> bytes:
        """The whole HTTP answer to a getstatus."""
        now = self._clock()
        agent = self._agents.get(number) or self._agents.setdefault(number, AgentAnswer(number, self._shared))
        self._polls += 1
        if agent.last:
            self._gaps.append((now - agent.last) / 1e9)
        agent.last = now
        if agent.window != self._window:
            agent.window = self._window
            self._seen += 1
        if b"onversation" in body:
            self._injected.extend(time.time() - int(mark) / 1e9 for mark in _MARK.findall(body))
        return self._answer(number, agent, now // 1_000_000_000)

    def _answer(self, number: int, agent: AgentAnswer, second: int) -> bytes:
        changed = not agent.answer or random.random() < self._change  # noqa: S311 - a lot, not a secret
        stale = self._shared and agent.second != second
        if changed or stale:
            agent.version += changed
            agent.second = second
            self._changes += 1
            queue = self._calls(second) if self._shared else agent.queue
            agent.answer = http("200 OK", status(number, agent.version, queue).encode())
        return agent.answer

    def _calls(self, second: int) -> str:
        if self._queue[0] != second:
            self._queue = second, shared_queue(self._shared, second)
        return self._queue[1]

    def _silences(self) -> Iterator[float]:
        """Unfinished gaps that are longer than any finished one, so that a stalled client does not look punctual."""
        longest, now = max(self._gaps, default=0.0), self._clock()
        silences = ((now - agent.last) / 1e9 for agent in self._agents.values())
        return (silence for silence in silences if silence > longest)

    def stats(self, reset: bool) -> bytes:
        """Statistics since the last reset; gaps and injection latencies in seconds."""
        seen = {
            "window_s": time.monotonic() - self._begin, "polls": self._polls, "changes": self._changes,
            "sessions_seen": self._seen, "connections": self.connections, "cpu_s": time.process_time() - self._cpu,
            "gap": spread([*self._gaps, *self._silences()]), "inject": spread(self._injected),
        }  # fmt: skip
        if reset:
            self._reset()
        return http("200 OK", json.dumps(seen).encode())


def http(line: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {line}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection(asyncio.Protocol):
    """HTTP/1.1 as the clients of the bench speak it: a Content-Length, one request after the other."""

    def __init__(self, service: Service, latency: float) -> None:
        self._service = service
        self._latency = latency
        self._unread = b""
        self._call_later = asyncio.get_running_loop().call_later

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being a subclass
        self._service.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.connections -= 1

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            head = self._unread[: end + 2]
            length = _LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._unread) < whole:
                return
            body, self._unread = self._unread[end + 4 : whole], self._unread[whole:]
            self._request(head, body)

    def _request(self, head: bytes, body: bytes) -> None:
        token = _TOKEN.search(head)
        if token:
            self._call_later(self._latency, self._write, self._service.poll(int(token[1]), body))
            return
        url = urlsplit(head.split(b" ", 2)[1].decode())
        known = url.path == "/stats"
        self._write(self._service.stats("reset" in parse_qs(url.query)) if known else http("401 Unauthorized", b"{}"))

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def serve(host: str, port: int, service: Service, latency: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service, latency), host, port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, help="HOST:PORT")
    parser.add_argument("--change", type=float, default=0.05, help="chance that a poll finds the agent changed")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that an answer takes")
    parser.add_argument(
        "--queue", type=int, default=0, help="calls in a queue that all agents see; 0: two of their own"
    )
    given = parser.parse_args()
    host, _, port = given.listen.rpartition(":")
    uvloop.run(serve(host, int(port), Service(given.change, given.queue), given.latency))


if __name__ == "__main__":
    main()
