"""The pool of connections behind real gateways: their limits, reloads and restarts cost no avoidable failure."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.asm.http.request import PreparedRequest, Target
from bridge.asm.http.response import Failure, Response
from bridge.asm.transport import build_transport, fetch
from bridge.settings import AsmSettings
from bridge.testing.simulator import Fault, Options, Simulator, serve, token_of
from bridge.testing.simulator.gateway import BASE
from tests.support.gateways import GATEWAYS, Gateway, HAProxy, Limits, placed

LINES = 24
pytestmark = pytest.mark.timeout(120)


class Bench:
    """Agents that poll the simulator through a gateway."""

    def __init__(self, gateway: Gateway, simulator: Simulator, http2: bool) -> None:
        self.gateway = gateway
        self.simulator = simulator
        settings = AsmSettings(
            base_url=gateway.url, ca_file=gateway.authority / "ca.pem", http2=http2, request_timeout=5
        )
        self.pool = build_transport(settings)
        self.failures: list[Failure | Response] = []
        self.answers = 0

    def request(self, number: int, **fields: Any) -> PreparedRequest:
        life = self.simulator.world.lived(self.simulator.world.callers[f"agent-{number}"])
        assert life.session is not None
        headers = {"authorization": f"Bearer {token_of(f'agent-{number}')}", "content-type": "application/json"}
        body = json.dumps({"asm_session_sid": str(life.session.asm_sid), **fields}).encode()
        target = Target.of(httpx.URL(self.gateway.url + BASE + "getstatus"))
        return PreparedRequest(target, headers, body, repeatable="events" not in fields)

    async def poll(self, number: int, **fields: Any) -> Response | Failure:
        result = await fetch(self.pool, self.request(number, **fields))
        if isinstance(result, Response) and result.status == 200:
            assert b"voiceStatus" in result.body, result
            self.answers += 1
        else:
            self.failures.append(result)
        return result

    async def line(self, number: int, rounds: int, pause: Callable[[], float]) -> None:
        for _ in range(rounds):
            await self.poll(number)
            await asyncio.sleep(pause())

    async def polls(
        self, rounds: int, *, lines: int = LINES, pause: Callable[[], float] = lambda: 0.0, during: Any = None
    ) -> None:
        """Polls on each of the lines, one after the other, while ``during`` is running."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(lines):
                tasks.create_task(self.line(number, rounds, pause))
            if during is not None:
                tasks.create_task(during)

    def assert_all_well(self, answers: int) -> None:
        assert (self.failures[:3], len(self.failures), self.answers) == ([], 0, answers)


Begin = Callable[..., Awaitable[Bench]]


@pytest.fixture(params=GATEWAYS, ids=lambda kind: kind.program)
def kind(request: pytest.FixtureRequest) -> type[Gateway]:
    """Each gateway that the machine has."""
    found: type[Gateway] = request.param
    if found.path() is None:
        pytest.skip(f"{found.program} is not on this machine: {found.install}")
    return found


@pytest.fixture(params=[True, False], ids=["http2", "http1"])
def http2(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@asynccontextmanager
async def bench(
    kind: type[Gateway], directory: Path, authority: Path, limits: Limits, http2: bool, **options: Any
) -> AsyncIterator[Bench]:
    """A simulator, a gateway of this kind with these limits before it, and a pool."""
    unknown = {name for name in Limits.__dataclass_fields__ if getattr(limits, name)} - kind.understands
    if unknown:
        pytest.skip(f"{kind.program} has no setting for {', '.join(unknown)}")
    simulator = Simulator(Options(**{"agents": LINES, "change_rate": 0.0, "latency": 0.005, **options}))
    async with serve(simulator) as upstream:
        with placed(kind, directory, authority, upstream, limits) as gateway:
            await gateway.start()
            running = Bench(gateway, simulator, http2)
            try:
                yield running
            finally:
                await running.pool.aclose()


async def test_a_connection_may_carry_ten_requests(
    kind: type[Gateway], tmp_path: Path, authority: Path, http2: bool
) -> None:
    """A gateway that ends each connection after 10 requests fails no poll."""
    async with bench(kind, tmp_path, authority, Limits(requests=10), http2) as the:
        await the.polls(40)
        the.assert_all_well(40 * LINES)


async def test_a_connection_may_carry_a_thousand_requests(
    kind: type[Gateway], tmp_path: Path, authority: Path, http2: bool
) -> None:
    """nginx's default, 1,000 requests on a connection, fails no poll."""
    async with bench(kind, tmp_path, authority, Limits(requests=1000), http2, latency=0.0) as the:
        lines = 12 if http2 else 2
        await the.polls(3600 // lines, lines=lines)
        the.assert_all_well(3600)


async def test_an_idle_connection_may_be_closed(
    kind: type[Gateway], tmp_path: Path, authority: Path, http2: bool
) -> None:
    """A gateway that closes connections after an idle second, just when the next poll is due, fails no poll."""
    dice = random.Random(1)
    async with bench(kind, tmp_path, authority, Limits(idle=1), http2) as the:
        await the.polls(8, pause=lambda: dice.uniform(0.9, 1.15))
        the.assert_all_well(8 * LINES)


async def test_one_stream_at_a_time(kind: type[Gateway], tmp_path: Path, authority: Path) -> None:
    """A gateway that allows one request per connection at a time still answers polls that are due together."""
    async with bench(kind, tmp_path, authority, Limits(streams=1), True, latency=0.02) as the:
        await the.polls(20)
        the.assert_all_well(20 * LINES)


async def test_a_reload_fails_no_poll(kind: type[Gateway], tmp_path: Path, authority: Path, http2: bool) -> None:
    """Four reloads of the configuration, in which the old processes end their connections, fail no poll."""
    if kind.reload is kind.restart or kind.program == "envoy":
        pytest.skip(f"{kind.program} cannot be reloaded")
    async with bench(kind, tmp_path, authority, Limits(), http2) as the:

        async def reloads() -> None:
            for _ in range(4):
                await asyncio.sleep(0.6)
                await the.gateway.reload()

        await the.polls(60, pause=lambda: 0.04, during=reloads())
        the.assert_all_well(60 * LINES)


async def test_a_restart_fails_only_what_cannot_be_sent(
    kind: type[Gateway], tmp_path: Path, authority: Path, http2: bool
) -> None:
    """While the gateway is away polls fail as not sent; a second after it is back every poll is answered."""
    async with bench(kind, tmp_path, authority, Limits(), http2) as the:
        back = asyncio.get_running_loop().create_future()

        async def restart() -> None:
            await asyncio.sleep(0.5)
            await the.gateway.restart()
            back.set_result(None)

        await the.polls(60, pause=lambda: 0.04, during=restart())
        assert back.done()
        unsure = [one for one in the.failures if not isinstance(one, Failure) or one.sent]
        assert unsure == [] or not kind.drains
        await asyncio.sleep(1)
        the.failures.clear()
        the.answers = 0
        await the.polls(5)
        the.assert_all_well(5 * LINES)


async def test_a_request_too_large_for_the_gateway_costs_itself_only(
    kind: type[Gateway], tmp_path: Path, authority: Path, http2: bool
) -> None:
    """A request too large for the gateway is answered with 413, and other requests of its connection are answered."""
    async with bench(kind, tmp_path, authority, Limits(body=2048), http2) as the:
        await the.polls(2)
        large = {"skills": ["x" * 100] * 2000}
        results = await asyncio.gather(*(the.poll(number, **(large if number == 0 else {})) for number in range(LINES)))
        assert isinstance(results[0], Response), results[0]
        assert results[0].status == 413
        the.failures.remove(results[0])
        await the.polls(2)
        the.assert_all_well(5 * LINES - 1)


async def test_compression_is_not_asked_for(kind: type[Gateway], tmp_path: Path, authority: Path, http2: bool) -> None:
    """A gateway with compression does not compress the bridge's answers, since they do not ask for it."""
    async with bench(kind, tmp_path, authority, Limits(gzip=True), http2) as the:
        await the.polls(2)
        the.assert_all_well(2 * LINES)


async def test_compression_that_nobody_asked_for_is_read(
    kind: type[Gateway], tmp_path: Path, authority: Path, http2: bool
) -> None:
    """Answers in gzip or deflate that were not requested are decoded behind a gateway."""
    async with bench(kind, tmp_path, authority, Limits(), http2, faults={"gzip": Fault()}) as the:
        await the.polls(4)
        the.assert_all_well(4 * LINES)


async def test_a_service_behind_that_cuts_is_not_the_gateways_end(
    kind: type[Gateway], tmp_path: Path, authority: Path, http2: bool
) -> None:
    """A connection that the service cuts behind the gateway fails only its own polls."""
    async with bench(kind, tmp_path, authority, Limits(), http2, faults={"cut": Fault(probability=0.3)}) as the:
        await the.polls(10)
        assert all(isinstance(one, Failure) or one.status in (502, 503) for one in the.failures), the.failures[:3]
        assert the.answers + len(the.failures) == 10 * LINES
        the.simulator.dice.replace({})
        the.failures.clear()
        the.answers = 0
        await the.polls(3)
        the.assert_all_well(3 * LINES)


async def test_what_the_service_took_is_not_called_unsent(
    kind: type[Gateway], tmp_path: Path, authority: Path, http2: bool, request: pytest.FixtureRequest
) -> None:
    """An event that the service took before it cut the connection arrives once, whatever the gateway answers."""
    if kind is HAProxy and http2:
        reason = "HAProxy says REFUSED_STREAM, not processed, of requests that it has passed on (RFC 9113, section 8.7)"
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    async with bench(kind, tmp_path, authority, Limits(), http2, faults={"cut_after": Fault(probability=0.5)}) as the:
        results: dict[str, Response | Failure] = {}

        async def line(number: int) -> None:
            for turn in range(8):
                marker = str(1000 * number + turn + 1)
                event = {"sent_message_event": {"conversation": {"conversation_sid": marker}}}
                results[marker] = await the.poll(number, events=[event])

        await asyncio.gather(*map(line, range(LINES)))
        taken = Counter(
            one.event["sent_message_event"]["conversation"]["conversation_sid"]
            for one in the.simulator.world.ledger.events
        )
        assert {marker: times for marker, times in taken.items() if times > 1} == {}
        unsent = {marker for marker, one in results.items() if isinstance(one, Failure) and not one.sent}
        assert unsent & taken.keys() == set()
