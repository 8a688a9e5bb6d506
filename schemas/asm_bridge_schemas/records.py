"""What the bridge publishes: one Struct a record type, and where each goes.

Identifiers (``*_sid``) are strings of digits, because they exceed 2^53. Counts and the vendor's integer times are
numbers. Times (``observed_at``, ``start_date``, ...) are RFC 3339 text in UTC, with as many fractional digits as were
sent; one that cannot be read is null, with its text in ``..._raw``. Enums are the vendor's names; a number that its
list lacks is its digits.
"""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Sid = Annotated[str, Meta(pattern=r"^-?[0-9]+$", description="64-bit identifier, in digits")]
Time = Annotated[str, Meta(description="RFC 3339, UTC", extra_json_schema={"format": "date-time"})]

Skills = list[str]
CallList = Literal["agent_queue", "on_hold", "hqm"]
AlertKind = Literal["backoffice_message", "directed_call_ringing", "directed_call_hangup"]
EventKind = Literal[
    "activated_conversation_event",
    "deactivated_conversation_event",
    "sent_message_event",
    "send_status_event",
    "pause_event",
    "resume_event",
]
Outcome = Literal["delivered", "rejected", "undeliverable", "expired", "duplicate"]


class AgentSessionRef(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vendor's ``AgentSession``."""

    agent_sid: Sid = "0"
    tenant_sid: Sid = "0"
    session_sid: Sid = "0"
    asm_session_sid: Sid = "0"
    org_id: str = ""
    region_id: str = ""
    user_id: str = ""


class CallerRef(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vendor's ``CallerSid``."""

    caller_sid: Sid = "0"
    type: str = "INBOUND"
    tenant_sid: Sid = "0"
    org_id: str = ""


class TransferMember(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vendor's ``TransferMember``; at most one of the last three is set."""

    identifier: str = ""
    display_label: str = ""
    member_type: str = "TransferMemberType_AGENT"
    phone_number: str = ""
    is_muted: bool = False
    agent_session: AgentSessionRef | None = None
    caller_sid: CallerRef | None = None
    outbound_id: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An agent's own status, under the vendor's names (``VoiceStatus`` without calls, message and alert)."""

    status: int = 0
    status_desc: str = "UNAVALIABLE"
    paused: bool = False
    queue: str = ""
    current_session_id: Sid = "0"
    last_status_change: int = 0
    monitoring: bool = False
    calls_count: int = 0
    last_sip_code: int = 0
    agent_peer_is_lost_call: bool = False
    disabled: bool = False
    caller_was_suspended: bool = False
    agent_peer_is_direct_to_agent: bool = False
    agent_is_muted: bool = False
    transfer_members: list[TransferMember] = []


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """What every output record has.

    ``stream_id`` and ``sequence`` are null only in the outcome of an injection for an agent that is not watched.
    """

    agent_id: str
    stream_id: str | None
    sequence: int | None
    asm_session_sid: Sid | None
    observed_at: Time


class AgentWatchStarted(Record, frozen=True, kw_only=True, tag=True):
    """The bridge began to watch the agent: the first record of a stream."""

    labels: dict[str, str] = {}
    reason: str


class AgentWatchEnded(Record, frozen=True, kw_only=True, tag=True):
    """The agent was taken off the registry: the last record of a stream."""

    labels: dict[str, str] = {}
    reason: str


class AgentSessionStarted(Record, frozen=True, kw_only=True, tag=True):
    """A login was seen (also when the same sid comes back); statuses chain from here."""

    voice_session_sid: Sid | None
    reason: str | None = None


class AgentSessionEnded(Record, frozen=True, kw_only=True, tag=True):
    """The login is over; its calls and alert were said to have left just before."""

    voice_session_sid: Sid | None
    reason: Literal["ended", "replaced", "unwatched"]


class AgentObservationLost(Record, frozen=True, kw_only=True, tag=True):
    """No answer for longer than three intervals and 5 s: what was last said is no longer known to hold."""

    reason: str
    since: Time


class AgentObservationResumed(Record, frozen=True, kw_only=True, tag=True):
    """Answers came again; ``reason`` and ``since`` are those of the loss."""

    reason: str
    since: Time


class AgentStatusChanged(Status, frozen=True, kw_only=True, tag_field="type", tag=True):
    """The status differs from the one last published; ``changed`` names the fields: all, for a session's first."""

    # A Struct has one base with fields: these are Record's.
    agent_id: str
    stream_id: str | None
    sequence: int | None
    asm_session_sid: Sid | None
    observed_at: Time
    changed: list[str]
    previous_status_desc: str | None = None
    previous_observed_at: Time | None = None


class QueuedCallChanged(Record, frozen=True, kw_only=True, tag=True):
    """A call entered, changed in or left one of the lists this agent sees; (list, call_sid) identify it. Of a call that
    left, the fields are null."""

    change: Literal["entered", "updated", "left"]
    list: CallList
    call_sid: Sid
    reason: Literal["gone", "session_ended", "not_asked"] | None = None
    phone_number: str | None = None
    caller_id: str | None = None
    call_type: str | None = None
    start_date: Time | None = None
    start_date_raw: str | None = None
    hold_date: Time | None = None
    hold_date_raw: str | None = None
    skills: Skills | None = None
    agent_specific: bool | None = None
    queued_notification_type: str | None = None


class AgentMessageReceived(Record, frozen=True, kw_only=True, tag=True):
    """A message for the agent. ``message_timestamp`` is the vendor's integer."""

    message: str
    message_timestamp: int


class _Alert(Record, frozen=True, kw_only=True):
    kind: AlertKind
    alert_id: str
    expire_duration: int | None = None
    timestamp: Time | None = None
    timestamp_raw: str | None = None
    target_agent_session: AgentSessionRef | None = None
    message: str | None = None
    caller_sid: CallerRef | None = None
    caller_id: str | None = None
    destination_number: str | None = None


class AgentAlertRaised(_Alert, frozen=True, kw_only=True, tag=True):
    """An alert came into view. ``expire_duration`` is in seconds, 0 = never."""


class AgentAlertCleared(_Alert, frozen=True, kw_only=True, tag=True):
    """The alert is no longer shown; only ``kind`` and ``alert_id`` are filled."""


class ConversationEventDelivered(Record, frozen=True, kw_only=True, tag=True):
    """The service took an injected event; ``event`` is the entry as sent, in the vendor's snake_case form."""

    kind: EventKind
    conversation_sid: Sid | None
    event: dict[str, Any]
    injection_id: str
    delivered_at: Time


class InjectionCompleted(Record, frozen=True, kw_only=True, tag=True):
    """What became of one record of the inbox. ``entry`` is the record's ``partition/offset``."""

    injection_id: str
    source: str | None
    entry: str
    outcome: Outcome
    reason: str | None = None
    http_status: int | None = None
    attempts: int = 0
    possibly_repeated: bool = False
    received_at: Time
    completed_at: Time


class CallInView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call that the agent sees; ``digest`` tells whether its fields changed."""

    list: CallList
    call_sid: Sid
    digest: str


class Alert(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The alert in view."""

    kind: AlertKind
    alert_id: str


class Loss(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An ``AgentObservationLost`` that was published and not yet resumed."""

    reason: str
    since: Time


class Delivered(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """One of the injections last delivered, by which a repeated one is known."""

    source: str | None
    injection_id: str


class AgentState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The latest picture of an agent and where the bridge stands with it; compacted by agent_id.

    Readable by the release before and after: fields are only added, with a default; unknown ones are ignored.
    Without ``stream_id`` the agent is not watched, and the state only accounts for its inbox entries.
    """

    version: int = 1
    agent_id: str
    stream_id: str | None = None
    sequence: int = 0
    labels: dict[str, str] = {}
    asm_session_sid: Sid | None = None
    voice_session_sid: Sid | None = None
    observed_at: Time | None = None
    status: Status | None = None
    status_observed_at: Time | None = None
    calls: list[CallInView] = []
    message_cursor: int = 0
    message_digests: list[str] = []
    """Digests of the messages already told whose timestamp is the cursor."""
    alert: Alert | None = None
    lost: Loss | None = None
    inbox_offset: int = -1
    """The highest finished offset of this agent's entries..."""
    inbox_open: list[int] = []
    """...and those below it that are not finished yet."""
    delivered: list[Delivered] = []


Published = (
    AgentWatchStarted
    | AgentWatchEnded
    | AgentSessionStarted
    | AgentSessionEnded
    | AgentObservationLost
    | AgentObservationResumed
    | AgentStatusChanged
    | QueuedCallChanged
    | AgentMessageReceived
    | AgentAlertRaised
    | AgentAlertCleared
    | ConversationEventDelivered
    | InjectionCompleted
)

TOPICS: dict[type[msgspec.Struct], str] = {
    AgentStatusChanged: "agent-status",
    AgentWatchStarted: "agent-status",
    AgentWatchEnded: "agent-status",
    AgentSessionStarted: "agent-status",
    AgentSessionEnded: "agent-status",
    AgentObservationLost: "agent-status",
    AgentObservationResumed: "agent-status",
    QueuedCallChanged: "queued-calls",
    AgentMessageReceived: "agent-messages",
    AgentAlertRaised: "agent-messages",
    AgentAlertCleared: "agent-messages",
    ConversationEventDelivered: "conversations",
    InjectionCompleted: "inject-outcomes",
    AgentState: "agent-state",
}
"""Record type -> topic, without the prefix. The key is always agent_id."""


def ce_type(cls: type[msgspec.Struct]) -> str:
    """CloudEvents' type: ``com.tcn.asm.agent_status_changed.v1``."""
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
    return f"com.tcn.asm.{snake}.v1"


def dataschema(cls: type[msgspec.Struct]) -> str:
    """CloudEvents' dataschema, an absolute URI as it demands: the ``$id`` of the record's JSON Schema."""
    return f"urn:asm-kafka-bridge:schema:{cls.__name__}:v1"
