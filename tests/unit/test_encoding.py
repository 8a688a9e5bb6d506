"""Records as Kafka messages: CloudEvents headers, timestamps, and states of earlier and later releases."""

import random
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote, unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from asm_bridge_schemas import records
from asm_bridge_schemas.consume import decode
from asm_bridge_schemas.frame import frame
from asm_bridge_schemas.records import (
    AgentState,
    Alert,
    Books,
    CallInView,
    Delivered,
    Loss,
    PartitionHeartbeat,
    Published,
    Status,
)
from bridge.agents.step import DeadLetter, Step
from bridge.clock import seconds
from bridge.kafka.encoding import Encoder, read_state
from bridge.kafka.limits import Limits
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.schema_registry import OutputFrames
from bridge.record_id import RecordId
from bridge.settings import SchemaRegistrySettings, TopicsSettings
from bridge.telemetry.metrics import METRICS
from tests.support.strategies import EPOCH

OUTCOME: dict[str, Any] = {"injection_id": "i", "source": None, "entry": "3/5", "outcome": "expired"}
FIELDS: dict[type[Published], dict[str, Any]] = {
    records.AgentWatchStarted: {"reason": "registered"},
    records.AgentWatchEnded: {"reason": "unregistered"},
    records.AgentSessionStarted: {"voice_session_sid": None},
    records.AgentSessionEnded: {"voice_session_sid": None, "reason": "ended"},
    records.AgentObservationLost: {"reason": "unreachable", "since": "2026-11-23T09:30:00Z"},
    records.AgentObservationResumed: {"reason": "unreachable", "since": "2026-11-23T09:30:00Z"},
    records.AgentStatusChanged: {"changed": ["queue"], "queue": "日本"},
    records.QueuedCallChanged: {"change": "left", "list": "hqm", "call_sid": "1", "reason": "gone"},
    records.AgentMessageReceived: {"message": "Grüße", "message_timestamp": 3},
    records.AgentAlertRaised: {"kind": "backoffice_message", "alert_id": "a"},
    records.AgentAlertCleared: {"kind": "backoffice_message", "alert_id": "a"},
    records.ConversationEventDelivered: {
        "kind": "pause_event",
        "conversation_sid": None,
        "event": {"pause_event": {}},
        "injection_id": "i",
        "delivered_at": "2026-11-23T09:30:00Z",
    },
    records.AgentProfileChanged: {"labels": {}, "skills": ["english"]},
    records.ConversationChanged: {"change": "left", "conversation_sid": "1", "changed": [], "conversation": None},
    records.InjectionCompleted: OUTCOME
    | {"received_at": "2026-11-23T09:30:00Z", "completed_at": "2026-11-23T09:30:00Z"},
}
TYPES = {
    records.AgentStatusChanged: "com.tcn.asm.agent_status_changed.v1",
    records.QueuedCallChanged: "com.tcn.asm.queued_call_changed.v1",
    records.AgentMessageReceived: "com.tcn.asm.agent_message_received.v1",
    records.ConversationEventDelivered: "com.tcn.asm.conversation_event_delivered.v1",
    records.InjectionCompleted: "com.tcn.asm.injection_completed.v1",
}
agent_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def encoder(encoding: Literal["json", "msgpack"] = "json") -> Encoder:
    return Encoder(encoding, "asm.inject")


def record(cls: type[Published], agent_id: str = "agent-7", at: float = EPOCH, *, watched: bool = True) -> Published:
    step = Step(AgentState(agent_id=agent_id, stream_id="s" if watched else None, sequence=41), at)
    step.emit(cls, **FIELDS[cls])
    return step.records[0]


def headers(message: Outgoing) -> dict[str, str]:
    names = [name for name, _ in message.headers]
    assert len(set(names)) == len(names)
    return {name: value.decode() for name, value in message.headers}


def test_every_type_is_tried() -> None:
    """The tests of this file cover every record."""
    assert set(FIELDS) | {AgentState, PartitionHeartbeat} == set(records.TOPICS)


@pytest.mark.parametrize("cls", FIELDS, ids=lambda cls: str(cls.__name__))
def test_each_record_is_a_cloud_event(cls: type[Published]) -> None:
    """A record is a CloudEvent 1.0 in Kafka's binary mode, with id, type, source, subject, time, schema and content
    type.
    """
    message = encoder().record(record(cls))
    found = headers(message)
    assert found == {
        "ce_specversion": "1.0",
        "ce_id": "s:42",
        "ce_type": TYPES.get(cls, found["ce_type"]),
        "ce_source": "/asm/agents/agent-7",
        "ce_subject": "agent-7",
        "ce_time": "2026-09-21T14:13:20.000000Z",
        "ce_dataschema": f"urn:asm-kafka-bridge:schema:{cls.__name__}:v1",
        "content-type": "application/json",
    }
    assert message.topic == records.TOPICS[cls]
    assert message.partition is None
    assert message.key == b"agent-7"
    assert msgspec.json.decode(message.value or b"", type=cls) == record(cls)


@pytest.mark.parametrize("cls", FIELDS, ids=lambda cls: str(cls.__name__))
def test_message_pack_holds_the_same(cls: type[Published]) -> None:
    """MessagePack holds the same fields as JSON."""
    message = encoder("msgpack").record(record(cls))
    assert headers(message)["content-type"] == "application/msgpack"
    assert msgspec.msgpack.decode(message.value or b"", type=cls) == record(cls)


@given(agent_ids)
def test_an_agent_may_have_any_name(agent_id: str) -> None:
    """Whatever an agent's id contains, the key is its UTF-8 and the source is a URI that contains it."""
    message = encoder().record(record(records.AgentWatchStarted, agent_id))
    found = headers(message)
    assert (message.key or b"").decode() == agent_id == found["ce_subject"]
    assert found["ce_source"].isascii()
    assert found["ce_source"].count("/") == 3
    assert unquote(found["ce_source"].removeprefix("/asm/agents/")) == agent_id


def test_an_unwatched_agents_outcome_has_the_place_of_its_entry_as_id() -> None:
    """The ce_id of an unwatched agent's outcome is the entry's topic/partition/offset; stream and sequence are null."""
    outcome = record(records.InjectionCompleted, watched=False)
    assert headers(encoder().record(outcome))["ce_id"] == "asm.inject/3/5"
    assert (outcome.stream_id, outcome.sequence) == (None, None)


@given(st.integers(1_577_836_800_000, 2**31 * 1000))
def test_the_kafka_timestamp_is_observed_at(milliseconds: int) -> None:
    """The Kafka timestamp equals observed_at to the millisecond."""
    message = encoder().record(record(records.AgentWatchStarted, at=milliseconds / 1000))
    observed = datetime.fromisoformat(headers(message)["ce_time"])
    assert message.timestamp == milliseconds
    assert abs(observed.timestamp() * 1000 - milliseconds) < 0.01


STATE = AgentState(
    agent_id="日本",
    stream_id="s",
    sequence=9,
    labels={"site": "manila"},
    asm_session_sid="7",
    voice_session_sid="8",
    observed_at="2026-11-23T09:30:00Z",
    status=Status(status_desc="READY", transfer_members=[records.TransferMember(outbound_id="x")]),
    calls=[CallInView(list="hqm", call_sid="1")],
    alert=Alert(kind="backoffice_message", alert_id="a"),
    lost=Loss(reason="unreachable", since="2026-11-23T09:30:00Z"),
    bridge=Books(
        status_observed_at="2026-11-23T09:30:00Z",
        call_digests=["d"],
        message_cursor=4,
        message_digests=["m"],
        inbox_offset=12,
        inbox_open=[3, 7],
        delivered=[Delivered(source=None, injection_id="i"), Delivered(source="/crm", injection_id="j")],
    ),
)

KEY = STATE.agent_id.encode()


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_state_comes_back_as_it_was_written(encoding: Literal["json", "msgpack"]) -> None:
    """A state is read back as it was written, in each encoding."""
    message = encoder(encoding).state(STATE.agent_id, STATE, EPOCH)
    assert (message.topic, message.key) == ("agent-state", "日本".encode())
    assert read_state(message.key or b"", message.value or b"", tuple(message.headers)) == STATE


def test_a_state_is_read_after_the_encoding_was_changed() -> None:
    """A state is read in the encoding that it was written in, whatever records.encoding is now."""
    for message in (
        encoder("msgpack").state(STATE.agent_id, STATE, EPOCH),
        encoder("json").state(STATE.agent_id, STATE, EPOCH),
    ):
        assert read_state(message.key or b"", message.value or b"", tuple(message.headers)) == STATE


def test_a_state_without_headers_is_json() -> None:
    """A state without headers is read as JSON."""
    assert read_state(KEY, msgspec.json.encode(STATE), ()) == STATE


@pytest.mark.parametrize("key", [b"", b"\xff\xfe", b"agent-7"])
def test_a_state_under_another_key_is_not_read(key: bytes) -> None:
    """A state whose key is not its agent's id, or is not UTF-8, is refused."""
    with pytest.raises(msgspec.DecodeError, match="another key"):
        read_state(key, msgspec.json.encode(STATE), ())


def test_who_is_no_longer_watched_has_a_tombstone() -> None:
    """The state of an agent that is no longer watched is a tombstone."""
    assert encoder().state("a", None, EPOCH).value is None


def deepened(value: Any) -> Any:
    """Adds a field to every object in a value."""
    if isinstance(value, dict):
        return {name: deepened(item) for name, item in value.items()} | {"newer_field": {"a": [1]}}
    return [deepened(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("pack", [msgspec.json, msgspec.msgpack], ids=["json", "msgpack"])
def test_a_newer_releases_state_is_read(pack: Any) -> None:
    """A state of a newer release is read without its unknown fields, at any depth and at the end of arrays."""
    newer = deepened(msgspec.to_builtins(STATE))
    newer["labels"].pop("newer_field")
    newer["bridge"]["delivered"] = [[*one, "newer"] for one in newer["bridge"]["delivered"]]
    content_type = b"application/json" if pack is msgspec.json else b"application/msgpack"
    assert read_state(KEY, pack.encode(newer), (("content-type", content_type),)) == STATE


@pytest.mark.parametrize("name", [name for name in AgentState.__struct_fields__ if name != "agent_id"])
def test_an_older_releases_state_is_read(name: str) -> None:
    """A state of an older release is read with defaults for missing fields; only agent_id is required."""
    older = {key: value for key, value in msgspec.to_builtins(STATE).items() if key != name}
    state = read_state(KEY, msgspec.json.encode(older), ())
    assert getattr(state, name) == getattr(AgentState(agent_id="a"), name)


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (b"{", b"application/json"),
        (b"\xff", b"application/msgpack"),
        (b"{}", b"text/plain"),
    ],
)
def test_a_state_that_cannot_be_read_raises_what_is_said(value: bytes, content_type: bytes) -> None:
    """Any unreadable record in the state topic raises the documented error."""
    with pytest.raises(msgspec.DecodeError):
        read_state(KEY, value, (("content-type", content_type),))


@pytest.mark.parametrize("field", ["observed_at", "status_since"])
@pytest.mark.parametrize("time", ["", "yesterday", "2026-11-23T09:30:00", "2026-13-45T09:30:00Z"])
def test_a_state_with_a_time_that_is_none_is_not_read(field: str, time: str) -> None:
    """A state with a time that cannot be read, or has no offset, is refused: its agent could not go on from it."""
    with pytest.raises(msgspec.DecodeError):
        read_state(KEY, msgspec.json.encode(msgspec.structs.replace(STATE, **{field: time})), ())


def test_a_dead_letter_is_the_original_with_the_reason() -> None:
    """A dead letter has the original's key, value and headers, and replaces the reason of an earlier dead letter."""
    letter = DeadLetter(
        key=b"\xff",
        value=None,
        headers=(("ce_id", b"x"), ("asm_error", b"old"), ("asm_origin", b"asm.inject/1/1")),
        code="malformed_event",
        text="größer",
        origin=RecordId("asm.inject", 3, 5),
    )
    message = encoder().dead_letter(letter)
    assert (message.topic, message.key, message.value) == ("dead-letters", b"\xff", None)
    assert headers(message) == {
        "ce_id": "x",
        "asm_error_code": "malformed_event",
        "asm_error": "größer",
        "asm_origin": "asm.inject/3/5",
    }


def test_a_dead_letter_with_neither_key_nor_value_can_be_written() -> None:
    """A dead letter without key and value can be written, so that such a record cannot block its partition."""
    letter = DeadLetter(
        key=None, value=None, code="malformed_event", text="no key", origin=RecordId("asm.inject", 3, 17)
    )
    message = encoder().dead_letter(letter)
    assert (message.key, message.value) == (None, b"")
    assert encoder().dead_letter(msgspec.structs.replace(letter, key=b"agent-7")).value is None


def test_a_state_is_a_cloud_event() -> None:
    """A state's id differs from that of the record with the same sequence, and a tombstone has no headers."""
    message = encoder().state(STATE.agent_id, STATE, EPOCH)
    found = headers(message)
    assert found["ce_type"] == "com.tcn.asm.agent_state.v1"
    assert (found["ce_id"], found["ce_time"]) == ("state:s:9", STATE.observed_at)
    assert found["ce_source"] == f"/asm/agents/{quote(STATE.agent_id)}"
    assert encoder().state(STATE.agent_id, None, EPOCH).headers == []


def test_a_heartbeat_has_its_partition_as_its_key() -> None:
    """A heartbeat's key and subject are the partition's number, and its Kafka timestamp is observed_until."""
    until = "2026-11-23T09:30:00.000250Z"
    heartbeat = PartitionHeartbeat(partition=3, observed_until=until, agents=2, in_session=1, lost=0, instance="host:1")
    message = encoder().heartbeat(heartbeat)
    assert (message.topic, message.key) == ("heartbeats", b"3")
    assert headers(message)["ce_source"] == "/asm/partitions/3"
    assert message.timestamp == round(seconds(until) * 1000)


def test_a_source_goes_before_the_path() -> None:
    """records.source begins ce_source, which distinguishes organisations."""
    message = Encoder("json", "asm.inject", "/acme/eu").record(record(records.AgentWatchStarted))
    assert headers(message)["ce_source"] == "/acme/eu/asm/agents/agent-7"


FRAMES = {topic: frame(number) for number, topic in enumerate(dict.fromkeys(records.TOPICS.values()), 100)}


def framing(frames: dict[str, bytes]) -> Encoder:
    """An encoder for a Schema Registry that has given out these frames."""
    known = OutputFrames(SchemaRegistrySettings(), TopicsSettings())
    known.frames.update(frames)
    return Encoder("json", "asm.inject", framed=known.framed)


@pytest.mark.parametrize("cls", FIELDS, ids=lambda cls: str(cls.__name__))
def test_a_value_is_framed_for_the_registry(cls: type[Published]) -> None:
    """With a Schema Registry the id of the topic's schema stands before the JSON; the headers stay as they are."""
    framed, plain = framing(FRAMES).record(record(cls)), encoder().record(record(cls))
    assert framed._replace(value=None) == plain._replace(value=None)
    assert framed.value == FRAMES[records.TOPICS[cls]] + (plain.value or b"")


def test_every_output_but_dead_letters_is_framed() -> None:
    """States and heartbeats too; a tombstone has no value, and a dead letter keeps the original's."""
    writing = framing(FRAMES)
    beat = PartitionHeartbeat(
        partition=3, observed_until="2026-11-23T09:30:00Z", agents=2, in_session=1, lost=0, instance="h:1"
    )
    letter = DeadLetter(key=b"a", value=b"{}", code="malformed_event", text="no", origin=RecordId("asm.inject", 3, 5))
    assert (writing.heartbeat(beat).value or b"").startswith(FRAMES["heartbeats"])
    assert (writing.state(STATE.agent_id, STATE, EPOCH).value or b"").startswith(FRAMES["agent-state"])
    assert writing.state("a", None, EPOCH).value is None
    assert writing.dead_letter(letter).value == b"{}"


def test_a_framed_state_comes_back_as_it_was_written() -> None:
    """A registry may be used from now on, or no longer: a state is read with a frame and without."""
    message = framing(FRAMES).state(STATE.agent_id, STATE, EPOCH)
    assert read_state(KEY, message.value or b"", tuple(message.headers)) == STATE
    with pytest.raises(msgspec.DecodeError):
        read_state(KEY, (message.value or b"")[:-1], tuple(message.headers))


def test_nothing_is_written_without_a_frame_that_it_needs() -> None:
    """A value whose schema has no id yet cannot be encoded."""
    writing = framing({})
    with pytest.raises(KeyError):
        writing.record(record(records.AgentWatchStarted))
    with pytest.raises(KeyError):
        writing.state(STATE.agent_id, STATE, EPOCH)


@pytest.mark.parametrize("pack", [msgspec.json, msgspec.msgpack])
def test_a_state_of_version_1_is_read(pack: Any) -> None:
    """A state of version 1, with cursor, offsets and delivered injections among the other fields, is read."""
    old = {
        "version": 1,
        "agent_id": "a",
        "stream_id": "s",
        "status": {"status_desc": "READY"},
        "calls": [{"list": "hqm", "call_sid": "1", "digest": "d"}],
        "message_cursor": 4,
        "inbox_offset": 12,
        "inbox_open": [3],
        "delivered": [[None, "i"]],
    }
    content_type = b"application/json" if pack is msgspec.json else b"application/msgpack"
    state = read_state(b"a", pack.encode(old), (("content-type", content_type),))
    books = state.bridge
    assert (state.version, state.status_group, state.calls) == (2, "available", [CallInView(list="hqm", call_sid="1")])
    assert (books.message_cursor, books.inbox_offset, books.inbox_open) == (4, 12, [3])
    assert books.delivered == [Delivered(source=None, injection_id="i")]
    assert len(books.call_digests) == 1


def test_a_dead_letter_fits_into_a_record() -> None:
    """A header or key that is too large is left out of a dead letter; the other headers stay."""
    headers = (("ce_id", b"i" * 2000), ("x-team", b"blue"), ("big", b"x" * 70_000), ("y", b"x" * 60_000))
    letter = DeadLetter(
        key=b"k" * 2000, value=None, headers=headers, code="too_large", text="x" * 10**6, origin=RecordId("t", 0, 1)
    )
    written = Encoder("json", "asm.inject").dead_letter(letter)
    names = [name for name, _ in written.headers]
    assert names == ["x-team", "y", "asm_error_code", "asm_error", "asm_origin"]
    assert (written.key, written.value) == (None, b"")
    assert sum(len(value or b"") for _, value in written.headers) < 80_000


def noise(characters: int) -> str:
    """Text that does not compress."""
    return "".join(chr(0x4E00 + byte) for byte in random.Random(1).randbytes(characters))


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_record_is_shortened_to_what_its_topic_takes(encoding: Literal["json", "msgpack"]) -> None:
    """Its long texts are, and nothing else is: identity and sequence stay, so that no reader finds a gap. It is logged
    once for an agent, and counted each time."""
    limits = Limits()
    limits.update({"agent-messages": {"max.message.bytes": str(900_000)}})
    step = Step(AgentState(agent_id="agent-7", stream_id="s", sequence=41), EPOCH)
    step.emit(records.AgentMessageReceived, message=noise(600_000), message_timestamp=3)
    writing, before = Encoder(encoding, "asm.inject", limits=limits), shortened()
    with capture_logs() as logged:
        message, again = writing.record(step.records[0]), writing.record(step.records[0])
    assert limits.fits(message)
    assert again == message
    assert headers(message)["ce_id"] == "s:42"
    decoded = decode(message.value, message.headers)
    assert isinstance(decoded, records.AgentMessageReceived)
    assert (decoded.sequence, decoded.topic_sequence, decoded.message_timestamp) == (42, 1, 3)
    assert decoded.message == noise(600_000)[:65_535] + "…"
    assert [(line["event"], line["topic"], line["key"]) for line in logged] == [
        ("record.shortened", "agent-messages", "agent-7")
    ]
    assert shortened() == before + 2


def shortened() -> float:
    return METRICS.registry.get_sample_value("asm_bridge_kafka_errors_total", {"operation": "shortened"}) or 0


def test_a_record_that_compresses_is_left_whole() -> None:
    """Kafka measures a batch as it is sent; but one that the broker compresses in its own way also as it is stored."""
    limits = Limits("gzip")
    step = Step(AgentState(agent_id="agent-7", stream_id="s"), EPOCH)
    step.emit(records.AgentMessageReceived, message="x" * 2_000_000, message_timestamp=3)
    writing = Encoder("json", "asm.inject", limits=limits)
    assert len(writing.record(step.records[0]).value or b"") > 2_000_000
    limits.update({"agent-messages": {"compression.type": "gzip"}})
    assert len(writing.record(step.records[0]).value or b"") > 2_000_000
    limits.update({"agent-messages": {"compression.type": "uncompressed"}})
    assert len(writing.record(step.records[0]).value or b"") < 1_000_000
    limits.update({})  # the broker reported nothing this time
    assert len(writing.record(step.records[0]).value or b"") < 1_000_000


def test_a_state_forgets_what_does_not_fit() -> None:
    """First the oldest ids of delivered events go, at last calls and conversations, which are published again after a
    takeover; what numbers the records stays."""
    ids = [Delivered(source=noise(2000), injection_id=str(number)) for number in range(100)]
    calls = [CallInView(list="hqm", call_sid=str(number)) for number in range(3)]
    books = Books(delivered=ids, call_digests=["a", "b", "c"], inbox_offset=7, topic_sequences={"agent-status": 9})
    state = AgentState(agent_id="agent-7", stream_id="s", sequence=41, calls=calls, bridge=books)

    def written(state: AgentState, limit: int) -> AgentState:
        limits = Limits()
        limits.update({"agent-state": {"max.message.bytes": str(limit)}})
        message = Encoder("json", "asm.inject", limits=limits).state("agent-7", state, EPOCH)
        assert limits.fits(message)
        return read_state(b"agent-7", message.value or b"", message.headers)

    assert written(state, 900_000) == state
    half = written(state, 400_000)
    assert half == msgspec.structs.replace(state, bridge=msgspec.structs.replace(books, delivered=ids[-50:]))
    many = [CallInView(list="hqm", call_sid=noise(100)) for _ in range(4000)]
    books = msgspec.structs.replace(books, call_digests=["d"] * 4000)
    bare = written(msgspec.structs.replace(state, calls=many, bridge=books), 900_000)
    assert (bare.sequence, bare.calls, bare.bridge.call_digests, bare.bridge.delivered) == (41, [], [], [])
    assert (bare.bridge.inbox_offset, bare.bridge.topic_sequences) == (7, {"agent-status": 9})


def test_a_dead_letter_that_does_not_fit_keeps_its_reason() -> None:
    """Its value goes first, then its headers."""
    letter = DeadLetter(
        key=b"a", value=noise(40_000).encode(), headers=(("x", b"y" * 5000),), code="refused", text="why",
        origin=RecordId("asm.inject", 3, 5),
    )  # fmt: skip
    left = []
    for limit in (900_000, 50_000, 1000):
        limits = Limits()
        limits.update({"dead-letters": {"max.message.bytes": str(limit)}})
        message = Encoder("json", "asm.inject", limits=limits).dead_letter(letter)
        assert limits.fits(message)
        left.append((message.key, message.value is not None, "x" in headers(message), headers(message)["asm_error"]))
    assert left == [(b"a", True, True, "why"), (b"a", False, True, "why"), (b"a", False, False, "why")]
