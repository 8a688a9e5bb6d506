"""records.omit: personal data that is never published."""

from collections.abc import Iterator
from typing import Any, get_type_hints

import msgspec
import pytest

from asm_bridge_schemas import protojson, records
from asm_bridge_schemas.asm import OMITTABLE, OmniConversation, VoiceStatus
from bridge.agents import conversations, diff
from bridge.agents.step import Step
from bridge.app import Bridge
from bridge.settings import SettingsError, load_settings

OURS = {"agent_id", "event", "conversation"}
"""Personal data that is the operator's own name, or in which the vendor's fields stand."""


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    protojson.omit(())


def answer(number: str, name: str = "Ann") -> VoiceStatus:
    call = {"callSid": "7", "phoneNumber": number, "callerId": number}
    member = {"displayLabel": name, "phone_number": number, "agentSession": {"user_id": name}}
    alert = {"directedCallRinging": {"id": "a", "callerId": number, "destinationNumber": number}}
    status = {"statusDesc": "READY", "queuedCalls": {"hqmCalls": [call], "onHoldCalls": [call]}, "alert": alert}
    return protojson.read(VoiceStatus, msgspec.json.encode(status | {"transferMembers": [member]}))


def told(state: records.AgentState, seen: VoiceStatus) -> Step:
    step = Step(state, 1_700_000_000.0)
    diff.observe(step, seen, sid="5", voice_sid=None, calls=True, messages=True)
    return step


def test_what_is_omitted_is_in_no_record_and_no_state_and_is_no_change() -> None:
    """Numbers and names that are omitted appear in neither records nor states, and an answer that differs in nothing
    else gives no record and leaves every digest as it was.
    """
    protojson.omit(["phone_number", "caller_id", "destination_number", "display_label", "user_id"])
    first = told(records.AgentState(agent_id="agent-7", stream_id="s"), answer("+18005550100"))
    assert {type(one).__name__ for one in first.records} >= {"AgentStatusChanged", "QueuedCallChanged"}
    written = msgspec.json.encode([*first.records, first.state])
    assert b"5550100" not in written
    assert b"Ann" not in written
    second = told(first.state, answer("+18005550199", "Bob"))
    assert second.records == []
    assert second.state.bridge.call_digests == first.state.bridge.call_digests
    protojson.omit(())
    assert b"5550199" in msgspec.json.encode(told(first.state, answer("+18005550199")).records)


def test_the_setting_is_in_force() -> None:
    """A bridge leaves out what records.omit names."""
    Bridge(load_settings(None, {"records.omit": "phone_number,caller_id,destination_number"}))
    assert b"5550100" not in msgspec.json.encode(told(records.AgentState(agent_id="a"), answer("+18005550100")).records)


def test_conversations_and_events_lose_the_fields_too() -> None:
    """A customer's data are left out of lists of conversations, and of events as they are published; an event that is
    sent to the service keeps them.
    """
    given: dict[str, Any] = {"conversation_sid": "1", "customer_phone_number": "+18005550100", "customer_name": "Ann"}
    event = {"activated_conversation_event": {"conversation": given}, "list": [{"customer_name": "Ann"}]}
    protojson.omit(["customer_phone_number", "customer_name"])
    read = protojson.read(OmniConversation, given)
    assert (read.conversation_sid, read.customer_phone_number, read.customer_name) == ("1", None, None)
    assert b"5550100" not in msgspec.json.encode(conversations._published(read))
    published = {"activated_conversation_event": {"conversation": {"conversation_sid": "1"}}, "list": [{}]}
    assert protojson.without_omitted(event) == published
    assert protojson.read_strict(OmniConversation, given)["customer_name"] == "Ann"


def test_whatever_is_personal_can_be_omitted() -> None:
    """Each field of the vendor's that the records mark as personal data may be named."""
    structs = [one for one in vars(records).values() if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    marked = set()
    for cls in structs:
        for name, hint in get_type_hints(cls, include_extras=True).items():
            if any((getattr(meta, "extra_json_schema", None) or {}).get("x-pii") for meta in metas(hint)):
                marked.add(name)
    assert marked - OURS <= OMITTABLE
    assert marked & OURS == OURS


def metas(hint: Any) -> list[Any]:
    return [*getattr(hint, "__metadata__", ()), *(meta for arg in getattr(hint, "__args__", ()) for meta in metas(arg))]


def test_a_name_that_cannot_be_omitted_is_a_wrong_setting() -> None:
    """Only fields that nothing is concluded from may be named, in an environment variable or a TOML list."""
    assert load_settings(None, {"records.omit": "phone_number, caller_id"}).records.omitted == [
        "phone_number",
        "caller_id",
    ]
    with pytest.raises(SettingsError, match="call_sid is not"):
        load_settings(None, {"records.omit": "phone_number,call_sid"})
