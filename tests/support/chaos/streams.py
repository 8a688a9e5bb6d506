"""The promises that each stream keeps by itself: numbering, placing, headers, and consistency. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from aiokafka.partitioner import murmur2

from asm_bridge_schemas import records
from asm_bridge_schemas.statuses import status_group
from tests.support.chaos.facts import Facts, Record, Told

STATUS_FIELDS = records.Status.__struct_fields__
TYPES = {cls.__name__: cls for cls in records.TOPICS}


def broken(facts: Facts) -> Iterator[str]:
    """The promises that were broken, each with its evidence."""
    for told in facts.told:
        for problem in placed_and_labelled(told, facts):
            yield f"{told.message.place} ({told.record['type']} of {told.record['agent_id']}): {problem}"
    for ce_id, times in Counter(told.message.header("ce_id") for told in facts.told).items():
        if times > 1:
            yield f"ce_id {ce_id} is there {times} times"
    for name, stream in facts.streams.items():
        for problem in [*numbered(stream), *View().follow(told.record for told in stream)]:
            yield f"stream {name} of {stream[0].record['agent_id']}: {problem}"
    yield from one_stream_at_a_time(facts)
    yield from heartbeats(facts)


def heartbeats(facts: Facts) -> Iterator[str]:
    """Each heartbeat is in the partition that it is about, and the watermark never decreases."""
    latest: dict[int, str] = {}
    for message, record in facts.heartbeats:
        partition, until = message.partition, record["observed_until"]
        if (message.key, record["partition"]) != (str(partition).encode(), partition):
            yield f"{message.place}: the heartbeat is about partition {record['partition']}, its key {message.key!r}"
        if until <= latest.get(partition, ""):
            yield f"{message.place}: observed_until goes back from {latest[partition]} to {until}"
        latest[partition] = until


def placed_and_labelled(told: Told, facts: Facts) -> Iterator[str]:
    """Topic, key, partition, timestamp and CloudEvents headers match the value."""
    message, record = told
    agent_id = record["agent_id"]
    home = (murmur2(agent_id.encode()) & 0x7FFFFFFF) % facts.partitions
    cls = TYPES[record["type"]]
    stamp = datetime.fromisoformat(record["observed_at"]).timestamp() * 1000
    yield from _differs("topic", message.topic, records.TOPICS[cls])
    yield from _differs("key", message.key, agent_id.encode())
    yield from _differs("partition", message.partition, home)
    if abs(message.timestamp - stamp) > 1:
        yield f"its Kafka timestamp is {message.timestamp}, observed_at {record['observed_at']}"
    for name, expected in _expected_headers(record, facts).items():
        yield from _differs(f"header {name}", message.header(name), expected)


def _expected_headers(record: Record, facts: Facts) -> dict[str, str]:
    cls = TYPES[record["type"]]
    if record["stream_id"] is None:
        ce_id = f"{facts.inbox}/{record.get('entry')}"
    else:
        ce_id = f"{record['stream_id']}:{record['sequence']}"
    return {
        "ce_specversion": "1.0",
        "ce_id": ce_id,
        "ce_type": records.ce_type(cls),
        "ce_source": f"/asm/agents/{quote(record['agent_id'], safe='')}",
        "ce_subject": record["agent_id"],
        "ce_time": record["observed_at"],
        "ce_dataschema": records.dataschema(cls),
        "content-type": "application/json",
    }


def numbered(stream: list[Told]) -> Iterator[str]:
    """A stream is numbered 1 to n over all topics, rising within each; its first and last records are those of the
    watch.
    """
    numbers = [told.record["sequence"] for told in stream]
    if numbers != list(range(1, len(numbers) + 1)):
        gaps = sorted(set(range(1, max(numbers) + 1)) - set(numbers))
        again = sorted(n for n, times in Counter(numbers).items() if times > 1)
        yield f"sequence is not 1..{len(numbers)}: missing {gaps}, repeated {again}"
    places: dict[tuple[str, int], int] = {}
    for told in stream:
        where = told.message.topic, told.message.partition
        if told.message.offset < places.get(where, told.message.offset):
            yield f"sequence {told.record['sequence']} stands before a lower one in {where[0]}/{where[1]}"
        places[where] = told.message.offset
    in_topic: Counter[str] = Counter()
    for told in stream:
        in_topic[told.message.topic] += 1
        if told.record["topic_sequence"] != in_topic[told.message.topic]:
            yield f"sequence {told.record['sequence']} has topic_sequence {told.record['topic_sequence']}"
    types = [told.record["type"] for told in stream]
    if types[0] != "AgentWatchStarted" or "AgentWatchStarted" in types[1:]:
        yield f"begins with {types[0]}, AgentWatchStarted is there {types.count('AgentWatchStarted')} times"
    if "AgentWatchEnded" in types[:-1]:
        yield f"goes on after AgentWatchEnded: {types[types.index('AgentWatchEnded') + 1 :]}"


def one_stream_at_a_time(facts: Facts) -> Iterator[str]:
    """An agent's stream ends before its next one begins."""
    open_streams: dict[str, str] = {}
    told = [t for t in facts.told if t.message.topic == "agent-status"]
    for _, record in sorted(told, key=lambda t: (t.message.partition, t.message.offset)):
        agent_id, stream = record["agent_id"], record["stream_id"]
        if open_streams.setdefault(agent_id, stream) != stream:
            yield f"{agent_id}: stream {stream} begins before {open_streams[agent_id]} has ended"
        if record["type"] == "AgentWatchEnded":
            open_streams.pop(agent_id)


@dataclass
class View:
    """The state that a consumer has of an agent by applying the records of its stream in order."""

    sid: str | None = None
    status: Record | None = None
    calls: set[tuple[str, str]] = field(default_factory=set)
    conversations: dict[str, Record] = field(default_factory=dict)
    conversations_told: set[tuple[str, str]] = field(default_factory=set)
    """The statuses published of each, by conversation_sid."""
    alert: tuple[str, str] | None = None
    lost: tuple[str, str] | None = None
    messages: list[tuple[int, str]] = field(default_factory=list)
    statuses: list[Record] = field(default_factory=list)
    interrupted: bool = False
    started: dict[tuple[str, str], str | None] = field(default_factory=dict)

    def follow(self, stream: Iterable[Record]) -> Iterator[str]:
        """Applies the records. Yields what contradicts the state so far."""
        for record in stream:
            for problem in self._apply(record):
                yield f"sequence {record['sequence']} ({record['type']}): {problem}"

    def _apply(self, record: Record) -> Iterator[str]:
        of_session = record["type"] not in ("AgentWatchStarted", "AgentWatchEnded", "AgentSessionStarted")
        if of_session and record["type"] not in _DELIVERY:
            yield from _differs("asm_session_sid", record["asm_session_sid"], self.sid)
        if record["type"] in _IN_SESSION and self.sid is None:
            yield "told without a session"
        yield from _APPLY.get(record["type"], _nothing)(self, record)


_DELIVERY = ("ConversationEventDelivered", "InjectionCompleted")
"""Checked against where the service took the event."""
_IN_SESSION = (
    "AgentStatusChanged",
    "QueuedCallChanged",
    "AgentMessageReceived",
    "AgentAlertRaised",
    "AgentAlertCleared",
    "ConversationChanged",
    "AgentSessionEnded",
)


def _nothing(view: View, record: Record) -> Iterator[str]:
    yield from ()


def _watch_ended(view: View, record: Record) -> Iterator[str]:
    if view.sid is not None:
        yield f"session {view.sid} was not ended before"


def _session_started(view: View, record: Record) -> Iterator[str]:
    if view.sid is not None:
        yield f"session {view.sid} was not ended before"
    if record["asm_session_sid"] is None:
        yield "has no asm_session_sid"
    view.sid, view.status, view.interrupted = record["asm_session_sid"], None, False


def _session_ended(view: View, record: Record) -> Iterator[str]:
    if view.calls:
        yield f"calls are still in view: {sorted(view.calls)}"
    if view.conversations:
        yield f"conversations are still in view: {sorted(view.conversations)}"
    if view.alert is not None:
        yield f"the alert {view.alert} is still in view"
    view.sid, view.status, view.calls, view.alert = None, None, set(), None


def _status_changed(view: View, record: Record) -> Iterator[str]:
    old = view.status
    if old is None:
        yield from _differs("changed", sorted(record["changed"]), sorted(STATUS_FIELDS))
    else:
        differing = {name for name in STATUS_FIELDS if old[name] != record[name]}
        yield from _differs("changed", sorted(record["changed"]), sorted(differing))
        if not differing:
            yield "tells no change"
    lasts = old is not None and old["status_desc"] == record["status_desc"]
    since = old["status_since"] if old is not None and lasts else record["observed_at"]
    yield from _differs("status_since", record["status_since"], since)
    yield from _differs("status_group", record["status_group"], status_group(record["status_desc"]))
    if (record["previous_duration_ms"] is None) != (old is None or lasts or view.interrupted):
        yield f"previous_duration_ms is {record['previous_duration_ms']}, interrupted: {view.interrupted}"
    view.interrupted = lasts and view.interrupted
    yield from _differs("previous_status_desc", record["previous_status_desc"], old and old["status_desc"])
    yield from _differs("previous_observed_at", record["previous_observed_at"], old and old["observed_at"])
    view.status = record
    view.statuses.append(record)


def _call_changed(view: View, record: Record) -> Iterator[str]:
    call = record["list"], record["call_sid"]
    if (record["change"] == "entered") == (call in view.calls):
        yield f"{call} {record['change']}, and was {'' if call in view.calls else 'not '}in view"
    if record["change"] == "left":
        view.calls.discard(call)
        if record["reason"] is None:
            yield f"{call} left without a reason"
        if record["start_date"] != view.started.pop(call, None) or (record["waited_ms"] is None) != (
            record["start_date"] is None
        ):
            yield f"{call} left with start_date {record['start_date']} and waited_ms {record['waited_ms']}"
    else:
        view.calls.add(call)
        view.started[call] = record["start_date"]


def _conversation_changed(view: View, record: Record) -> Iterator[str]:
    sid, new = record["conversation_sid"], record["conversation"]
    if (record["change"] == "entered") == (sid in view.conversations):
        yield f"conversation {sid} {record['change']}, and was {'' if sid in view.conversations else 'not '}in view"
    old = view.conversations.pop(sid, None)
    if record["change"] == "left":
        yield from _differs("changed", record["changed"], [])
        if new is not None and new != old:
            yield f"conversation {sid} left as {new}, and was {old}"
        return
    differing = [name for name in new if old is None or old.get(name) != new[name]]
    yield from _differs("changed", record["changed"], differing)
    if not differing:
        yield "tells no change"
    yield from _differs("conversation", new["conversation_sid"], sid)
    view.conversations[sid] = new
    view.conversations_told.add((sid, new["status"]))


def _message_received(view: View, record: Record) -> Iterator[str]:
    message = record["message_timestamp"], record["message"]
    if message in view.messages:
        yield f"the message {message} was told before"
    if view.messages and message[0] < view.messages[-1][0]:
        yield f"the message {message} is older than {view.messages[-1]}"
    view.messages.append(message)


def _alert_raised(view: View, record: Record) -> Iterator[str]:
    if view.alert is not None:
        yield f"the alert {view.alert} is still in view"
    view.alert = record["kind"], record["alert_id"]


def _alert_cleared(view: View, record: Record) -> Iterator[str]:
    yield from _differs("the alert", (record["kind"], record["alert_id"]), view.alert)
    view.alert = None


def _lost(view: View, record: Record) -> Iterator[str]:
    if view.lost is not None:
        yield "the observation was lost already"
    view.lost, view.interrupted = (record["reason"], record["since"]), view.status is not None


def _resumed(view: View, record: Record) -> Iterator[str]:
    yield from _differs("the loss", (record["reason"], record["since"]), view.lost)
    view.lost = None


_APPLY: dict[str, Callable[[View, Record], Iterator[str]]] = {
    "AgentWatchEnded": _watch_ended,
    "AgentSessionStarted": _session_started,
    "AgentSessionEnded": _session_ended,
    "AgentStatusChanged": _status_changed,
    "QueuedCallChanged": _call_changed,
    "ConversationChanged": _conversation_changed,
    "AgentMessageReceived": _message_received,
    "AgentAlertRaised": _alert_raised,
    "AgentAlertCleared": _alert_cleared,
    "AgentObservationLost": _lost,
    "AgentObservationResumed": _resumed,
}


def _differs(what: str, found: Any, expected: Any) -> Iterator[str]:
    if found != expected:
        yield f"{what} is {found!r}, expected {expected!r}"
