"""The list of an agent's conversations: what is asked, what is published, and what is concluded from nothing."""

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asm_bridge_schemas import asm
from asm_bridge_schemas.records import AgentObservationLost, AgentState, ConversationChanged, Published
from bridge.agents.conversations import MAX_IN_VIEW, MAX_PAGES, NOT_ASKED
from bridge.agents.request import PollRequest
from bridge.asm.errors import ForeignAnswer, Refused, Throttled, Unauthorized, Unreachable
from tests.support.agent_harness import AgentHarness
from tests.support.poller_harness import Answer, PollerHarness, after, no_conversations, ready, stop_pollers
from tests.support.strategies import list_body, session_body, status_body

NEW, WAITING = "CONVERSATION_STATUS_NEW", "CONVERSATION_STATUS_AWAITING_REPLY_FROM_CUSTOMER"
FIELDS = list(asm.OmniConversation.__struct_fields__)


def conversation(sid: int | str, status: str = NEW, **fields: Any) -> dict[str, Any]:
    return {"conversationSid": str(sid), "status": status, **fields}


def next_list(harness: AgentHarness) -> PollRequest:
    """The request for a page that is made where no status poll is due."""
    agent = harness.agent
    assert agent.urgent
    assert agent.in_flight is None
    agent.in_flight = agent.next_request("t", harness.at, status=False)
    assert agent.in_flight.call == "listconversations"
    return agent.in_flight


def listed(harness: AgentHarness, *conversations: dict[str, Any], then: str = "") -> list[ConversationChanged]:
    """What is published when a page is answered with these; a list that is not begun is due."""
    harness.agent.conversations.tick(harness.at)
    return changes(harness.answer(next_list(harness), list_body(*conversations, then=then)))


def changes(published: list[Published]) -> list[ConversationChanged]:
    return [record for record in published if isinstance(record, ConversationChanged)]


def told(published: list[ConversationChanged]) -> list[tuple[str, str]]:
    return [(record.change, record.conversation_sid) for record in published]


def harness_of(**fields: Any) -> AgentHarness:
    return AgentHarness(**fields).in_session(get_conversations=True)


def heir(old: AgentHarness, **fields: Any) -> AgentHarness:
    """The process that takes over from the committed state, as it is read from Kafka."""
    state = msgspec.json.decode(msgspec.json.encode(old.agent.state), type=AgentState)
    harness = AgentHarness(state=state, now=old.now, records=old.records, picture=old.picture)
    harness.watch(**{"get_conversations": True, **fields})
    return harness


def test_agents_that_are_not_asked_share_their_list() -> None:
    """An agent has a list of conversations of its own only once it is asked for them; whatever happens to one without
    changes none of the others."""
    before = [getattr(NOT_ASKED, name) for name in NOT_ASKED.__slots__]
    asked, other = harness_of(), AgentHarness().in_session()
    listed(asked, conversation(1))
    heir(asked, get_conversations=False)
    other.agent.conversations.tick(other.at)
    assert other.agent.conversations is NOT_ASKED
    assert not other.agent.urgent
    assert [getattr(NOT_ASKED, name) for name in NOT_ASKED.__slots__] == before
    other.watch(get_conversations=True)
    assert told(listed(other, conversation(2))) == [("entered", "2")]


def test_a_conversation_enters_changes_and_leaves() -> None:
    """Publishes each conversation that comes, changes (with the names of what differs) and goes, in snake_case."""
    harness = harness_of()
    entered = listed(harness, conversation(2**60 + 1, customerName="Ana"), conversation(2))
    assert told(entered) == [("entered", str(2**60 + 1)), ("entered", "2")]
    assert entered[0].changed == FIELDS
    assert entered[0].conversation is not None
    assert list(entered[0].conversation) == FIELDS
    assert entered[0].conversation["customer_name"] == "Ana"
    (updated,) = listed(harness, conversation(2**60 + 1, WAITING, customerName="Ben"), conversation(2))
    assert (updated.change, updated.changed) == ("updated", ["status", "customer_name"])
    (left,) = listed(harness, conversation(2**60 + 1, WAITING, customerName="Ben"))
    assert (left.change, left.conversation_sid, left.changed) == ("left", "2", [])
    assert left.conversation is not None
    assert left.conversation["status"] == NEW


def test_a_conversations_times_are_in_utc() -> None:
    """Every readable time of a conversation is published in UTC, also inside it; the same instant in another form is no
    change; what cannot be read stays as it was sent."""
    harness = harness_of()

    def at(time: str) -> dict[str, Any]:
        assignments = [{"dateCreated": time}]
        return conversation(1, dateCreated=time, endTime="1s", conversationAssignments=assignments)

    (entered,) = listed(harness, at("2026-11-28T10:00:00.5+05:30"))
    assert entered.conversation is not None
    assert entered.conversation["date_created"] == "2026-11-28T04:30:00.5Z"
    assert entered.conversation["conversation_assignments"][0]["date_created"] == "2026-11-28T04:30:00.5Z"
    assert entered.conversation["end_time"] == "1s"
    assert listed(harness, at("2026-11-28T04:30:00.5Z")) == []


def test_the_same_list_is_no_change() -> None:
    """Publishes nothing and leaves the state as it is where a list is the same, also where its order is another."""
    harness = harness_of()
    listed(harness, conversation(1), conversation(2))
    state = harness.agent.state
    assert listed(harness, conversation(1), conversation(2)) == []
    assert listed(harness, conversation(2), conversation(1)) == []
    assert harness.agent.state is state


def test_the_first_list_follows_the_first_status() -> None:
    """Asks for conversations once the session's status is published, and for nothing else of an agent without them."""
    harness = AgentHarness()
    harness.watch(get_conversations=True)
    assert harness.next_request().call == "getcurrentsession"
    harness.answer(harness.agent.in_flight, session_body("7"))  # type: ignore[arg-type]
    request = harness.next_request()
    assert request.call == "getstatus"
    harness.answer(request, status_body())
    request = next_list(harness)
    assert json.loads(request.body) == {"asm_session_sid": "7"}
    harness.answer(request, list_body())
    assert not harness.agent.urgent
    assert not AgentHarness().in_session().agent.urgent


def test_a_status_poll_is_not_replaced() -> None:
    """Asks for the status at its tick although conversations are due, and for these afterwards."""
    harness = harness_of()
    assert harness.next_request().call == "getstatus"
    harness.answer(harness.agent.in_flight, status_body("PEERED"))  # type: ignore[arg-type]
    next_list(harness)


def test_events_go_first() -> None:
    """Sends an event before it asks for conversations that are due."""
    harness = harness_of()
    harness.inject(5)
    harness.agent.in_flight = harness.agent.next_request("t", harness.at, status=False)
    assert harness.agent.in_flight.call == "getstatus"
    assert len(harness.agent.in_flight.injections) == 1


def test_a_list_is_compared_when_its_last_page_is_there() -> None:
    """Reads all pages, each with the token of the one before, and says nothing before the last."""
    harness = harness_of()
    listed(harness, conversation(1), conversation(9))
    assert listed(harness, conversation(1, WAITING), then="p2") == []
    request = next_list(harness)
    assert json.loads(request.body) == {"asm_session_sid": "7", "page_token": "p2"}
    assert harness.answer(request, list_body(conversation(2), then="p3")) == []
    request = next_list(harness)
    assert json.loads(request.body)["page_token"] == "p3"
    assert told(changes(harness.answer(request, list_body(conversation(3))))) == [
        ("left", "9"), ("updated", "1"), ("entered", "2"), ("entered", "3"),
    ]  # fmt: skip
    assert not harness.agent.urgent
    assert "page_token" not in json.loads(_due(harness).body)


def _due(harness: AgentHarness) -> PollRequest:
    harness.agent.conversations.tick(harness.at)
    return next_list(harness)


@pytest.mark.parametrize(
    "error",
    [
        Refused("400", http_status=400),
        Unreachable("gone"),
        ForeignAnswer("x", http_status=404),
        Unauthorized("no", http_status=403),
        Throttled("wait", retry_after=20.0),
    ],
)
def test_a_failure_concludes_nothing(error: Any) -> None:
    """Forgets the pages of a list whose second one fails, keeps what is in view, and leaves the status polls alone."""
    harness = harness_of()
    listed(harness, conversation(1), conversation(2))
    listed(harness, conversation(3), then="p2")
    assert harness.fail(next_list(harness), error) == []
    assert not harness.agent.urgent
    assert harness.agent.problem is None
    assert harness.agent.health.may_poll("t", harness.at)
    assert harness.next_request().call == "getstatus"
    harness.answer(harness.agent.in_flight, status_body())  # type: ignore[arg-type]
    harness.now += 30
    request = _due(harness)
    assert "page_token" not in json.loads(request.body)
    body = list_body(conversation(1), conversation(2), conversation(3))
    assert told(changes(harness.answer(request, body))) == [("entered", "3")]


def test_the_service_is_not_asked_again_before_its_time() -> None:
    """Waits as long as Retry-After says, whatever the interval."""
    harness = harness_of()
    harness.fail(next_list(harness), Throttled("wait", retry_after=20.0))
    harness.now += 19
    harness.agent.conversations.tick(harness.at)
    assert not harness.agent.urgent
    harness.now += 1
    harness.agent.conversations.tick(harness.at)
    assert harness.agent.urgent


def test_a_list_without_an_answer_for_long_is_a_loss() -> None:
    """Reports the agent as lost when a request for conversations kept its status polls waiting too long."""
    harness = harness_of()
    request = next_list(harness)
    harness.now += 10
    (lost,) = harness.fail(request, Unreachable("no answer"))
    assert isinstance(lost, AgentObservationLost)
    assert lost.reason == "unreachable"


@pytest.mark.parametrize("body", [b'{"conversations": "none"}', b'{"conversations": [{"conversationSid": 1.5}]}'])
def test_what_cannot_be_read_concludes_nothing(body: bytes) -> None:
    """Keeps what is in view where an answer is not a list of conversations."""
    harness = harness_of()
    listed(harness, conversation(1))
    assert harness.answer(_due(harness), body) == []
    harness.now += 30
    assert listed(harness, conversation(1)) == []


@pytest.mark.parametrize("tokens", [["a"] * 3, [str(number) for number in range(2 * MAX_PAGES)]])
def test_a_list_that_does_not_end_concludes_nothing(tokens: list[str]) -> None:
    """Gives a list up that repeats its token, or has more pages than any list should."""
    harness = harness_of()
    listed(harness, conversation(1))
    harness.agent.conversations.tick(harness.at)
    pages = 0
    for token in tokens:
        if not harness.agent.urgent:
            break
        pages += 1
        assert harness.answer(next_list(harness), list_body(then=token)) == []
    assert pages in (2, MAX_PAGES)
    harness.now += 30
    assert listed(harness, conversation(1)) == []


@pytest.mark.parametrize("end", [session_body(None), session_body("8")])
def test_at_a_sessions_end_each_leaves(end: bytes) -> None:
    """Publishes each conversation in view as left before the session's end; the next session begins with none."""
    harness = harness_of()
    listed(harness, conversation(1), conversation(2))
    listed(harness, conversation(3), then="p2")
    harness.fail(harness.next_request(), Refused("404", http_status=404))
    published = harness.answer(harness.next_request(), end)
    assert told(changes(published)) == [("left", "1"), ("left", "2")]
    assert [type(record).__name__ for record in published] == ["ConversationChanged"] * 2 + ["AgentSessionEnded"]
    assert {record.asm_session_sid for record in changes(published)} == {"7"}
    assert harness.agent.state.bridge.conversations == {}


def test_a_page_of_a_session_that_is_over_says_nothing() -> None:
    """Passes over a page that was asked for before the registry entry changed, also where the list goes on."""
    harness = harness_of()
    listed(harness, conversation(1), conversation(2))
    listed(harness, conversation(1), then="p2")
    request = next_list(harness)
    harness.watch(get_conversations=True, skills=["english"])
    assert harness.answer(request, list_body(conversation(2))) == []
    assert "page_token" not in json.loads(next_list(harness).body)


def test_conversations_that_are_not_asked_for_leave() -> None:
    """Publishes all as left when the registry entry no longer asks for conversations, also after a take-over."""
    for harness in (harness_of(), harness_of()):
        listed(harness, conversation(1))
    assert told(changes(harness.watch())) == [("left", "1")]
    assert not harness.agent.urgent
    other = harness_of()
    listed(other, conversation(1))
    new = heir(other, get_conversations=False)
    assert new.agent.state.bridge.conversations == {}
    assert told(changes(new.records))[-1] == ("left", "1")


def test_what_is_in_view_survives_a_take_over() -> None:
    """Says after a take-over what has changed since, field by field; of one that left, only its sid is known."""
    old = harness_of()
    listed(old, conversation(1), conversation(2), conversation(3))
    harness = heir(old)
    harness.poll()
    published = listed(harness, conversation(1), conversation(2, WAITING), conversation(4))
    assert [(one.change, one.conversation_sid, one.changed) for one in published] == [
        ("left", "3", []), ("updated", "2", ["status"]), ("entered", "4", FIELDS),
    ]  # fmt: skip
    assert published[0].conversation is None


def test_of_thousands_only_so_many_are_in_view() -> None:
    """Keeps the state small: the first conversations come into view and stay; others follow when these leave."""
    harness = harness_of()
    many = [conversation(sid) for sid in range(1, 5001)]
    assert len(listed(harness, *many)) == MAX_IN_VIEW
    assert len(msgspec.json.encode(harness.agent.state)) < 32 * 1024
    assert listed(harness, *reversed(many)) == []
    assert told(listed(harness, *many[1:])) == [("left", "1"), ("entered", str(MAX_IN_VIEW + 1))]


def test_a_conversation_that_no_record_can_hold() -> None:
    """Publishes a conversation larger than 512 KiB without its content."""
    (entered,) = listed(harness_of(), conversation(1, customerName="x" * 600_000))
    assert (entered.change, entered.conversation) == ("entered", None)


def test_a_conversation_without_a_sid_is_passed_over() -> None:
    """Publishes nothing about a conversation that nothing identifies."""
    assert listed(harness_of(), {"status": WAITING}) == []


def test_an_old_release_reads_the_state() -> None:
    """Writes nothing new into the state of an agent without conversations."""
    harness = AgentHarness().in_session()
    assert b"conversations" not in msgspec.json.encode(harness.agent.state)


_views = st.dictionaries(
    st.sampled_from("12345"), st.tuples(st.sampled_from([NEW, WAITING]), st.sampled_from(["Ana", "Ben"])), max_size=4
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(_views, st.integers(1, 3), st.sampled_from(["whole", "whole", "fails", "dies", "ends"]))))
def test_who_applies_the_records_has_the_list(story: list[tuple[dict[str, tuple[str, str]], int, str]]) -> None:
    """Whatever happens, and whichever owner continues, a reader who applies each record has the whole last list."""
    harness, expected = harness_of(), dict[str, tuple[str, str]]()
    for view, size, event in story:
        harness.now += 60
        own = [conversation(sid, status, customerName=name) for sid, (status, name) in view.items()]
        pages = [own[at : at + size] for at in range(0, len(own), size)] or [[]]
        for number, page in enumerate(pages):
            last = number == len(pages) - 1
            if last and event == "fails":
                harness.fail(_due(harness), Unreachable("gone"))
            else:
                listed(harness, *page, then="" if last else f"p{number}")
                expected = view if last else expected
        if event == "dies":
            harness = heir(harness)
            harness.poll()
        elif event == "ends":
            expected = {}
            harness.fail(harness.next_request(), Refused("404", http_status=404))
            harness.answer(harness.next_request(), session_body(None))
            for body in (session_body("7"), status_body()):
                harness.answer(harness.next_request(), body)
        found = {sid: (one["status"], one["customer_name"]) for sid, one in harness.picture.conversations.items()}
        assert found == expected


# ------------------------------------------------------------------------------------------------- in the schedule


@pytest.fixture(autouse=True)
async def _stop_pollers() -> AsyncIterator[None]:
    yield
    await stop_pollers()


def answers(status: int, body: bytes = b'{"code": 0, "message": "", "details": []}') -> Answer:
    async def answer(_: PollerHarness, __: str) -> httpx.Response:
        return httpx.Response(status, content=body)

    return answer


def error(status: int, code: int) -> Answer:
    return answers(status, json.dumps({"code": code, "message": "no", "details": []}).encode())


def gaps(times: list[float]) -> list[float]:
    return [later - sooner for sooner, later in pairwise(times)]


def list_times(harness: PollerHarness, agent_id: str = "a") -> list[float]:
    return [time for time, name in harness.lists if name == agent_id]


def longest_gap(harness: PollerHarness, agent_id: str = "a") -> float:
    return max(gaps(harness.times(agent_id)))


@pytest.mark.parametrize(("interval", "every"), [(1.0, 10.0), (1.0, 0.7), (60.0, 10.0), (1.0, 1.0)])
async def test_both_keep_their_rhythm(interval: float, every: float) -> None:
    """Asks for conversations at their own interval, be it shorter or longer than the one of the status polls."""
    harness = PollerHarness(after(0.2))
    harness.watch("a", interval, get_conversations=True, conversations_interval=every)
    await harness.advance(240)
    assert 240 / interval - 1 <= len(harness.times()) <= 240 / interval + 2
    assert 240 / every - 2 <= len(list_times(harness)) <= 240 / every + 2
    assert interval > 1 or longest_gap(harness) < 1.35
    assert max(gaps(list_times(harness)[1:])) < every + 0.35


async def test_a_status_poll_follows_a_slow_list_at_once() -> None:
    """Makes up for the status poll whose time came while a list was read, after the page that was under way."""
    harness = PollerHarness()
    pages = iter([*(list_body(conversation(sid), then=f"p{sid}") for sid in range(1, 8)), list_body(conversation(8))])

    async def page(_: PollerHarness, __: str) -> httpx.Response:
        return httpx.Response(200, content=next(pages, b"{}"))

    harness.list_answer = after(0.7, page)
    harness.watch("a", get_conversations=True, conversations_interval=3600)
    await harness.advance(20)
    assert len([record for record in harness.records if isinstance(record, ConversationChanged)]) == 8
    assert longest_gap(harness) < 1.8
    assert 19 <= len(harness.times()) <= 21


async def test_a_list_that_is_being_read_delays_no_event() -> None:
    """Sends an event after the page that is under way, and before the next one."""
    harness = PollerHarness()
    harness.list_answer = after(0.5, answers(200, list_body(conversation(1), then="p2")))
    agent = harness.watch("a", interval=60, get_conversations=True, conversations_interval=3600)
    await harness.advance(agent.share + 0.2)
    assert agent.in_flight is not None
    assert agent.in_flight.call == "listconversations"
    harness.inject(agent, 1)
    await harness.advance(0.7)
    assert harness.outcomes == ["delivered"]


@pytest.mark.parametrize("answer", [error(403, 7), error(404, 5), error(501, 12), error(429, 8), error(500, 13),
                                    answers(403, b"<html>blocked</html>")])  # fmt: skip
async def test_a_service_without_conversations_is_not_down(answer: Answer) -> None:
    """Keeps the rhythm of all status polls, and the circuit closed, where every request for conversations fails."""
    harness = PollerHarness()
    harness.list_answer = answer
    for number in range(20):
        harness.watch(f"agent-{number}", get_conversations=True, conversations_interval=2)
    await harness.advance(60)
    assert not harness.circuit_breaker.is_open
    assert max(longest_gap(harness, f"agent-{number}") for number in range(20)) < 1.1
    assert 2 <= len(list_times(harness, "agent-0")) <= 25


async def test_a_host_that_is_down_is_probed_by_status_polls() -> None:
    """Asks for no conversations while the circuit is open, and for all of them afterwards."""
    harness = PollerHarness()
    for number in range(20):
        harness.watch(f"agent-{number}", get_conversations=True, conversations_interval=2)
    await harness.advance(10)

    async def gone(_: PollerHarness, __: str) -> httpx.Response:
        raise httpx.ConnectError("gone")

    harness.answer = harness.list_answer = gone
    await harness.advance(10)
    assert harness.circuit_breaker.is_open
    before = len(harness.lists)
    await harness.advance(30)
    assert len(harness.lists) == before
    harness.answer, harness.list_answer = ready, no_conversations
    await harness.advance(40)
    assert len({name for _, name in harness.lists[before:]}) == 20


async def test_a_rate_limit_holds_for_both() -> None:
    """Counts requests for conversations against the limit, and lets neither kind starve the other."""
    harness = PollerHarness(rate_limit=10)
    for number in range(8):
        harness.watch(f"agent-{number}", get_conversations=True, conversations_interval=1)
    await harness.advance(30)
    assert len(harness.requests) + len(harness.lists) <= 10 * 30 + 10
    assert len(harness.requests) >= 180
    assert len(harness.lists) >= 30


async def test_the_interval_of_conversations_is_live() -> None:
    """Asks at the new interval once the registry entry names another, and no more once it asks for none."""
    harness = PollerHarness()
    harness.watch("a", get_conversations=True, conversations_interval=600)
    await harness.advance(30)
    assert len(harness.lists) == 1
    harness.watch("a", get_conversations=True, conversations_interval=1)
    await harness.advance(30)
    assert len(harness.lists) > 25
    harness.watch("a")
    before = len(harness.lists)
    await harness.advance(30)
    assert len(harness.lists) == before
    assert longest_gap(harness) < 1.6
