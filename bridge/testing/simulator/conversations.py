"""The conversations of one agent (mail, SMS, chat): they begin, alternate between customer and agent, and close.

Pure: time is passed in as virtual seconds since the simulator's start. They belong to the agent, not to one login. Like
the agent's day, they depend only on the seed and on that time.
"""

import heapq
from collections.abc import Collection
from dataclasses import dataclass, field
from math import inf
from random import Random

from bridge.testing.simulator import statuses
from bridge.testing.simulator.pictures import phone
from bridge.testing.simulator.wire import Value, timestamp

CONVERSATION_SIDS = 6 * 10**18
CAMPAIGN_SID = 7 * 10**18 + 1
CHANNELS = ("CHANNEL_TYPE_EMAIL", "CHANNEL_TYPE_SMS", "CHANNEL_TYPE_CHAT", "CHANNEL_TYPE_WHATSAPP")
NAMES = ("Ana", "Ben", "Chidi", "Dora", "Emil", "Farah")
PAGE = 3
"""Conversations on a page, so that most lists have several."""

ARRIVALS_A_CHANGE = 0.2
TURNS_A_CHANGE = 0.25
"""Turns of each conversation, on average, for each change of an agent's status."""
CLOSED_AT_A_TURN = 0.2

_CUSTOMER, _AGENT = "CONVERSATION_STATUS_AWAITING_REPLY_FROM_CUSTOMER", "CONVERSATION_STATUS_AWAITING_REPLY_FROM_AGENT"


@dataclass(slots=True)
class Conversations:
    """The open conversations by sid, the oldest first; ``epoch`` is virtual time 0 in seconds since 1970."""

    agent_id: str
    first_sid: int
    skill: str
    rng: Random
    change_rate: float
    epoch: float
    open: dict[int, Value] = field(default_factory=dict)
    arrivals: int = 0
    next_arrival: float = inf
    turns: list[tuple[float, int]] = field(default_factory=list)


def opened(index: int, agent_id: str, skill: str, seed: int, *, change_rate: float, epoch: float) -> Conversations:
    """The conversations that agent ``index`` has at virtual time 0: one to three."""
    rng = statuses.dice(seed, f"conversations {index}")
    made = Conversations(agent_id, CONVERSATION_SIDS + index * 10**9, skill, rng, change_rate, epoch)
    for _ in range(1 + rng.randrange(3)):
        _arrive(made, 0.0)
    made.next_arrival = _after(made, 0.0, ARRIVALS_A_CHANGE)
    return made


def advance(conversations: Conversations, now: float) -> None:
    """Lets conversations begin, have their turns and close until ``now``."""
    while True:
        turn = conversations.turns[0][0] if conversations.turns else inf
        if min(conversations.next_arrival, turn) > now:
            return
        if conversations.next_arrival <= turn:
            at = conversations.next_arrival
            conversations.next_arrival = _after(conversations, at, ARRIVALS_A_CHANGE)
            _arrive(conversations, at)
        else:
            _turn(conversations, *heapq.heappop(conversations.turns))


def add(conversations: Conversations, now: float, **fields: object) -> int:
    """Adds a conversation that does not change, and returns its sid. ``fields`` override the generated values."""
    value = {**_made_up(conversations, now), **fields}
    sid = value["conversation_sid"] = int(value["conversation_sid"])
    conversations.open[sid] = value
    return sid


def change(conversations: Conversations, sid: int, **fields: object) -> bool:
    """Replaces fields of a conversation; False if there is none."""
    if sid not in conversations.open:
        return False
    conversations.open[sid] = {**conversations.open[sid], **fields, "conversation_sid": sid}
    return True


def page(
    conversations: Conversations, after: int, statuses: Collection[str], channels: Collection[str]
) -> tuple[list[Value], int]:
    """The conversations of the next page, with sids above ``after``, and the sid after which the list continues (0: at
    its end).

    ``statuses`` and ``channels``: only these, if there are any.
    """
    mine = [
        value
        for sid, value in sorted(conversations.open.items())
        if sid > after
        and (not statuses or value["status"] in statuses)
        and (not channels or value["channel_type"] in channels)
    ]
    return mine[:PAGE], mine[PAGE - 1]["conversation_sid"] if len(mine) > PAGE else 0


def _arrive(conversations: Conversations, now: float) -> None:
    sid = add(conversations, now)
    _schedule(conversations, sid, now)


def _turn(conversations: Conversations, now: float, sid: int) -> None:
    value, at = conversations.open.get(sid), timestamp(conversations.epoch + now)
    if value is None:
        return
    if conversations.rng.random() < CLOSED_AT_A_TURN:
        del conversations.open[sid]
        return
    by_customer = value["status"] == _CUSTOMER
    change(
        conversations,
        sid,
        status=_AGENT if by_customer else _CUSTOMER,
        last_message_group_type="OMNI_SENDER_TYPE_CUSTOMER" if by_customer else "OMNI_SENDER_TYPE_AGENT",
        date_modified=at,
        last_message_time=at,
        last_message_group_time=at,
        last_state_changed_time=at,
    )
    _schedule(conversations, sid, now)


def _schedule(conversations: Conversations, sid: int, now: float) -> None:
    at = _after(conversations, now, TURNS_A_CHANGE)
    if at < inf:
        heapq.heappush(conversations.turns, (at, sid))


def _made_up(conversations: Conversations, now: float) -> Value:
    conversations.arrivals += 1
    rng, at = conversations.rng, timestamp(conversations.epoch + now)
    sid, name = conversations.first_sid + conversations.arrivals * 1003, rng.choice(NAMES)
    channel = rng.choice(CHANNELS)
    address = (
        {"customer_email_address": f"{name.lower()}@example.com"}
        if channel == "CHANNEL_TYPE_EMAIL"
        else {"customer_phone_number": phone(rng)}
    )
    return {
        "conversation_sid": sid,
        "channel_type": channel,
        "skills": {"skills": {conversations.skill: True}},
        "date_created": at,
        "date_modified": at,
        "status": "CONVERSATION_STATUS_NEWLY_ASSIGNED",
        **address,
        "customer_name": name,
        "campaign_sid": CAMPAIGN_SID,
        "last_message_time": at,
        "conversation_assignments": [
            {
                "conversation_assignment_sid": sid + 1,
                "conversation_sid": sid,
                "is_active": True,
                "date_created": at,
                "date_modified": at,
                "user_id": conversations.agent_id,
                "metadata": {"user_name": conversations.agent_id},
            }
        ],
        "metadata": {"campaign_name": "spring", "support_email": "support@example.com"},
        "last_message_group_time": at,
        "last_message_group_type": "OMNI_SENDER_TYPE_CUSTOMER",
        "last_state_changed_time": at,
    }


def _after(conversations: Conversations, now: float, a_change: float) -> float:
    rate = conversations.change_rate * a_change
    return now + conversations.rng.expovariate(rate) if rate > 0 else inf
