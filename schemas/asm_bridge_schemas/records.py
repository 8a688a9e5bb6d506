"""The published records: one Struct per record type, and the topic of each.

Identifiers (``*_sid``) are strings of digits, because they exceed 2^53. Counts and the vendor's integer times are
numbers. Times are RFC 3339 text in UTC; a time that cannot be read is null, with its text in ``..._raw``. Enums are the
vendor's names; a name that the vendor's list lacks passes through, and so does a number, as its digits. Each
description names the clock of a time: *bridge* (this process, when an answer arrived) or *vendor*. ``x-pii`` marks
personal data.
"""

import re
from enum import IntEnum
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from asm_bridge_schemas import asm
from asm_bridge_schemas.statuses import StatusGroup

SINCE = "x-since"
"""Marks a field that was added after the version 1.0.0 of the schemas, with the version that brought it. Records that
were written before lack it, so it is not ``required``."""


def about(description: str, *examples: Any, pii: bool = False, since: str | None = None, **schema: Any) -> Meta:
    """A field's meaning, unit, clock and source; examples of it; whether it is personal data; see ``SINCE``."""
    extra = {**schema, **({"x-pii": True} if pii else {}), **({SINCE: since} if since else {})}
    return Meta(description=description, examples=list(examples) or None, extra_json_schema=extra or None)


def _vendors(title: str, names: type[IntEnum], description: str) -> Meta:
    """The vendor's names, or a name or the digits of a number that its list lacks."""
    known = [member.name for member in names]
    text = (
        f"{description} A name or number that this list lacks, of a newer service, passes through (a number in digits)."
    )
    return _open(title, text, known, known[1])


def _reasons(title: str, description: str, *values: str) -> Meta:
    """One of our own lists, which a minor version may extend: a reader must tolerate unknown values."""
    return _open(title, f"{description} A later release may add others.", list(values), values[0])


def _open(title: str, description: str, known: list[str], example: str) -> Meta:
    """Text that is one of the known values, or another: so generated types can read values of a later release."""
    alternatives = [{"title": f"Known{title}", "type": "string", "enum": known}, {"type": "string"}]
    return Meta(title=title, description=description, examples=[example], extra_json_schema={"anyOf": alternatives})


def values_of(enum: Any) -> tuple[Any, ...]:
    """The values of one of the enums below."""
    return get_args(get_args(enum)[0])


Count = Annotated[int, Meta(extra_json_schema={"minimum": 0})]
Ordinal = Annotated[int, Meta(extra_json_schema={"minimum": 1})]
Sid = Annotated[
    str,
    Meta(
        pattern=r"^-?[0-9]+$",
        description="The vendor's 64-bit identifier, in digits; 0 where it is not set.",
        examples=["9007199254740993"],
    ),
]
Time = Annotated[
    str,
    Meta(
        description="A time: RFC 3339, UTC.",
        examples=["2026-11-23T09:30:00.000250Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
StatusDesc = Annotated[
    str, _vendors("StatusDesc", asm.AgentStatus, "The vendor's `AgentStatus.Enum`, spelled as it is there.")
]
CallTypeName = Annotated[str, _vendors("CallType", asm.CallType, "The vendor's `CallType.Enum`.")]
NotificationType = Annotated[
    str, _vendors("QueuedNotificationType", asm.QueuedNotificationType, "The vendor's `QueuedNotificationType`.")
]
MemberType = Annotated[
    str, _vendors("TransferMemberType", asm.TransferMemberType, "The vendor's `TransferMemberType`.")
]
Labels = Annotated[
    dict[str, str], about("The labels of the agent's registry entry: the operator's own words.", {"site": "manila"})
]
Skills = Annotated[list[str], about("The skills of the agent's registry entry: the operator's.", ["english"])]
CallList = Annotated[
    Literal["agent_queue", "on_hold", "hqm"],
    Meta(
        title="CallList",
        description="agent_queue: calls that wait for an agent with these skills, so several agents see the same call. "
        "on_hold: this agent's calls on hold. hqm: calls in the hold queue monitor.",
        examples=["agent_queue"],
    ),
]
AlertKind = Annotated[
    Literal["backoffice_message", "directed_call_ringing", "directed_call_hangup"],
    Meta(title="AlertKind", description="Which of the vendor's alerts it is.", examples=["directed_call_ringing"]),
]
EventKind = Annotated[
    Literal[
        "activated_conversation_event",
        "deactivated_conversation_event",
        "sent_message_event",
        "send_status_event",
        "pause_event",
        "resume_event",
    ],
    Meta(
        title="EventKind",
        description="Which of the vendor's six events it is.",
        examples=["activated_conversation_event"],
    ),
]
Outcome = Annotated[
    Literal["delivered", "rejected", "undeliverable", "expired", "duplicate"],
    Meta(
        title="Outcome",
        description="delivered: the service accepted it. rejected: the service, or a proxy in front of it, refuses it. "
        "undeliverable: it could not be sent, see reason. expired: its time ran out before it could be sent. "
        "duplicate: one with the same source and id was delivered before.",
        examples=["delivered"],
    ),
]
OutcomeReason = Annotated[
    str,
    _reasons(
        "OutcomeReason",
        "refused: the service, or a proxy in front of it, refuses the event. attempts_exhausted: every attempt failed. "
        "unknown_agent: no such agent is registered. backlog: too many events wait for this agent. too_large: the "
        "event is larger than the bridge accepts. malformed_event: it is not an event. unwritable: Kafka refuses it in "
        "its agent's partition, to which it would have been moved.",
        "refused",
        "attempts_exhausted",
        "unknown_agent",
        "backlog",
        "too_large",
        "malformed_event",
        "unwritable",
    ),
]
LossReason = Annotated[
    str,
    _reasons(
        "LossReason",
        "Why an agent is not observed. unauthorized: the service refuses its token, or there is none. throttled: the "
        "service asks for fewer requests. unavailable: the service fails. unreachable: no answer comes. "
        "foreign_answer: something else answers in place of the service. refused: the service refuses the request, "
        "not the session. "
        "malformed: an answer cannot be read. session_shared: another agent uses the same session. bridge_down: no "
        "bridge was running. failed: anything else.",
        "unauthorized",
        "throttled",
        "unavailable",
        "unreachable",
        "foreign_answer",
        "refused",
        "malformed",
        "session_shared",
        "bridge_down",
        "failed",
    ),
]
CallLeftReason = Annotated[
    Literal["gone", "session_ended", "not_asked"],
    Meta(
        title="CallLeftReason",
        description="gone: it is no longer in the list. session_ended: the agent's session ended. not_asked: the "
        "registry entry no longer asks for calls. Who answered, and whether the caller hung up, cannot be known.",
        examples=["gone"],
    ),
]
SessionEndReason = Annotated[
    Literal["ended", "replaced", "unwatched"],
    Meta(
        title="SessionEndReason",
        description="ended: the service has no session. replaced: there is a newer one. unwatched: the agent was "
        "removed from the registry.",
        examples=["ended"],
    ),
]


class AgentSessionRef(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vendor's `AgentSession`: an agent's login, as seen by the switch."""

    agent_sid: Sid = "0"
    tenant_sid: Sid = "0"
    session_sid: Sid = "0"
    asm_session_sid: Sid = "0"
    org_id: Annotated[str, about("The vendor's organisation.", "org-1")] = ""
    region_id: Annotated[str, about("The vendor's region.", "cbf")] = ""
    user_id: Annotated[str, about("The agent's user at the vendor's.", "user-7", pii=True)] = ""


class CallerRef(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vendor's `CallerSid`: a call."""

    caller_sid: Sid = "0"
    type: CallTypeName = "INBOUND"
    tenant_sid: Sid = "0"
    org_id: Annotated[str, about("The vendor's organisation.", "org-1")] = ""


class TransferMember(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vendor's `TransferMember`: one party of a transfer; at most one of the last three fields is set."""

    identifier: Annotated[str, about("The vendor's identifier of the party.", "m-1")] = ""
    display_label: Annotated[str, about("The party's name, as agents see it.", "Ann", pii=True)] = ""
    member_type: MemberType = "TransferMemberType_AGENT"
    phone_number: Annotated[str, about("The party's number.", "+18005550100", pii=True)] = ""
    is_muted: Annotated[bool, about("Whether the party is muted.", False)] = False
    agent_session: Annotated[AgentSessionRef | None, about("The party's login; null unless it is an agent.")] = None
    caller_sid: Annotated[CallerRef | None, about("The party's call; null unless it is a caller.")] = None
    outbound_id: Annotated[str | None, about("The vendor's id of an outbound party; null for any other.", "o-1")] = None


_VENDORS_UNIT = "the vendor's undocumented unit: milliseconds since 1970, as far as is known"


class Status(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An agent's own status, under the vendor's names (`VoiceStatus` without calls, message and alert)."""

    status: Annotated[int, about("The switch's own number of the status.", 5)] = 0
    status_desc: StatusDesc = "UNAVALIABLE"
    paused: Annotated[bool, about("Whether the agent is paused.", False)] = False
    queue: Annotated[str, about("The vendor's name of the agent's queue.", "support")] = ""
    current_session_id: Annotated[Sid, about("The voice session, in digits; 0 for none.", "4000000000000000007")] = "0"
    last_status_change: Annotated[
        int,
        about(f"When the vendor's status last changed, in {_VENDORS_UNIT}. Clock: vendor.", 1626791817289),
    ] = 0
    monitoring: Annotated[bool, about("Whether the agent is being monitored.", False)] = False
    calls_count: Annotated[int, about("The vendor's count of the agent's calls.", 12)] = 0
    last_sip_code: Annotated[int, about("The last SIP status code of the agent's line; 0 for none.", 200)] = 0
    agent_peer_is_lost_call: Annotated[bool, about("The vendor's flag of this name.", False)] = False
    disabled: Annotated[bool, about("The vendor's flag of this name.", False)] = False
    caller_was_suspended: Annotated[bool, about("The vendor's flag of this name.", False)] = False
    agent_peer_is_direct_to_agent: Annotated[bool, about("The vendor's flag of this name.", False)] = False
    agent_is_muted: Annotated[bool, about("Whether the agent is muted.", False)] = False
    transfer_members: Annotated[list[TransferMember], about("The parties of an ongoing transfer.")] = []


AgentId = Annotated[
    str, about("The agent: the key of its registry entry, chosen by the operator.", "agent-7", pii=True)
]
_STREAM = "The stream: a new one each time that the agent begins to be watched."
_NUMBER = "The record's number in its stream, over all topics: 1, 2, 3, ... without gaps."
_TOPIC_NUMBER = "The record's number in its stream among those of its topic: 1, 2, 3, ... without gaps."
_STREAM_EXAMPLE = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
StreamId = Annotated[str, about(_STREAM, _STREAM_EXAMPLE)]
Sequence = Annotated[Ordinal, about(_NUMBER, 17)]
TopicSequence = Annotated[Ordinal, about(_TOPIC_NUMBER, 5)]
SessionSid = Annotated[
    Sid | None, about("The vendor's login (ASM session) that it is about; null for none.", "1000000000000000001")
]
ObservedAt = Annotated[
    Time,
    about(
        "When the service's answer arrived that it follows from, or else when the bridge decided. The records of one "
        "step have the same. Clock: bridge.",
        "2026-11-23T09:30:00.000250Z",
    ),
]


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """The fields of every record except `AgentState` and `PartitionHeartbeat`."""

    agent_id: AgentId
    stream_id: Annotated[
        str | None, about(f"{_STREAM} Null in an outcome for an agent that is not watched.", _STREAM_EXAMPLE)
    ]
    sequence: Annotated[Ordinal | None, about(f"{_NUMBER} Null where stream_id is.", 17)]
    topic_sequence: Annotated[Ordinal | None, about(f"{_TOPIC_NUMBER} Null where stream_id is.", 5)]
    asm_session_sid: SessionSid
    observed_at: ObservedAt


class StreamRecord(Record, frozen=True, kw_only=True):
    """A record that is always of a stream: each but an outcome."""

    stream_id: StreamId
    sequence: Sequence
    topic_sequence: TopicSequence


class AgentWatchStarted(StreamRecord, frozen=True, kw_only=True, tag=True):
    """The bridge began to watch the agent: the first record of a stream."""

    labels: Labels = {}
    skills: Skills = []
    reason: Annotated[str, _reasons("WatchStartReason", "registered: an entry for it was registered.", "registered")]


class AgentWatchEnded(StreamRecord, frozen=True, kw_only=True, tag=True):
    """The agent was removed from the registry: the last record of a stream."""

    labels: Labels = {}
    skills: Skills = []
    reason: Annotated[str, _reasons("WatchEndReason", "unregistered: its entry was removed.", "unregistered")]


class AgentProfileChanged(StreamRecord, frozen=True, kw_only=True, tag=True):
    """The agent's registry entry was edited: these are its labels and skills from now on."""

    labels: Labels = {}
    skills: Skills = []


VoiceSid = Annotated[Sid | None, about("The voice session of the login; null if there is none.", "4000000000000000007")]


class AgentSessionStarted(StreamRecord, frozen=True, kw_only=True, tag=True):
    """A login was seen (also when the same sid comes back); statuses chain from here."""

    voice_session_sid: VoiceSid
    reason: Annotated[str | None, about("Always null: only an end has a reason.", None)] = None


class AgentSessionEnded(StreamRecord, frozen=True, kw_only=True, tag=True):
    """The login is over; its calls and its alert left just before."""

    voice_session_sid: VoiceSid
    reason: SessionEndReason


_SINCE = (
    "When the agent was last observed. With `bridge_down`: until when its partition is known to have been observed, "
    "which is at most a few seconds before the bridge stopped. Clock: bridge."
)


class AgentObservationLost(StreamRecord, frozen=True, kw_only=True, tag=True):
    """The agent was not observed for longer than three intervals and longer than 5 s.

    From `since` until the next `AgentObservationResumed` its status, calls and alert are not known: what was published
    last may no longer be true. For time in state, end the last status at `since`."""

    reason: LossReason
    since: Annotated[Time, about(_SINCE, "2026-11-23T09:29:48.120000Z")]


class AgentObservationResumed(StreamRecord, frozen=True, kw_only=True, tag=True):
    """The agent is observed again. `reason` and `since` are those of the loss.

    `status_desc` is valid from `observed_at` on: for time in state, continue there. All changes of the status, calls,
    messages and alert since the loss follow as records of the same step. In between there are only the end of its
    session, with what ends with it, and changes of its conversations, which are asked for separately."""

    reason: LossReason
    since: Annotated[Time, about(_SINCE, "2026-11-23T09:29:48.120000Z")]
    status_desc: Annotated[StatusDesc | None, about("The status from now on; null without a session.", "READY")] = None
    status_group: Annotated[StatusGroup | None, about("Its group; null without a session.", "available")] = None


class AgentStatusChanged(Status, frozen=True, kw_only=True, tag_field="type", tag=True):
    """The vendor's status of the agent differs from the one last published, in any of its fields."""

    # A Struct has one base with fields: these are StreamRecord's.
    agent_id: AgentId
    stream_id: StreamId
    sequence: Sequence
    topic_sequence: TopicSequence
    asm_session_sid: SessionSid
    observed_at: ObservedAt
    changed: Annotated[
        list[str],
        about(
            "The names of the vendor's fields that differ; all of them for the first status of a session.", ["paused"]
        ),
    ]
    status_group: StatusGroup = "other"
    status_since: Annotated[
        Time | None,
        about(
            "Since when the bridge sees this status_desc: the observed_at of the first record with it; null where "
            "that is not known. Clock: bridge.",
            "2026-11-23T09:30:00.000250Z",
        ),
    ] = None
    previous_status_desc: Annotated[
        StatusDesc | None,
        about("The status_desc of the session's last `AgentStatusChanged`; null for the first of a session.", "READY"),
    ] = None
    previous_observed_at: Annotated[
        Time | None,
        about(
            "The observed_at of the session's last `AgentStatusChanged`, which any field may have caused; for how long "
            "a status_desc lasted see previous_duration_ms. Null for the first of a session. Clock: bridge.",
            "2026-11-23T09:29:30.000000Z",
        ),
    ] = None
    previous_duration_ms: Annotated[
        Count | None,
        about(
            "How long the previous status_desc lasted, in milliseconds, as the bridge saw it: from its status_since to "
            "this one's. Null for the first of a session, if status_desc is the same, and if the agent was not "
            "observed for a part of that time. Clock: bridge.",
            30000,
        ),
    ] = None


Change = Annotated[
    Literal["entered", "updated", "left"],
    Meta(
        title="Change",
        description="entered: it came into view. updated: a field of it differs. left: it is no longer in view.",
        examples=["left"],
    ),
]
CallSid = Annotated[Sid, about("The call, in digits; the same in the view of every agent.", "4000000000002000006")]
StartDate = Annotated[
    Time | None,
    about("When the call began to wait; null if that cannot be read. Clock: vendor.", "2026-11-23T09:29:12.728Z"),
]
CallSkills = Annotated[
    list[str] | None,
    about("The skills that the call asks for, in the vendor's words; null where they are not known.", ["english"]),
]
_IN_VIEW = "Null for a call that left."


class QueuedCallChanged(StreamRecord, frozen=True, kw_only=True, tag=True):
    """A call entered, changed in, or left one of the lists that this agent sees; (list, call_sid) identify it.

    The call's fields are the vendor's. Of one that left, `start_date`, `call_type` and `skills` are those last seen;
    the others are null."""

    change: Change
    list: CallList
    call_sid: CallSid
    reason: Annotated[CallLeftReason | None, about("Why it left; null for the other changes.", "gone")] = None
    phone_number: Annotated[str | None, about(f"The caller's number. {_IN_VIEW}", "+18005550100", pii=True)] = None
    caller_id: Annotated[str | None, about(f"The caller id shown. {_IN_VIEW}", "+18005550100", pii=True)] = None
    call_type: Annotated[
        CallTypeName | None, about("The vendor's `CallType.Enum`; null where it is not known.", "INBOUND")
    ] = None
    start_date: StartDate = None
    start_date_raw: Annotated[
        str | None, about("The vendor's text of a start_date that cannot be read; null otherwise.", "1s")
    ] = None
    hold_date: Annotated[
        Time | None, about("Since when it is on hold; null if it is not. Clock: vendor.", "2026-11-23T09:30:12.728Z")
    ] = None
    hold_date_raw: Annotated[
        str | None, about("The vendor's text of a hold_date that cannot be read; null otherwise.", "1s")
    ] = None
    skills: CallSkills = None
    agent_specific: Annotated[bool | None, about(f"Whether it waits for this agent only. {_IN_VIEW}", False)] = None
    queued_notification_type: Annotated[
        NotificationType | None,
        about(f"The vendor's `QueuedNotificationType`. {_IN_VIEW}", "QueuedNotificationType_GENERAL_INITIAL"),
    ] = None
    waited_ms: Annotated[
        Count | None,
        about(
            "For a call that left: from start_date (clock: vendor) to observed_at (clock: bridge), in milliseconds; 0 "
            "where that is negative. Null for the other changes, and if start_date is.",
            42000,
        ),
    ] = None


class AgentMessageReceived(StreamRecord, frozen=True, kw_only=True, tag=True):
    """A message for the agent; (message_timestamp, message) identify it."""

    message: Annotated[str, about("The vendor's text.", "Meeting at ten", pii=True)]
    message_timestamp: Annotated[int, about(f"When it was sent, in {_VENDORS_UNIT}. Clock: vendor.", 1626791817289)]


AlertId = Annotated[str, about("The vendor's id of the alert.", "a-1")]
_SHOWN = "Null for a kind of alert without it, and once it is cleared."


class _Alert(StreamRecord, frozen=True, kw_only=True):
    kind: AlertKind
    alert_id: AlertId
    expire_duration: Annotated[
        int | None, about(f"The seconds for which the vendor shows it; 0: forever. {_SHOWN}", 30)
    ] = None
    timestamp: Annotated[
        Time | None, about(f"When it was raised. {_SHOWN} Clock: vendor.", "2026-11-23T09:30:12.728Z")
    ] = None
    timestamp_raw: Annotated[
        str | None, about("The vendor's text of a timestamp that cannot be read; null otherwise.", "1s")
    ] = None
    target_agent_session: Annotated[AgentSessionRef | None, about(f"The login that it is for. {_SHOWN}")] = None
    message: Annotated[str | None, about(f"The text of a back-office message. {_SHOWN}", "Call me", pii=True)] = None
    caller_sid: Annotated[CallerRef | None, about(f"The call of a directed call's alert. {_SHOWN}")] = None
    caller_id: Annotated[str | None, about(f"The caller id of a ringing call. {_SHOWN}", "+18005550100", pii=True)] = (
        None
    )
    destination_number: Annotated[str | None, about(f"The number called. {_SHOWN}", "+18005550199", pii=True)] = None


class AgentAlertRaised(_Alert, frozen=True, kw_only=True, tag=True):
    """An alert of the vendor's came into view."""


class AgentAlertCleared(_Alert, frozen=True, kw_only=True, tag=True):
    """The vendor's alert is no longer shown; only `kind` and `alert_id` are filled."""


class ConversationEventDelivered(StreamRecord, frozen=True, kw_only=True, tag=True):
    """The service accepted an injected event; its `InjectionCompleted` follows, with the same `injection_id`."""

    kind: EventKind
    conversation_sid: Annotated[
        Sid | None, about("The conversation; null for a kind without one.", "5000000000000000042")
    ]
    event: Annotated[
        dict[str, Any],
        about("The event as sent, in the vendor's snake_case form.", {"pause_event": {}}, pii=True),
    ]
    injection_id: Annotated[str, about("The injected event: its ce_id, or else its entry.", "demo-1")]
    delivered_at: Annotated[Time, about("When the service answered. Clock: bridge.", "2026-11-23T09:30:00.000250Z")]


class ConversationChanged(StreamRecord, frozen=True, kw_only=True, tag=True):
    """A conversation entered, changed in, or left the agent's list of conversations; conversation_sid identifies it."""

    change: Change
    conversation_sid: Annotated[Sid, about("The conversation.", "5000000000000000042")]
    changed: Annotated[
        list[str],
        about("The names of the fields that differ; all of them where it entered, none where it left.", ["status"]),
    ]
    conversation: Annotated[
        dict[str, Any] | None,
        about(
            "The vendor's `OmniConversation` in snake_case, null for what is not set, with its times in UTC (one that "
            "cannot be read is as it was sent); one that left is as last seen. Null if the bridge no longer has it, "
            "and for one that is larger than 512 KiB.",
            {"conversation_sid": "5000000000000000042", "status": "CONVERSATION_STATUS_NEW"},
            pii=True,
        ),
    ]


class InjectionCompleted(Record, frozen=True, kw_only=True, tag=True):
    """The outcome of one record of asm.inject that has a key: each has exactly one; `entry` says which record it is.

    It has a dead letter, too, if it is `rejected` or `undeliverable`, and a `ConversationEventDelivered` just before if
    it is `delivered`: all in one transaction."""

    injection_id: Annotated[str, about("The injected event: its ce_id, or else its entry.", "demo-1")]
    source: Annotated[str | None, about("Its ce_source; null if it had none.", "/routing")]
    entry: Annotated[str, about("Its first position on asm.inject: partition/offset.", "3/17")]
    outcome: Outcome
    reason: Annotated[
        OutcomeReason | None,
        about("Why it was rejected or undeliverable: the asm_error_code of its dead letter. Null for other outcomes."),
    ] = None
    http_status: Annotated[
        int | None, about("The HTTP status code of the last answer to it; null if none came.", 200)
    ] = None
    attempts: Annotated[Count, about("How many requests carried it; 0 if none did.", 1)] = 0
    possibly_repeated: Annotated[
        bool, about("Whether the service may have received it once more than is reported here.", False)
    ] = False
    received_at: Annotated[
        Time, about("When it first arrived on asm.inject. Clock: broker.", "2026-11-23T09:29:59.900000Z")
    ]
    completed_at: Annotated[Time, about("When its outcome was known. Clock: bridge.", "2026-11-23T09:30:00.000250Z")]


class PartitionHeartbeat(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag=True):
    """The owner of a partition is alive: silence on the other topics means that nothing happens.

    There is one in each partition, about that partition, every 10 s (setting `records.heartbeat_interval`), whether it
    has agents or not. Without one for three intervals, no bridge owns the partition, or its owner cannot write."""

    partition: Annotated[Count, about("The number of the partition, as in the key.", 3)]
    observed_until: Annotated[
        Time,
        about(
            "Every record of this partition, of any topic, with an earlier observed_at has been published, in this "
            "transaction or before: a watermark. Clock: bridge.",
            "2026-11-23T09:30:00.000250Z",
        ),
    ]
    agents: Annotated[Count, about("How many agents are watched in this partition.", 125)]
    in_session: Annotated[Count, about("How many of them have a session.", 98)]
    lost: Annotated[Count, about("How many of them are not observed.", 0)]
    instance: Annotated[str, about("The bridge's process that owns the partition.", "bridge-1:4711")]


class CallInView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call that the agent sees, with the vendor's values; (list, call_sid) identify it."""

    list: CallList
    call_sid: CallSid
    start_date: StartDate = None
    call_type: Annotated[
        CallTypeName | None, about("The vendor's `CallType.Enum`; null where it is not known.", "INBOUND")
    ] = None
    skills: CallSkills = None


class Alert(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vendor's alert in view."""

    kind: AlertKind
    alert_id: AlertId


class Loss(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An `AgentObservationLost` that was published and not yet resumed."""

    reason: LossReason
    since: Annotated[Time, about(_SINCE, "2026-11-23T09:29:48.120000Z")]


class Delivered(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """One of the injections last delivered, to recognize a repeated one: `[source, injection_id]`."""

    source: str | None
    injection_id: str


class Books(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The bridge's private accounting, which may change with each release: do not rely on it."""

    status_observed_at: str | None = None
    status_interrupted: bool = False
    """Whether the agent was lost while it had its status: then the status's duration is not known."""
    call_digests: list[str] = []
    """A digest for each call in view, in order: it differs if a field of the call does."""
    message_cursor: int = 0
    message_digests: list[str] = []
    """The digests of the messages already published whose timestamp is the cursor."""
    topic_sequences: dict[str, int] = {}
    conversations: dict[str, str] = {}
    """The conversations in view: conversation_sid -> a digest of each field, in the order of `OmniConversation`'s."""
    inbox_offset: int = -1
    """The highest finished offset of this agent's injections..."""
    inbox_open: list[int] = []
    """...and those below it that are not finished yet."""
    delivered: list[Delivered] = []


class AgentState(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type", tag=True):
    """The latest picture of an agent, for a reader that joins late; compacted by agent_id.

    It is written in the transaction of the records that lead to it: one per agent and transaction, after the last of
    these records. It is also written when only the bridge's books have changed. A tombstone follows when the agent is
    no longer watched. Fields are only added, with a default."""

    version: Annotated[Ordinal, about("The version of this record's form.", 2)] = 2
    agent_id: AgentId
    stream_id: Annotated[
        str | None,
        about(
            "The stream. Null for an agent that is not watched: then the state has only the bridge's books.",
            _STREAM_EXAMPLE,
        ),
    ] = None
    sequence: Annotated[
        Count,
        about(
            "The number of the stream's last record: this is the picture after it, and sequence + 1 comes next. 0 "
            "without a stream.",
            17,
        ),
    ] = 0
    labels: Labels = {}
    skills: Skills = []
    asm_session_sid: SessionSid = None
    voice_session_sid: VoiceSid = None
    observed_at: Annotated[
        Time | None,
        about(
            "The observed_at of the stream's last record: when the picture last changed, not when the agent was last "
            "observed. Null without a stream. Clock: bridge.",
            "2026-11-23T09:30:00.000250Z",
        ),
    ] = None
    status: Annotated[Status | None, about("The latest status; null without a session.")] = None
    status_group: Annotated[StatusGroup | None, about("Its group; null without a session.", "talking")] = None
    status_since: Annotated[
        Time | None,
        about(
            "Since when the bridge sees its status_desc; null without a session. Clock: bridge.",
            "2026-11-23T09:30:00.000250Z",
        ),
    ] = None
    calls: Annotated[list[CallInView], about("The calls in view, in no particular order.")] = []
    alert: Annotated[Alert | None, about("The alert in view; null if there is none.")] = None
    lost: Annotated[Loss | None, about("Why the agent is not observed; null if it is.")] = None
    bridge: Books = Books()


Published = (
    AgentWatchStarted
    | AgentWatchEnded
    | AgentProfileChanged
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
    | ConversationChanged
    | InjectionCompleted
)

TOPICS: dict[type[msgspec.Struct], str] = {
    AgentStatusChanged: "agent-status",
    AgentWatchStarted: "agent-status",
    AgentWatchEnded: "agent-status",
    AgentProfileChanged: "agent-status",
    AgentSessionStarted: "agent-status",
    AgentSessionEnded: "agent-status",
    AgentObservationLost: "agent-status",
    AgentObservationResumed: "agent-status",
    QueuedCallChanged: "queued-calls",
    AgentMessageReceived: "agent-messages",
    AgentAlertRaised: "agent-messages",
    AgentAlertCleared: "agent-messages",
    ConversationEventDelivered: "conversations",
    ConversationChanged: "conversations",
    InjectionCompleted: "inject-outcomes",
    AgentState: "agent-state",
    PartitionHeartbeat: "heartbeats",
}
"""Record type -> topic, without the prefix. The key is agent_id; that of a heartbeat is the partition's number."""


def ce_type(cls: type[msgspec.Struct]) -> str:
    """CloudEvents' type: ``com.tcn.asm.agent_status_changed.v1``."""
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
    return f"com.tcn.asm.{snake}.v1"


def dataschema(cls: type[msgspec.Struct]) -> str:
    """CloudEvents' dataschema, an absolute URI as it demands: the ``$id`` of the record's JSON Schema."""
    return f"urn:asm-kafka-bridge:schema:{cls.__name__}:v1"
