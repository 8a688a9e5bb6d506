"""What is written in place of records that Kafka refuses."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from aiokafka.errors import InvalidTimestampError
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from asm_bridge_schemas import records
from asm_bridge_schemas.consume import decode
from asm_bridge_schemas.records import AgentState, InjectionCompleted, PartitionHeartbeat
from bridge.agents.step import DeadLetter, Step
from bridge.clock import rfc3339
from bridge.kafka.encoding import Encoder, read_dead_letter, read_state
from bridge.kafka.errors import RefusedRecordsError
from bridge.kafka.limits import Limits
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.topics import TOPICS
from bridge.partitions import refusals as module
from bridge.partitions.refusals import Refusal, canary, culprits
from bridge.record_id import RecordId
from bridge.telemetry.logs import Once
from tests.support.strategies import EPOCH

NOW = EPOCH + 60
ENCODER = Encoder("json", "asm.inject")
OUTPUTS = [topic.name for topic in TOPICS if topic.output]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been logged yet."""
    monkeypatch.setattr(module, "_said", Once())


@given(st.lists(st.booleans(), min_size=1, max_size=200))
async def test_the_culprits_are_found_by_halving(poisoned: list[bool]) -> None:
    """All of them and nothing else, in order, with few trials where there are few."""
    messages, trials = list(enumerate(poisoned)), 0

    async def takes(some: Sequence[tuple[int, bool]]) -> bool:
        nonlocal trials
        trials += 1
        return not any(poison for _, poison in some)

    expected = [one for one in messages if one[1]]
    found = [one async for one in culprits(messages, takes)] if expected else []
    assert found == expected
    assert trials <= 2 * len(expected) * math.ceil(math.log2(len(messages)) or 1)


@pytest.mark.parametrize("size", [2, 3, 50])
async def test_a_batch_that_is_only_too_long_has_no_culprit(size: int) -> None:
    """Records that are refused together, and taken in smaller parts, are all written as they are."""

    async def takes(some: Sequence[int]) -> bool:
        return len(some) < size

    assert [one async for one in culprits(range(size), takes)] == []


def streamed(cls: type[records.Published] = records.AgentMessageReceived, agent: str = "a", **fields: Any) -> Outgoing:
    step = Step(AgentState(agent_id=agent, stream_id="s", sequence=41), EPOCH)
    step.emit(cls, **fields)
    return ENCODER.record(step.records[0])


def message(text: str, agent: str = "a") -> Outgoing:
    return streamed(agent=agent, message=text, message_timestamp=3)


def refused(messages: Sequence[Outgoing], cause: Exception | None = None) -> RefusedRecordsError:
    error = RefusedRecordsError(f"asm.{messages[0].topic}", "InvalidRecordError", messages)
    error.__cause__ = cause
    return error


class Trials:
    """A producer whose Kafka refuses what is ``poison``. ``transactions``: whether a canary can be tried."""

    def __init__(self, poison: Callable[[Outgoing], object], *, transactions: bool = True) -> None:
        self._poison = poison
        self._transactions = transactions

    async def takes(self, some: Sequence[Outgoing], at: float) -> bool:
        return not any(self._poison(one._replace(timestamp=round(at * 1000))) for one in some)

    async def takes_canary(self, canary: Outgoing, at: float) -> bool | None:
        return await self.takes([canary], at) if self._transactions else None


async def instead_of(
    messages: Sequence[Outgoing],
    poison: Callable[[Outgoing], object],
    cause: Exception | None = None,
    encoder: Encoder = ENCODER,
    **trials: bool,
) -> list[list[Outgoing]]:
    """What is written instead of each message, by a Kafka that refuses what is poison."""
    producer: Any = Trials(poison, **trials)
    found = await Refusal(refused(messages, cause), encoder, producer, lambda: NOW).remedy()
    return [list(found.get(id(one), [one])) for one in messages]


async def test_only_the_culprit_is_written_in_another_form() -> None:
    """Its sequence stays, its text does not; what Kafka refuses is in a dead letter, which is read as the record was;
    the records beside it are untouched; the log says it once."""
    batch = [message("well"), message("a poisonous text"), message("too", "b")]
    with capture_logs() as logged:
        for _ in range(2):
            first, (form, letter), third = await instead_of(
                batch, lambda m: m.topic != "dead-letters" and b"poison" in (m.value or b"")
            )
    assert ([first, third], form.topic, form.headers) == ([[batch[0]], [batch[2]]], "agent-messages", batch[1].headers)
    shorter, whole = decode(form.value, form.headers), decode(letter.value, letter.headers)
    assert isinstance(shorter, records.AgentMessageReceived)
    assert (shorter.agent_id, shorter.sequence, shorter.message) == ("a", 42, "…")
    assert whole == decode(batch[1].value, batch[1].headers)
    assert (letter.topic, letter.key) == ("dead-letters", b"a")
    assert dict(letter.headers)["asm_error_code"] == b"unwritable"
    (line,) = logged
    assert (line["event"], line["log_level"], line["key"], line["ce_id"], line["became"]) == (
        *("record.refused", "error", "a", "s:42", "shortened"),
    )


async def test_a_record_that_no_form_makes_fit_is_missing() -> None:
    """If Kafka takes others' records in the topic, this one is left out, and its dead letter names its number."""
    batch = [message("x", "long"), message("y")]
    poison = [one for one in batch if one.key == b"long"]
    (written, others) = await instead_of(batch, lambda m: m.topic == "agent-messages" and m.key == poison[0].key)
    assert others == [batch[1]]
    (letter,) = written
    assert letter.topic == "dead-letters"
    assert dict(letter.headers)["ce_id"] == b"s:42"
    assert b"missing" in (dict(letter.headers)["asm_error"] or b"")


async def test_what_no_topic_takes_is_said_in_the_log_alone() -> None:
    """A record that the topic of dead letters refuses, too, does not hold up its neighbours."""
    batch = [message("x", "long"), message("y")]
    with capture_logs() as logged:
        assert await instead_of(batch, lambda m: m.key == b"long") == [[], [batch[1]]]
    assert [line["became"] for line in logged] == ["missing"]


@pytest.mark.parametrize("topic", OUTPUTS)
async def test_a_topic_that_takes_nothing_has_no_culprit(topic: str) -> None:
    """Nothing is left out or altered because of a topic that refuses all: the partition waits for it."""
    batch = [canary(topic, ENCODER, EPOCH)]
    with pytest.raises(RefusedRecordsError, match=rf"^asm\.{topic} refuses every record: InvalidRecordError$"):
        await instead_of(batch, lambda m: m.topic == topic)


async def test_without_a_canary_a_topic_is_judged_by_what_it_takes() -> None:
    """Where no small record can be tried, a topic that takes no form of a record counts as one that refuses all, until
    it has taken another. A record that it takes in a smaller form needs no such witness."""

    def poison(one: Outgoing) -> bool:
        return one.topic == "agent-messages" and (one.key == b"long" or b"poison" in (one.value or b""))

    first, second = await instead_of([message("y"), message("x", "long")], poison, transactions=False)
    assert (len(first), [one.topic for one in second]) == (1, ["dead-letters"])
    ((form, _),) = await instead_of([message("a poisonous text")], poison, transactions=False)
    assert form.topic == "agent-messages"
    with pytest.raises(RefusedRecordsError, match="refuses every record"):
        await instead_of([message("x", "long")], poison, transactions=False)


def late(one: Outgoing) -> bool:
    return one.timestamp != round(NOW * 1000)


async def test_records_with_a_wrong_time_get_kafkas() -> None:
    """A refused time, of a clock that was wrong or a commit that took long, costs no record, and the contents stay."""
    batch = [message("x"), message("y")._replace(timestamp=None), letter(None)]
    written = await instead_of(batch, late, InvalidTimestampError())
    assert written == [[one._replace(timestamp=round(NOW * 1000))] for one in batch]
    with pytest.raises(RefusedRecordsError, match="every record"):
        await instead_of(batch, lambda _: True, InvalidTimestampError())


async def test_no_record_is_accused_for_its_age() -> None:
    """A search may take longer than a topic lets times be old: it tries every record with the time of now."""
    batch = [message("x"), message("poison"), message("y")]
    first, second, third = await instead_of(batch, lambda m: late(m) or b"poison" in (m.value or b""))
    assert ([first, third], len(second)) == ([[batch[0]], [batch[2]]], 1)


async def test_records_larger_than_their_topic_takes_now_are_shortened() -> None:
    """Once the limit is known there is nothing to look for."""
    limits = Limits()
    limits.update({"agent-messages": {"max.message.bytes": "9000"}})
    batch = [message("short"), message("long" * 10_000)]
    encoder = Encoder("json", "asm.inject", limits=limits)
    (first,), (second,) = await instead_of(batch, lambda _: pytest.fail("tried"), encoder=encoder)
    assert first is batch[0]
    assert limits.fits(second)


STATE = AgentState(
    agent_id="a", stream_id="s", sequence=41, labels={"site": "a poisonous name"}, bridge=records.Books(inbox_open=[7])
)


async def test_a_state_is_written_without_what_is_refused() -> None:
    """Numbers and the inbox's offsets stay; what the next owner finds out again goes. There is no dead letter."""
    ((form,),) = await instead_of([ENCODER.state("a", STATE, EPOCH)], lambda m: b"poison" in (m.value or b""))
    assert read_state(b"a", form.value or b"", form.headers) == msgspec.structs.replace(STATE, labels={})


async def test_a_state_that_no_form_makes_fit_becomes_a_tombstone() -> None:
    """The next owner begins a new stream then, instead of giving numbers out a second time."""
    with capture_logs() as logged:
        ((form,),) = await instead_of(
            [ENCODER.state("a", STATE, EPOCH)], lambda m: m.key == b"a" and m.value is not None
        )
    assert [line["became"] for line in logged] == ["a tombstone"]
    assert (form.topic, form.key, form.value, form.headers) == ("agent-state", b"a", None, [])


async def test_a_tombstone_that_is_refused_is_left_out() -> None:
    """Its state stays, which says that the agent is not watched."""
    assert await instead_of([ENCODER.state("a", None, EPOCH)], lambda m: m.value is None) == [[]]


def letter(key: bytes | None, value: bytes | None = b"{}") -> Outgoing:
    given = DeadLetter(key=key, value=value, code="refused", text="why", origin=RecordId("asm.inject", 3, 5))
    return ENCODER.dead_letter(given)


async def test_a_compacted_topic_gets_dead_letters_with_an_empty_key() -> None:
    """Such a topic refuses a record without a key; everything else in it stays."""
    original = letter(None)
    (written,) = await instead_of([original], lambda m: m.key is None)
    assert written == [original._replace(key=b"")]


async def test_a_dead_letter_keeps_its_reason_where_its_value_is_refused() -> None:
    """Without the value, the code, the text and the origin remain."""
    with capture_logs() as logged:
        ((form,),) = await instead_of([letter(b"a", b"poison")], lambda m: m.value is not None)
    assert [line["became"] for line in logged] == ["shortened"]
    assert (form.value, dict(form.headers)) == (None, dict(letter(b"a").headers))


async def test_an_event_that_cannot_be_moved_gets_its_outcome() -> None:
    """In its agent's partition, with its own id and entry; the event itself is a dead letter that can be sent again."""
    headers: list[tuple[str, bytes | None]] = [
        *(("ce_id", b"event-1"), ("asm_origin", b"asm.inject/3/17")),
        ("asm_received_at", rfc3339(EPOCH).encode()),
    ]
    moved = Outgoing("inject", b"a", b'{"pause_event": {}}', headers, None, 5)
    ((outcome, dead),) = await instead_of([moved], lambda m: m.key == b"a" and m.topic == "inject")
    completed = decode(outcome.value, outcome.headers)
    assert isinstance(completed, InjectionCompleted)
    assert (outcome.partition, outcome.key, completed.stream_id, completed.sequence) == (5, b"a", None, None)
    assert (completed.outcome, completed.reason, completed.attempts) == ("undeliverable", "unwritable", 0)
    assert (completed.injection_id, completed.entry, completed.received_at) == ("event-1", "3/17", rfc3339(EPOCH))
    assert (dead.topic, dead.value) == ("dead-letters", moved.value)
    assert dict(dead.headers)["asm_origin"] == b"asm.inject/3/17"


@pytest.mark.parametrize("topic", [*OUTPUTS, "inject"])
def test_a_canary_is_a_record_like_others(topic: str) -> None:
    """It is what readers of its topic know, in the usual size, and small."""
    made = canary(topic, ENCODER, NOW)
    assert made.topic == topic
    known = decode(made.value, made.headers)
    if topic in records.TOPICS.values():
        assert records.TOPICS[type(known)] == topic  # type: ignore[index]
        assert isinstance(known, PartitionHeartbeat) or getattr(known, "agent_id", None) == "canary"
    assert len(made.value or b"") < 1000


async def test_a_record_that_is_taken_after_all_stays_as_it_is() -> None:
    """The topic was changed back meanwhile."""
    batch = [message("x")]
    assert await instead_of(batch, lambda _: False) == [batch]


def test_a_refused_records_dead_letter_is_read() -> None:
    """Without an origin of its own it has the dead letter's."""
    written = ENCODER.unwritable(message("x"), "why", NOW)
    assert written.timestamp == round(NOW * 1000)
    record: Any = type("Record", (), {**written._asdict(), "topic": "asm.dead-letters", "partition": 1, "offset": 5})
    assert read_dead_letter(record).origin == RecordId("asm.dead-letters", 1, 5)
