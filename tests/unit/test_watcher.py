"""The agents of a partition, with a journal that only records what is appended."""

import asyncio

import pytest
from aiokafka.structs import TopicPartition

from asm_bridge_schemas import records
from asm_bridge_schemas.records import AgentObservationLost, AgentState, AgentStatusChanged
from bridge.agents.agent import Agent
from bridge.agents.injection import read_injection
from bridge.agents.step import DeadLetter
from bridge.asm.answer import Answer
from bridge.backoff import Backoff
from bridge.clock import Clock, rfc3339, seconds
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.partitioner import partition_for
from bridge.kafka.stable_offsets import StableOffsets, readable_at
from bridge.partitions.watcher import PartitionAgents, Policy
from bridge.registry.registry import Registry
from bridge.settings.model import InjectionSettings
from tests.support.agent_harness import read_answer
from tests.support.poller_harness import FakeClock
from tests.support.remembering_journal import RememberingJournal
from tests.support.strategies import Message, status_body

PARTITIONS = 1
clock = Clock()
now = clock.now
EVENT = b'{"pause_event": {}}'


def of_type(emitted: list[records.Published], kind: type) -> list[records.Published]:
    return [record for record in emitted if isinstance(record, kind)]


async def test_an_agent_leaves_only_when_what_it_sends_is_told() -> None:
    """An agent that is unregistered while an event is in flight emits the event's outcome before the end
    of its stream.
    """
    partition, polled = RememberingJournal(), set[Agent]()
    agents: PartitionAgents
    registry = Registry(lambda agent_id: agents.sync(agent_id), lambda bad: None)  # noqa: PLW0108 - agents come after
    policy = Policy(1.0, InjectionSettings(), Backoff(), clock)
    agents = PartitionAgents(partition, PARTITIONS, registry, lambda agent, _: polled.add(agent), policy)  # type: ignore[arg-type]
    agents.begin(0)
    assert partition_for("a", PARTITIONS) == 0
    registry.read(Message(0, key=b"a", value=b'{"asm_session_sid": "7", "token": "env:T"}'))
    agents.deliver([Message(0, key=b"a", value=EVENT, timestamp=int(now().wall * 1000))])
    (agent,) = polled
    agent.in_flight = request = agent.next_request("t", now())
    assert len(request.injections) == 1

    registry.read(Message(1, key=b"a", value=None))
    assert not of_type(partition.records, records.AgentWatchEnded)
    assert not agents.watches(agent)
    answer = read_answer(request, status_body())
    assert isinstance(answer, Answer)
    step = agent.answered(request, answer, now())
    agent.in_flight = None
    agents.poll_finished(agent, step)
    await asyncio.sleep(0)

    assert [type(record).__name__ for record in partition.records][-4:] == [
        "ConversationEventDelivered",
        "InjectionCompleted",
        "AgentSessionEnded",
        "AgentWatchEnded",
    ]
    assert all(record.stream_id is not None for record in partition.records)
    assert partition.offsets.committable == 1
    assert len(agents) == 0


def test_a_partition_handed_over_again_before_it_was_read_is_not_clean() -> None:
    """Entries that an unclean owner may have sent stay doubtful for later owners until they are read."""
    partition = RememberingJournal()
    agents: PartitionAgents
    registry = Registry(lambda agent_id: agents.sync(agent_id), lambda bad: None)  # noqa: PLW0108 - agents come after
    policy = Policy(1.0, InjectionSettings(), Backoff(), clock)
    agents = PartitionAgents(partition, PARTITIONS, registry, lambda *_: None, policy)  # type: ignore[arg-type]
    agents.begin(2)
    assert not agents.clean
    for offset in range(3):
        agents.deliver([Message(offset, key=b"a", value=b"no event")])
    assert agents.clean


@pytest.mark.parametrize(("away", "lost"), [(4.0, False), (31.0, True)])
def test_who_opens_a_partition_tells_for_how_long_its_agents_were_not_observed(away: float, lost: bool) -> None:
    """A new owner emits AgentObservationLost (bridge_down) if its agents were not observed for more than three
    intervals and 5 s; a shorter hand-over emits nothing.
    """
    partition = RememberingJournal()
    partition.observed_until = now().wall - away
    state = AgentState(agent_id="a", stream_id="s", sequence=3, asm_session_sid="7", status=records.Status())
    partition.states["a"] = state
    agents: PartitionAgents
    registry = Registry(lambda agent_id: agents.sync(agent_id), lambda bad: None)  # noqa: PLW0108 - agents come after
    policy = Policy(10.0, InjectionSettings(), Backoff(), clock)
    agents = PartitionAgents(partition, PARTITIONS, registry, lambda *_: None, policy)  # type: ignore[arg-type]
    registry.read(Message(0, key=b"a", value=b'{"asm_session_sid": "7", "token": "env:T"}'))
    agents.begin(0)
    losses = of_type(partition.records, AgentObservationLost)
    assert [record.reason for record in losses] == ["bridge_down"] * lost
    assert [seconds(record.since) for record in losses] == pytest.approx([partition.observed_until] * lost, abs=0.01)
    (agent,) = agents
    request = agent.next_request("t", now())
    step = agent.answered(request, read_answer(request, status_body("READY")), now())
    assert step is not None
    assert [type(one).__name__ for one in step.records][:1] == (
        ["AgentObservationResumed"] if lost else ["AgentStatusChanged"]
    )
    (changed,) = of_type(step.records, AgentStatusChanged)
    assert changed.previous_duration_ms is None or not lost


def test_a_key_that_is_too_large_is_a_dead_letter_without_it() -> None:
    """A record whose key is too large is a dead letter without the key, and the next record is read as usual."""
    partition, letters = RememberingJournal(), list[DeadLetter]()
    partition.dead_letter, partition.advance = letters.append, lambda **_: None  # type: ignore[method-assign, assignment]
    registry = Registry(lambda _: None, lambda bad: None)
    policy = Policy(1.0, InjectionSettings(), Backoff(), clock)
    agents = PartitionAgents(partition, PARTITIONS, registry, lambda *_: None, policy)  # type: ignore[arg-type]
    agents.begin(0)
    agents.deliver([Message(0, key=b"a" * 2000, value=EVENT), Message(1, key=b"b", value=b"no event")])
    assert [(letter.code, letter.key, letter.origin.offset) for letter in letters] == [("too_large", None, 0)]
    assert partition.offsets.committable == 2


async def test_a_lost_partition_waits_for_the_answers_to_its_events() -> None:
    """What becomes of an event that is under way is known before the partition is recovered; polls without events are
    not waited for."""
    partition, polled = RememberingJournal(), set[Agent]()
    agents: PartitionAgents
    registry = Registry(lambda agent_id: agents.sync(agent_id), lambda bad: None)  # noqa: PLW0108 - agents come after
    policy = Policy(1.0, InjectionSettings(), Backoff(), Clock())
    agents = PartitionAgents(partition, PARTITIONS, registry, lambda agent, _: polled.add(agent), policy)  # type: ignore[arg-type]
    agents.begin(0)
    for number, key in enumerate((b"a", b"b")):
        registry.read(Message(number, key=key, value=b'{"asm_session_sid": "7", "token": "env:T"}'))
    agents.deliver([Message(0, key=b"a", value=EVENT, timestamp=int(now().wall * 1000))])
    for agent in polled:
        agent.in_flight = agent.next_request("t", now())
    (sending,) = (agent for agent in polled if agent.in_flight and agent.in_flight.injections)
    agents.end()
    waiting = asyncio.create_task(agents.events_answered())
    await asyncio.sleep(0)
    assert not waiting.done()
    request, sending.in_flight = sending.in_flight, None
    assert request is not None
    answer = read_answer(request, status_body())
    assert isinstance(answer, Answer)
    agents.poll_finished(sending, sending.answered(request, answer, now()))
    await asyncio.wait_for(waiting, 1)
    assert partition.offsets.committable == 1


def held_back_by(clock: FakeClock, seconds: float) -> StableOffsets:
    """The inbox's offsets as a transaction holds back what is behind offset 2 for so long, and ends."""
    stable, inbox = StableOffsets(), TopicPartition("asm.inject", 0)
    stable.record({inbox: (2, 9)}, clock.time)
    clock.time += seconds
    stable.record({inbox: (2, 9)}, clock.time)
    stable.record({inbox: (9, 9)}, clock.time)
    return stable


def test_times_to_live_do_not_run_while_a_transaction_holds_events_back() -> None:
    """The ttl, and an unknown agent's grace, count from the end of the transaction for what was behind it; an expiry of
    the event's own does not, nor does the ttl of an event that could be read all the time."""
    clock, journal = FakeClock(), RememberingJournal()
    arrived = clock.now().wall
    stable = held_back_by(clock, 400)
    policy = Policy(1.0, InjectionSettings(), Backoff(), clock)
    registry = Registry(lambda _: None, lambda bad: None)
    agents = PartitionAgents(journal, PARTITIONS, registry, lambda *_: None, policy)  # type: ignore[arg-type]
    agents.begin(0)
    registry.read(Message(0, key=b"a", value=b'{"asm_session_sid": "7", "token": "env:T"}'))
    agents.sync("a")
    own = [("expires_at", rfc3339(arrived + 350).encode())]
    agents.deliver(
        [
            Message(1, key=b"a", value=EVENT, timestamp=int(arrived * 1000)),
            Message(2, key=b"a", value=EVENT, timestamp=int(arrived * 1000)),
            Message(3, key=b"a", value=EVENT, timestamp=int(arrived * 1000), headers=own),
            Message(4, key=b"nobody", value=EVENT, timestamp=int(arrived * 1000)),
        ],
        stable.releases(TopicPartition("asm.inject", 0)),
    )

    def outcomes() -> dict[str, str]:
        return {
            record.entry: record.reason or record.outcome
            for record in of_type(journal.records, records.InjectionCompleted)
            if isinstance(record, records.InjectionCompleted)
        }

    assert outcomes() == {"3/1": "expired", "3/3": "expired"}
    clock.time += 9
    agents.sweep()
    assert len(outcomes()) == 2
    clock.time += 2
    agents.sweep()
    assert outcomes()["3/4"] == "unknown_agent"
    clock.time += 288
    agents.sweep()
    assert "3/2" not in outcomes()
    clock.time += 2
    agents.sweep()
    assert outcomes()["3/2"] == "expired"


def test_an_event_that_was_held_back_and_moved_lives_as_long() -> None:
    """Its new home counts from the end of the transaction, too, and still says when the event arrived."""
    clock, journal, moved = FakeClock(), RememberingJournal(), list[Outgoing]()
    journal.partition, journal.add, journal.advance = 1, moved.append, lambda **_: None  # type: ignore[attr-defined, method-assign]
    arrived = clock.now().wall
    stable = held_back_by(clock, 400)
    policy = Policy(1.0, InjectionSettings(), Backoff(), clock)
    agents = PartitionAgents(journal, PARTITIONS, Registry(lambda _: None, lambda bad: None), lambda *_: None, policy)  # type: ignore[arg-type]
    agents.begin(0)
    original = Message(2, key=b"a", value=EVENT, timestamp=int(arrived * 1000))
    agents.deliver([original], stable.releases(TopicPartition("asm.inject", 0)))
    (message,) = moved
    now = clock.now().wall
    again = Message(5, key=b"a", value=EVENT, timestamp=int(now * 1000), headers=list(message.headers))
    injection = read_injection(again, 300.0, possibly_processed=False)
    assert (injection.received_at, injection.readable_at) == pytest.approx((arrived, now), abs=0.001)
    assert injection.expires_at == pytest.approx(now + 300, abs=0.001)
    forged = [(name, b"9000-01-01T00:00:00Z" if name == "asm_readable_at" else text) for name, text in message.headers]
    again = Message(5, key=b"a", value=EVENT, timestamp=int(now * 1000), headers=forged)
    assert read_injection(again, 300.0, possibly_processed=False).expires_at == pytest.approx(now + 300, abs=0.001)


def test_each_of_several_transactions_holds_back_its_own() -> None:
    """The events behind the second were held back by it; those before it only by the first; a moment is nothing."""
    stable, inbox = StableOffsets(), TopicPartition("asm.inject", 0)
    for at, offset in ((0.0, 2), (40.0, 2), (41.0, 5), (90.0, 5), (91.0, 8), (91.1, 9)):
        stable.record({inbox: (offset, 9)}, at)
    assert [readable_at(stable.releases(inbox), offset) for offset in (1, 2, 4, 5, 8)] == [None, 41, 41, 91, 91]


def test_an_invalid_entry_of_a_recreated_registry_is_a_dead_letter() -> None:
    """Each invalid registry entry becomes a dead letter once. In a recreated registry offsets begin again, and an entry
    at an offset that the former one had is another entry.
    """
    clock, journal = FakeClock(), RememberingJournal()
    policy = Policy(1.0, InjectionSettings(), Backoff(), clock)
    registry = Registry(lambda _: None, lambda bad: agents.dead_letter(bad))  # noqa: PLW0108 - agents come after
    agents = PartitionAgents(journal, PARTITIONS, registry, lambda *_: None, policy)  # type: ignore[arg-type]
    for topic_id in ("former", "new"):
        registry.topic_id = topic_id
        for _ in range(2):
            registry.read(Message(4, key=b"a", value=b"?"))
    assert len(journal.dead_letters) == 2
