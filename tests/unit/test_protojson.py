"""Reading and writing protobuf's JSON, judged by Google's own implementation."""

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asm_bridge_schemas import asm, protojson
from asm_bridge_schemas.protojson import ProtoJSONError, read, read_strict, timestamp
from tests.support.protobuf import SHAPES, Shape, messages, parsed, printed

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


def expected(message: Message) -> msgspec.Struct:
    """The Struct with the message's values, told by the descriptors and not by the Struct's own annotations."""
    cls = getattr(asm, message.DESCRIPTOR.name)
    result: msgspec.Struct = cls(**{field.name: _expected(message, field) for field in message.DESCRIPTOR.fields})
    return result


def _expected(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_one(item, field) for item in value]
    return _one(value, field) if not field.has_presence or message.HasField(field.name) else None


def _one(value: Any, field: Any) -> Any:
    name = field.message_type.name if field.message_type is not None else None
    if name == "Timestamp":
        return json_format.MessageToDict(value)
    if name in ("StringValue", "Int64Value"):
        return str(value.value)
    if name is not None:
        return expected(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else str(value)
    identifier = field.name.endswith("_sid") or field.name == "current_session_id"
    return str(value) if field.type == FieldDescriptor.TYPE_INT64 and identifier else value


@settings(max_examples=40, deadline=None)
@given(message=messages("VoiceStatus"))
def test_a_status_reads_the_same_in_every_shape_a_gateway_prints(message: Message) -> None:
    """camelCase or snake_case, int64 as text or number, enums by name or number, defaults printed, left out or null."""
    wanted = expected(message)
    for shape in SHAPES:
        assert read(asm.VoiceStatus, json.dumps(printed(message, shape)).encode()) == wanted, shape


@pytest.mark.parametrize("name", ["AsmSession", "ListConversationsRes", "CreateSessionRes", "GetStatusReq"])
def test_every_answer_is_read_with_exactly_its_values(name: str) -> None:
    """What the other calls answer, and what a stand-in for the service is asked, is read alike."""

    @settings(max_examples=15, deadline=None)
    @given(message=messages(name), shape=st.sampled_from(SHAPES))
    def check(message: Message, shape: Shape) -> None:
        assert read(getattr(asm, name), printed(message, shape)) == expected(message)

    check()


@settings(max_examples=80, deadline=None)
@given(message=messages("Event"), shape=st.sampled_from(SHAPES))
def test_what_is_sent_is_the_event_that_was_given(message: Message, shape: Shape) -> None:
    """An event in any shape goes out in a form that a strict protobuf reader accepts, and means the same."""
    sent = read_strict(asm.Event, json.dumps(printed(message, shape)).encode())
    assert parsed("Event", sent) == message
    assert sent == read_strict(asm.Event, sent)


@settings(max_examples=60, deadline=None)
@given(message=messages("Event"), shape=st.sampled_from(SHAPES))
def test_what_is_sent_is_in_one_form(message: Message, shape: Shape) -> None:
    """However an event was written, its fields go out in snake_case, int64 as digits and enums as names."""
    omitting = [Shape(shape.names, shape.int64, shape.enums, defaults) for defaults in ("omitted", "null")]
    one_form = printed(message, Shape("snake", "text", "name", "omitted"))
    assert [read_strict(asm.Event, printed(message, other)) for other in omitting] == [one_form, one_form]


def problem_with(reader: Callable[..., Any], cls: type[msgspec.Struct], data: Any) -> str:
    try:
        reader(cls, data)
    except ProtoJSONError as error:
        return str(error)
    return ""


@settings(max_examples=150, deadline=None)
@given(value=JUNK, raw=st.binary(max_size=30))
@example(value={"voice_status": {"status": float("nan")}}, raw=b"\xff")
@example(value={"voice_status": {"calls_count": 2**63}}, raw=b"[" * 100_000)
@example(value={"voice_status": {"calls_count": float("inf")}}, raw=b'{"voice_status": ' + b"9" * 5000 + b"}")
@example(value={"voice_status": {"calls_count": "9" * 5000}}, raw=b'{"voice_status": {"message": "\\ud800"}}')
def test_no_answer_can_do_more_than_fail_to_be_read(value: Any, raw: bytes) -> None:
    """Whatever the bytes are, reading them gives a message or ProtoJSONError, nothing else."""
    for data in (raw, json.dumps(value).encode(), value, {"voice_status": value}, {"event_time": value}):
        for cls, reader in ((asm.GetStatusRes, read), (asm.Event, read_strict)):
            assert len(problem_with(reader, cls, data)) < 200


def call(**fields: Any) -> dict[str, Any]:
    return {"voiceStatus": {"queuedCalls": {"agentQueueCalls": [{"callSid": "1"}, fields]}}}


def test_sids_beyond_2_to_the_53_are_exact() -> None:
    """A sid sent as a JSON number keeps its last digit."""
    status = read(asm.VoiceStatus, b'{"currentSessionId": 9007199254740993, "status": 9223372036854775807}')
    assert (status.current_session_id, status.status) == ("9007199254740993", 9223372036854775807)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("READY", "READY"),
        (2, "READY"),
        ("2", "READY"),
        (2.0, "READY"),
        (99, "99"),
        ("99", "99"),
        ("NEW", "NEW"),
        (None, "UNAVALIABLE"),
    ],
)
def test_an_enum_is_told_by_name_whatever_the_service_sends(sent: Any, told: str) -> None:
    """A number becomes its name; one that the vendor's list lacks its digits; an unknown name passes through."""
    assert read(asm.VoiceStatus, {"statusDesc": sent}).status_desc == told


def test_null_stands_for_a_default_anywhere() -> None:
    """A null is a field at its default, in lists and maps too."""
    assert read(asm.GetStatusRes, b'{"voice_status": null}') == asm.GetStatusRes()
    assert read(asm.QueuedCalls, {"on_hold_calls": [None, {"skills": [None]}], "hqm_calls": None}) == asm.QueuedCalls(
        on_hold_calls=[asm.QueuedCallData(), asm.QueuedCallData(skills=[""])]
    )
    assert read(asm.CreateSessionReq, {"skills": {"english": None}}).skills == {"english": 0}


def test_unknown_fields_and_placeholder_times_are_no_errors() -> None:
    """A field of a newer service is ignored, and the vendor page's "1s" is kept as the text it is."""
    body = json.dumps(call(callSid=2, start_date="1s", newField={"a": [1]})).encode()
    status = read(asm.GetStatusRes, body).voice_status
    assert status is not None
    assert status.queued_calls == asm.QueuedCalls(
        agent_queue_calls=[asm.QueuedCallData(call_sid="1"), asm.QueuedCallData(call_sid="2", start_date="1s")]
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            call(callSid=1.5),
            "voice_status.queued_calls.agent_queue_calls[1].call_sid: expected an integer",
        ),
        (call(callSid="1x" * 5000), "voice_status.queued_calls.agent_queue_calls[1].call_sid: expected an integer"),
        (
            call(callSid=2**53 * 1.0),
            "[1].call_sid: expected an integer, as a number or a string of digits, got a",
        ),
        (call(skills=["a", 1]), "agent_queue_calls[1].skills[1]: expected a string, got a number"),
        (call(skills="a"), "agent_queue_calls[1].skills: expected an array, got a string"),
        ({"voice_status": {"paused": "yes"}}, "voice_status.paused: expected true or false, got a string"),
        ({"voice_status": {"calls_count": True}}, "voice_status.calls_count: expected an integer"),
        ({"voice_status": {"calls_count": 2**63}}, "voice_status.calls_count: the integer does not fit into 64 bits"),
        (
            {"voice_status": {"status_desc": True}},
            "status_desc: expected a name or number of AgentStatus, got a boolean",
        ),
        ({"voice_status": []}, "voice_status: expected an object, got an array"),
        ([], "expected an object, got an array"),
        (None, "expected an object, got null"),
    ],
)
def test_an_error_says_where_and_what_is_wrong(body: Any, problem: str) -> None:
    """The path leads to the field; the value itself is not repeated."""
    with pytest.raises(ProtoJSONError) as error:
        read(asm.GetStatusRes, json.dumps(body).encode())
    assert problem in str(error.value)
    assert "1x1x" not in str(error.value)


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        ({"pause": {}}, "unknown field 'pause'"),
        ({"pause_event": {"reason": "x" * 100}}, "pause_event: unknown field 'reason'"),
        ({"pause_event": {}, "resumeEvent": {}}, "only one of pause_event and resume_event may be given"),
        ({"state": "SLEEPING"}, "state: 'SLEEPING' is no StatusState"),
        ({"state": 2**31}, "state: '2147483648' is no StatusState"),
        (
            {"activated_conversation_event": {"conversation": {"end_time": "soon"}}},
            "conversation.end_time: expected a time",
        ),
        (
            {"activated_conversation_event": {"conversation": {"conversation_assignments": [None]}}},
            "conversation.conversation_assignments[0]: expected an object, got null",
        ),
        (
            {"activated_conversation_event": {"conversation": {"skills": {"skills": {"english": 1}}}}},
            "conversation.skills.skills['english']: expected true or false, got a number",
        ),
    ],
)
def test_what_the_service_would_refuse_is_refused_before(event: Any, problem: str) -> None:
    """A mistake in an event is named with its place, before anything is sent."""
    with pytest.raises(json_format.ParseError):
        parsed("Event", event)
    with pytest.raises(ProtoJSONError) as error:
        read_strict(asm.Event, event)
    assert problem in str(error.value)


def test_a_field_given_under_both_names_is_refused() -> None:
    """Two values for one field are a mistake (protobuf's Go reader refuses them); a null is no value."""
    with pytest.raises(ProtoJSONError, match="event_time is given twice, also as eventTime"):
        read_strict(asm.Event, {"event_time": 1, "eventTime": 1})
    assert read_strict(asm.Event, {"event_time": None, "eventTime": 1}) == {"event_time": "1"}


def test_times_to_be_sent_are_utc_and_placeholders_are_left_out() -> None:
    """The vendor page's sample, with "1s" for times, can be sent as it stands; offsets become UTC."""
    conversation = {"date_created": "1s", "dateModified": "2024-05-01T12:00:00.5+02:00", "taskSid": 7, "end_time": None}
    event = read_strict(asm.Event, {"sentMessageEvent": {"conversation": conversation, "response_time_seconds": 1e3}})
    sent = {"date_modified": "2024-05-01T10:00:00.5Z", "task_sid": "7"}
    assert event == {"sent_message_event": {"conversation": sent, "response_time_seconds": "1000"}}
    assert parsed("Event", event).HasField("sent_message_event")


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00Z"),
        ("2024-05-01T12:00:00.120Z", "2024-05-01T12:00:00.120Z"),
        ("2024-05-01T12:00:00.123456789Z", "2024-05-01T12:00:00.123456789Z"),
        ("2024-05-01t12:00:00.1z", "2024-05-01T12:00:00.1Z"),
        ("2024-02-29T23:30:00.000000001-01:30", "2024-03-01T01:00:00.000000001Z"),
        ("2024-01-01T00:00:00+05:45", "2023-12-31T18:15:00Z"),
        ("2024-05-01T12:00:00-00:00", "2024-05-01T12:00:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.9Z", "9999-12-31T23:59:59.9Z"),
    ],
)
def test_a_time_is_the_same_instant_in_utc(text: str, utc: str) -> None:
    """Offsets are resolved and fractional digits kept as they were sent."""
    assert timestamp(text) == utc


@pytest.mark.parametrize(
    "text",
    [
        None, "", "1s", "soon", "2024-05-01", "2024-05-01T12:00:00", "2024-05-01 12:00:00Z", "2024-05-01T12:00Z",
        "2023-02-29T00:00:00Z", "2024-13-01T00:00:00Z", "2024-05-01T24:00:00Z", "2024-05-01T23:59:60Z",
        "2024-05-01T12:00:00.Z", "2024-05-01T12:00:00.1234567890Z", "2024-05-01T12:00:00+24:00", "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "2024-05-01T12:00:00Z\n", "٢٠٢٤-05-01T12:00:00Z",
    ],
)  # fmt: skip
def test_what_is_no_time_is_none(text: str | None) -> None:
    """Placeholders, impossible dates, leap seconds and instants outside the years 1 to 9999 cannot be read."""
    assert timestamp(text) is None


def test_names_in_json_are_as_protoc_makes_them() -> None:
    """Both names of every field are known."""
    pairs = {"auth0_user_id": "auth0UserId", "t10": "t10", "asm_session_sid": "asmSessionSid"}
    assert {name: protojson.camel(name) for name in pairs} == pairs


def test_a_queue_that_many_see_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text gives the same object, in whatever answer it stands; another text is read anew, and only so many
    are remembered."""

    def calls(skill: str, status: int = 1, name: str = "agentQueueCalls") -> list[asm.QueuedCallData]:
        queue = [{"callSid": str(sid), "phoneNumber": "+1", "skills": [skill]} for sid in range(40)]
        body = {"voiceStatus": {"status": status, "queuedCalls": {name: queue, "onHoldCalls": None}}}
        answer = read(asm.GetStatusRes, json.dumps(body).encode()).voice_status
        assert answer is not None
        assert answer.queued_calls is not None
        assert answer.status == status
        return answer.queued_calls.agent_queue_calls or answer.queued_calls.hqm_calls

    first = calls("english")
    assert calls("english", 2) is first
    assert calls("english", name="hqm_calls") == first
    assert calls("french")[7].skills == ["french"]
    assert calls("english") is first
    monkeypatch.setattr(protojson, "_REMEMBERED", 5000)
    assert calls("german") == calls("german")
    assert calls("english") == first
    assert calls("english") is not first


@pytest.mark.parametrize(
    ("queue", "where"),
    [
        ('[{"callSid": "7"}, 7]', "voice_status.queued_calls.agent_queue_calls[1]: expected an object"),
        ('{"callSid": "7"}', "voice_status.queued_calls.agent_queue_calls: expected an array"),
        ('[{"callSid": "x"}]', "voice_status.queued_calls.agent_queue_calls[0].call_sid: expected an integer"),
        ("[tru]", "not readable as JSON"),
    ],
)
def test_a_queue_that_cannot_be_read(queue: str, where: str) -> None:
    """It is told where, as of anything else, however often it is sent."""
    body = f'{{"voiceStatus": {{"queuedCalls": {{"agentQueueCalls": {queue}}}}}}}'.encode()
    for _ in range(2):
        with pytest.raises(ProtoJSONError, match=f"^{re.escape(where)}"):
            read(asm.GetStatusRes, body)


@pytest.mark.parametrize(
    "body", ["7", "null", '{"voiceStatus": 7}', '{"voice_status": {"queuedCalls": []}}', '{"voiceStatus": [{}]}']
)
def test_an_answer_of_another_shape(body: str) -> None:
    """Where an object should be, something else."""
    with pytest.raises(ProtoJSONError, match="expected an object"):
        read(asm.GetStatusRes, body.encode())
