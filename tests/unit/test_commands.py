"""The bridge's input topics: which entries and events it accepts, and how it refuses the others."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asm_bridge_schemas.commands import (
    EVENT_KINDS,
    CommandError,
    InjectedEvent,
    SessionEntry,
    read_event,
    read_session_entry,
    session_entry,
)
from tests.support.protobuf import parsed
from tests.support.samples import PAGE_SAMPLE

SECRET = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9.c2lnbmF0dXJl"


def entry(**fields: Any) -> SessionEntry:
    return read_session_entry(json.dumps(fields).encode())


def test_the_contracts_entry_is_read() -> None:
    """The registry entry in the documentation is read with every field."""
    value = b"""{"asm_session_sid": null, "token": "file:agent-7", "interval": 1.0, "skills": ["english"],
     "agent_pbx_extensions": [], "get_queued_calls": true, "get_messages": true, "keep_alive": false,
     "labels": {"site": "manila"}}"""
    assert read_session_entry(value) == SessionEntry(
        token="file:agent-7", interval=1.0, skills=["english"], labels={"site": "manila"}
    )


def test_entries_share_what_is_empty() -> None:
    """Thousands of entries without skills, extensions and labels have the same empty ones, to save memory."""
    one, other = entry(), entry(skills=[], labels={}, interval=2)
    assert one.skills is other.skills
    assert one.labels is other.labels
    assert (entry(skills=["a"]).skills, one.skills, one.agent_pbx_extensions, one.labels) == (["a"], [], [], {})


def test_every_field_is_optional() -> None:
    """An empty entry watches the agent with the defaults: calls and messages, no keep-alive; null means the default,
    too.
    """
    assert entry() == SessionEntry()
    assert (entry().get_queued_calls, entry().get_messages, entry().keep_alive, entry().token) == (
        True,
        True,
        False,
        None,
    )
    assert entry(**dict.fromkeys(SessionEntry.__struct_fields__)) == SessionEntry()


@pytest.mark.parametrize(
    ("sent", "sid"),
    [
        (9007199254740993, "9007199254740993"),
        ("9223372036854775807", "9223372036854775807"),
        ("007", "7"),
        (0, None),
        ("0", None),
    ],
)
def test_a_session_sid_is_exact_however_it_is_written(sent: Any, sid: str | None) -> None:
    """A fixed session may be digits or a number beyond 2^53; 0, protobuf's unset, means no fixed session."""
    assert entry(asm_session_sid=sent).asm_session_sid == sid


@pytest.mark.parametrize(
    "token",
    ["file:agent-7", "file:agent.7", "file:tokens.json#agent/7", "file:site manila@7", "env:TOKEN_7", "env:_T"],
)
def test_a_token_is_a_reference(token: str) -> None:
    """A token reference names a file in the secrets directory, a key of one, or an environment variable."""
    assert entry(token=token).token == token


@pytest.mark.parametrize(
    "token",
    [
        SECRET, f"Bearer {SECRET}", "", "file:", "file:#key", "file:name#", "env:", "file:../up", "file:a/b",
        "file:a\\b", "file:.hidden", "file:..", "file:/etc/passwd", "env:A/B", "env:.A", "env:1A", "vault:agent",
        "FILE:agent", "file:agent\n", "env:TOKEN\n", " file:agent", "file:a\x00b",
    ],
)  # fmt: skip
def test_a_literal_token_is_refused(token: str) -> None:
    """A token that is not a reference is refused with what to do instead."""
    with pytest.raises(CommandError, match="a literal token is refused") as error:
        entry(token=token)
    assert error.value.code == "literal_token"


@pytest.mark.parametrize(
    "fields",
    [
        {"token": SECRET},
        {"token": [SECRET]},
        {"token": {"value": SECRET}},
        {"tokn": SECRET},
        {SECRET: "token"},
        {"token": f"file:{SECRET}/", "interval": SECRET},
        {"asm_session_sid": SECRET},
        {"interval": SECRET},
        {"skills": SECRET},
        {"skills": [SECRET, 1]},
        {"labels": {SECRET: 1}},
        {"keep_alive": SECRET},
    ],
    ids=range(12),
)
def test_a_token_in_the_wrong_place_is_not_repeated(fields: dict[str, Any]) -> None:
    """A refusal, which goes into a dead letter, does not repeat a secret, in whatever field it is."""
    with pytest.raises(CommandError) as error:
        entry(**fields)
    assert SECRET not in f"{error.value!r} {error.value} {error.value.args}"
    with pytest.raises(CommandError) as error:
        read_session_entry(json.dumps(SECRET).encode() + b"\xff")
    assert SECRET not in repr(error.value)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"interval": 0}, "interval"),
        ({"interval": -1}, "interval"),
        ({"interval": 1e9}, "interval"),
        ({"interval": "1s"}, "interval"),
        ({"interval": True}, "interval"),
        ({"asm_session_sid": "twelve"}, "asm_session_sid: expected an integer"),
        ({"asm_session_sid": 1.5}, "asm_session_sid: expected an integer"),
        ({"asm_session_sid": 2**63}, "asm_session_sid: the integer does not fit into 64 bits"),
        ({"asm_session_sid": True}, "asm_session_sid: expected an integer"),
        ({"skills": "english"}, "skills"),
        ({"labels": {"site": 1}}, "labels"),
        ({"keep_alive": 1}, "keep_alive"),
        ({"intervall": 1}, "unknown field. Known are asm_session_sid, token, interval,"),
        ({"agent_id": None}, "unknown field"),
    ],
)
def test_a_bad_entry_says_which_field_is_wrong(fields: dict[str, Any], problem: str) -> None:
    """Each mistake in an entry is reported with the field's name."""
    with pytest.raises(CommandError, match=problem) as error:
        entry(**fields)
    assert error.value.code == "malformed_entry"


def test_an_entry_of_a_toml_table_is_read_alike() -> None:
    """An entry of the sessions file is read like the registry's JSON."""
    assert session_entry({"interval": 2, "token": "env:T"}) == entry(interval=2, token="env:T")


CONVERSATION = {"conversationSid": 9007199254740993, "channel_type": "CHANNEL_TYPE_SMS"}


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_all_six_kinds_of_event_are_taken(kind: str) -> None:
    """An event of each kind is accepted, with state and event_time beside it, in either naming style."""
    head, *tail = kind.split("_")
    camel = head + "".join(part.capitalize() for part in tail)
    for name in (kind, camel):
        event = read_event(json.dumps({name: {}, "eventTime": 5, "state": "IDLE"}).encode(), "application/json")
        assert event == InjectedEvent(kind=kind, value={kind: {}, "event_time": "5", "state": "IDLE"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kind", ["activated_conversation_event", "deactivated_conversation_event", "sent_message_event"]
)
def test_a_conversation_is_known_by_its_sid(kind: str) -> None:
    """The sid of an event's conversation is exact, or null if the event names none."""
    assert read_event(json.dumps({kind: {"conversation": CONVERSATION}}).encode(), None) == InjectedEvent(
        kind=kind,  # type: ignore[arg-type]
        value={kind: {"conversation": {"conversation_sid": "9007199254740993", "channel_type": "CHANNEL_TYPE_SMS"}}},
        conversation_sid="9007199254740993",
    )
    assert read_event(json.dumps({kind: {"conversation": None}}).encode(), None).conversation_sid is None


def test_the_sample_of_the_vendors_page_is_an_event() -> None:
    """The sample of the vendor's page is accepted without its placeholders "1s" and "string" for times and numbers."""
    event = read_event(PAGE_SAMPLE, "application/json")
    conversation = event.value["activated_conversation_event"]["conversation"]
    assert event.conversation_sid == "1"
    assert conversation["customer_name"] == "string"
    assert conversation["conversation_assignments"][0]["asm_session_sid"] == "1"
    left_out = {"date_created", "date_modified", "last_message_time", "end_time", "last_message_group_time"}
    assert not conversation.keys() & {*left_out, "last_state_changed_time", "task_sid"}
    parsed("Event", event.value)


@pytest.mark.parametrize("name", ["task_sid", "conversation_sid", "date_created"])
def test_a_placeholder_is_left_out(name: str) -> None:
    """A placeholder word in place of a number or time is left out; in place of a text it is kept."""
    conversation = {name: "string", "customer_name": "string"}
    event = read_event(json.dumps({"sent_message_event": {"conversation": conversation}}).encode(), None)
    assert event.value == {"sent_message_event": {"conversation": {"customer_name": "string"}}}
    assert event.conversation_sid is None


def test_a_record_may_begin_with_a_byte_order_mark() -> None:
    """An event or entry with a byte order mark is read as any other."""
    assert read_event(b'\xef\xbb\xbf{"pause_event": {}}', None).kind == "pause_event"
    assert read_session_entry(b'\xef\xbb\xbf{"interval": 2}') == SessionEntry(interval=2)


@pytest.mark.parametrize("header", ["application/msgpack", "application/x-msgpack; v=1", "APPLICATION/vnd.msgpack"])
def test_messagepack_is_taken_when_the_header_says_so(header: str) -> None:
    """An event in MessagePack, named in the content-type, is the same injection as in JSON."""
    event = {"activated_conversation_event": {"conversation": CONVERSATION}}
    from_json = read_event(json.dumps(event).encode(), None)
    assert read_event(msgspec.msgpack.encode(event), header) == from_json


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "the value is null"),
        (b"", "not readable as JSON"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b'{"pause_event": {"\xff": 1}}', "not readable as JSON"),
        (b'"pause_event"', "expected an object, got a string"),
        (b"[]", "expected an object, got an array"),
        (b"7", "expected an object, got a number"),
        (b"null", "expected an object, got null"),
        (b"{}", "no event is set"),
        (b'{"pause_event": null}', "no event is set"),
        (b'{"state": "IDLE"}', "no event is set"),
        (b'{"pause_event": {}, "resumeEvent": {}}', "only one of pause_event and resume_event may be given"),
        (b'{"events": [{"pause_event": {}}]}', "unknown field 'events'"),
        (b'{"pause_event": true}', "pause_event: expected an object, got a boolean"),
        (b'{"pause_event":' * 100_000, "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON"),
        (b'{"send_status_event": {"status": NaN}}', "not readable as JSON"),
    ],
    ids=range(18),
)
def test_what_is_no_event_is_refused_with_what_is_expected(value: bytes | None, problem: str) -> None:
    """A record that is not an event is refused with what is wrong and what an event looks like."""
    with pytest.raises(CommandError) as error:
        read_event(value, None)
    assert error.value.code == "malformed_event"
    assert str(error.value).startswith(problem)
    assert "exactly one of activated_conversation_event, deactivated_conversation_event" in str(error.value)


@settings(max_examples=200, deadline=None)
@given(value=st.binary(max_size=40))
@example(value=b"\x91" * 100_000)
@example(value=b"\xdd\xff\xff\xff\xff")
@example(value=b"\x81\x81\x01\x01\x01")
@example(value=b"\x81\xabpause_event\xd6\xff\x00\x00\x00\x01")
@example(value=b"\x82\xabpause_event\x80\x01\x02")
@example(value=b"\x82\xabpause_event\x80\xaaevent_time\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00")
def test_no_bytes_do_more_than_be_refused(value: bytes) -> None:
    """Any bytes give a command or a CommandError, so that a bad record cannot stop a partition."""
    for content_type in (None, "application/msgpack"):
        assert_taken_or_refused(read_event, value, content_type)
    assert_taken_or_refused(read_session_entry, value)


def assert_taken_or_refused(reader: Any, *value: Any) -> None:
    try:
        taken = reader(*value)
    except CommandError as error:
        taken = error
    assert isinstance(taken, InjectedEvent | SessionEntry | CommandError)
