"""Dead letters that can be sent again, and those that cannot."""

from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from bridge.agents.injection import read_injection
from bridge.agents.step import DeadLetter
from bridge.clock import rfc3339
from bridge.kafka.encoding import Encoder, read_dead_letter
from bridge.kafka.resend import NotResendable, Resend, resend
from bridge.record_id import RecordId

NOW = 1_800_000_000.0
EVENT = b'{"pause_event": {}}'


def record(key: bytes | None, value: bytes | None, headers: Any = (), **place: Any) -> Any:
    fields = {"topic": "asm.dead-letters", "partition": 1, "offset": 5, **place}
    return ConsumerRecord(
        **fields,
        timestamp=int(NOW * 1000),
        timestamp_type=0,
        key=key,
        value=value,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        headers=tuple(headers),
    )


def dead_letter(code: str = "unknown_agent", origin: str = "asm.inject/3/17", **original: Any) -> DeadLetter:
    """Returns a dead letter as the bridge writes it and reads it back."""
    original = {"key": b"agent-7", "value": EVENT, "headers": (), **original}
    written = DeadLetter(code=code, text="why", origin=RecordId.parse(origin), **original)
    message = Encoder("json", "asm.inject").dead_letter(written)
    return read_dead_letter(record(message.key, message.value, message.headers))


def test_a_dead_letter_tells_what_was_and_why() -> None:
    """A dead letter has the time, origin, agent, code, text and value that the bridge wrote."""
    found = dead_letter(headers=(("ce_id", b"x"),))
    assert (found.time, found.origin, found.agent_id) == (NOW, RecordId("asm.inject", 3, 17), "agent-7")
    assert (found.code, found.text, found.value) == ("unknown_agent", "why", EVENT)


def test_a_record_of_another_program_is_still_listed() -> None:
    """A record without the bridge's headers is listed under its own record id."""
    found = read_dead_letter(record(None, None))
    assert (found.code, str(found.origin), found.agent_id) == ("unknown", "asm.dead-letters/1/5", None)


def test_the_original_is_sent_with_its_headers() -> None:
    """A dead letter is sent with the original's value and headers, without the bridge's own."""
    headers = (("content-type", b"application/json"), ("ce_id", b"x"), ("ce_source", b"crm"), ("traceparent", b"00-1"))
    found = dead_letter(
        headers=(*headers, ("asm_origin", b"asm.inject/0/1"), ("asm_received_at", b"2026-01-01T00:00:00Z"))
    )
    assert resend(found, NOW) == Resend("agent-7", EVENT, headers, "x")


def test_an_original_without_an_id_keeps_the_one_it_had() -> None:
    """An event without ce_id is sent with the id of its first outcome, so that sending it twice delivers it once."""
    sent = resend(dead_letter(headers=(("ce_id", b""),)), NOW)
    assert sent.headers == (("ce_id", b"3/17"),)
    entry = read_injection(record(b"agent-7", sent.value, sent.headers, topic="asm.inject"), 300, False)
    assert (entry.injection_id, entry.identified, sent.injection_id) == ("3/17", True, "3/17")


@pytest.mark.parametrize("name", ["expires_at", "Expires_At"])
@pytest.mark.parametrize(("ahead", "kept"), [(60.0, True), (0.0, False), (-60.0, False)])
def test_an_expiry_that_has_passed_is_left_out(ahead: float, kept: bool, name: str) -> None:
    """An expires_at that has passed is dropped with a notice, since the event would only expire again."""
    sent = resend(dead_letter(headers=(("ce_id", b"x"), (name, rfc3339(NOW + ahead).encode()))), NOW)
    assert (name in dict(sent.headers)) is kept
    assert (sent.note is None) is kept


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (dead_letter(key=None), "no key"),
        (dead_letter(key=b"\xff"), "not UTF-8"),
        (dead_letter("too_large", value=None), "512 KiB"),
        (dead_letter("literal_token", "asm.sessions/0/4", value=None), "registry"),
        (dead_letter("malformed_entry", "asm.sessions/0/4", value=None), "registry"),
        (dead_letter("malformed_event", value=None), "no value"),
        (dead_letter("malformed_event", value=b"not json"), "not an event"),
        (dead_letter("malformed_event", headers=(("expires_at", b"soon"),)), "expires_at"),
        (dead_letter("malformed_event", headers=(("content-type", b"application/msgpack"),)), "not an event"),
    ],
)
def test_what_cannot_be_sent_says_why(found: DeadLetter, told: str) -> None:
    """A dead letter that would be refused again, or whose value is not kept, is not sent, and the reason
    is reported.
    """
    with pytest.raises(NotResendable, match=told):
        resend(found, NOW)


def test_a_record_of_the_bridge_is_not_sent_to_an_agent() -> None:
    """A record that Kafka refused is not an event; one that could not be moved is, and is sent to its agent."""
    headers = (("ce_type", b"com.tcn.asm.agent_message_received.v1"),)
    with pytest.raises(NotResendable, match="a record of the bridge"):
        resend(dead_letter("unwritable", headers=headers), NOW)
    assert resend(dead_letter("unwritable"), NOW).value == EVENT
