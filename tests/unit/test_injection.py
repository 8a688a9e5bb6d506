"""Records of the inbox as entries: identity, times to live, and records that are not events."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_bridge_schemas.cloudevents import CONTENT_TYPE
from bridge.agents.bounds import MAX_BYTES, MAX_HEADER_BYTES, MAX_ID_BYTES, clipped, too_large
from bridge.agents.injection import MAX_AHEAD, read_injection
from bridge.clock import rfc3339
from tests.support.strategies import EPOCH, PAUSE_EVENT, TTL, Message


def read(offset: int = 5, **fields: Any) -> Any:
    return read_injection(Message(offset, **fields), TTL, possibly_processed=False)


def test_an_entry_without_id_is_known_by_its_place() -> None:
    """An injection without ce_id is identified by partition/offset."""
    entry = read(5)
    assert (entry.injection_id, entry.entry, entry.source, entry.identified) == ("3/5", "3/5", None, False)
    assert str(entry.origin) == "asm.inject/3/5"


def test_an_entry_with_an_id_has_it() -> None:
    """An injection with ce_id is identified by it."""
    entry = read(5, headers=[("ce_id", b"x"), ("ce_source", b"/crm")])
    assert (entry.injection_id, entry.entry, entry.source, entry.identified) == ("x", "3/5", "/crm", True)


def test_the_case_of_a_headers_name_does_not_count() -> None:
    """A gateway may write the names of headers as HTTP does: content-type, id, source, expiry and trace are read."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    wrapped = {"specversion": "1.0", "id": "x", "source": "/crm", "type": "t", "data": {"pause_event": {}}}
    structured = read(value=msgspec.json.encode(wrapped), headers=[("Content-Type", CONTENT_TYPE.encode())])
    assert (structured.injection_id, structured.source, structured.fault) == ("x", "/crm", None)
    headers = [("CE_ID", b"x"), ("Ce_Source", b"/crm"), ("Expires_At", b"2001-01-01T00:00:00Z")]
    binary = read(headers=[*headers, ("Traceparent", trace.encode())])
    assert (binary.injection_id, binary.source, binary.expires_at) == ("x", "/crm", 978307200.0)
    assert binary.trace is not None
    assert binary.trace.headers == (("traceparent", trace.encode()),)
    assert too_large(None, [("Ce_Id", b"x" * 1025)]) == "Ce_Id is longer than 1024 bytes"


def test_an_empty_id_is_none() -> None:
    """An empty ce_id does not count, so two records with one are two injections."""
    entry = read(5, headers=[("ce_id", b"")])
    assert (entry.injection_id, entry.identified) == ("3/5", False)


@pytest.mark.parametrize("ahead", [-10.0, 0.0, 30.0, 3599.0, 3600.0, 3601.0, 10**6])
def test_expires_at_counts_at_most_an_hour_ahead(ahead: float) -> None:
    """expires_at replaces the time to live, up to an hour."""
    entry = read(headers=[("expires_at", rfc3339(EPOCH + ahead).encode())])
    assert entry.expires_at == EPOCH + min(ahead, MAX_AHEAD)


def test_without_expires_at_the_time_to_live_counts_from_arrival() -> None:
    """Without expires_at the time to live counts from the entry's arrival."""
    assert read(timestamp=int(EPOCH * 1000) + 250).expires_at == EPOCH + 0.25 + TTL


@pytest.mark.parametrize("text", [b"", b"soon", b"2026-11-23T09:30:00", b"\xff", b"1e9"])
def test_an_expires_at_that_is_no_time_is_malformed(text: bytes) -> None:
    """An expires_at that is not a time with an offset is malformed."""
    entry = read(headers=[("expires_at", text)])
    assert entry.fault[0] == "malformed_event"
    assert "expires_at" in entry.fault[1]


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b'{"pause_event": 1}',
        b'{"pause_event": {}, "resume_event": {}}',
        b"{}",
    ],
)
def test_what_is_no_event_is_malformed(value: bytes | None) -> None:
    """Bad JSON, a wrong shape or a null value is malformed, and never raises."""
    entry = read(value=value)
    assert entry.event is None
    assert entry.fault[0] == "malformed_event"


@given(
    st.binary(max_size=40), st.binary(max_size=10), st.sampled_from([b"", b"application/msgpack", b"application/json"])
)
def test_no_bytes_stop_the_inbox(value: bytes, key: bytes, content_type: bytes) -> None:
    """Any bytes in the inbox give an entry or a fault, and never raise."""
    headers = [("content-type", content_type), ("ce_id", value), ("expires_at", key), ("asm_origin", value)]
    entry = read_injection(Message(5, value=value, key=key, headers=headers), TTL, possibly_processed=False)
    assert (entry.event is None) == (entry.fault is not None)
    entry.injection_id.encode()
    entry.agent_id.encode()


def test_a_header_without_a_value_does_not_stop_the_inbox() -> None:
    """A header with a null value, which any producer can send, is accepted."""
    headers: Any = [("traceparent", None), ("ce_id", None)]
    assert read(headers=headers).injection_id == "3/5"


def test_more_than_half_a_mebibyte_is_too_large() -> None:
    """A record of more than 512 KiB is too_large; one of 512 KiB is not."""
    event = {"activated_conversation_event": {"conversation": {"customer_name": ""}}}
    frame = len(json.dumps(event))
    for size, fault in ((MAX_BYTES, None), (MAX_BYTES + 1, "too_large")):
        event["activated_conversation_event"]["conversation"]["customer_name"] = "x" * (size - frame)
        entry = read(value=json.dumps(event).encode())
        assert entry.size == size
        assert (entry.fault and entry.fault[0]) == fault


def test_a_key_that_is_no_text_is_malformed() -> None:
    """A key that is not UTF-8 is malformed."""
    entry = read(key=b"\xff")
    assert entry.fault[0] == "malformed_event"
    assert entry.agent_id == "\\xff"


def test_camel_case_and_message_pack_are_taken() -> None:
    """The sample of the vendor's page is accepted in either naming style, and as MessagePack if the content-type says
    so.
    """
    camel = read(value=b'{"activatedConversationEvent": {"conversation": {"conversationSid": "9007199254740993"}}}')
    assert camel.event.value == {
        "activated_conversation_event": {"conversation": {"conversation_sid": "9007199254740993"}}
    }
    assert camel.event.conversation_sid == "9007199254740993"
    packed = read(value=b"\x81\xabpause_event\x80", headers=[("content-type", b"application/msgpack")])
    assert packed.event.value == {"pause_event": {}}


def moved(*headers: tuple[str, bytes]) -> Any:
    return read(9, timestamp=int(EPOCH * 1000) + 60_000, headers=headers)


def test_a_moved_record_is_known_by_its_first_place() -> None:
    """It may be moved a second time, if the group's offset is set back: it is a duplicate then, and is not sent."""
    assert moved(("asm_origin", b"asm.inject/1/2"), ("asm_received_at", rfc3339(EPOCH).encode())).identified
    assert not moved(("asm_origin", b"asm.inject/1/2")).identified


def test_a_moved_record_keeps_its_first_place_and_time() -> None:
    """A moved record keeps the id, entry and time to live of its first arrival; only its offset is new."""
    entry = moved(("asm_origin", b"asm.inject/1/2"), ("asm_received_at", rfc3339(EPOCH).encode()))
    assert (entry.offset, entry.entry, entry.injection_id, str(entry.origin)) == (9, "1/2", "1/2", "asm.inject/1/2")
    assert (entry.received_at, entry.expires_at) == (EPOCH, EPOCH + TTL)


@pytest.mark.parametrize(
    "headers",
    [
        [("asm_origin", b"asm.inject/1/2")],
        [("asm_origin", b"other/1/2"), ("asm_received_at", b"2026-11-23T09:30:00Z")],
        [("asm_origin", b"asm.inject/1"), ("asm_received_at", b"2026-11-23T09:30:00Z")],
        [("asm_origin", b"asm.inject/1/2"), ("asm_received_at", b"then")],
        [("asm_received_at", b"2026-11-23T09:30:00Z")],
    ],
)
def test_half_an_origin_is_none(headers: list[tuple[str, bytes]]) -> None:
    """Origin headers that this bridge did not write do not change an entry's identity."""
    entry = moved(*headers)
    assert (entry.entry, entry.received_at) == ("3/9", EPOCH + 60)


def test_an_event_is_sent_as_it_was_given() -> None:
    """An event is sent with the fields that it was given."""
    assert read(value=PAUSE_EVENT).event.value == {"pause_event": {}}


LONG = b"i" * (MAX_ID_BYTES + 1)


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (PAUSE_EVENT, [("ce_id", LONG)]),
        (PAUSE_EVENT, [("ce_source", LONG * 1000)]),
        (PAUSE_EVENT, [("x-team", b"x" * MAX_HEADER_BYTES)]),
        (PAUSE_EVENT, [("y" * 4, b"")] * (MAX_HEADER_BYTES // 4 + 1)),
        (PAUSE_EVENT, [("asm_origin", b"x" * MAX_HEADER_BYTES)]),
        (b"x" * (4 * MAX_BYTES), [("ce_id", LONG), ("x-team", b"x" * MAX_HEADER_BYTES)]),
    ],
)
def test_a_record_is_measured_whole(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    """Headers, ids and value all count towards the size, and a record that is too large stays so, but can be written,
    when it is moved.
    """
    entry = read(5, value=value, headers=headers)
    assert entry.fault[0] == "too_large"
    assert entry.event is None
    value_moved, headers_moved = clipped(value, headers)
    assert len(value_moved or b"") <= MAX_BYTES + 1
    assert sum(len(name) + len(text or b"") for name, text in headers_moved) < MAX_HEADER_BYTES + 100
    added = [("asm_origin", b"asm.inject/1/2"), ("asm_received_at", b"2026-11-23T09:30:00Z")]
    moved_on: list[Any] = [*headers_moved, *added]
    entry = read(9, value=value_moved, headers=moved_on)
    assert entry.fault[0] == "too_large"
    assert len(entry.injection_id) + len(entry.source or "") <= 4 * MAX_ID_BYTES


def test_what_a_moved_record_is_given_does_not_count() -> None:
    """The headers that a move adds do not count towards the size."""
    headers = [("x", b"x" * (MAX_HEADER_BYTES - 1))]
    assert read(5, headers=headers).fault is None
    value, kept = clipped(PAUSE_EVENT, headers)
    added: list[Any] = [("asm_origin", b"asm.inject/1/2"), ("asm_received_at", b"2026-11-23T09:30:00Z")]
    assert read(9, value=value, headers=[*kept, *added]).fault is None


def test_an_event_that_grows_as_json_is_too_large() -> None:
    """An event is measured as JSON, in which MessagePack's control characters take six bytes instead of one."""
    event = {"activated_conversation_event": {"conversation": {"customer_name": "\x01" * 400_000}}}
    entry = read(value=msgspec.msgpack.encode(event), headers=[("content-type", b"application/msgpack")])
    assert entry.fault[0] == "too_large"
