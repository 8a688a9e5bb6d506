"""CloudEvents on the inbox: structured mode, and binary mode beside it."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_bridge_schemas.cloudevents import CONTENT_TYPE, unwrap
from asm_bridge_schemas.commands import CommandError, read_event
from bridge.agents.bounds import MAX_ID_BYTES
from bridge.agents.injection import read_injection
from bridge.agents.step import DeadLetter
from bridge.kafka.resend import NotResendable, resend
from bridge.record_id import RecordId
from tests.support.samples import PAGE_SAMPLE
from tests.support.strategies import TTL, Message

EVENT = {"activated_conversation_event": {"conversation": {"conversation_sid": "9007199254740993"}}}
ENVELOPE = {"specversion": "1.0", "id": "c-1", "source": "/crm", "type": "com.example.chat", "data": EVENT}


def encoded(**attributes: Any) -> bytes:
    """The envelope with these attributes; None leaves one out."""
    return json.dumps({key: value for key, value in {**ENVELOPE, **attributes}.items() if value is not None}).encode()


def read(value: bytes | None, content_type: str = CONTENT_TYPE, *headers: tuple[str, bytes]) -> Any:
    message = Message(5, value=value, headers=[("content-type", content_type.encode()), *headers])
    return read_injection(message, TTL, possibly_processed=False)


@pytest.mark.parametrize("content_type", [CONTENT_TYPE, "Application/CloudEvents+JSON; charset=UTF-8"])
def test_a_cloud_event_in_structured_mode_is_unwrapped(content_type: str) -> None:
    """The event is the CloudEvent's data; the injection's id and source are the CloudEvent's."""
    entry = read(encoded(time="2026-11-28T06:00:00Z", traceid="x"), content_type)
    assert entry.fault is None
    assert (entry.event.value, entry.event.conversation_sid) == (EVENT, "9007199254740993")
    assert (entry.injection_id, entry.source, entry.identified) == ("c-1", "/crm", True)


def test_the_value_counts_in_structured_mode() -> None:
    """Headers that name another id and source do not change those of a structured CloudEvent; expires_at counts."""
    entry = read(encoded(), CONTENT_TYPE, ("ce_id", b"other"), ("ce_source", b"/other"), ("expires_at", b"soon"))
    assert (entry.injection_id, entry.source) == ("c-1", "/crm")
    assert "expires_at" in entry.fault[1]


@pytest.mark.parametrize("datacontenttype", [None, "application/json", "application/vnd.chat+json; charset=utf-8"])
@pytest.mark.parametrize("in_base64", [False, True])
def test_json_data_is_taken_as_it_is_and_in_base64(datacontenttype: str | None, in_base64: bool) -> None:
    """JSON may stand in data, or as text in data_base64, whatever of JSON's types datacontenttype names."""
    data = {"data": None, "data_base64": base64.b64encode(json.dumps(EVENT).encode()).decode()} if in_base64 else {}
    assert read(encoded(datacontenttype=datacontenttype, **data)).event.value == EVENT


def test_messagepack_data_is_taken_in_base64() -> None:
    """data_base64 with the datacontenttype of MessagePack holds the event as MessagePack."""
    data = base64.b64encode(msgspec.msgpack.encode(EVENT)).decode()
    entry = read(encoded(data=None, data_base64=data, datacontenttype="application/msgpack"))
    assert entry.event.value == EVENT


def test_the_pages_sample_is_an_event_in_every_mode() -> None:
    """The sample of the vendor's page, word for word, is the same event alone, in binary and in structured mode."""
    alone = read(PAGE_SAMPLE, "application/json").event
    binary = read(PAGE_SAMPLE, "application/json", ("ce_specversion", b"1.0"), ("ce_id", b"c-1"), ("ce_type", b"t"))
    envelope = json.dumps({**ENVELOPE, "data": 0}).encode().replace(b'"data": 0', b'"data": ' + PAGE_SAMPLE)
    assert alone is not None
    assert (binary.event, binary.injection_id) == (alone, "c-1")
    assert read(envelope).event == alone


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "the value is null"),
        (b"{", "not readable as JSON"),
        (b"[]", "expected a CloudEvent, got an array"),
        (json.dumps(EVENT).encode(), "not a CloudEvent: specversion is missing"),
        (encoded(id=None), "not a CloudEvent: id is missing"),
        (encoded(id=""), "not a CloudEvent: id is missing"),
        (encoded(id=7), "not a CloudEvent: id is not a string"),
        (encoded(source=None), "not a CloudEvent: source is missing"),
        (encoded(type=None), "not a CloudEvent: type is missing"),
        (encoded(specversion="0.3"), "not a CloudEvent: specversion is 0.3, only 1.0 is supported"),
        (encoded(datacontenttype=["a"]), "not a CloudEvent: datacontenttype is not a string"),
        (encoded(data=None), "not a CloudEvent: it has neither data nor data_base64"),
        (encoded(data_base64="e30="), "not a CloudEvent: it has both data and data_base64"),
        (encoded(data=None, data_base64="e30"), "not a CloudEvent: data_base64 is not base64"),
        (encoded(data=None, data_base64={"e30=": 1}), "not a CloudEvent: data_base64 is not base64"),
        (encoded(data=None, data_base64="ew=="), "not readable as JSON"),
        (encoded(data="pause"), "expected an object, got a string"),
        (encoded(data={"pause": {}}), "unknown field 'pause'"),
        (encoded(data={}), "no event is set"),
    ],
)
def test_what_is_no_cloud_event_or_holds_no_event_is_malformed(value: bytes | None, problem: str) -> None:
    """The fault says what is wrong with a structured CloudEvent, and what an event looks like."""
    entry = read(value)
    assert entry.event is None
    assert entry.fault[0] == "malformed_event"
    assert entry.fault[1].startswith(problem)
    assert "Expected one entry of events" in entry.fault[1]


def test_a_bad_cloud_event_keeps_its_id() -> None:
    """The outcome of a CloudEvent whose data is not an event has its id and source, so that its sender knows it."""
    for bad in (encoded(data={}), encoded(type=None)):
        assert (read(bad).injection_id, read(bad).source) == ("c-1", "/crm")
    assert read(encoded(id=None)).injection_id == "3/5"


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents-batch+json", "application/cloudevents+avro", "application/cloudevents"]
)
def test_other_forms_of_cloud_events_are_named(content_type: str) -> None:
    """A batch, or a CloudEvent in another format, is malformed, and the fault names the form that is taken."""
    entry = read(encoded(), content_type)
    assert entry.fault[0] == "malformed_event"
    assert entry.fault[1].startswith(f"the content-type {content_type} is not supported, only {CONTENT_TYPE}")


@pytest.mark.parametrize("name", ["id", "source"])
def test_a_long_id_is_too_large(name: str) -> None:
    """An id or source in the value is bounded as ce_id and ce_source are."""
    assert read(encoded(**{name: "x" * MAX_ID_BYTES})).fault is None
    assert read(encoded(**{name: "x" * (MAX_ID_BYTES + 1)})).fault[0] == "too_large"
    entry = read(encoded(**{name: "x" * 100_000}))
    assert len(entry.injection_id) + len(entry.source or "") < 100


@given(st.binary(max_size=60), st.sampled_from(["+json", "+avro", "-batch+json"]))
def test_no_bytes_stop_the_inbox(value: bytes, form: str) -> None:
    """Any bytes that claim to be a CloudEvent give an entry or a fault, and never raise."""
    entry = read(value, f"application/cloudevents{form}")
    assert (entry.event is None) == (entry.fault is not None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(EVENT),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*ENVELOPE, "data_base64"], json_values)))
def test_no_envelope_stops_the_inbox(changed: dict[str, Any]) -> None:
    """Any JSON in any member gives an entry or a fault, and never raises."""
    value = json.dumps({**ENVELOPE, **changed}).encode()
    wrapped = unwrap(value, CONTENT_TYPE)
    assert wrapped is not None
    entry = read(value)
    assert (entry.event is None) == (entry.fault is not None)
    if entry.fault is None:
        assert read_event(value, CONTENT_TYPE) == entry.event
    else:
        with pytest.raises(CommandError):
            read_event(value, CONTENT_TYPE)


def letter(value: bytes) -> DeadLetter:
    headers = (("content-type", CONTENT_TYPE.encode()), ("ce_id", b"other"))
    origin = RecordId("asm.inject", 3, 5)
    return DeadLetter(key=b"agent-1", value=value, headers=headers, code="unknown_agent", text="", origin=origin)


def test_a_dead_letter_in_structured_mode_is_sent_again() -> None:
    """It goes out as it was, under the id in its value; one that is not an event is not sent."""
    again = resend(letter(encoded()), now=0.0)
    assert (again.value, again.injection_id) == (encoded(), "c-1")
    assert ("content-type", CONTENT_TYPE.encode()) in again.headers
    with pytest.raises(NotResendable, match="no event is set"):
        resend(letter(encoded(data={})), now=0.0)
