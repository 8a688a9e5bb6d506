"""Strategies for the service's answers and for records of the inbox."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from asm_bridge_schemas import asm
from bridge.agents.injection import Injection, read_injection

EPOCH = 1_790_000_000.0
TTL = 300.0
PAUSE_EVENT = b'{"pause_event": {}}'

sids = st.sampled_from(["1", "2", "9007199254740993", str(2**63 - 1)])
texts = st.sampled_from(["", "a", "Grüße", "\x00", "日本", "x" * 50])
TIMES = {
    None: (None, None),
    "1s": (None, "1s"),
    "": (None, ""),
    "2026-11-23T09:30:00Z": ("2026-11-23T09:30:00Z", None),
    "2026-11-23T10:30:00.120+01:00": ("2026-11-23T09:30:00.120Z", None),
}
"""A time as sent: the time and the raw text that are published."""
times = st.sampled_from(list(TIMES))

sessions_of_agents = st.builds(asm.AgentSession, agent_sid=sids, asm_session_sid=sids, user_id=texts)
callers = st.builds(
    asm.CallerSid, caller_sid=sids, type=st.sampled_from(["INBOUND", "OUTBOUND", "77", "NEW"]), org_id=texts
)
members = st.builds(
    asm.TransferMember,
    identifier=texts,
    is_muted=st.booleans(),
    member_type=st.sampled_from(["TransferMemberType_AGENT", "TransferMemberType_CALLER", "9", "NEW"]),
    agent_session=st.none() | sessions_of_agents,
    caller_sid=st.none() | callers,
    outbound_id=st.none() | texts,
)
calls = st.builds(
    asm.QueuedCallData,
    call_sid=sids,
    phone_number=texts,
    call_type=st.sampled_from(["INBOUND", "MAC", "12", "NEW"]),
    start_date=times,
    hold_date=times,
    skills=st.lists(texts, max_size=2),
    agent_specific=st.booleans(),
)
call_lists = st.lists(calls, max_size=3, unique_by=lambda call: call.call_sid)
queues = st.builds(asm.QueuedCalls, agent_queue_calls=call_lists, on_hold_calls=call_lists, hqm_calls=call_lists)
_alert_ids = st.sampled_from(["", "a1", "a2"])
alerts = st.one_of(
    st.just(asm.AgentAlert()),
    st.builds(
        asm.AgentAlert,
        backoffice_message=st.builds(asm.AgentBackofficeMessageAlert, id=_alert_ids, message=texts, timestamp=times),
    ),
    st.builds(
        asm.AgentAlert,
        directed_call_ringing=st.builds(
            asm.AgentDirectedCallRingingAlert, id=_alert_ids, caller_sid=st.none() | callers, expire_duration=st.just(5)
        ),
    ),
    st.builds(
        asm.AgentAlert,
        directed_call_hangup=st.builds(
            asm.AgentDirectedCallHangupAlert, id=_alert_ids, target_agent_session=st.none() | sessions_of_agents
        ),
    ),
)
answers = st.builds(
    asm.VoiceStatus,
    status=st.sampled_from([0, 7, 2**63 - 1]),
    status_desc=st.sampled_from(["UNAVALIABLE", "READY", "PEERED", "99", "NEW_STATUS"]),
    paused=st.booleans(),
    queue=texts,
    current_session_id=sids | st.just("0"),
    keep_alive_succeeded=st.booleans(),
    message=texts,
    message_timestamp=st.integers(0, 3),
    queued_calls=st.none() | queues,
    transfer_members=st.lists(members, max_size=2),
    alert=st.none() | alerts,
)


@dataclass
class Message:
    """A record of the inbox."""

    offset: int
    value: bytes | None = PAUSE_EVENT
    headers: Sequence[tuple[str, bytes]] = ()
    key: bytes | None = b"agent-7"
    timestamp: int = int(EPOCH * 1000)
    partition: int = 3
    topic: str = "asm.inject"


def injection(
    offset: int, now: float = EPOCH, *, possibly_processed: bool = False, ttl: float = TTL, **headers: str
) -> Injection:
    """An injection that arrived ``now``; ``headers`` as ``ce_id="a"``."""
    named = [(name, value.encode()) for name, value in headers.items()]
    return read_injection(Message(offset, headers=named, timestamp=round(now * 1000)), ttl, possibly_processed)


def status_body(desc: str = "READY", **fields: Any) -> bytes:
    return json.dumps({"voiceStatus": {"statusDesc": desc, **fields}}).encode()


def list_body(*conversations: dict[str, Any], then: str = "") -> bytes:
    """A page of conversations; ``then``: the token of the next one."""
    return json.dumps({"conversations": conversations, "nextPageToken": then}).encode()


def session_body(sid: str | None, **fields: Any) -> bytes:
    return json.dumps({"asmSessionSid": sid, **fields} if sid else {}).encode()
