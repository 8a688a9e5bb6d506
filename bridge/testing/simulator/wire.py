"""Protobuf's JSON mapping as a gateway prints it: camelCase, int64 as text, fields at their default left out.

Deliberately independent of ``schemas``: the bridge reads with those, so a mistake there shows up here.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec


class MessageField(NamedTuple):
    """The type of a field that holds a message; ``oneof`` members are never printed while unset."""

    name: str
    oneof: bool = False


Value = dict[str, Any]
"""A message: snake_case names, int64 as int, Timestamps and enums as text; what is absent is at its default."""

_ALERT = {"expire_duration": 0, "timestamp": None, "target_agent_session": MessageField("AgentSession"), "id": ""}
_ONE_SIDED_ALERT = {**_ALERT, "caller_sid": MessageField("CallerSid")}

FIELDS: dict[str, dict[str, Any]] = {
    "GetStatusRes": {"voice_status": MessageField("VoiceStatus")},
    "VoiceStatus": {
        "status": 0,
        "status_desc": "UNAVALIABLE",
        "paused": False,
        "queue": "",
        "current_session_id": 0,
        "last_status_change": 0,
        "monitoring": False,
        "calls_count": 0,
        "last_sip_code": 0,
        "agent_peer_is_lost_call": False,
        "disabled": False,
        "keep_alive_succeeded": False,
        "message": "",
        "message_timestamp": 0,
        "queued_calls": MessageField("QueuedCalls"),
        "caller_was_suspended": False,
        "transfer_members": [MessageField("TransferMember")],
        "alert": MessageField("AgentAlert"),
        "agent_peer_is_direct_to_agent": False,
        "agent_is_muted": False,
    },
    "QueuedCalls": {
        "agent_queue_calls": [MessageField("QueuedCallData")],
        "on_hold_calls": [MessageField("QueuedCallData")],
        "hqm_calls": [MessageField("QueuedCallData")],
    },
    "QueuedCallData": {
        "call_sid": 0,
        "phone_number": "",
        "caller_id": "",
        "call_type": "INBOUND",
        "start_date": None,
        "hold_date": None,
        "skills": [],
        "agent_specific": False,
        "queued_notification_type": "QueuedNotificationType_GENERAL_INITIAL",
    },
    "TransferMember": {
        "identifier": "",
        "display_label": "",
        "member_type": "TransferMemberType_AGENT",
        "phone_number": "",
        "is_muted": False,
        "agent_session": MessageField("AgentSession", oneof=True),
        "caller_sid": MessageField("CallerSid", oneof=True),
        "outbound_id": MessageField("string", oneof=True),
    },
    "AgentSession": {
        "agent_sid": 0,
        "tenant_sid": 0,
        "session_sid": 0,
        "asm_session_sid": 0,
        "org_id": "",
        "region_id": "",
        "user_id": "",
    },
    "CallerSid": {"caller_sid": 0, "type": "INBOUND", "tenant_sid": 0, "org_id": ""},
    "AgentAlert": {
        "backoffice_message": MessageField("AgentBackofficeMessageAlert", oneof=True),
        "directed_call_ringing": MessageField("AgentDirectedCallRingingAlert", oneof=True),
        "directed_call_hangup": MessageField("AgentDirectedCallHangupAlert", oneof=True),
    },
    "AgentBackofficeMessageAlert": {**_ALERT, "message": ""},
    "AgentDirectedCallRingingAlert": {**_ONE_SIDED_ALERT, "caller_id": "", "destination_number": ""},
    "AgentDirectedCallHangupAlert": _ONE_SIDED_ALERT,
    "AsmSession": {
        "asm_session_sid": 0,
        "asm_session_start": None,
        "asm_session_end": None,
        "voice_session": MessageField("VoiceSession"),
    },
    "VoiceSession": {"voice_session_sid": 0, "voice_session_start": None, "voice_session_end": None},
    "CreateSessionRes": {
        "asm_session_sid": 0,
        "voice_session_sid": 0,
        "voice_registration": MessageField("VoiceRegistration"),
    },
    "VoiceRegistration": {
        "username": "",
        "password": "",
        "dial_url": "",
        "pstn_phone": "",
        "default_time_zone": "",
        "expiration_timestamp": 0,
    },
    "ListConversationsRes": {"conversations": [MessageField("OmniConversation")], "next_page_token": ""},
    "OmniConversation": {
        "conversation_sid": 0,
        "channel_type": "CHANNEL_TYPE_EMAIL",
        "skills": MessageField("OmniConversationSkills"),
        "date_created": None,
        "date_modified": None,
        "status": "CONVERSATION_STATUS_NEW",
        "customer_email_address": None,
        "customer_phone_number": None,
        "customer_name": None,
        "campaign_sid": 0,
        "reference_id": None,
        "last_message_time": None,
        "conversation_collected_data": MessageField("ConversationCollectedData"),
        "sla_timeouts": MessageField("SLATimeouts"),
        "conversation_assignments": [MessageField("OmniConversationAssignment")],
        "metadata": MessageField("ConversationDetails"),
        "end_time": None,
        "campaign_module_sid": 0,
        "last_message_group_time": None,
        "last_message_group_type": "OMNI_SENDER_TYPE_AGENT",
        "result": "NONE",
        "last_state_changed_time": None,
        "task_sid": None,
    },
    "OmniConversationSkills": {"skills": {}},
    "ConversationCollectedData": {"items": [MessageField("ConversationCollectedData_Item")]},
    "ConversationCollectedData_Item": {
        "conversation_collected_data_sid": 0,
        "conversation_sid": 0,
        "data_name": "",
        "data_value": "",
        "collection_time": None,
        "user_id": None,
    },
    "SLATimeouts": {"t1": 0, "t2": 0, "t3": 0, "t10": 0, "t11": 0, "t12": 0},
    "OmniConversationAssignment": {
        "conversation_assignment_sid": 0,
        "conversation_sid": 0,
        "is_active": False,
        "assignment_type": "PRIMARY_AGENT",
        "date_created": None,
        "date_modified": None,
        "user_id": "",
        "metadata": MessageField("ConversationAssignmentDetails"),
        "asm_session_sid": 0,
    },
    "ConversationAssignmentDetails": {"user_name": ""},
    "ConversationDetails": {
        "campaign_name": "",
        "support_email": "",
        "campaign_shorten_url": False,
        "payment_portal_ids": [],
    },
    "Empty": {},
}
"""MessageField -> field -> its default, or the message it holds (in a list: repeated). None: an unset Timestamp or
wrapper."""


def camel(name: str) -> str:
    """``asm_session_sid`` -> ``asmSessionSid``."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


_CAMEL = {name: camel(name) for fields in FIELDS.values() for name in fields}


def render(message: str, value: Value, *, emit_defaults: bool = False) -> bytes:
    """The JSON text of a message; raises KeyError for a field that the message does not have."""
    return msgspec.json.encode(_print(message, value, emit_defaults))


def _print(message: str, value: Value, emit_defaults: bool) -> Value:
    fields = FIELDS[message]
    if not emit_defaults:
        return {
            _CAMEL[name]: _field(fields[name], given, False)
            for name, given in value.items()
            if not _is_default(fields[name], given)
        }
    return {
        _CAMEL[name]: _field(kind, value.get(name, kind), True)
        for name, kind in fields.items()
        if not (isinstance(kind, MessageField) and kind.oneof and name not in value)
    }


def _is_default(kind: Any, given: Any) -> bool:
    return given is None or given == [] or (given == kind and not isinstance(kind, MessageField))


def _field(kind: Any, given: Any, emit_defaults: bool) -> Any:
    if isinstance(given, MessageField):
        return None
    if isinstance(given, list):
        return [_item(kind, item, emit_defaults) for item in given if not isinstance(item, MessageField)]
    if isinstance(kind, MessageField) and isinstance(given, Mapping):
        return _print(kind.name, dict(given), emit_defaults)
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given


def _item(kind: list[Any], item: Any, emit_defaults: bool) -> Any:
    return _print(kind[0].name, item, emit_defaults) if kind and isinstance(kind[0], MessageField) else item


def timestamp(seconds: float) -> str:
    """A Timestamp as protobuf prints it: RFC 3339, UTC, with no or three fractional digits."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{milliseconds:03d}Z" if milliseconds else f"{text}Z"
