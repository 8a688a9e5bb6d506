"""The vendor's messages and enums (tcn.api ASM), as read from a gateway's JSON.

A Struct holds values normalised by ``protojson.read``: 64-bit identifiers as digits ("0" where unset), other int64 as
numbers, enums as names (a number that the list lacks as its digits), Timestamps in UTC (one that cannot be read as the
text sent), messages and wrappers as None where unset, the members of a oneof as fields of their own. protojson compiles
its mapping from the annotations. Facts are from the vendor's published protobuf descriptors; ``UNAVALIABLE`` is spelled
so there.
"""

from enum import Enum, IntEnum
from typing import Annotated

import msgspec


class Wire(Enum):
    """Protobuf types whose JSON form does not follow from the Python type."""

    INT64 = "int64"
    TIMESTAMP = "Timestamp"


class OneOf(msgspec.Struct, frozen=True):
    """Marks the members of a oneof."""

    name: str


class Shared(Enum):
    """Marks data that many sessions receive alike, such as the calls in a queue: the same text is read once."""

    BY_TEXT = "by text"


class Needed(Enum):
    """Marks a field without which an answer would mean something else: if it is unreadable, so is the answer."""

    HERE = "here"


OMITTABLE = frozenset(
    {
        *("caller_id", "destination_number", "display_label", "message", "phone_number", "user_id"),
        *("customer_email_address", "customer_name", "customer_phone_number"),
        *("conversation_collected_data", "reference_id", "support_email", "user_name"),
    }
)
"""The fields, of whatever message, that an answer can do without, and that hold personal data (``records.omit``)."""


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of the vendor's messages."""


Int64 = Annotated[int, Wire.INT64]
"""A count, an integer time or a number of seconds."""
Int64Id = Annotated[str, Wire.INT64]
"""An identifier, in digits: beyond 2^53, and so never a float."""
Int64Value = Annotated[str | None, Wire.INT64]
Timestamp = Annotated[str | None, Wire.TIMESTAMP]
"""The text as sent: RFC 3339, or something else from a mock."""
StringValue = str | None
FieldMask = str | None


class StatusState(IntEnum):
    STATUS_STATE_UNKNOWN = 0
    WAITING = 1
    IDLE = 2
    CONVERSATION_OPEN = 3


class ChannelType(IntEnum):
    CHANNEL_TYPE_EMAIL = 0
    CHANNEL_TYPE_SMS = 1
    CHANNEL_TYPE_CHAT = 2
    CHANNEL_TYPE_VOICE = 3
    CHANNEL_TYPE_WHATSAPP = 4


class ConversationStatus(IntEnum):
    CONVERSATION_STATUS_NEW = 0
    CONVERSATION_STATUS_AWAITING_REPLY_FROM_CUSTOMER = 1
    CONVERSATION_STATUS_AWAITING_REPLY_FROM_AGENT = 2
    CONVERSATION_STATUS_CLOSED_TIMEOUT = 3
    CONVERSATION_STATUS_CLOSED_AGENT = 4
    CONVERSATION_STATUS_CLOSED_CUSTOMER = 5
    CONVERSATION_STATUS_SUSPENDED_AWAITING_REPLY_FROM_CUSTOMER = 6
    CONVERSATION_STATUS_AWAITING_ASSIGNMENT = 7
    CONVERSATION_STATUS_NEWLY_ASSIGNED = 8
    CONVERSATION_STATUS_WRAP_UP_CUSTOMER = 9
    CONVERSATION_STATUS_WRAP_UP_TIMEOUT = 10
    CONVERSATION_STATUS_CLOSED_MANAGER = 11
    CONVERSATION_STATUS_NEW_PENDING_CUSTOMER_REPLY = 12
    CONVERSATION_STATUS_FLOW = 13
    CONVERSATION_STATUS_CLOSED_DUPLICATE_THREAD = 14


class AgentConversationAssignmentType(IntEnum):
    PRIMARY_AGENT = 0
    SECONDARY_AGENT = 1


class OmniSenderType(IntEnum):
    OMNI_SENDER_TYPE_AGENT = 0
    OMNI_SENDER_TYPE_CUSTOMER = 1
    OMNI_SENDER_TYPE_SYSTEM = 2
    OMNI_SENDER_TYPE_MANAGER = 3
    OMNI_SENDER_TYPE_FLOW = 4


class OmniConversationResult(IntEnum):
    NONE = 0
    ABANDONED = 1


class AgentStatus(IntEnum):
    """The vendor's ``AgentStatus.Enum``."""

    UNAVALIABLE = 0
    IDLE = 1
    READY = 2
    HUNGUP = 3
    DESTROYED = 4
    PEERED = 5
    PAUSED = 6
    WRAPUP = 7
    PREPARING_AFTER_IDLE = 8
    PREPARING_AFTER_WRAPUP = 9
    PREPARING_AFTER_PAUSE = 10
    PREPARING_AFTER_DIAL_CANCEL = 11
    PREPARING_AFTER_PBX_REJECT = 12
    PREPARING_AFTER_PBX_HANGUP = 13
    PREPARING_AFTER_PBX_WAS_TAKEN = 14
    PREPARING_AFTER_GUI_BUSY = 15
    MANUAL_DIAL_PREPARED = 16
    PREVIEW_DIAL_PREPARED = 17
    MANUAL_DIAL_STARTED = 18
    PREVIEW_DIAL_STARTED = 19
    OUTBOUND_LOCKED = 20
    WARM_AGENT_TRANSFER_STARTED_SOURCE = 21
    WARM_AGENT_TRANSFER_STARTED_DESTINATION = 22
    WARM_OUTBOUND_TRANSFER_STARTED = 23
    WARM_OUTBOUND_TRANSFER_PEER_LOST = 24
    PBX_POPUP_LOCKED = 25
    PEERED_WITH_CALL_ON_HOLD = 26
    CALLBACK_RESUMING = 27
    GUI_BUSY = 28
    INTERCOM = 29
    INTERCOM_RINGING_SOURCE = 30
    INTERCOM_RINGING_DESTINATION = 31
    WARM_OUTBOUND_TRANSFER_OUTBOUND_LOST = 32
    PREPARED_TO_PEER = 33
    WARM_SKILL_TRANSFER_SOURCE_PENDING = 34
    CALLER_TRANSFER_STARTED = 35
    CALLER_TRANSFER_LOST_PEER = 36
    CALLER_TRANSFER_LOST_MERGED_CALLER = 37
    COLD_OUTBOUND_TRANSFER_STARTED = 38
    COLD_AGENT_TRANSFER_STARTED = 39
    SECURE_FORM_HANDLING = 40


class CallType(IntEnum):
    """The vendor's ``CallType.Enum``."""

    INBOUND = 0
    OUTBOUND = 1
    PREVIEW = 2
    MANUAL = 3
    MAC = 4


class QueuedNotificationType(IntEnum):
    QueuedNotificationType_GENERAL_INITIAL = 0
    QueuedNotificationType_PBX_INITIAL = 1
    QueuedNotificationType_AGENT_BOUND_INITIAL = 2
    QueuedNotificationType_GENERAL_REQUEUED = 3
    QueuedNotificationType_AGENT_BOUND_REQUEUED = 4


class TransferMemberType(IntEnum):
    TransferMemberType_AGENT = 0
    TransferMemberType_CALLER = 1
    TransferMemberType_OUTBOUND = 2


class AsmSubsessionType(IntEnum):
    VOICE = 0
    OMNI = 1


class OmniConversationSkills(Message, frozen=True, kw_only=True):
    skills: dict[str, bool] = {}


class ConversationCollectedData_Item(Message, frozen=True, kw_only=True):  # noqa: N801 - the vendor's name
    conversation_collected_data_sid: Int64Id = "0"
    conversation_sid: Int64Id = "0"
    data_name: str = ""
    data_value: str = ""
    collection_time: Timestamp = None
    user_id: StringValue = None


class ConversationCollectedData(Message, frozen=True, kw_only=True):
    items: list[ConversationCollectedData_Item] = []


class SLATimeouts(Message, frozen=True, kw_only=True):
    t1: Int64 = 0
    t2: Int64 = 0
    t3: Int64 = 0
    t10: Int64 = 0
    t11: Int64 = 0
    t12: Int64 = 0


class ConversationAssignmentDetails(Message, frozen=True, kw_only=True):
    """The vendor's ``OmniConversationAssignment.ConversationAssignmentDetails``."""

    user_name: str = ""


class OmniConversationAssignment(Message, frozen=True, kw_only=True):
    conversation_assignment_sid: Int64Id = "0"
    conversation_sid: Int64Id = "0"
    is_active: bool = False
    assignment_type: Annotated[str, AgentConversationAssignmentType] = "PRIMARY_AGENT"
    date_created: Timestamp = None
    date_modified: Timestamp = None
    user_id: str = ""
    metadata: ConversationAssignmentDetails | None = None
    asm_session_sid: Int64Id = "0"


class ConversationDetails(Message, frozen=True, kw_only=True):
    """The vendor's ``OmniConversation.ConversationDetails``."""

    campaign_name: str = ""
    support_email: str = ""
    campaign_shorten_url: bool = False
    payment_portal_ids: list[str] = []


class OmniConversation(Message, frozen=True, kw_only=True):
    conversation_sid: Int64Id = "0"
    channel_type: Annotated[str, ChannelType] = "CHANNEL_TYPE_EMAIL"
    skills: OmniConversationSkills | None = None
    date_created: Timestamp = None
    date_modified: Timestamp = None
    status: Annotated[str, ConversationStatus] = "CONVERSATION_STATUS_NEW"
    customer_email_address: StringValue = None
    customer_phone_number: StringValue = None
    customer_name: StringValue = None
    campaign_sid: Int64Id = "0"
    reference_id: StringValue = None
    last_message_time: Timestamp = None
    conversation_collected_data: ConversationCollectedData | None = None
    sla_timeouts: SLATimeouts | None = None
    conversation_assignments: list[OmniConversationAssignment] = []
    metadata: ConversationDetails | None = None
    end_time: Timestamp = None
    campaign_module_sid: Int64Id = "0"
    last_message_group_time: Timestamp = None
    last_message_group_type: Annotated[str, OmniSenderType] = "OMNI_SENDER_TYPE_AGENT"
    result: Annotated[str, OmniConversationResult] = "NONE"
    last_state_changed_time: Timestamp = None
    task_sid: Int64Value = None


class ActivatedConversationEvent(Message, frozen=True, kw_only=True):
    conversation: OmniConversation | None = None


class DeactivatedConversationEvent(Message, frozen=True, kw_only=True):
    conversation: OmniConversation | None = None


class SentMessageEvent(Message, frozen=True, kw_only=True):
    response_time_seconds: Int64 = 0
    is_initial_agent_message: bool = False
    conversation: OmniConversation | None = None


class SendStatusEvent(Message, frozen=True, kw_only=True):
    status: Annotated[str, StatusState] = "STATUS_STATE_UNKNOWN"


class PauseEvent(Message, frozen=True, kw_only=True):
    """(no fields)"""


class ResumeEvent(Message, frozen=True, kw_only=True):
    """(no fields)"""


class Event(Message, frozen=True, kw_only=True):
    """A report of the agent's side to the service: an entry of a request's ``events``."""

    state: Annotated[str, StatusState] = "STATUS_STATE_UNKNOWN"
    event_time: Int64 = 0
    activated_conversation_event: Annotated[ActivatedConversationEvent | None, OneOf("event")] = None
    deactivated_conversation_event: Annotated[DeactivatedConversationEvent | None, OneOf("event")] = None
    sent_message_event: Annotated[SentMessageEvent | None, OneOf("event")] = None
    send_status_event: Annotated[SendStatusEvent | None, OneOf("event")] = None
    pause_event: Annotated[PauseEvent | None, OneOf("event")] = None
    resume_event: Annotated[ResumeEvent | None, OneOf("event")] = None


class GetStatusReq(Message, frozen=True, kw_only=True):
    asm_session_sid: Int64Id = "0"
    perform_keep_alive: bool = False
    perform_get_queued_calls: bool = False
    perform_get_message: bool = False
    minimum_message_timestamp: Int64 = 0
    skills: list[str] = []
    events: list[Event] = []
    agent_pbx_extensions: list[str] = []


class QueuedCallData(Message, frozen=True, kw_only=True):
    """The vendor's ``QueuedCalls.QueuedCallData``."""

    call_sid: Int64Id = "0"
    phone_number: str = ""
    caller_id: str = ""
    call_type: Annotated[str, CallType] = "INBOUND"
    start_date: Timestamp = None
    hold_date: Timestamp = None
    skills: list[str] = []
    agent_specific: bool = False
    queued_notification_type: Annotated[str, QueuedNotificationType] = "QueuedNotificationType_GENERAL_INITIAL"


class QueuedCalls(Message, frozen=True, kw_only=True):
    agent_queue_calls: Annotated[list[QueuedCallData], Shared.BY_TEXT] = []
    on_hold_calls: list[QueuedCallData] = []
    hqm_calls: Annotated[list[QueuedCallData], Shared.BY_TEXT] = []


class AgentSession(Message, frozen=True, kw_only=True):
    agent_sid: Int64Id = "0"
    tenant_sid: Int64Id = "0"
    session_sid: Int64Id = "0"
    asm_session_sid: Int64Id = "0"
    org_id: str = ""
    region_id: str = ""
    user_id: str = ""


class CallerSid(Message, frozen=True, kw_only=True):
    caller_sid: Int64Id = "0"
    type: Annotated[str, CallType] = "INBOUND"
    tenant_sid: Int64Id = "0"
    org_id: str = ""


class TransferMember(Message, frozen=True, kw_only=True):
    identifier: str = ""
    display_label: str = ""
    member_type: Annotated[str, TransferMemberType] = "TransferMemberType_AGENT"
    phone_number: str = ""
    is_muted: bool = False
    agent_session: Annotated[AgentSession | None, OneOf("locatable_data")] = None
    caller_sid: Annotated[CallerSid | None, OneOf("locatable_data")] = None
    outbound_id: Annotated[str | None, OneOf("locatable_data")] = None


class AgentBackofficeMessageAlert(Message, frozen=True, kw_only=True):
    expire_duration: Int64 = 0
    timestamp: Timestamp = None
    target_agent_session: AgentSession | None = None
    message: str = ""
    id: str = ""


class AgentDirectedCallRingingAlert(Message, frozen=True, kw_only=True):
    expire_duration: Int64 = 0
    timestamp: Timestamp = None
    target_agent_session: AgentSession | None = None
    caller_sid: CallerSid | None = None
    caller_id: str = ""
    destination_number: str = ""
    id: str = ""


class AgentDirectedCallHangupAlert(Message, frozen=True, kw_only=True):
    expire_duration: Int64 = 0
    timestamp: Timestamp = None
    target_agent_session: AgentSession | None = None
    caller_sid: CallerSid | None = None
    id: str = ""


class AgentAlert(Message, frozen=True, kw_only=True):
    backoffice_message: Annotated[AgentBackofficeMessageAlert | None, OneOf("alert")] = None
    directed_call_ringing: Annotated[AgentDirectedCallRingingAlert | None, OneOf("alert")] = None
    directed_call_hangup: Annotated[AgentDirectedCallHangupAlert | None, OneOf("alert")] = None


class VoiceStatus(Message, frozen=True, kw_only=True):
    status: Int64 = 0
    status_desc: Annotated[str, AgentStatus] = "UNAVALIABLE"
    paused: bool = False
    queue: str = ""
    current_session_id: Int64Id = "0"
    last_status_change: Int64 = 0
    monitoring: bool = False
    calls_count: Int64 = 0
    last_sip_code: Int64 = 0
    agent_peer_is_lost_call: bool = False
    disabled: bool = False
    keep_alive_succeeded: bool = False
    message: str = ""
    message_timestamp: Int64 = 0
    queued_calls: QueuedCalls | None = None
    caller_was_suspended: bool = False
    transfer_members: list[TransferMember] = []
    alert: AgentAlert | None = None
    agent_peer_is_direct_to_agent: bool = False
    agent_is_muted: bool = False


class GetStatusRes(Message, frozen=True, kw_only=True):
    voice_status: Annotated[VoiceStatus | None, Needed.HERE] = None


class GetCurrentSessionReq(Message, frozen=True, kw_only=True):
    """(no fields)"""


class VoiceSession(Message, frozen=True, kw_only=True):
    voice_session_sid: Int64Id = "0"
    voice_session_start: Timestamp = None
    voice_session_end: Timestamp = None


class AsmSession(Message, frozen=True, kw_only=True):
    asm_session_sid: Annotated[Int64Id, Needed.HERE] = "0"
    asm_session_start: Timestamp = None
    asm_session_end: Timestamp = None
    voice_session: VoiceSession | None = None


class CreateSessionReq(Message, frozen=True, kw_only=True):
    hunt_group_sid: Int64Id = "0"
    skills: dict[str, Int64] = {}
    subsession_type: Annotated[str, AsmSubsessionType] = "VOICE"


class VoiceRegistration(Message, frozen=True, kw_only=True):
    username: str = ""
    password: str = ""
    dial_url: str = ""
    pstn_phone: str = ""
    default_time_zone: str = ""
    expiration_timestamp: Int64 = 0


class CreateSessionRes(Message, frozen=True, kw_only=True):
    asm_session_sid: Int64Id = "0"
    voice_session_sid: Int64Id = "0"
    voice_registration: VoiceRegistration | None = None


class EndSessionReq(Message, frozen=True, kw_only=True):
    asm_session_sid: Int64Id = "0"
    reason: str = ""


class AuthClaims(Message, frozen=True, kw_only=True):
    auth0_user_id: str = ""
    org_user_id: str = ""
    org_id: str = ""
    api_key: str = ""
    region_id: str = ""
    name: str = ""
    impersonate: str = ""
    client_sid: Int64Id = "0"
    agent_sid: Int64Id = "0"
    login_sid: Int64Id = "0"
    active_org_id: str = ""


class AuthenticatedUser(Message, frozen=True, kw_only=True):
    claims: AuthClaims | None = None


class ListConversationsReq(Message, frozen=True, kw_only=True):
    asm_session_sid: Int64Id = "0"
    authenticated_user: AuthenticatedUser | None = None
    user_id: str = ""
    statuses: list[Annotated[str, ConversationStatus]] = []
    field_mask: FieldMask = None
    channel_types: list[Annotated[str, ChannelType]] = []


class ListConversationsRes(Message, frozen=True, kw_only=True):
    conversations: Annotated[list[OmniConversation], Needed.HERE] = []
    next_page_token: str = ""
