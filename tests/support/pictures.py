"""The state of a consumer that has only the records: an independent model, updated record by record.

Each ``apply`` checks what the stream's reader may rely on: the numbering, the chain of statuses, and that nothing
leaves, clears or ends that was not there.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from asm_bridge_schemas import records
from asm_bridge_schemas.records import Published, Status, ce_type
from asm_bridge_schemas.statuses import status_group
from bridge.clock import seconds

CALL_FIELDS = (
    "phone_number",
    "caller_id",
    "call_type",
    "start_date",
    "start_date_raw",
    "hold_date",
    "hold_date_raw",
    "skills",
    "agent_specific",
    "queued_notification_type",
)
KEPT_FIELDS = ("call_type", "start_date", "skills")
"""What a call that left still has."""
Call = dict[str, Any]


@dataclass
class Picture:
    """One agent's state according to the records; ``calls`` by (list, call_sid)."""

    stream_id: str | None = None
    sequence: int = 0
    watched: bool = False
    session: str | None = None
    status: dict[str, Any] | None = None
    status_observed_at: str | None = None
    status_since: str | None = None
    interrupted: bool = False
    profile: tuple[dict[str, str], list[str]] = ({}, [])
    topic_sequences: dict[str, int] = field(default_factory=dict)
    calls: dict[tuple[str, str], Call] = field(default_factory=dict)
    conversations: dict[str, dict[str, Any]] = field(default_factory=dict)
    messages: list[tuple[str, int]] = field(default_factory=list)
    alert: tuple[str, str] | None = None
    lost: tuple[str, str] | None = None
    outcomes: dict[str, str] = field(default_factory=dict)
    delivered: list[str] = field(default_factory=list)

    def apply(self, record: Published) -> None:
        assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record
        if isinstance(record, records.InjectionCompleted) and record.stream_id is None:
            assert not self.watched
            assert record.sequence is None
        elif not isinstance(record, records.AgentWatchStarted):
            self._number(record)
        getattr(self, "_" + ce_type(type(record)).split(".")[3])(record)

    def _number(self, record: Published) -> None:
        assert self.watched, f"{type(record).__name__} of an agent that is not watched"
        assert record.stream_id == self.stream_id
        assert record.sequence == self.sequence + 1
        self.sequence += 1
        topic = records.TOPICS[type(record)]
        assert record.topic_sequence == self.topic_sequences.get(topic, 0) + 1
        self.topic_sequences[topic] = record.topic_sequence

    def _in_session(self, record: Published) -> None:
        assert self.session is not None, f"{type(record).__name__} outside of a session"
        assert record.asm_session_sid == self.session

    def _agent_watch_started(self, record: records.AgentWatchStarted) -> None:
        assert not self.watched
        assert record.stream_id not in (None, self.stream_id)
        assert record.sequence == 1
        assert record.asm_session_sid is None
        outcomes, delivered, messages = self.outcomes, self.delivered, self.messages
        self.__init__(outcomes=outcomes, delivered=delivered, messages=messages)  # type: ignore[misc]
        assert record.topic_sequence == 1
        self.stream_id, self.sequence, self.watched = record.stream_id, 1, True
        self.topic_sequences[records.TOPICS[type(record)]] = 1
        self.profile = record.labels, record.skills

    def _agent_watch_ended(self, record: records.AgentWatchEnded) -> None:
        assert self.session is None
        assert record.asm_session_sid is None
        assert self.profile == (record.labels, record.skills)
        self.watched = False

    def _agent_profile_changed(self, record: records.AgentProfileChanged) -> None:
        assert self.profile != (record.labels, record.skills), "nothing changed"
        self.profile = record.labels, record.skills

    def _agent_session_started(self, record: records.AgentSessionStarted) -> None:
        assert self.session is None
        assert not self.calls
        assert self.alert is None
        self.session = record.asm_session_sid
        self.status = self.status_observed_at = self.status_since = None

    def _agent_session_ended(self, record: records.AgentSessionEnded) -> None:
        self._in_session(record)
        assert not self.calls, "calls are left in view at the end of the session"
        assert not self.conversations, "conversations are left in view at the end of the session"
        assert self.alert is None, "an alert is left in view at the end of the session"
        self.session = self.status = self.status_observed_at = self.status_since = None

    def _agent_status_changed(self, record: records.AgentStatusChanged) -> None:
        self._in_session(record)
        new = {name: getattr(record, name) for name in Status.__struct_fields__}
        old = self.status
        assert record.changed == [name for name in new if old is None or old[name] != new[name]]
        assert record.changed, "nothing changed"
        assert record.previous_status_desc == (old["status_desc"] if old else None)
        assert record.previous_observed_at == self.status_observed_at
        assert record.status_group == status_group(record.status_desc)
        lasts = old is not None and old["status_desc"] == record.status_desc
        assert record.status_since == (self.status_since if lasts else record.observed_at)
        known = old is not None and not lasts and not self.interrupted
        assert (record.previous_duration_ms is not None) == known
        if record.previous_duration_ms is not None:
            assert self.status_since is not None
            lasted = seconds(record.observed_at) - seconds(self.status_since)
            assert abs(record.previous_duration_ms - max(0, lasted) * 1000) <= 1
        self.interrupted = lasts and self.interrupted
        self.status, self.status_observed_at, self.status_since = new, record.observed_at, record.status_since

    def _queued_call_changed(self, record: records.QueuedCallChanged) -> None:
        self._in_session(record)
        key = record.list, record.call_sid
        fields = {name: getattr(record, name) for name in CALL_FIELDS}
        assert (key in self.calls) == (record.change != "entered")
        assert (record.reason is not None) == (record.change == "left")
        if record.change == "left":
            last = self.calls.pop(key)
            assert fields == {name: last[name] if name in KEPT_FIELDS else None for name in CALL_FIELDS}
            waited = last["start_date"] and seconds(record.observed_at) - seconds(last["start_date"])
            assert (record.waited_ms is None) == (waited is None)
            assert record.waited_ms is None or abs(record.waited_ms - max(0, waited or 0) * 1000) <= 1
        else:
            assert self.calls.get(key) != fields, "nothing changed"
            assert record.waited_ms is None
            self.calls[key] = fields

    def _conversation_changed(self, record: records.ConversationChanged) -> None:
        self._in_session(record)
        sid, new = record.conversation_sid, record.conversation
        assert (sid in self.conversations) == (record.change != "entered")
        old = self.conversations.pop(sid, {})
        if record.change == "left":
            assert record.changed == []
            assert new in (None, old)
            return
        assert record.changed, "nothing changed"
        if new is not None and (old or record.change == "entered"):
            assert record.changed == [name for name in new if name not in old or old[name] != new[name]]
        assert new is None or new["conversation_sid"] == sid
        self.conversations[sid] = new or {}

    def _agent_message_received(self, record: records.AgentMessageReceived) -> None:
        self._in_session(record)
        self.messages.append((record.message, record.message_timestamp))

    def _agent_alert_raised(self, record: records.AgentAlertRaised) -> None:
        self._in_session(record)
        assert self.alert is None
        self.alert = record.kind, record.alert_id

    def _agent_alert_cleared(self, record: records.AgentAlertCleared) -> None:
        self._in_session(record)
        assert self.alert == (record.kind, record.alert_id)
        self.alert = None

    def _agent_observation_lost(self, record: records.AgentObservationLost) -> None:
        assert self.lost is None
        self.lost = record.reason, record.since
        self.interrupted = self.status is not None

    def _agent_observation_resumed(self, record: records.AgentObservationResumed) -> None:
        assert self.lost == (record.reason, record.since)
        assert record.status_group == (record.status_desc and status_group(record.status_desc))
        self.lost = None

    def _conversation_event_delivered(self, record: records.ConversationEventDelivered) -> None:
        self.delivered.append(record.injection_id)

    def _injection_completed(self, record: records.InjectionCompleted) -> None:
        assert record.entry not in self.outcomes, f"a second outcome of {record.entry}"
        assert (record.reason is not None) == (record.outcome in ("rejected", "undeliverable"))
        self.outcomes[record.entry] = record.outcome
