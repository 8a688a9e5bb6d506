"""Bridges to test the ops endpoints with: one that exists only as a snapshot, and a real one with the simulator."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.records import AgentState, Loss, Status
from bridge.agents.agent import Agent
from bridge.app import Bridge
from bridge.asm.errors import AsmError, Unauthorized
from bridge.backoff import Backoff
from bridge.clock import Instant
from bridge.ops.http import free_port, listen
from bridge.ops.server import serve
from bridge.ops.snapshot import Snapshot
from bridge.settings import AsmSettings, KafkaSettings, OpsSettings, Settings, TopicsSettings
from bridge.settings.model import InjectionSettings
from bridge.testing.brokers import Broker
from bridge.testing.simulator import Options, Simulator
from bridge.testing.simulator import serve as simulate
from bridge.testing.simulator.files import sessions_toml, write_tokens
from tests.support.patience import patient

TOKEN_REFERENCE = "file:the-tokens#somebody"
PARTITIONS = 8


class Home(list[Agent]):
    """A stand-in for ``PartitionAgents``."""

    active = True
    accepting = True


class Pictured:
    """A bridge that is only observed: the test sets what it owns."""

    def __init__(self, agents: int = 0) -> None:
        self.reason: str | None = None
        self.service_down = False
        self.clock_ahead = 0.0
        self.standing_by = False
        self.homes: dict[int, Any] = {number: Home() for number in range(PARTITIONS)}
        for number in range(agents):
            self.add(f"agent-{number:04}", str(2 * 10**18 + number) if number % 9 else None)

    def add(self, agent_id: str, sid: str | None = "42", **labels: str) -> Agent:
        status = Status(status_desc="READY") if sid else None
        state = AgentState(agent_id=agent_id, stream_id="s", asm_session_sid=sid, status=status, labels=labels)
        agent = Agent(state, InjectionSettings(), Backoff(), Instant(time.monotonic(), time.time()))
        agent.entry = SessionEntry(token=TOKEN_REFERENCE)
        self.homes[sum(map(len, self.homes.values())) % PARTITIONS].append(agent)
        return agent

    def snapshot(self) -> Snapshot:
        owned: dict[int, Any] = {
            number: SimpleNamespace(agents=home, problem=None) for number, home in self.homes.items()
        }
        return Snapshot(
            not_ready=self.reason,
            group_id="asm-bridge",
            owned=owned,
            partitions_total=PARTITIONS,
            registered=sum(len(home or ()) for home in self.homes.values()),
            refused=0,
            service_down=self.service_down,
            now=time.time(),
            clock_ahead=self.clock_ahead,
            standing_by=self.standing_by,
        )


def fail(agent: Agent, error: AsmError | None = None) -> None:
    """Makes an agent one without answers that is reported as lost."""
    error = error or Unauthorized("HTTP 401", http_status=401)
    agent.poll_skipped(error, Instant(time.monotonic(), time.time()))
    loss = Loss(reason=error.reason, since="2026-01-01T00:00:00.000000Z")
    agent.state = msgspec.structs.replace(agent.state, lost=loss)


@asynccontextmanager
async def served(bridge: Pictured, ops: OpsSettings | None = None) -> AsyncIterator[str]:
    """Serves the bridge's endpoints. Yields the address."""
    port = free_port()
    async with serve(listen("127.0.0.1", port), bridge.snapshot, ops or OpsSettings()):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def running(broker: Broker, prefix: str, directory: Path, agents: int) -> AsyncIterator[tuple[str, Simulator]]:
    """A real bridge that is ready and watches simulated agents. Yields its ops address and the simulator."""
    simulator, port, stop = Simulator(Options(agents=agents, change_rate=0.5)), free_port(), asyncio.Event()
    async with simulate(simulator) as base_url:
        write_tokens(simulator, directory)
        (directory / "sessions.toml").write_text(sessions_toml(simulator), encoding="utf-8")
        delivery = "exactly_once" if broker.transactions else "at_least_once"
        settings = Settings(
            asm=AsmSettings(base_url=base_url),
            kafka=KafkaSettings.model_validate(
                {"bootstrap_servers": broker.bootstrap_servers, "delivery": delivery, "group_id": f"{prefix}ops"}
            ),
            topics=TopicsSettings(prefix=prefix, partitions=4),
            ops=OpsSettings(listen=f"127.0.0.1:{port}"),
            secrets_dir=directory,
            sessions_file=directory / "sessions.toml",
        )
        bridge = Bridge(settings)
        task = asyncio.create_task(bridge.run(stop))
        try:
            async with asyncio.timeout(patient(40)):
                while bridge.readiness.reason() is not None:
                    assert not task.done(), task.result()
                    await asyncio.sleep(0.05)
            yield f"http://127.0.0.1:{port}", simulator
        finally:
            stop.set()
            await asyncio.wait_for(task, 30)
