"""Reading and writing protobuf's JSON, compared with Google's own implementation."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asm_bridge_schemas import asm, protojson, texts
from asm_bridge_schemas.protojson import ProtoJSONError, read, read_strict, timestamp
from tests.support.protobuf import SHAPES, Shape, messages, parsed, printed

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


def expected(message: Message) -> msgspec.Struct:
    """The Struct with the message's values, from the descriptors instead of the Struct's own annotations."""
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
    """A status reads the same in camelCase or snake_case, with int64 as text or number, enums as names or numbers, and
    defaults printed, left out or null.
    """
    wanted = expected(message)
    for shape in SHAPES:
        assert read(asm.VoiceStatus, json.dumps(printed(message, shape)).encode()) == wanted, shape


@pytest.mark.parametrize("name", ["AsmSession", "ListConversationsRes", "CreateSessionRes", "GetStatusReq"])
def test_every_answer_is_read_with_exactly_its_values(name: str) -> None:
    """The answers to the other calls, and the requests to the simulator, are read with exactly their values."""

    @settings(max_examples=15, deadline=None)
    @given(message=messages(name), shape=st.sampled_from(SHAPES))
    def check(message: Message, shape: Shape) -> None:
        assert read(getattr(asm, name), printed(message, shape)) == expected(message)

    check()


@settings(max_examples=80, deadline=None)
@given(message=messages("Event"), shape=st.sampled_from(SHAPES))
def test_what_is_sent_is_the_event_that_was_given(message: Message, shape: Shape) -> None:
    """An event in any form is sent in one that a strict protobuf reader accepts, with the same meaning."""
    sent = read_strict(asm.Event, json.dumps(printed(message, shape)).encode())
    assert parsed("Event", sent) == message
    assert sent == read_strict(asm.Event, sent)


@settings(max_examples=60, deadline=None)
@given(message=messages("Event"), shape=st.sampled_from(SHAPES))
def test_what_is_sent_is_in_one_form(message: Message, shape: Shape) -> None:
    """An event in any form is sent in snake_case, with int64 as digits and enums as names."""
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
    """Reading any bytes gives a message or raises ProtoJSONError."""
    for data in (raw, json.dumps(value).encode(), value, {"voice_status": value}, {"event_time": value}):
        for cls, reader in ((asm.GetStatusRes, read), (asm.Event, read_strict)):
            assert len(problem_with(reader, cls, data)) < 200


def call(**fields: Any) -> dict[str, Any]:
    return {"voiceStatus": {"queuedCalls": {"agentQueueCalls": [{"callSid": "1"}, fields]}}}


def test_sids_beyond_2_to_the_53_are_exact() -> None:
    """A sid that is sent as a JSON number keeps its last digit."""
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
    """An enum's number becomes its name, or its digits if the vendor's list lacks it; an unknown name is kept."""
    assert read(asm.VoiceStatus, {"statusDesc": sent}).status_desc == told


def test_null_stands_for_a_default_anywhere() -> None:
    """A null is read as the field's default, in lists and maps too."""
    assert read(asm.GetStatusRes, b'{"voice_status": null}') == asm.GetStatusRes()
    assert read(asm.QueuedCalls, {"on_hold_calls": [None, {"skills": [None]}], "hqm_calls": None}) == asm.QueuedCalls(
        on_hold_calls=[asm.QueuedCallData(), asm.QueuedCallData(skills=[""])]
    )
    assert read(asm.CreateSessionReq, {"skills": {"english": None}}).skills == {"english": 0}


def test_unknown_fields_and_placeholder_times_are_no_errors() -> None:
    """An unknown field is ignored, and the vendor page's "1s" is kept as text."""
    body = json.dumps(call(callSid=2, start_date="1s", newField={"a": [1]})).encode()
    status = read(asm.GetStatusRes, body).voice_status
    assert status is not None
    assert status.queued_calls == asm.QueuedCalls(
        agent_queue_calls=[asm.QueuedCallData(call_sid="1"), asm.QueuedCallData(call_sid="2", start_date="1s")]
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"voice_status": []}, "voice_status: expected an object, got an array"),
        ({"voice_status": "READY" * 5000}, "voice_status: expected an object, got a string"),
        ([], "expected an object, got an array"),
        (None, "expected an object, got null"),
    ],
)
def test_an_error_says_where_and_what_is_wrong(body: Any, problem: str) -> None:
    """An error names the path of the required field that is wrong, without its value."""
    with pytest.raises(ProtoJSONError) as error:
        read(asm.GetStatusRes, json.dumps(body).encode())
    assert problem in str(error.value)
    assert "READY" not in str(error.value)


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> list[ProtoJSONError]:
    """The fields that were reported as unreadable."""
    reported: list[ProtoJSONError] = []
    monkeypatch.setattr(protojson, "_observer", reported.append)
    return reported


def call_read(body: bytes | dict[str, Any]) -> asm.QueuedCallData:
    """The second call of an answer, in which everything else must be as it was sent."""
    status = read(asm.GetStatusRes, body if isinstance(body, bytes) else json.dumps(body).encode()).voice_status
    assert status is not None
    assert status.queued_calls is not None
    first, second = status.queued_calls.agent_queue_calls
    assert first == asm.QueuedCallData(call_sid="1")
    return second


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"callSid": 1.5}, "call_sid: expected an integer"),
        ({"callSid": "1x" * 5000}, "call_sid: expected an integer"),
        ({"callSid": 2**53 * 1.0}, "call_sid: expected an integer, as a number or a string of digits, got a"),
        ({"callSid": 2**63}, "call_sid: the integer does not fit into 64 bits"),
        ({"callSid": float("nan")}, "call_sid: expected an integer"),
        ({"callSid": "1e999999999"}, "call_sid: expected an integer"),
        ({"callSid": True}, "call_sid: expected an integer"),
        ({"callSid": {"high": 1}}, "call_sid: expected an integer"),
        ({"phone_number": {"number": 1}}, "phone_number: expected a string, got an object"),
        ({"phoneNumber": ["1"]}, "phone_number: expected a string, got an array"),
        ({"skills": {"a": True}}, "skills: expected a string, got an object"),
        ({"agentSpecific": "yes"}, "agent_specific: expected true or false, got a string"),
        ({"agentSpecific": 2}, "agent_specific: expected true or false, got a number"),
        ({"callType": True}, "call_type: expected a name or number of CallType, got a boolean"),
        ({"callType": ["INBOUND"]}, "call_type: expected a name or number of CallType, got an array"),
    ],
)
def test_a_field_that_cannot_be_read_costs_that_field(
    fields: dict[str, Any], problem: str, unreadable: list[ProtoJSONError]
) -> None:
    """An unreadable field has its default and is reported with its path, without its value; the rest is read."""
    for _ in range(2):  # the second time the queue's text is known
        assert call_read(call(**{"callerId": "c"} | fields)) == asm.QueuedCallData(caller_id="c")
        where = "voice_status.queued_calls.agent_queue_calls[1]."
        assert [str(error)[: len(where + problem)] for error in unreadable] == [where + problem]
        assert unreadable[0].field == "voice_status.queued_calls.agent_queue_calls." + problem.partition(":")[0]
        assert "1x1x" not in str(unreadable.pop())


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"callSid": {"value": "7"}}, {"call_sid": "7"}),
        ({"callSid": {}}, {"call_sid": "0"}),
        ({"callSid": " 7 "}, {"call_sid": "7"}),
        ({"callSid": "7.0"}, {"call_sid": "7"}),
        ({"callSid": "7e3"}, {"call_sid": "7000"}),
        ({"phoneNumber": 15551234}, {"phone_number": "15551234"}),
        ({"phoneNumber": {"value": "1"}}, {"phone_number": "1"}),
        ({"phoneNumber": True}, {"phone_number": "true"}),
        ({"agentSpecific": "true"}, {"agent_specific": True}),
        ({"agentSpecific": "False"}, {"agent_specific": False}),
        ({"agentSpecific": 1}, {"agent_specific": True}),
        ({"agentSpecific": {"value": True}}, {"agent_specific": True}),
        ({"callType": {"value": 1}}, {"call_type": "OUTBOUND"}),
        ({"skills": "english"}, {"skills": ["english"]}),
        ({"skills": ["english", 7]}, {"skills": ["english", "7"]}),
        ({"startDate": {"seconds": "1700000000", "nanos": 5}}, {"start_date": "2023-11-14T22:13:20.000000005Z"}),
        ({"startDate": {"seconds": 1700000000}}, {"start_date": "2023-11-14T22:13:20Z"}),
        ({"startDate": {"nanos": 120_000_000}}, {"start_date": "1970-01-01T00:00:00.120Z"}),
        ({"startDate": {"seconds": "-1", "nanos": 500_000_000}}, {"start_date": "1969-12-31T23:59:59.500Z"}),
        ({"startDate": 1700000000}, {"start_date": "2023-11-14T22:13:20Z"}),
        ({"startDate": 1700000000.25}, {"start_date": "2023-11-14T22:13:20.250Z"}),
        ({"startDate": 1700000000123}, {"start_date": "2023-11-14T22:13:20.123Z"}),
        ({"startDate": 1700000000123456}, {"start_date": "2023-11-14T22:13:20.123456Z"}),
        ({"startDate": 1700000000123456789}, {"start_date": "2023-11-14T22:13:20.123456789Z"}),
        ({"startDate": "soon"}, {"start_date": "soon"}),
    ],
)
def test_a_field_in_an_odd_form_is_read(
    sent: dict[str, Any], told: dict[str, Any], unreadable: list[ProtoJSONError]
) -> None:
    """Wrappers and times printed as messages, and numbers and booleans as text, or the reverse, are read."""
    assert call_read(call(**sent)) == asm.QueuedCallData(**told)
    assert unreadable == []


@pytest.mark.parametrize(
    ("sent", "raw"),
    [
        ("[1]", "[1]"),
        ("true", "true"),
        ("NaN", "NaN"),
        ("10000000000000000000000", "10000000000000000000000"),
        ('{"seconds": 99999999999999}', '{"seconds":99999999999999}'),
        ('{"seconds": "x"}', '{"seconds":"x"}'),
        ('{"seconds": 1, "nanos": 1e10}', '{"seconds":1,"nanos":10000000000.0}'),
        ("{}", "{}"),
    ],
)
def test_a_time_that_cannot_be_read_stays_as_it_was_sent(sent: str, raw: str, unreadable: list[ProtoJSONError]) -> None:
    """An unreadable time is reported and keeps its JSON text for the record's ..._raw field."""
    body = json.dumps(call(startDate="?")).replace('"?"', sent).encode()
    assert call_read(body).start_date == raw
    assert timestamp(raw) is None
    assert [error.field for error in unreadable] == ["voice_status.queued_calls.agent_queue_calls.start_date"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"\\ud83d\\ude00", "\U0001f600"),
        (b"\\ud83d", "\ufffd"),
        (b"\\ude00x", "\ufffdx"),
        (b"\\ud83d\\ud83d\\ude00", "\ufffd\U0001f600"),
        (b"\\uD83Dtail", "\ufffdtail"),
        (b"\\\\ud83d", "\\ud83d"),
        (b"caf\xe9", "caf\ufffd"),
        (b"a\x01b\nc", "a\x01b\nc"),
    ],
)
@pytest.mark.parametrize("place", ["phoneNumber", "queue", "unknown", "key"])
def test_a_text_that_is_no_unicode_is_read(
    text: bytes, told: str, place: str, unreadable: list[ProtoJSONError]
) -> None:
    """Half a surrogate pair, a byte of another encoding and a bare control character are read anywhere in
    the answer.
    """
    named = {"phoneNumber": b"", "queue": b"", "unknown": b"", "key": b""} | {place: text}
    body = b'{"voiceStatus": {"queue": "%b", "x%b": {"y": "%b"}, "queuedCalls": {"agentQueueCalls": [{"callSid": "1"}, '
    body += b'{"callSid": "2", "phoneNumber": "%b"}]}}}'
    body %= named["queue"], named["key"], named["unknown"], named["phoneNumber"]
    status = read(asm.GetStatusRes, body).voice_status
    assert status is not None
    assert status.queue == (told if place == "queue" else "")
    phone_number = told if place == "phoneNumber" else ""
    assert call_read(body) == asm.QueuedCallData(call_sid="2", phone_number=phone_number)
    assert unreadable == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_an_answer_may_begin_with_a_byte_order_mark(encoding: str) -> None:
    """A byte order mark is skipped, and identifies UTF-16 and UTF-32."""
    assert call_read(json.dumps(call(phoneNumber="\U0001f600"), ensure_ascii=False).encode(encoding)) == (
        asm.QueuedCallData(phone_number="\U0001f600")
    )
    assert protojson.decode(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "9" * 5000, "1e400"])
def test_a_number_that_json_lacks_costs_its_field(number: str, unreadable: list[ProtoJSONError]) -> None:
    """NaN, Infinity and numbers out of range make only their field unreadable."""
    body = f'{{"voiceStatus": {{"callsCount": {number}, "status": 7, "queue": "q"}}}}'.encode()
    assert read(asm.GetStatusRes, body).voice_status == asm.VoiceStatus(status=7, queue="q")
    assert [error.field for error in unreadable] == ["voice_status.calls_count"]


def test_an_answer_says_nothing_without_what_it_is_about() -> None:
    """An answer whose status, session or conversations cannot be read is an error."""
    for cls, body in (
        (asm.GetStatusRes, {"voiceStatus": 7}),
        (asm.GetStatusRes, {"voiceStatus": {"status": "x", "newField": 1}}),
        (asm.GetStatusRes, {"voiceStatus": {"queuedCalls": {"agentQueueCalls": [{"callSid": {"high": 1}}]}}}),
        (asm.AsmSession, {"asmSessionSid": {"high": 1}, "asmSessionStart": "2024-05-01T12:00:00Z"}),
        (asm.ListConversationsRes, {"conversations": "none"}),
    ):
        with pytest.raises(ProtoJSONError):
            read(cls, json.dumps(body).encode())  # type: ignore[type-var]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800")
ODD = PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(st.sampled_from(["value", "seconds", "nanos"]), PLAIN)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), message=messages("VoiceStatus"))
def test_whatever_stands_in_a_field_the_others_are_read(data: st.DataObject, message: Message) -> None:
    """A value of any other type in any one field of a status leaves the other fields as they are."""
    status = printed(message, Shape("snake", "text", "name", "printed"))
    before = read(asm.VoiceStatus, status)
    odd = data.draw(ODD)
    field = data.draw(st.sampled_from(asm.VoiceStatus.__struct_fields__))
    after = read(asm.VoiceStatus, json.dumps({**status, field: odd}).encode())
    assert msgspec.structs.asdict(after) | {field: 0} == msgspec.structs.asdict(before) | {field: 0}
    calls = {"agent_queue_calls": [{"call_sid": "1"}, {"call_sid": "2", "skills": odd, "start_date": odd}]}
    seen = read(asm.QueuedCalls, json.dumps(calls).encode()).agent_queue_calls
    assert [one.call_sid for one in seen] == ["1", "2"]
    assert all(isinstance(skill, str) for skill in seen[1].skills)
    assert isinstance(seen[1].start_date, str | None)


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
    """A mistake in an event is reported with its path before anything is sent."""
    with pytest.raises(json_format.ParseError):
        parsed("Event", event)
    with pytest.raises(ProtoJSONError) as error:
        read_strict(asm.Event, event)
    assert problem in str(error.value)


def test_a_field_given_under_both_names_is_refused() -> None:
    """Two values for one field are refused, as by protobuf's Go reader; a null does not count as a value."""
    with pytest.raises(ProtoJSONError, match="event_time is given twice, also as eventTime"):
        read_strict(asm.Event, {"event_time": 1, "eventTime": 1})
    assert read_strict(asm.Event, {"event_time": None, "eventTime": 1}) == {"event_time": "1"}


def test_times_to_be_sent_are_utc_and_placeholders_are_left_out() -> None:
    """Times are sent in UTC, and the placeholders "1s" of the vendor's sample are left out."""
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
    """A time with an offset is converted to UTC with all its fractional digits."""
    assert timestamp(text) == utc
    timestamp("".join(list(utc)))  # the same text as another object, which is remembered
    assert timestamp(utc) is utc, "a text that needs no change is not copied"


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
    """Placeholders, impossible dates, leap seconds and times outside the years 1 to 9999 are unreadable."""
    assert timestamp(text) is None


def test_names_in_json_are_as_protoc_makes_them() -> None:
    """Each field is known by both of its names, as protoc makes them."""
    pairs = {"auth0_user_id": "auth0UserId", "t10": "t10", "asm_session_sid": "asmSessionSid"}
    assert {name: protojson.camel(name) for name in pairs} == pairs


def test_a_queue_that_many_see_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text of a queue is read once for all answers; another text is read again, and the cache is bounded."""

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
    monkeypatch.setattr(texts, "_REMEMBERED", 5000)
    assert calls("german") == calls("german")
    assert calls("english") == first
    assert calls("english") is not first


@pytest.mark.parametrize(
    ("queue", "where", "calls"),
    [
        ('[{"callSid": "7"}, 7]', "[1]: expected an object", ["7"]),
        ('{"callSid": "7"}', None, ["7"]),
        ('[{"callSid": "x"}]', "[0].call_sid: expected an integer", []),
        ('[{"callSid": "x", "callerId": "c"}]', "[0].call_sid: expected an integer", ["0"]),
        ("7", ": expected an object", []),
    ],
)
def test_a_queue_that_cannot_be_read(
    queue: str, where: str | None, calls: list[str], unreadable: list[ProtoJSONError]
) -> None:
    """Unreadable calls of a queue are reported with their path each time, and the others are read."""
    body = f'{{"voiceStatus": {{"status": 7, "queuedCalls": {{"agentQueueCalls": {queue}}}}}}}'.encode()
    for _ in range(2):
        status = read(asm.GetStatusRes, body).voice_status
        assert status is not None
        assert status.status == 7
        assert [one.call_sid for one in (status.queued_calls or asm.QueuedCalls()).agent_queue_calls] == calls
        wanted = [] if where is None else [f"voice_status.queued_calls.agent_queue_calls{where}"]
        assert [str(error)[: len(wanted[0])] for error in unreadable] == wanted
        unreadable.clear()


def test_a_queue_that_is_not_json() -> None:
    """A queue that is not JSON makes the whole answer unreadable."""
    with pytest.raises(ProtoJSONError, match="not readable as JSON"):
        read(asm.GetStatusRes, b'{"voiceStatus": {"queuedCalls": {"agentQueueCalls": [tru]}}}')


def test_a_queue_of_which_some_cannot_be_read_is_read_once() -> None:
    """A queue with unreadable calls is read once, like a good one."""

    def calls(phone: bytes) -> list[asm.QueuedCallData]:
        body = b'{"voiceStatus": {"queuedCalls": {"agentQueueCalls": [{"callSid": "3", "phoneNumber": %b}]}}}' % phone
        status = read(asm.GetStatusRes, body).voice_status
        assert status is not None
        assert status.queued_calls is not None
        return status.queued_calls.agent_queue_calls

    assert calls(b"[]") is calls(b"[]")
    assert calls(b'"1"') is calls(b'"1"')
    assert calls(b'"\xff"') is calls(b'"\xff"')


@pytest.mark.parametrize("body", ["7", "null", "[]", '"READY"', '{"voiceStatus": 7}', '{"voiceStatus": [{}]}'])
def test_an_answer_of_another_shape(body: str) -> None:
    """An answer with another type in place of an object raises ProtoJSONError."""
    with pytest.raises(ProtoJSONError, match="expected an object"):
        read(asm.GetStatusRes, body.encode())
