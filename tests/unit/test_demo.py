"""The demo's view shows what flows, and fits any terminal."""

import io
import logging
from typing import Any

import pytest
from rich.console import Console, ConsoleDimensions

from bridge.testing.demo import _Log
from bridge.testing.demo_view import DemoStats, Endpoints, Injection, journey, picture

ENDPOINTS = Endpoints(
    "127.0.0.1:9092", "asm.", "127.0.0.1:8080", "http://127.0.0.1:8081", 10, ("ASM_BRIDGE_X=1", "ASM_BRIDGE_Y=2")
)
BEGAN = 1_790_000_000.0


def outcome(injection_id: str, what: str = "delivered") -> dict[str, Any]:
    received = "2026-09-21T14:13:20.000000Z"
    return {"injection_id": injection_id, "agent_id": "agent-1", "outcome": what, "received_at": received}


def delivered(injection_id: str) -> dict[str, Any]:
    return {"injection_id": injection_id, "agent_id": "agent-1", "delivered_at": "2026-09-21T14:13:20.100000Z"}


def shown(stats: DemoStats, width: int, height: int) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=False)
    console.print(picture(stats, ENDPOINTS, BEGAN + 7, ConsoleDimensions(width, height)))
    return out.getvalue().splitlines()


def busy() -> DemoStats:
    stats = DemoStats(BEGAN)
    for number in range(200):
        stats.record_read("agent-status", {}, f"record {number} {'x' * 300}", BEGAN)
        stats.injection_sent(f"demo-{number}", "agent-1", BEGAN)
    stats.record_read("inject-outcomes", outcome("demo-199"), "outcome", BEGAN + 0.5)
    return stats


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 40), (40, 12), (300, 100), (20, 5)])
def test_the_picture_fits_the_terminal(width: int, height: int) -> None:
    """The view is never wider or higher than the terminal, however much flows."""
    lines = shown(busy(), width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width


def test_the_picture_tells_both_directions_and_where_to_look() -> None:
    """The view shows rates of polls and topics, recent injections and records, the page, the service and the next
    commands.
    """
    text = "\n".join(shown(busy(), 140, 40))
    assert "10 agents -> getstatus 0.0/s -> bridge -> topics on 127.0.0.1:9092" in text
    assert "demo-199 for agent-1: topic -> delivered +500 ms" in text
    assert "demo-197 for" in text
    assert "demo-196 for" not in text
    assert "outcome" in text
    for place in ("http://127.0.0.1:8080/", "http://127.0.0.1:8081/sim/agents", "export ASM_BRIDGE_X=1 ASM_BRIDGE_Y=2"):
        assert place in text


def test_dead_letters_appear_with_the_first() -> None:
    """The view shows the dead-letter topic only after the first dead letter."""
    stats = DemoStats(BEGAN)
    assert not any("dead-letters" in line for line in shown(stats, 80, 24))
    stats.record_read("dead-letters", {}, "a letter", BEGAN)
    assert any(line.split() == ["dead-letters", "0.0/s", "1"] for line in shown(stats, 80, 24))


def test_rates_are_those_of_the_last_five_seconds() -> None:
    """Rates count only the last five seconds."""
    stats = DemoStats(BEGAN)
    assert stats.rate("agent-status") == 0.0
    for second in range(20):
        for _ in range(3 if second < 10 else 1):
            stats.record_read("agent-status", {}, "", BEGAN)
        stats.update_rates(BEGAN + second, polls=10 * second)
    assert stats.rate("agent-status") == pytest.approx(1.0)
    assert stats.rate("polls") == pytest.approx(10.0)


@pytest.mark.parametrize("order", [("conversations", "inject-outcomes"), ("inject-outcomes", "conversations")])
def test_an_injection_is_followed_whichever_record_is_read_first(order: tuple[str, str]) -> None:
    """An injection is followed from topic to request to outcome, with the time since it was produced."""
    stats = DemoStats(BEGAN)
    stats.injection_sent("demo-1", "agent-1", BEGAN)
    values = {"conversations": delivered("demo-1"), "inject-outcomes": outcome("demo-1")}
    first, second = (stats.record_read(topic, values[topic], "", BEGAN + 0.25, BEGAN + 0.012) for topic in order)
    assert first is second
    assert first is not None
    assert first.finished
    assert journey(first) == "demo-1 for agent-1: topic -> request +12 ms -> delivered +250 ms"


def test_an_injection_of_somebody_else_is_followed_too() -> None:
    """An event that you inject with `asm-bridge inject` while the demo runs is shown like the demo's own."""
    stats = DemoStats(BEGAN)
    one = stats.record_read("inject-outcomes", outcome("mine", "expired"), "", BEGAN + 2)
    assert one == Injection("mine", "agent-1", BEGAN, None, "expired", BEGAN + 2)
    assert one.finished
    assert stats.produced == 0


def test_the_demo_fails_unless_records_flowed_both_ways() -> None:
    """The demo fails with a list of what it expected to see and did not."""
    stats = DemoStats(BEGAN)
    assert len(stats.missing(0)) == 5
    for topic in ("agent-status", "queued-calls"):
        stats.record_read(topic, {}, "", BEGAN)
    stats.record_read("conversations", delivered("a"), "", BEGAN)
    stats.record_read("inject-outcomes", outcome("a", "expired"), "", BEGAN)
    assert stats.missing(1) == ["its outcome on Kafka"]
    stats.record_read("inject-outcomes", outcome("b"), "", BEGAN)
    assert stats.missing(1) == []


def test_a_conversation_that_changes_is_no_injection() -> None:
    """A change of a conversation is counted and shown like any record, and does not stand for an injected event."""
    stats = DemoStats(BEGAN)
    value = {"type": "ConversationChanged", "conversation_sid": "5", "change": "entered"}
    assert stats.record_read("conversations", value, "a change", BEGAN) is None
    assert stats.counts["conversations"] == 1
    assert "conversation events on Kafka" in stats.missing(1)


def test_the_log_does_not_tear_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log lines appear within the view, without colours, and on standard error after it has ended."""
    terminal, lines = io.StringIO(), list[str]()
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    log = logging.getLogger("test_demo")
    with _Log(lines.append):
        log.warning("2026-09-21T14:13:20Z \x1b[1mlost\x1b[0m")
    log.warning("after")
    assert lines == ["14:13:20Z lost"]
    assert terminal.getvalue() == "after\n"
