"""One agent with plausible days: statuses, logins, messages, alerts.

Pure: time is passed in as virtual seconds since the simulator's start. An agent's day depends only on the seed and on
that time, not on how often it is read.
"""

from math import inf

from bridge.testing.simulator import pictures, statuses
from bridge.testing.simulator.pictures import (
    ALERT_KINDS,
    ASM_SIDS,
    MESSAGES,
    SITES,
    SKILLS,
    VOICE_SIDS,
    Session,
    SimulatedAgent,
    milliseconds,
)
from bridge.testing.simulator.statuses import OUT

MESSAGES_KEPT = 50
MESSAGES_A_CHANGE = 0.1
ALERTS_A_CHANGE = 0.06


def born(index: int, seed: int, *, change_rate: float, epoch: float, logouts: bool = True) -> SimulatedAgent:
    """Agent ``agent-<index>``, logged in at virtual time 0. ``epoch`` is that moment in seconds since 1970."""
    rng = statuses.dice(seed, index)
    skills = (SKILLS[index % 3], SKILLS[3 + rng.randrange(3)])
    site = SITES[index % len(SITES)]
    agent = SimulatedAgent(index, f"agent-{index}", skills, site, rng, change_rate, epoch, logouts)
    login(agent, 0.0, statuses.first(rng))
    agent.next_message = _after(agent, 0.0, MESSAGES_A_CHANGE)
    agent.next_alert = _after(agent, 0.0, ALERTS_A_CHANGE)
    _reschedule(agent)
    return agent


def advance(agent: SimulatedAgent, now: float) -> None:
    """Advances to ``now``; going back in time does nothing."""
    while agent.next_due <= now:
        _live_one(agent, agent.next_due)
        _reschedule(agent)


def login(agent: SimulatedAgent, now: float, desc: str = "IDLE") -> Session:
    """Begins a new session, which replaces the previous one."""
    _end(agent)
    agent.logins += 1
    number = agent.index * 100_000 + agent.logins
    session = agent.session = Session(ASM_SIDS + number, VOICE_SIDS + number, agent.epoch + now)
    agent.ended = None
    agent.desc, agent.calls_count = OUT, 0
    _clear_alert(agent)
    change_status(agent, now, desc)
    return session


def logout(agent: SimulatedAgent) -> None:
    """Ends the session; the agent stays away until `login` or `resume`."""
    if agent.session is not None:
        _end(agent)
        agent.ended, agent.session = agent.session, None
    agent.desc, agent.status, agent.on_hold = OUT, None, ()
    agent.next_status = inf
    _clear_alert(agent)
    _touch(agent)


def resume(agent: SimulatedAgent, now: float) -> None:
    """Resumes the session that was ended last, under its sid; raises ValueError if there is none."""
    if agent.ended is None:
        raise ValueError(f"{agent.agent_id} has no ended session to resume; log it in instead")
    agent.session, agent.ended = agent.ended, None
    change_status(agent, now, "IDLE")


def change_status(agent: SimulatedAgent, now: float, desc: str, **fields: object) -> None:
    """Enters a status (any text, even one that the vendor does not know), from which the day continues. ``fields``
    override its own.

    Raises ValueError if the agent has no session.
    """
    if agent.session is None:
        raise ValueError(f"{agent.agent_id} is logged out; log it in first")
    if desc == "PEERED" and not agent.desc.startswith(("PEERED", "WARM_")):
        agent.calls_count += 1
    agent.desc = desc
    agent.status = {**pictures.own_status(agent, agent.session, now), **fields}
    agent.on_hold = (pictures.held_call(agent, now),) if desc == "PEERED_WITH_CALL_ON_HOLD" else ()
    if agent.change_rate > 0:
        agent.next_status = now + statuses.dwell(desc, agent.change_rate, agent.rng)
    _touch(agent)


def say(agent: SimulatedAgent, now: float, text: str, at: int | None = None) -> None:
    """Leaves a message; its timestamp (ms since 1970) is later than any before, unless ``at`` sets it."""
    last = agent.messages[-1][0] if agent.messages else 0
    stamp = max(last + 1, milliseconds(agent, now)) if at is None else at
    agent.messages = tuple(sorted((*agent.messages, (stamp, text)), key=lambda m: m[0]))[-MESSAGES_KEPT:]
    agent.version += 1


def raise_alert(agent: SimulatedAgent, now: float, kind: str, expire: int, **fields: object) -> None:
    """Shows an alert in place of the previous one, for ``expire`` seconds (0: until it is cleared).

    Raises ValueError if the agent has no session.
    """
    if agent.session is None:
        raise ValueError(f"{agent.agent_id} is logged out; log it in first")
    agent.alerts += 1
    agent.alert = {kind: {**pictures.alert(agent, agent.session, now, kind), "expire_duration": expire, **fields}}
    agent.alert_until = now + expire if expire else inf
    agent.version += 1
    _reschedule(agent)


def clear_alert(agent: SimulatedAgent) -> None:
    """Removes the alert."""
    _clear_alert(agent)
    agent.version += 1
    _reschedule(agent)


def _end(agent: SimulatedAgent) -> None:
    if agent.session is not None:
        agent.ends[str(agent.session.asm_sid)] += 1


def _live_one(agent: SimulatedAgent, now: float) -> None:
    if agent.alert_until <= now:
        clear_alert(agent)
    elif agent.next_status <= now:
        _next_status(agent, now)
    elif agent.next_message <= now:
        if agent.session is not None:
            say(agent, now, agent.rng.choice(MESSAGES))
        agent.next_message = _after(agent, now, MESSAGES_A_CHANGE)
    else:
        _next_alert(agent, now)


def _next_status(agent: SimulatedAgent, now: float) -> None:
    following = statuses.following(agent.desc, agent.rng)
    if following == OUT and not agent.logouts:
        following = "PAUSED"
    if following == OUT:
        logout(agent)
        agent.next_status = now + statuses.dwell(OUT, agent.change_rate, agent.rng)
    elif agent.session is None:
        login(agent, now)
    else:
        change_status(agent, now, following)


def _next_alert(agent: SimulatedAgent, now: float) -> None:
    kind = agent.rng.choice(ALERT_KINDS)
    if agent.session is not None:
        raise_alert(agent, now, kind, max(1, round(4 / agent.change_rate)))
    agent.next_alert = _after(agent, now, ALERTS_A_CHANGE)


def _clear_alert(agent: SimulatedAgent) -> None:
    agent.alert, agent.alert_until = None, inf


def _touch(agent: SimulatedAgent) -> None:
    agent.version += 1
    _reschedule(agent)


def _after(agent: SimulatedAgent, now: float, a_change: float) -> float:
    return now + agent.rng.expovariate(agent.change_rate * a_change) if agent.change_rate > 0 else inf


def _reschedule(agent: SimulatedAgent) -> None:
    agent.next_due = min(agent.next_status, agent.next_message, agent.next_alert, agent.alert_until)
