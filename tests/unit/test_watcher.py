"""The agents of a partition, over a partition that only remembers what is appended."""

import asyncio

from asm_bridge_schemas import records
from asm_bridge_schemas.records import AgentState
from bridge.agents.agent import Agent
from bridge.agents.queue import Limits
from bridge.agents.step import Step
from bridge.backoff import Backoff
from bridge.kafka.partitioner import partition_for
from bridge.partitions.offsets import CommitMetadata, OffsetTracker
from bridge.partitions.watcher import PartitionAgents, Policy
from bridge.polling.poller import now
from bridge.registry.registry import Registry
from tests.support.strategies import Message, status_body

PARTITIONS = 1
EVENT = b'{"pause_event": {}}'


class Remembering:
    """What ``PartitionAgents`` needs of a partition."""

    def __init__(self) -> None:
        self.partition = 0
        self.states: dict[str, AgentState] = {}
        self.offsets = OffsetTracker(0)
        self.metadata = CommitMetadata()
        self.accepting = True
        self.told: list[records.Published] = []

    def append(self, step: Step) -> None:
        self.states[step.state.agent_id] = step.state
        self.told += step.records
        for offset in step.finished:
            self.offsets.completed(offset)


class Schedule:
    def __init__(self) -> None:
        self.agents: list[Agent] = []

    def add(self, agent: Agent, home: PartitionAgents) -> None:
        self.agents.append(agent)

    def remove(self, agent: Agent) -> None:
        self.agents = [other for other in self.agents if other is not agent]

    def poke(self, agent: Agent) -> None:
        pass


def of(told: list[records.Published], kind: type) -> list[records.Published]:
    return [record for record in told if isinstance(record, kind)]


async def test_an_agent_leaves_only_when_what_it_sends_is_told() -> None:
    """Unregistered while an event is under way: it is told in the stream, which ends after it."""
    partition, schedule = Remembering(), Schedule()
    agents: PartitionAgents
    registry = Registry(lambda agent_id: agents.sync(agent_id), lambda bad: None)  # noqa: PLW0108 - agents come after
    policy = Policy(1.0, Limits(), Backoff(), now)
    agents = PartitionAgents(partition, PARTITIONS, registry, schedule, policy)  # type: ignore[arg-type]
    agents.begin(0)
    assert partition_for("a", PARTITIONS) == 0
    registry.read(Message(0, key=b"a", value=b'{"asm_session_sid": "7", "token": "env:T"}'))
    agents.deliver([Message(0, key=b"a", value=EVENT, timestamp=int(now().wall * 1000))])
    (agent,) = schedule.agents
    agent.in_flight = ask = agent.ask("t", now())
    assert len(ask.entries) == 1

    registry.read(Message(1, key=b"a", value=None))
    assert not of(partition.told, records.AgentWatchEnded)
    agents.append(agent.answered(ask, 200, status_body(), now()))
    agent.in_flight = None
    agents.settled(agent)
    await asyncio.sleep(0)

    assert [type(record).__name__ for record in partition.told][-4:] == [
        "ConversationEventDelivered",
        "InjectionCompleted",
        "AgentSessionEnded",
        "AgentWatchEnded",
    ]
    assert all(record.stream_id is not None for record in partition.told)
    assert partition.offsets.committable == 1
    assert len(agents) == 0


def test_a_partition_handed_over_again_before_it_was_read_is_not_clean() -> None:
    """Entries that an unclean owner may have sent stay doubtful for the one after the next, read or not."""
    partition, schedule = Remembering(), Schedule()
    agents: PartitionAgents
    registry = Registry(lambda agent_id: agents.sync(agent_id), lambda bad: None)  # noqa: PLW0108 - agents come after
    agents = PartitionAgents(partition, PARTITIONS, registry, schedule, Policy(1.0, Limits(), Backoff(), now))  # type: ignore[arg-type]
    agents.begin(2)
    assert not agents.clean
    for offset in range(3):
        agents.deliver([Message(offset, key=b"a", value=b"no event")])
    assert agents.clean
