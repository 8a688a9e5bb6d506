"""The injections that wait for one agent, and their outcomes, rule by rule."""

from typing import Any

import pytest

from asm_bridge_schemas import records
from asm_bridge_schemas.records import AgentState, Books, InjectionCompleted
from bridge.agents.bounds import MAX_BYTES
from bridge.agents.injection import Injection, read_injection
from bridge.agents.queue import REMEMBERED
from bridge.asm.errors import AsmError, Unavailable
from tests.support.queue_harness import QueueHarness, offsets
from tests.support.strategies import EPOCH, PAUSE_EVENT, TTL, Message, injection


def read(offset: int, *, possibly_processed: bool = False, **fields: Any) -> Injection:
    return read_injection(Message(offset, **fields), TTL, possibly_processed)


def failure(http_status: int | None, possibly_processed: bool = False) -> AsmError:
    return Unavailable("it fails", http_status=http_status, possibly_processed=possibly_processed)


def test_entries_go_out_in_order_and_in_batches() -> None:
    """Entries of an agent go out in order, at most max_events_per_request per request."""
    queue = QueueHarness(max_events_per_request=2).inject(1, 2, 3)
    assert queue.deliver() == [1, 2]
    assert queue.deliver() == [3]
    assert queue.outcomes == dict.fromkeys([1, 2, 3], "delivered")


def test_a_request_stays_within_bounds() -> None:
    """Large events are not combined beyond the limit of a request; one alone always goes out."""
    event = b'{"sent_message_event": {"conversation": {"customer_name": "%s"}}}' % (b"x" * 400_000)
    large = [read_injection(Message(offset, value=event), TTL, possibly_processed=False) for offset in (1, 2, 3)]
    queue = QueueHarness().add(*large)
    assert queue.deliver() == [1, 2]
    assert queue.deliver() == [3]


def test_each_delivered_event_is_told_before_its_outcome() -> None:
    """A 2xx answer emits ConversationEventDelivered with the event as sent, and then the outcome delivered."""
    value = b'{"activatedConversationEvent": {"conversation": {"conversationSid": 12}}, "eventTime": 5}'
    queue = QueueHarness().add(
        read_injection(Message(1, value=value, headers=[("ce_id", b"x")]), TTL, possibly_processed=False)
    )
    queue.deliver()
    event, outcome = queue.step.records
    assert isinstance(event, records.ConversationEventDelivered)
    assert (event.kind, event.conversation_sid, event.injection_id) == ("activated_conversation_event", "12", "x")
    assert event.event == {
        "activated_conversation_event": {"conversation": {"conversation_sid": "12"}},
        "event_time": "5",
    }
    assert isinstance(outcome, InjectionCompleted)
    assert (outcome.outcome, outcome.http_status, outcome.attempts) == ("delivered", 200, 1)
    assert queue.step.dead_letters == []


def test_a_repeated_id_is_sent_once() -> None:
    """A second record with the same (ce_source, ce_id) has the outcome duplicate and no dead letter."""
    queue = QueueHarness().inject(1, ce_id="x", ce_source="/crm")
    queue.deliver()
    queue.inject(2, ce_id="x", ce_source="/crm").inject(3, ce_id="x").inject(4, ce_id="x", ce_source="/other")
    assert queue.outcomes == {1: "delivered", 2: "duplicate"}
    assert queue.waiting == [3, 4]
    assert queue.step.dead_letters == []


def test_a_repetition_waits_until_the_first_is_delivered() -> None:
    """A repetition waits until the first is delivered, and never goes out in the same request."""
    queue = QueueHarness().inject(1, 2, ce_id="x").inject(3)
    assert queue.deliver() == [1]
    assert queue.outcomes == {1: "delivered", 2: "duplicate"}
    assert queue.deliver() == [3]


def test_after_any_other_outcome_of_the_first_the_second_is_sent() -> None:
    """A repetition is sent if the first was rejected, expired or given up."""
    rejected = QueueHarness().inject(1, 2, ce_id="x")
    rejected.pending.refused(rejected.step, rejected.take(), 400)
    assert rejected.deliver() == [2]
    assert rejected.outcomes == {1: "rejected:refused", 2: "delivered"}

    expired = QueueHarness().inject(1, ce_id="x").at(TTL - 1).inject(2, ce_id="x").at(TTL).sweep()
    assert expired.deliver() == [2]
    assert expired.outcomes == {1: "expired", 2: "delivered"}

    exhausted = QueueHarness(max_attempts=1).inject(1, 2, ce_id="x")
    exhausted.pending.failed(exhausted.step, exhausted.take(), failure(500))
    assert exhausted.deliver() == [2]
    assert exhausted.outcomes == {1: "undeliverable:attempts_exhausted", 2: "delivered"}


def test_the_last_hundred_delivered_are_remembered() -> None:
    """The last 100 delivered ids of an agent are remembered, also by the next owner; an older one is sent again."""
    queue = QueueHarness()
    for number in range(REMEMBERED + 1):
        queue.inject(number, ce_id=str(number))
        queue.deliver()
    later = QueueHarness(queue.step.state)
    later.inject(200, ce_id="1").inject(201, ce_id="0")
    assert REMEMBERED == 100
    assert later.outcomes == {200: "duplicate"}
    assert later.waiting == [201]


def test_an_entry_without_id_is_no_repetition() -> None:
    """An entry without ce_id is not a duplicate of one whose ce_id looks like its record id."""
    queue = QueueHarness().inject(1, ce_id="3/2")
    queue.deliver()
    queue.inject(2)
    assert queue.deliver() == [2]


def test_refused_entries_are_tried_one_by_one() -> None:
    """Refused entries are tried one by one, and later ones go out in batches again."""
    queue = QueueHarness().inject(1, 2, 3)
    queue.pending.refused(queue.step, queue.take(), 400)
    assert queue.completed == []
    queue.inject(4, 5)
    assert queue.deliver() == [1]
    queue.pending.refused(queue.step, queue.take(), 422)
    assert queue.deliver() == [3]
    assert queue.deliver() == [4, 5]
    assert queue.outcomes == {2: "rejected:refused"} | dict.fromkeys([1, 3, 4, 5], "delivered")
    (bad,) = [one for one in queue.completed if one.outcome == "rejected"]
    assert (bad.http_status, bad.attempts) == (422, 2)
    assert [(letter.code, str(letter.origin)) for letter in queue.step.dead_letters] == [("refused", "asm.inject/3/2")]


def test_attempts_are_counted_and_end() -> None:
    """After max_attempts failures an entry is undeliverable (attempts_exhausted) and a dead letter."""
    queue = QueueHarness(max_attempts=3).inject(1)
    for _ in range(3):
        queue.pending.failed(queue.step, queue.take(), failure(503))
    (end,) = queue.completed
    assert (end.outcome, end.reason, end.attempts, end.http_status) == ("undeliverable", "attempts_exhausted", 3, 503)
    assert not end.possibly_repeated
    assert [letter.code for letter in queue.step.dead_letters] == ["attempts_exhausted"]


@pytest.mark.parametrize("possibly_processed", [True, False])
def test_the_outcome_says_whether_it_may_have_been_repeated(possibly_processed: bool) -> None:
    """An entry that was sent without an answer is sent again, and its outcome says possibly_repeated."""
    queue = QueueHarness().inject(1)
    queue.pending.failed(queue.step, queue.take(), failure(None, possibly_processed))
    queue.pending.failed(queue.step, queue.take(), failure(429))
    queue.deliver()
    assert [one.possibly_repeated for one in queue.completed] == [possibly_processed]


def test_what_expires_is_expired() -> None:
    """An entry expires exactly at expires_at or at the end of its time to live, without a dead letter."""
    queue = QueueHarness().inject(1).inject(2, expires_at="2026-09-21T14:13:50Z")
    assert queue.at(29.9).sweep().outcomes == {}
    assert queue.at(30).sweep().outcomes == {2: "expired"}
    assert queue.at(TTL).sweep().outcomes == {1: "expired", 2: "expired"}
    assert queue.step.dead_letters == []


def test_what_has_expired_is_not_sent() -> None:
    """An expired entry is not sent, even before the next check of the deadlines."""
    queue = QueueHarness().inject(1).at(TTL - 1).inject(2).at(TTL)
    assert offsets(queue.take()) == [2]
    assert queue.add(injection(3, EPOCH)).outcomes == {3: "expired"}


def test_what_is_under_way_does_not_expire() -> None:
    """An entry in flight does not expire, since its answer may deliver it."""
    queue = QueueHarness().inject(1, 2)
    taken = queue.take()[:1]
    queue.at(TTL).sweep(unknown_since=0, busy=taken)
    assert queue.outcomes == {2: "expired"}
    queue.pending.delivered(queue.step, taken, "7", 200)
    assert queue.outcomes == {2: "expired", 1: "delivered"}


def test_an_unknown_agents_entry_waits_a_while() -> None:
    """An unknown agent's entry is undeliverable (unknown_agent) after unknown_agent_grace from its arrival or the
    agent's removal.
    """
    queue = QueueHarness().inject(1)
    assert queue.at(9.9).sweep(unknown_since=0).outcomes == {}
    assert queue.at(15).sweep(unknown_since=EPOCH + 5.1).outcomes == {}
    assert queue.at(15.2).sweep(unknown_since=EPOCH + 5.1).outcomes == {1: "undeliverable:unknown_agent"}
    assert [letter.code for letter in queue.step.dead_letters] == ["unknown_agent"]


def test_what_has_expired_is_expired_all_the_same() -> None:
    """An unknown agent's entry that has expired has the outcome expired, and no dead letter."""
    queue = QueueHarness().inject(1, expires_at="2026-09-21T14:13:21Z").at(60).sweep(unknown_since=0)
    assert queue.outcomes == {1: "expired"}
    assert queue.step.dead_letters == []


def test_more_than_max_pending_is_backlog() -> None:
    """An entry beyond max_pending is refused (backlog), and the waiting ones keep their places."""
    queue = QueueHarness(max_pending=2).inject(1, 2, 3)
    assert queue.outcomes == {3: "undeliverable:backlog"}
    assert queue.waiting == [1, 2]
    assert [letter.code for letter in queue.step.dead_letters] == ["backlog"]


def test_what_is_no_event_is_a_dead_letter_with_its_value() -> None:
    """A record that is not an event is undeliverable, and its dead letter has its value."""
    queue = QueueHarness().add(
        read_injection(Message(1, value=b"{", headers=[("x", b"y")]), TTL, possibly_processed=True)
    )
    assert queue.outcomes == {1: "undeliverable:malformed_event"}
    (letter,) = queue.step.dead_letters
    assert (letter.key, letter.value, letter.headers) == (b"agent-7", b"{", (("x", b"y"),))
    assert not queue.completed[0].possibly_repeated


def test_what_is_too_large_is_a_dead_letter_without_its_value() -> None:
    """A record over 512 KiB is undeliverable (too_large), and its dead letter has no value."""
    queue = QueueHarness().add(read(1, value=b"x" * (MAX_BYTES + 1), possibly_processed=False))
    assert queue.outcomes == {1: "undeliverable:too_large"}
    assert queue.step.dead_letters[0].value is None


def inbox(queue: QueueHarness) -> tuple[int, list[int]]:
    """The inbox's offset and open entries as the state has them."""
    return queue.step.state.bridge.inbox_offset, queue.step.state.bridge.inbox_open


def test_the_state_accounts_for_each_entry() -> None:
    """inbox_offset and inbox_open say which offsets are completed."""
    queue = QueueHarness().inject(3, 5, 8)
    assert inbox(queue) == (-1, [])
    queue.pending.delivered(queue.step, queue.take()[1:2], "7", 200)
    assert inbox(queue) == (5, [3])
    queue.deliver()
    assert inbox(queue) == (8, [])


def test_the_next_owner_forgets_no_open_entry() -> None:
    """If entries 3 and 7 are open when a process dies, 7 stays open when the next owner completes 3 before it has read
    7.
    """
    books = Books(inbox_offset=10, inbox_open=[3, 7])
    queue = QueueHarness(AgentState(agent_id="agent-7", stream_id="s", bridge=books)).at(TTL)
    queue.add(injection(3, EPOCH))
    assert queue.outcomes == {3: "expired"}
    assert inbox(queue) == (10, [7])


def test_an_unwatched_agents_outcome_belongs_to_no_stream() -> None:
    """The outcome of an unwatched agent's entry does not belong to a stream."""
    queue = QueueHarness(AgentState(agent_id="agent-7")).inject(1).at(10).sweep(unknown_since=0)
    assert (queue.completed[0].stream_id, queue.completed[0].sequence) == (None, None)


def test_an_outcome_says_when_the_entry_came() -> None:
    """An outcome's received_at is the time of the inbox record, and completed_at the bridge's time."""
    queue = QueueHarness().add(
        read_injection(Message(1, value=PAUSE_EVENT, timestamp=int(EPOCH * 1000) - 2000), TTL, possibly_processed=False)
    )
    queue.deliver()
    assert queue.completed[0].received_at == "2026-09-21T14:13:18.000000Z"
    assert queue.completed[0].completed_at == queue.step.at
