"""The bridge's input: entries of the registry, and events to be sent to the service."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import Meta

from asm_bridge_schemas import asm, protojson
from asm_bridge_schemas.cloudevents import StructuredEvent, media_type, unwrap
from asm_bridge_schemas.records import EventKind, Sid, about, values_of
from asm_bridge_schemas.scalars import INT64_ID

EVENT_KINDS: tuple[EventKind, ...] = values_of(EventKind)

UNWRITABLE = "unwritable"

DEAD_LETTER_CODES = {
    "malformed_event": "not an event: bad JSON, wrong shape, not a CloudEvent, no key",
    "too_large": "longer than 512 KiB, or with a key, an id or headers that are too long",
    "unknown_agent": "no such agent was registered, even after `injection.unknown_agent_grace` had passed",
    "backlog": "more than `injection.max_pending` events wait for the agent",
    "refused": "the service, or a proxy in front of it, refuses the event",
    "attempts_exhausted": "all of the `injection.max_attempts` attempts failed",
    "malformed_entry": "a registry entry that is not a JSON object, or has a wrong field",
    "literal_token": "a registry entry with a token instead of a reference to one",
    UNWRITABLE: "a record of the bridge that Kafka refuses: a shorter one replaces it, or it is missing; or an event "
    "that cannot be moved to its agent's partition",
}
"""The values of the header ``asm_error_code`` of a dead letter, with their meanings."""

_PATTERN = r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:[^./\\#\x00-\x1f\x7f][^/\\#\x00-\x1f\x7f]*(#[^\x00-\x1f\x7f]+)?)$"
_REFERENCE = re.compile(_PATTERN[1:-1])
_MSGPACK = frozenset({"application/msgpack", "application/x-msgpack", "application/vnd.msgpack"})
_EXPECTED = f'one entry of events, as {{"pause_event": {{}}}}: an object with exactly one of {", ".join(EVENT_KINDS)}'


class CommandError(Exception):
    """The bridge cannot accept the record; ``code`` and text go into its dead letter. Never contains a token."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SessionEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A watched agent, as an entry of the registry: what to ask the service for, how often and with whose token.

    Each field may be left out, or null, for its default."""

    asm_session_sid: Annotated[
        Sid | None,
        about(
            "The one session (login) to watch, in digits or as a number. Null or 0, protobuf's null: whichever one the "
            "agent has, which is the vendor's answer to getcurrentsession.",
            "1000000000000000001",
        ),
    ] = None
    token: Annotated[
        Annotated[str, Meta(pattern=_PATTERN)] | None,
        about(
            "Where the bridge finds the agent's token: `file:NAME` or `file:NAME#KEY` in its secrets directory, "
            "`env:NAME` in its environment; never the token itself. Null: that of the setting asm.token.",
            "file:agent-7",
        ),
    ] = None
    interval: Annotated[
        Annotated[float, Meta(ge=0.05, le=3600)] | None,
        about("Seconds between two requests for the agent's status. Null: the setting poll.interval, 1 s.", 1.0),
    ] = None
    skills: Annotated[
        list[str],
        about("The agent's skills, by the vendor's names: the service shows the calls that ask for them.", ["english"]),
    ] = []
    agent_pbx_extensions: Annotated[list[str], about("The agent's own extensions, for the service.", ["1007"])] = []
    get_queued_calls: Annotated[bool, about("Whether to ask the service for calls.", True)] = True
    get_messages: Annotated[bool, about("Whether to ask the service for messages.", True)] = True
    keep_alive: Annotated[
        bool,
        about("Whether each request also keeps the session at the service alive, as the agent's client does.", False),
    ] = False
    get_conversations: Annotated[
        bool, about("Whether to ask the service for conversations (`listconversations`), too.", False)
    ] = False
    conversations_interval: Annotated[
        Annotated[float, Meta(ge=0.05, le=3600)], about("Seconds between two requests for conversations.", 10.0)
    ] = 10.0
    labels: Annotated[
        dict[str, str], about("Your own labels of the agent, which its records repeat.", {"site": "manila"})
    ] = {}


class InjectedEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event for the agent's next request, in the vendor's snake_case form."""

    kind: EventKind
    value: dict[str, Any]
    conversation_sid: str | None = None


def read_session_entry(value: bytes) -> SessionEntry:
    """The entry in the registry's record. Raises ``CommandError`` (``literal_token``, ``malformed_entry``)."""
    try:
        decoded = protojson.decode(value)
    except protojson.ProtoJSONError as error:
        raise CommandError("malformed_entry", str(error)) from None
    return session_entry(decoded)


def session_entry(value: Any) -> SessionEntry:
    """The entry from decoded JSON or TOML; a null means the default. Raises as ``read_session_entry`` does."""
    if not isinstance(value, Mapping):
        raise CommandError(
            "malformed_entry", "a registry entry is a JSON object, {} at least; a tombstone ends watching"
        )
    if not value.keys() <= _ENTRY_FIELDS:  # unnamed: it may be a misplaced secret
        raise CommandError("malformed_entry", f"unknown field. Known are {', '.join(SessionEntry.__struct_fields__)}")
    fields = {name: item for name, item in value.items() if item is not None}
    _check_token(fields.get("token"))
    sid = fields.get("asm_session_sid")
    if sid is not None:
        fields["asm_session_sid"] = _session_sid(sid)
    try:
        entry = msgspec.convert(fields, SessionEntry)
    except msgspec.ValidationError as error:
        raise CommandError("malformed_entry", str(error)) from None
    return msgspec.structs.replace(entry, **{name: none for name, none in _NONE.items() if not getattr(entry, name)})


def read_event(value: bytes | StructuredEvent | None, content_type: str | None) -> InjectedEvent:
    """The event in an inbox record, JSON unless ``content_type`` says MessagePack, or a CloudEvent in structured mode;
    the placeholders for times and numbers in the sample on the vendor's page are left out.

    ``value`` may be the result of ``unwrap``. Raises ``CommandError`` (``malformed_event``), whatever the bytes are.
    """
    wrapped = value if isinstance(value, StructuredEvent) else unwrap(value, content_type)
    try:
        if wrapped is None:
            assert not isinstance(value, StructuredEvent)
            event = protojson.read_strict(asm.Event, _decode(value, content_type))
        else:
            event = protojson.read_strict(asm.Event, _unwrapped(wrapped))
    except protojson.ProtoJSONError as error:
        _not_an_event(str(error))
    kinds = [kind for kind in EVENT_KINDS if kind in event]
    if not kinds:
        _not_an_event("no event is set")
    conversation = event[kinds[0]].get("conversation", {})
    return InjectedEvent(kind=kinds[0], value=event, conversation_sid=conversation.get("conversation_sid"))


_ENTRY_FIELDS = frozenset(SessionEntry.__struct_fields__)
_NONE: dict[str, Any] = {"skills": [], "agent_pbx_extensions": [], "labels": {}}
"""Shared by all entries without them, which are most of many thousands."""


def _check_token(token: Any) -> None:
    if isinstance(token, str) and not _REFERENCE.fullmatch(token):
        raise CommandError(
            "literal_token",
            "token: a token is a reference (file:NAME, file:NAME#KEY or env:NAME, NAME without path separators or "
            "a leading dot); a literal token is refused. Put the token into the secrets directory and name its file",
        )


def _session_sid(value: Any) -> str | None:
    """A sid as digits. Raises ``CommandError``."""
    try:
        sid: str = INT64_ID.lenient(value)
    except protojson.ProtoJSONError as error:
        raise CommandError("malformed_entry", f"asm_session_sid: {error}") from None
    return sid if sid != "0" else None


def _unwrapped(event: StructuredEvent) -> Any:
    if event.problem is not None:
        raise protojson.ProtoJSONError(event.problem)
    return _decode(event.data, event.content_type) if isinstance(event.data, bytes) else event.data


def _decode(value: bytes | None, content_type: str | None) -> Any:
    if value is None:
        raise protojson.ProtoJSONError("the value is null")
    if media_type(content_type) not in _MSGPACK:
        return protojson.decode(value)
    try:
        return msgspec.msgpack.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise protojson.ProtoJSONError(f"not readable as MessagePack: {error}") from None


def _not_an_event(problem: str) -> NoReturn:
    raise CommandError("malformed_event", f"{problem}. Expected {_EXPECTED}") from None
