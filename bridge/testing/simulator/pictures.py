"""The visible state of an agent: its data, and the vendor's messages that contain it.

Times are virtual seconds since the simulator's start unless a name says otherwise.
"""

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from random import Random

from bridge.testing.simulator import statuses
from bridge.testing.simulator.statuses import OUT
from bridge.testing.simulator.wire import Value, timestamp

SKILLS = ("english", "spanish", "tagalog", "sales", "support", "billing")
SITES = ("manila", "cebu", "houston")
MESSAGES = ("Please call the supervisor", "Team meeting at three", "New script for the spring campaign", "Well done")
ON_CALL = ("PEERED", "WARM_", "MANUAL_DIAL_STARTED")

# Large on purpose: a sid that went through a float comes back changed.
ASM_SIDS = 10**18
VOICE_SIDS = 2 * 10**18
HELD_CALL_SIDS = 3 * 10**18
AGENT_SIDS = 5 * 10**18
TENANT_SID = 4_100_000_000_000_000_001

ALERT_KINDS = ("backoffice_message", "directed_call_ringing", "directed_call_hangup")


@dataclass(frozen=True, slots=True)
class Session:
    """One login; ``started`` in seconds since 1970."""

    asm_sid: int
    voice_sid: int
    started: float


@dataclass(slots=True)
class SimulatedAgent:
    """The agent now. ``version`` grows with everything that an answer could show."""

    index: int
    agent_id: str
    skills: tuple[str, ...]
    site: str
    rng: Random
    change_rate: float
    epoch: float
    logouts: bool = True
    version: int = 0
    logins: int = 0
    session: Session | None = None
    ended: Session | None = None
    desc: str = OUT
    status: Value | None = None
    on_hold: tuple[Value, ...] = ()
    messages: tuple[tuple[int, str], ...] = ()
    alert: Value | None = None
    alerts: int = 0
    calls_count: int = 0
    next_status: float = inf
    next_message: float = inf
    next_alert: float = inf
    alert_until: float = inf
    next_due: float = inf
    ends: Counter[str] = field(default_factory=Counter)
    """How often each session, by its asm_session_sid, has ended or was replaced."""


def newest_message(agent: SimulatedAgent, since: int) -> tuple[int, str] | None:
    """The newest message that is not older than ``since``: so the cursor, being inclusive, shows the last one again."""
    return agent.messages[-1] if agent.messages and agent.messages[-1][0] >= since else None


def milliseconds(agent: SimulatedAgent, now: float) -> int:
    """Virtual time as the vendor's integers: milliseconds since 1970."""
    return round((agent.epoch + now) * 1000)


def agent_session(agent: SimulatedAgent, session: Session) -> Value:
    """The vendor's ``AgentSession``."""
    return {
        "agent_sid": AGENT_SIDS + agent.index,
        "tenant_sid": TENANT_SID,
        "session_sid": session.voice_sid,
        "asm_session_sid": session.asm_sid,
        "org_id": "org-simulated",
        "region_id": "sim",
        "user_id": agent.agent_id,
    }


def own_status(agent: SimulatedAgent, session: Session, now: float) -> Value:
    """The own fields of ``VoiceStatus`` on entering the agent's status."""
    desc, chance = agent.desc, agent.rng.random()
    on_call = desc.startswith(ON_CALL)
    return {
        "status": statuses.NUMBERS.get(desc, 0),
        "status_desc": desc,
        "paused": desc == "PAUSED",
        "queue": f"{agent.skills[1]}-queue" if on_call else "",
        "current_session_id": session.voice_sid,
        "last_status_change": milliseconds(agent, now),
        "monitoring": on_call and chance < 0.05,
        "calls_count": agent.calls_count,
        "last_sip_code": 200 if agent.calls_count else 0,
        "agent_peer_is_lost_call": desc == "WARM_OUTBOUND_TRANSFER_PEER_LOST",
        "caller_was_suspended": desc == "PEERED" and chance > 0.97,
        "agent_peer_is_direct_to_agent": desc == "PEERED" and 0.05 < chance < 0.1,
        "agent_is_muted": desc == "PEERED_WITH_CALL_ON_HOLD" and chance > 0.5,
        "transfer_members": _transfer_members(agent, session),
    }


def _transfer_members(agent: SimulatedAgent, session: Session) -> list[Value]:
    if not agent.desc.startswith("WARM_"):
        return []
    caller = {"caller_sid": HELD_CALL_SIDS + agent.rng.getrandbits(40), "tenant_sid": TENANT_SID}
    other = "outbound" if "OUTBOUND" in agent.desc else "supervisor"
    third: Value = {"identifier": f"{other}-{agent.rng.randrange(100)}", "display_label": other.capitalize()}
    if other == "outbound":
        third |= {
            "member_type": "TransferMemberType_OUTBOUND",
            "phone_number": phone(agent.rng),
            "outbound_id": "out-1",
        }
    return [
        {"identifier": agent.agent_id, "display_label": agent.agent_id, "agent_session": agent_session(agent, session)},
        {"identifier": "caller", "member_type": "TransferMemberType_CALLER", "caller_sid": caller},
        third,
    ]


def held_call(agent: SimulatedAgent, now: float) -> Value:
    return {
        "call_sid": HELD_CALL_SIDS + agent.rng.getrandbits(40),
        "phone_number": phone(agent.rng),
        "caller_id": phone(agent.rng),
        "start_date": timestamp(agent.epoch + now - agent.rng.randrange(10, 300)),
        "hold_date": timestamp(agent.epoch + now),
        "skills": [agent.skills[1]],
        "agent_specific": True,
        "queued_notification_type": "QueuedNotificationType_AGENT_BOUND_INITIAL",
    }


def alert(agent: SimulatedAgent, session: Session, now: float, kind: str) -> Value:
    value: Value = {
        "timestamp": timestamp(agent.epoch + now),
        "target_agent_session": agent_session(agent, session),
        "id": f"alert-{agent.index}-{agent.alerts}",
    }
    if kind == "backoffice_message":
        return value | {"message": agent.rng.choice(MESSAGES)}
    value["caller_sid"] = {"caller_sid": HELD_CALL_SIDS + agent.rng.getrandbits(40), "tenant_sid": TENANT_SID}
    if kind == "directed_call_ringing":
        value |= {"caller_id": phone(agent.rng), "destination_number": phone(agent.rng)}
    return value


def phone(rng: Random) -> str:
    """A number of the range kept for fiction."""
    return f"+1{rng.randrange(200, 990)}55501{rng.randrange(100):02d}"
