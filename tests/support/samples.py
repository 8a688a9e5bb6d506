"""A sample of each record, with its fields filled."""

from typing import Any

import msgspec

from asm_bridge_schemas import records

SESSION = records.AgentSessionRef(asm_session_sid="9007199254740993")
FILLED: dict[str, Any] = {
    "agent_id": "agent-7",
    "stream_id": "s1",
    "sequence": 1,
    "asm_session_sid": "9007199254740993",
    "observed_at": "2024-05-01T12:00:00.123Z",
    "since": "2024-05-01T12:00:00Z",
    "labels": {"site": "manila"},
    "voice_session_sid": "5",
    "changed": ["status"],
    "transfer_members": [records.TransferMember(agent_session=SESSION, caller_sid=records.CallerRef())],
    "change": "entered",
    "list": "on_hold",
    "call_sid": "7",
    "start_date": "2024-05-01T12:00:00Z",
    "hold_date_raw": "1s",
    "skills": ["english"],
    "message": "hello",
    "message_timestamp": 1626791817289,
    "kind": "backoffice_message",
    "alert_id": "a1",
    "target_agent_session": SESSION,
    "conversation_sid": None,
    "event": {"pause_event": {}},
    "injection_id": "0/1",
    "delivered_at": "2024-05-01T12:00:00Z",
    "source": None,
    "entry": "0/1",
    "outcome": "delivered",
    "received_at": "2024-05-01T12:00:00Z",
    "completed_at": "2024-05-01T12:00:00Z",
    "status": records.Status(),
    "calls": [records.CallInView(list="hqm", call_sid="1")],
    "alert": records.Alert(kind="directed_call_ringing", alert_id="a"),
    "partition": 3,
    "observed_until": "2024-05-01T12:00:00Z",
    "agents": 2,
    "in_session": 1,
    "instance": "host:1",
    "conversation": {"conversation_sid": "1"},
    "lost": records.Loss(reason="unreachable", since="2024-05-01T12:00:00Z"),
    "delivered": [records.Delivered(source=None, injection_id="0/1")],
}
OWN: dict[str, dict[str, Any]] = {
    "AgentWatchStarted": {"reason": "registered"},
    "AgentWatchEnded": {"reason": "unregistered"},
    "AgentObservationLost": {"reason": "unreachable"},
    "AgentObservationResumed": {"reason": "unreachable"},
    "InjectionCompleted": {"reason": "refused"},
    "AgentSessionStarted": {"reason": None},
    "PartitionHeartbeat": {"lost": 0},
    "AgentSessionEnded": {"reason": "replaced"},
    "AgentStatusChanged": {"status": 2},
    "QueuedCallChanged": {"reason": None},
    "ConversationEventDelivered": {"kind": "pause_event"},
    "ConversationChanged": {"conversation_sid": "1"},
    "AgentAlertRaised": {"caller_sid": records.CallerRef()},
    "AgentAlertCleared": {"caller_sid": None},
}


def sample(cls: type[msgspec.Struct]) -> msgspec.Struct:
    fields = {"reason": "because", **FILLED, **OWN.get(cls.__name__, {})}
    return cls(**{name: value for name, value in fields.items() if name in cls.__struct_fields__})
