"""What is written in place of records that Kafka refuses, so that one record does not hold up its partition.

A refusal names a topic, not a record. It may be about the records' times, or their sizes, which are mended; a topic may
take nothing at all, which must end first. Otherwise the culprits are found by halving, and written in the fullest form
that Kafka takes.

With transactions each trial is aborted, and all is written together in the end. Without them what a trial gets through
is written. So nothing is tried before all that stands before it is written or found to be a culprit, and each culprit's
form is written in its place: every record is there once, in its order.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import structlog

from asm_bridge_schemas.commands import UNWRITABLE
from asm_bridge_schemas.records import (
    AgentMessageReceived,
    AgentProfileChanged,
    AgentState,
    ConversationChanged,
    InjectionCompleted,
    PartitionHeartbeat,
    Published,
    QueuedCallChanged,
)
from bridge import headers as names
from bridge.agents.injection import KafkaRecord, read_injection
from bridge.agents.queue import InjectionQueue
from bridge.agents.step import DeadLetter, Step
from bridge.clock import rfc3339
from bridge.kafka.encoding import Encoder
from bridge.kafka.errors import InvalidTimestampError, RefusedRecordsError
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.partition_producer import PartitionProducer
from bridge.record_id import RecordId
from bridge.settings.model import InjectionSettings
from bridge.telemetry.logs import Once
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

T = TypeVar("T")
Instead = Mapping[int, Sequence[Outgoing]]
"""By the ``id()`` of a message: what is to be written in its place."""

_said = Once()


async def culprits(refused: Sequence[T], takes: Callable[[Sequence[T]], Awaitable[bool]]) -> AsyncIterator[T]:
    """Those of ``refused``, which are refused together, that are refused in the smallest parts too; none if only their
    number is the cause. Nothing behind a culprit is tried before the caller has dealt with it."""
    if len(refused) == 1:
        yield refused[0]
        return
    middle = len(refused) // 2
    for half in (refused[:middle], refused[middle:]):
        if not await takes(half):
            async for one in culprits(half, takes):
                yield one


class Refusal:
    """One refusal of what a partition's ``producer`` sent. ``now``: Kafka's time, in seconds since 1970; ``letters``:
    the partition of dead letters, None for the same."""

    def __init__(
        self,
        error: RefusedRecordsError,
        encoder: Encoder,
        producer: PartitionProducer,
        now: Callable[[], float],
        letters: int | None = None,
    ) -> None:
        self._error = error
        self._encoder = encoder
        self._letters = letters
        self._producer = producer
        self._now = now
        self._topic_takes: bool | None = None
        """Whether the topic takes any record; None if that is unknown."""

    async def remedy(self) -> Instead:
        """What to write instead; nothing if all of it is taken in smaller batches. Raises ``RefusedRecordsError`` for a
        topic that takes no record at all: none is the culprit. So counts one that takes no form of a record before it
        has taken another, where no canary can be tried."""
        messages, timed = self._error.messages, isinstance(self._error.__cause__, InvalidTimestampError)
        shorter = {id(m): [fitted] for m in messages if (fitted := self._encoder.fitted(m)) is not m}
        if shorter and not timed:
            return shorter
        topic = messages[0].topic
        now = self._now()
        self._topic_takes = await self._producer.takes_canary(canary(topic, self._encoder, now), now)
        if self._topic_takes is False:
            raise self._every
        if timed:
            if _said.is_new(("time", topic)):
                log.warning("record.redated", topic=topic, error=self._error)
            return {id(m): [m._replace(timestamp=round(now * 1000))] for m in messages}
        return {id(m): await self._instead_of(m) async for m in culprits(messages, self._takes)}

    @property
    def _every(self) -> RefusedRecordsError:
        return RefusedRecordsError(self._error.topic, self._error.why, self._error.messages, every=True)

    async def _takes(self, messages: Sequence[Outgoing]) -> bool:
        taken = await self._producer.takes(messages, self._now())
        self._topic_takes = self._topic_takes or taken
        return taken

    async def _instead_of(self, message: Outgoing) -> list[Outgoing]:
        """The fullest form that is taken, and a dead letter with what is missing in it."""
        form = await self._accepted(message)
        if form is message:  # taken now
            return [message]
        if form is None and not self._topic_takes:
            raise self._every
        became = "missing" if form is None else "shortened"
        if form is not None and (message.topic, form.value) == ("agent-state", None):
            became = "a tombstone"
        self._say(message, became)
        written = [] if form is None else [form]
        if message.topic == "inject":
            return [*written, *self._not_moved(message)]
        if message.topic in ("agent-state", "dead-letters", "heartbeats"):
            return written
        letter = await self._accepted(self._encoder.unwritable(message, f"{self._error}; it is {became}", self._now()))
        if letter is not None:
            METRICS.dead_letters.labels(UNWRITABLE).inc()
            written.append(letter)
        return written

    async def _accepted(self, message: Outgoing) -> Outgoing | None:
        """The fullest form that Kafka takes. The last one of a state is a tombstone: its agent begins a new stream
        after a takeover, and never numbers two records alike."""
        forms = [message, *self._encoder.smaller(message)]
        if message.topic == "agent-state" and message.value is not None:
            forms.append(message._replace(value=None, headers=[]))
        for form in forms:
            if await self._takes([form]):
                return form
        return None

    def _say(self, message: Outgoing, became: str) -> None:
        METRICS.kafka_errors.labels("refused").inc()
        if _said.is_new((message.topic, message.key)):
            log.error(
                "record.refused",
                topic=message.topic,
                key=(message.key or b"").decode(errors="backslashreplace"),
                ce_id=names.texts(message.headers).get(names.CE_ID),
                error=self._error,
                became=became,
            )

    def _not_moved(self, message: Outgoing) -> list[Outgoing]:
        """The outcome, in its agent's partition, and the dead letter of an event that cannot be moved there."""
        injection = read_injection(_Moved(message), 0.0, possibly_processed=False)
        injection.fault = UNWRITABLE, str(self._error)
        step = Step(AgentState(agent_id=injection.agent_id), self._now())
        InjectionQueue(InjectionSettings()).add(step, injection)
        METRICS.record_step(step)
        METRICS.dead_letters.labels(UNWRITABLE).inc()
        outcomes = [self._encoder.record(record) for record in step.records]
        letters = [self._encoder.dead_letter(letter, self._letters) for letter in step.dead_letters]
        return [*(outcome._replace(partition=message.partition) for outcome in outcomes), *letters]


class _Moved(KafkaRecord):
    """A moved event as its agent's partition would have read it."""

    def __init__(self, message: Outgoing) -> None:
        self.topic, self.partition, self.offset = RecordId.parse(names.texts(message.headers)[names.ORIGIN])
        self.timestamp, self.key, self.value = 2**62, message.key, message.value
        self._headers = message.headers

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        return self._headers


def canary(topic: str, encoder: Encoder, at: float) -> Outgoing:
    """A small record about no agent: a topic that refuses it, refuses every record."""
    time = rfc3339(at)
    common: dict[str, Any] = {"agent_id": "canary", "stream_id": "0" * 32, "asm_session_sid": None, "observed_at": time}
    common |= {"sequence": 1, "topic_sequence": 1}
    records: dict[str, Published] = {
        "agent-status": AgentProfileChanged(**common),
        "queued-calls": QueuedCallChanged(**common, change="left", list="hqm", call_sid="0"),
        "agent-messages": AgentMessageReceived(**common, message="", message_timestamp=0),
        "conversations": ConversationChanged(
            **common, change="left", conversation_sid="0", changed=[], conversation=None
        ),
        "inject-outcomes": InjectionCompleted(
            **common, injection_id="0", source=None, entry="0/0", outcome="expired", received_at=time, completed_at=time
        ),
    }
    if topic in records:
        return encoder.record(records[topic])
    if topic == "agent-state":
        return encoder.state("canary", AgentState(agent_id="canary", stream_id="0" * 32), at)
    if topic == "heartbeats":
        beat = PartitionHeartbeat(partition=0, observed_until=time, agents=0, in_session=0, lost=0, instance="")
        return encoder.heartbeat(beat)
    if topic == "dead-letters":
        origin = RecordId("", 0, 0)
        return encoder.dead_letter(DeadLetter(key=b"canary", value=None, code=UNWRITABLE, text="", origin=origin))
    return Outgoing(topic, b"canary", b"{}", [])
