"""The life of one owned partition: open, watch its agents, commit, hand over; from anew whenever it fails."""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from asm_bridge_schemas.records import AgentState
from bridge.agents.injection import Message
from bridge.kafka.errors import KafkaError
from bridge.kafka.group import ConsumerGroupMember
from bridge.partitions.journal import Journal, PartitionLost
from bridge.partitions.watcher import PartitionAgents
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_SWEEP = 0.25
"""Seconds between looks at the deadlines of waiting entries: at the same time in all partitions, and with a slot of the
poller, because waking up costs more than looking."""


class PartitionOwner:
    """Runs until cancelled. ``suspend`` hands the partition over; ``resume`` takes it back if nobody had it in
    between.

    ``wait(since)``: for how many seconds from now steps are still gathered, the first of which came at ``since``
    (monotonic).
    """

    def __init__(
        self,
        number: int,
        group: ConsumerGroupMember,
        partition: Callable[[Callable[[str, AgentState | None], None]], Journal],
        agents: Callable[[Journal], PartitionAgents],
        wait: Callable[[float], float],
    ) -> None:
        self.number = number
        self.agents: PartitionAgents | None = None
        self._group = group
        self._new_partition = partition
        self._new_agents = agents
        self._wait = wait
        self._partition: Journal | None = None
        self._hurry = asyncio.Event()
        self._suspended: asyncio.Future[bool] | None = None
        self._full = False
        self._resumed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether the agents are watched and steps can be committed."""
        return self.agents is not None and self.agents.accepting

    async def run(self) -> None:
        while True:
            try:
                await self._own()
            except (PartitionLost, KafkaError, TimeoutError) as error:
                METRICS.partitions_lost.inc()
                log.warning("partition.lost", partition=self.number, error=error)
            finally:
                await self._let_go()
            await self._group.next_heartbeat()

    async def _own(self) -> None:
        partition = self._partition = self._new_partition(self._committed)
        clean = await partition.open()
        repeated_below = 0 if clean else await self._group.end_offset(self.number)
        agents = self.agents = self._new_agents(partition)
        agents.begin(repeated_below)
        self._group.read_from(self.number, partition.offsets.position)
        log.info("partition.owned", partition=self.number, agents=len(agents), clean=clean)
        while True:
            await self._step(partition, agents)

    async def _step(self, partition: Journal, agents: PartitionAgents) -> None:
        """One round: gather for a while, commit; or come to rest, if asked to."""
        if self._suspended is not None:
            await self._rest(partition, agents, self._suspended)
            return
        if await _fires(partition.wake, _SWEEP - time.monotonic() % _SWEEP):
            await _fires(self._hurry, self._wait(partition.since))
        agents.sweep()
        await partition.commit()
        if self._full and agents.has_room:
            self._full = False
            self._group.resume(self.number)

    async def _rest(self, partition: Journal, agents: PartitionAgents, suspended: asyncio.Future[bool]) -> None:
        await agents.quiesce()
        await partition.commit(clean=agents.clean)
        self._resumed.clear()
        suspended.set_result(True)
        await self._resumed.wait()
        await partition.commit()
        agents.resume()
        self._group.read_from(self.number, partition.offsets.position)

    def deliver(self, messages: Sequence[Message]) -> None:
        if self.agents is not None and not self.agents.deliver(messages):
            self._full = True
            self._group.pause(self.number)

    async def suspend(self) -> None:
        """Come to rest: polls under way end, steps are committed, and the next owner finds a clean hand-over."""
        if self._partition is None or self.agents is None or self._suspended is not None:
            return
        self._suspended = asyncio.get_running_loop().create_future()
        self._hurry.set()
        self._partition.wake.set()
        await asyncio.shield(self._suspended)

    def resume(self) -> bool:
        """Go on from memory. False where the partition had not come to rest: it must be opened anew."""
        if self._suspended is None or not self._suspended.done() or not self._suspended.result():
            return False
        self._suspended = None
        self._hurry.clear()
        self._resumed.set()
        return True

    def _committed(self, agent_id: str, state: AgentState | None) -> None:
        if self.agents is not None:
            self.agents.committed(agent_id, state)

    async def _let_go(self) -> None:
        agents, self.agents = self.agents, None
        partition, self._partition = self._partition, None
        if agents is not None:
            agents.end()
        if self._suspended is not None and not self._suspended.done():
            self._suspended.set_result(False)
        self._suspended, self._full = None, False
        self._hurry.clear()
        if partition is not None:
            await partition.close()


async def _fires(event: asyncio.Event, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            return await event.wait()
    except TimeoutError:
        return False
