"""Google's own protobuf as a reference: the vendor's messages as real descriptors, built from the vendor's tables.

Nothing here uses ``schemas``; what it prints and takes is what a gateway prints and takes. Field numbers are made up:
JSON does not show them.
"""

import json
from functools import cache
from itertools import product
from typing import Any, Literal, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, timestamp_pb2, wrappers_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as FieldProto
from google.protobuf.field_mask_pb2 import DESCRIPTOR as FIELD_MASK
from google.protobuf.message import Message
from hypothesis import strategies as st

TABLES = """
message GetStatusReq
  int64: asm_session_sid minimum_message_timestamp
  bool: perform_keep_alive perform_get_queued_calls perform_get_message
  repeated string: skills agent_pbx_extensions
  repeated Event: events
message Event
  enum StatusState: state
  int64: event_time
  ActivatedConversationEvent (oneof event): activated_conversation_event
  DeactivatedConversationEvent (oneof event): deactivated_conversation_event
  SentMessageEvent (oneof event): sent_message_event
  SendStatusEvent (oneof event): send_status_event
  PauseEvent (oneof event): pause_event
  ResumeEvent (oneof event): resume_event
message ActivatedConversationEvent
  OmniConversation: conversation
message OmniConversation
  int64: conversation_sid campaign_sid campaign_module_sid
  enum ChannelType: channel_type
  OmniConversationSkills: skills
  Timestamp: date_created date_modified last_message_time end_time last_message_group_time last_state_changed_time
  enum ConversationStatus: status
  StringValue: customer_email_address customer_phone_number customer_name reference_id
  ConversationCollectedData: conversation_collected_data
  SLATimeouts: sla_timeouts
  repeated OmniConversationAssignment: conversation_assignments
  ConversationDetails: metadata
  enum OmniSenderType: last_message_group_type
  enum OmniConversationResult: result
  Int64Value: task_sid
message OmniConversationSkills
  map<string, bool>: skills
message ConversationCollectedData
  repeated ConversationCollectedData_Item: items
message ConversationCollectedData_Item
  int64: conversation_collected_data_sid conversation_sid
  string: data_name data_value
  Timestamp: collection_time
  StringValue: user_id
message SLATimeouts
  int64: t1 t2 t3 t10 t11 t12
message OmniConversationAssignment
  int64: conversation_assignment_sid conversation_sid asm_session_sid
  bool: is_active
  enum AgentConversationAssignmentType: assignment_type
  Timestamp: date_created date_modified
  string: user_id
  ConversationAssignmentDetails: metadata
message ConversationAssignmentDetails
  string: user_name
message ConversationDetails
  string: campaign_name support_email
  bool: campaign_shorten_url
  repeated string: payment_portal_ids
message DeactivatedConversationEvent
  OmniConversation: conversation
message SentMessageEvent
  int64: response_time_seconds
  bool: is_initial_agent_message
  OmniConversation: conversation
message SendStatusEvent
  enum StatusState: status
message PauseEvent
message ResumeEvent
message GetStatusRes
  VoiceStatus: voice_status
message VoiceStatus
  int64: status current_session_id last_status_change calls_count last_sip_code message_timestamp
  enum AgentStatus: status_desc
  bool: paused monitoring agent_peer_is_lost_call disabled keep_alive_succeeded caller_was_suspended
    agent_peer_is_direct_to_agent agent_is_muted
  string: queue message
  QueuedCalls: queued_calls
  repeated TransferMember: transfer_members
  AgentAlert: alert
message QueuedCalls
  repeated QueuedCallData: agent_queue_calls on_hold_calls hqm_calls
message QueuedCallData
  int64: call_sid
  string: phone_number caller_id
  enum CallType: call_type
  Timestamp: start_date hold_date
  repeated string: skills
  bool: agent_specific
  enum QueuedNotificationType: queued_notification_type
message TransferMember
  string: identifier display_label phone_number
  enum TransferMemberType: member_type
  bool: is_muted
  AgentSession (oneof locatable_data): agent_session
  CallerSid (oneof locatable_data): caller_sid
  string (oneof locatable_data): outbound_id
message AgentSession
  int64: agent_sid tenant_sid session_sid asm_session_sid
  string: org_id region_id user_id
message CallerSid
  int64: caller_sid tenant_sid
  enum CallType: type
  string: org_id
message AgentAlert
  AgentBackofficeMessageAlert (oneof alert): backoffice_message
  AgentDirectedCallRingingAlert (oneof alert): directed_call_ringing
  AgentDirectedCallHangupAlert (oneof alert): directed_call_hangup
message AgentBackofficeMessageAlert
  int64: expire_duration
  Timestamp: timestamp
  AgentSession: target_agent_session
  string: message id
message AgentDirectedCallRingingAlert
  int64: expire_duration
  Timestamp: timestamp
  AgentSession: target_agent_session
  CallerSid: caller_sid
  string: caller_id destination_number id
message AgentDirectedCallHangupAlert
  int64: expire_duration
  Timestamp: timestamp
  AgentSession: target_agent_session
  CallerSid: caller_sid
  string: id
message GetCurrentSessionReq
message AsmSession
  int64: asm_session_sid
  Timestamp: asm_session_start asm_session_end
  VoiceSession: voice_session
message VoiceSession
  int64: voice_session_sid
  Timestamp: voice_session_start voice_session_end
message CreateSessionReq
  int64: hunt_group_sid
  map<string, int64>: skills
  enum AsmSubsessionType: subsession_type
message CreateSessionRes
  int64: asm_session_sid voice_session_sid
  VoiceRegistration: voice_registration
message VoiceRegistration
  string: username password dial_url pstn_phone default_time_zone
  int64: expiration_timestamp
message EndSessionReq
  int64: asm_session_sid
  string: reason
message ListConversationsReq
  int64: asm_session_sid
  AuthenticatedUser: authenticated_user
  string: user_id
  repeated enum ConversationStatus: statuses
  FieldMask: field_mask
  repeated enum ChannelType: channel_types
message AuthenticatedUser
  AuthClaims: claims
message AuthClaims
  string: auth0_user_id org_user_id org_id api_key region_id name impersonate active_org_id
  int64: client_sid agent_sid login_sid
message ListConversationsRes
  repeated OmniConversation: conversations
  string: next_page_token
enum StatusState
  STATUS_STATE_UNKNOWN=0 WAITING=1 IDLE=2 CONVERSATION_OPEN=3
enum ChannelType
  CHANNEL_TYPE_EMAIL=0 CHANNEL_TYPE_SMS=1 CHANNEL_TYPE_CHAT=2 CHANNEL_TYPE_VOICE=3 CHANNEL_TYPE_WHATSAPP=4
enum ConversationStatus
  CONVERSATION_STATUS_NEW=0 CONVERSATION_STATUS_AWAITING_REPLY_FROM_CUSTOMER=1
    CONVERSATION_STATUS_AWAITING_REPLY_FROM_AGENT=2 CONVERSATION_STATUS_CLOSED_TIMEOUT=3
    CONVERSATION_STATUS_CLOSED_AGENT=4 CONVERSATION_STATUS_CLOSED_CUSTOMER=5
    CONVERSATION_STATUS_SUSPENDED_AWAITING_REPLY_FROM_CUSTOMER=6 CONVERSATION_STATUS_AWAITING_ASSIGNMENT=7
    CONVERSATION_STATUS_NEWLY_ASSIGNED=8 CONVERSATION_STATUS_WRAP_UP_CUSTOMER=9
    CONVERSATION_STATUS_WRAP_UP_TIMEOUT=10 CONVERSATION_STATUS_CLOSED_MANAGER=11
    CONVERSATION_STATUS_NEW_PENDING_CUSTOMER_REPLY=12 CONVERSATION_STATUS_FLOW=13
    CONVERSATION_STATUS_CLOSED_DUPLICATE_THREAD=14
enum AgentConversationAssignmentType
  PRIMARY_AGENT=0 SECONDARY_AGENT=1
enum OmniSenderType
  OMNI_SENDER_TYPE_AGENT=0 OMNI_SENDER_TYPE_CUSTOMER=1 OMNI_SENDER_TYPE_SYSTEM=2 OMNI_SENDER_TYPE_MANAGER=3
    OMNI_SENDER_TYPE_FLOW=4
enum OmniConversationResult
  NONE=0 ABANDONED=1
enum AgentStatus
  UNAVALIABLE=0 IDLE=1 READY=2 HUNGUP=3 DESTROYED=4 PEERED=5 PAUSED=6 WRAPUP=7 PREPARING_AFTER_IDLE=8
    PREPARING_AFTER_WRAPUP=9 PREPARING_AFTER_PAUSE=10 PREPARING_AFTER_DIAL_CANCEL=11 PREPARING_AFTER_PBX_REJECT=12
    PREPARING_AFTER_PBX_HANGUP=13 PREPARING_AFTER_PBX_WAS_TAKEN=14 PREPARING_AFTER_GUI_BUSY=15
    MANUAL_DIAL_PREPARED=16 PREVIEW_DIAL_PREPARED=17 MANUAL_DIAL_STARTED=18 PREVIEW_DIAL_STARTED=19
    OUTBOUND_LOCKED=20 WARM_AGENT_TRANSFER_STARTED_SOURCE=21 WARM_AGENT_TRANSFER_STARTED_DESTINATION=22
    WARM_OUTBOUND_TRANSFER_STARTED=23 WARM_OUTBOUND_TRANSFER_PEER_LOST=24 PBX_POPUP_LOCKED=25
    PEERED_WITH_CALL_ON_HOLD=26 CALLBACK_RESUMING=27 GUI_BUSY=28 INTERCOM=29 INTERCOM_RINGING_SOURCE=30
    INTERCOM_RINGING_DESTINATION=31 WARM_OUTBOUND_TRANSFER_OUTBOUND_LOST=32 PREPARED_TO_PEER=33
    WARM_SKILL_TRANSFER_SOURCE_PENDING=34 CALLER_TRANSFER_STARTED=35 CALLER_TRANSFER_LOST_PEER=36
    CALLER_TRANSFER_LOST_MERGED_CALLER=37 COLD_OUTBOUND_TRANSFER_STARTED=38 COLD_AGENT_TRANSFER_STARTED=39
    SECURE_FORM_HANDLING=40
enum CallType
  INBOUND=0 OUTBOUND=1 PREVIEW=2 MANUAL=3 MAC=4
enum QueuedNotificationType
  QueuedNotificationType_GENERAL_INITIAL=0 QueuedNotificationType_PBX_INITIAL=1
    QueuedNotificationType_AGENT_BOUND_INITIAL=2 QueuedNotificationType_GENERAL_REQUEUED=3
    QueuedNotificationType_AGENT_BOUND_REQUEUED=4
enum TransferMemberType
  TransferMemberType_AGENT=0 TransferMemberType_CALLER=1 TransferMemberType_OUTBOUND=2
enum AsmSubsessionType
  VOICE=0 OMNI=1
"""
"""Of each message the type of its fields (nested names without their parent), of each enum the numbers."""

PACKAGE = "asm"
_SCALARS: dict[str, FieldProto.Type.ValueType] = {
    "int64": FieldProto.TYPE_INT64,
    "bool": FieldProto.TYPE_BOOL,
    "string": FieldProto.TYPE_STRING,
}
_WELL_KNOWN = ("Timestamp", "StringValue", "Int64Value", "FieldMask")


class Tables(NamedTuple):
    messages: dict[str, dict[str, str]]
    """Message -> field -> type, as the vendor's tables write it: ``repeated enum ChannelType``."""
    enums: dict[str, dict[str, int]]


def parse(text: str) -> Tables:
    messages: dict[str, dict[str, str]] = {}
    enums: dict[str, dict[str, int]] = {}
    kind = name = of_type = ""
    for line in text.strip().splitlines():
        if not line.startswith(" "):
            kind, name = line.split()
            (messages if kind == "message" else enums).setdefault(name, {})
        elif kind == "enum":
            enums[name] |= {member: int(number) for member, number in (pair.split("=") for pair in line.split())}
        else:
            of_type, fields = line.strip().split(": ") if ": " in line else (of_type, line)
            messages[name] |= dict.fromkeys(fields.split(), of_type)
    return Tables(messages, enums)


MESSAGES, ENUMS = parse(TABLES)


@cache
def message_class(name: str) -> type[Message]:
    """The class of one of the vendor's messages."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="asm.proto", package=PACKAGE, syntax="proto3")
    pool = descriptor_pool.DescriptorPool()
    for known in (timestamp_pb2.DESCRIPTOR, wrappers_pb2.DESCRIPTOR, FIELD_MASK):
        pool.AddSerializedFile(known.serialized_pb)
        file.dependency.append(known.name)
    for name, members in ENUMS.items():
        enum = file.message_type.add(name=f"{name}Scope").enum_type.add(
            name=name
        )  # a scope: names recur in other enums
        for member, number in members.items():
            enum.value.add(name=member, number=number)
    for name, fields in MESSAGES.items():
        _add_message(file.message_type.add(name=name), fields)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add_message(message: descriptor_pb2.DescriptorProto, fields: dict[str, str]) -> None:
    for number, (name, of_type) in enumerate(fields.items(), 1):
        field = message.field.add(name=name, number=number, label=FieldProto.LABEL_OPTIONAL)
        of_type, _, oneof = of_type.partition(" (oneof ")
        if oneof:
            field.oneof_index = _oneof(message, oneof.removesuffix(")"))
        if of_type.startswith("map<string, "):
            of_type = f"repeated {_add_map(message, name, of_type[12:-1])}"
        if of_type.startswith("repeated "):
            field.label = FieldProto.LABEL_REPEATED
        _set_type(field, of_type.removeprefix("repeated "))


def _oneof(message: descriptor_pb2.DescriptorProto, name: str) -> int:
    names = [oneof.name for oneof in message.oneof_decl]
    if name not in names:
        message.oneof_decl.add(name=name)
        names.append(name)
    return names.index(name)


def _add_map(message: descriptor_pb2.DescriptorProto, field: str, value_type: str) -> str:
    entry = message.nested_type.add(name=f"{field.capitalize()}Entry")
    entry.options.map_entry = True
    for number, (name, of_type) in enumerate((("key", "string"), ("value", value_type)), 1):
        _set_type(entry.field.add(name=name, number=number, label=FieldProto.LABEL_OPTIONAL), of_type)
    return f"{message.name}.{entry.name}"


def _set_type(field: descriptor_pb2.FieldDescriptorProto, of_type: str) -> None:
    if of_type in _SCALARS:
        field.type = _SCALARS[of_type]
    elif of_type.startswith("enum "):
        field.type = FieldProto.TYPE_ENUM
        field.type_name = f".{PACKAGE}.{of_type[5:]}Scope.{of_type[5:]}"
    else:
        field.type = FieldProto.TYPE_MESSAGE
        field.type_name = f".google.protobuf.{of_type}" if of_type in _WELL_KNOWN else f".{PACKAGE}.{of_type}"


# ---- what a gateway prints


class Shape(NamedTuple):
    """How a gateway is configured, or how a mock was written."""

    names: Literal["camel", "snake"]
    int64: Literal["text", "number"]
    enums: Literal["name", "number"]
    defaults: Literal["present", "omitted", "null"]


SHAPES = [Shape(*choice) for choice in product(*[hint.__args__ for hint in Shape.__annotations__.values()])]


def printed(message: Message, shape: Shape) -> dict[str, Any]:
    """The message as decoded JSON, printed by protobuf's own printer and then converted to the shape."""
    value = json_format.MessageToDict(
        message,
        preserving_proto_field_name=shape.names == "snake",
        use_integers_for_enums=shape.enums == "number",
        always_print_fields_with_no_presence=shape.defaults == "present",
    )
    _bend(value, message.DESCRIPTOR, shape)
    return value


def _bend(value: dict[str, Any], descriptor: Any, shape: Shape) -> None:
    for field in descriptor.fields:
        key = field.name if shape.names == "snake" else field.json_name
        if key in value:
            value[key] = _bent(value[key], field, shape)
        elif shape.defaults == "null":
            value[key] = None


def _bent(value: Any, field: FieldDescriptor, shape: Shape) -> Any:
    if isinstance(value, list):
        return [_bent(item, field, shape) for item in value]
    if field.type == FieldDescriptor.TYPE_INT64 or _type_name(field) == "Int64Value":
        return int(value) if shape.int64 == "number" else value
    if isinstance(value, dict) and not _is_map(field):
        _bend(value, field.message_type, shape)
    return value


def _type_name(field: FieldDescriptor) -> str | None:
    return field.message_type.name if field.message_type is not None else None


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def parsed(name: str, value: dict[str, Any]) -> Message:
    """The message that a strict service reads. Raises ``json_format.ParseError`` for anything it would refuse."""
    return json_format.Parse(json.dumps(value), message_class(name)(), ignore_unknown_fields=False)


# ---- any message


INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 2**53 + 1, 2**63 - 1, -(2**63), 1626791817289])
INSTANT = st.fixed_dictionaries(
    {
        "seconds": st.integers(-62135596800, 253402300799),
        "nanos": st.sampled_from([0, 120_000_000, 123_456_000, 123_456_789]),
    }
)


def messages(name: str) -> st.SearchStrategy[Message]:
    """Any valid message, including newer enum numbers."""
    return _contents(name).map(lambda given: message_class(name)(**given))


@cache
def _contents(name: str) -> st.SearchStrategy[dict[str, Any]]:
    groups: dict[str, list[st.SearchStrategy[dict[str, Any]]]] = {}
    for field, of_type in MESSAGES[name].items():
        of_type, _, oneof = of_type.partition(" (oneof ")
        groups.setdefault(oneof or field, [st.just({})]).append(st.fixed_dictionaries({field: _values(of_type)}))
    return st.tuples(*(st.one_of(members) for members in groups.values())).map(_merged)


def _merged(parts: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {field: value for part in parts for field, value in part.items()}


def _values(of_type: str) -> st.SearchStrategy[Any]:
    if of_type.startswith("repeated "):
        return st.lists(_values(of_type[9:]), max_size=2)
    if of_type.startswith("map<string, "):
        return st.dictionaries(st.text(max_size=5), _values(of_type[12:-1]), max_size=2)
    if of_type.startswith("enum "):
        return st.sampled_from([*ENUMS[of_type[5:]].values(), 77, -1])
    simple: dict[str, st.SearchStrategy[Any]] = {
        "int64": INT64,
        "bool": st.booleans(),
        "string": st.text(max_size=8),
        "Timestamp": INSTANT,
        "StringValue": st.fixed_dictionaries({"value": st.text(max_size=8)}),
        "Int64Value": st.fixed_dictionaries({"value": INT64}),
        "FieldMask": st.nothing(),
    }
    return simple[of_type] if of_type in simple else _contents(of_type)
