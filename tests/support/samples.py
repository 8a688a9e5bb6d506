"""A sample of each record, with its fields filled."""

from typing import Any

import msgspec

from asm_bridge_schemas import records

SESSION = records.AgentSessionRef(asm_session_sid="9007199254740993")
FILLED: dict[str, Any] = {
    "agent_id": "agent-7",
    "stream_id": "s1",
    "sequence": 1,
    "topic_sequence": 1,
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


PAGE_SAMPLE = b"""
{
  "state": "STATUS_STATE_UNKNOWN",
  "event_time": 1,
  "activated_conversation_event": {
    "conversation": {
      "conversation_sid": 1,
      "channel_type": "CHANNEL_TYPE_EMAIL",
      "skills": {"skills": {"property1": true, "property2": true}},
      "date_created": "1s",
      "date_modified": "1s",
      "status": "CONVERSATION_STATUS_NEW",
      "customer_email_address": "string",
      "customer_phone_number": "string",
      "customer_name": "string",
      "campaign_sid": 1,
      "reference_id": "string",
      "last_message_time": "1s",
      "conversation_collected_data": {
        "items": [
          {
            "conversation_collected_data_sid": 1,
            "conversation_sid": 1,
            "data_name": "string",
            "data_value": "string",
            "collection_time": "1s",
            "user_id": "string"
          }
        ]
      },
      "sla_timeouts": {"t1": 1, "t2": 1, "t3": 1, "t10": 1, "t11": 1, "t12": 1},
      "conversation_assignments": [
        {
          "conversation_assignment_sid": 1,
          "conversation_sid": 1,
          "is_active": true,
          "assignment_type": "PRIMARY_AGENT",
          "date_created": "1s",
          "date_modified": "1s",
          "user_id": "string",
          "metadata": {"user_name": "string"},
          "asm_session_sid": 1
        }
      ],
      "metadata": {
        "campaign_name": "string",
        "support_email": "string",
        "campaign_shorten_url": true,
        "payment_portal_ids": ["string"]
      },
      "end_time": "1s",
      "campaign_module_sid": 1,
      "last_message_group_time": "1s",
      "last_message_group_type": "OMNI_SENDER_TYPE_AGENT",
      "result": "NONE",
      "last_state_changed_time": "1s",
      "task_sid": "string"
    }
  }
}
"""
"""The event in the sample of the vendor's page for getstatus."""
