"""The state of the demo, and its view for a terminal: pure, times (seconds since 1970) are passed in."""

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from rich.console import ConsoleDimensions, Group, RenderableType
from rich.text import Text

from bridge.clock import seconds

SHOWN = ("agent-status", "queued-calls", "agent-messages", "conversations", "inject-outcomes", "dead-letters")
_WINDOW = 5.0
"""Seconds that a rate is taken over."""
_KEPT = 100
_WIDE = 110
_FOLLOWED = 3
"""Injections shown, in addition to those in the list of records."""


@dataclass(slots=True)
class Injection:
    """One injection: when it was produced, when the service received it, when its outcome was read from Kafka."""

    injection_id: str
    agent_id: str
    produced: float
    requested: float | None = None
    outcome: str | None = None
    completed: float | None = None

    @property
    def finished(self) -> bool:
        """Whether all of its records have been read; the two are in two topics, so they come in any order."""
        return self.outcome is not None and (self.outcome != "delivered" or self.requested is not None)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses, and the settings with which other commands find this broker."""

    kafka: str
    prefix: str
    page: str
    simulator: str
    agents: int
    environment: tuple[str, ...]


@dataclass(slots=True)
class DemoStats:
    """Counts, rates, and the last records and injections, newest last."""

    began: float
    state: str = "starting"
    counts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    produced: int = 0
    changes: int = 0
    """Of the records on the conversations topic, those about a change; the others are injected events."""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))
    injections: dict[str, Injection] = field(default_factory=dict)
    _samples: deque[tuple[float, Counter[str]]] = field(default_factory=deque)

    def injection_sent(self, injection_id: str, agent_id: str, now: float) -> None:
        """An event was produced to the inbox."""
        self.produced += 1
        self._keep(Injection(injection_id, agent_id, now))

    def record_read(
        self, topic: str, value: dict[str, Any], line: str, now: float, taken: float | None = None
    ) -> Injection | None:
        """A record arrived. Returns the injection that it is about, if any; ``taken``: when the service received it."""
        self.counts[topic] += 1
        self.lines.append(line)
        self.changes += value.get("type") == "ConversationChanged"
        if topic not in ("conversations", "inject-outcomes") or "injection_id" not in value:
            return None
        one = self._injection(value, now)
        if topic == "conversations":
            one.requested = taken or seconds(value["delivered_at"])
        else:
            one.outcome, one.completed = value["outcome"], now
            self.outcomes[value["outcome"]] += 1
        return one

    def update_rates(self, now: float, polls: int) -> None:
        """Called a few times a second, for the rates."""
        self.counts["polls"] = polls
        self._samples.append((now, Counter(self.counts)))
        while now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()

    def rate(self, what: str) -> float:
        """Per second, over the last five."""
        if len(self._samples) < 2:
            return 0.0
        (then, before), (now, counts) = self._samples[0], self._samples[-1]
        return (counts[what] - before[what]) / (now - then) if now > then else 0.0

    def missing(self, taken: int) -> list[str]:
        """What a working demo should have seen, and this one has not."""
        wanted = {
            "statuses on Kafka": self.counts["agent-status"],
            "queued calls on Kafka": self.counts["queued-calls"],
            "conversation events on Kafka": self.counts["conversations"] - self.changes,
            "an injected event at the service": taken,
            "its outcome on Kafka": self.outcomes["delivered"],
        }
        return [what for what, count in wanted.items() if not count]

    def _injection(self, value: dict[str, Any], now: float) -> Injection:
        """The injection that a record is about; a new one, if it is another program's."""
        found = self.injections.get(value["injection_id"])
        if found is None:
            received = value.get("received_at") or value.get("delivered_at")
            found = Injection(value["injection_id"], value["agent_id"], seconds(received) if received else now)
            self._keep(found)
        return found

    def _keep(self, injection: Injection) -> None:
        self.injections[injection.injection_id] = injection
        while len(self.injections) > _KEPT:
            del self.injections[next(iter(self.injections))]


def journey(one: Injection) -> str:
    """The path of an injection from topic to request to outcome, with the time since it was produced."""
    way = [f"{one.injection_id} for {one.agent_id}: topic"]
    if one.requested is not None:
        way.append(f"request {_after(one, one.requested)}")
    if one.completed is not None:
        way.append(f"{one.outcome} {_after(one, one.completed)}")
    return " -> ".join(way)


def _after(one: Injection, at: float) -> str:
    return f"+{max(0.0, at - one.produced) * 1000:.0f} ms"


def next_steps(endpoints: Endpoints) -> list[str]:
    """What to try next, one line each."""
    return [
        f"page       http://{endpoints.page}/",
        f"service    {endpoints.simulator}/sim/agents",
        f"commands   export {' '.join(endpoints.environment)}",
        "           asm-bridge tail",
        "           echo '{\"pause_event\": {}}' | asm-bridge inject agent-1",
    ]


def picture(stats: DemoStats, endpoints: Endpoints, now: float, size: ConsoleDimensions) -> RenderableType:
    """The whole view, never higher than the terminal; a line that is too long for it is cut."""
    height = size.height
    top = [_title(stats, now), *_out(stats, endpoints), _rule("injections: asm.inject -> bridge -> request -> outcome")]
    top += [Text(f"  {journey(one)}") for one in list(stats.injections.values())[: -_FOLLOWED - 1 : -1]]
    bottom = [_rule("see also"), *(Text(f"  {line}") for line in next_steps(endpoints))]
    room = max(0, height - len(top) - len(bottom) - 1)
    records = [Text("  " + _narrow(line, size.width)) for line in list(stats.lines)[-room:]] if room else []
    records += [Text()] * (room - len(records))
    lines = [*top, _rule("last records"), *records, *bottom][:height]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _title(stats: DemoStats, now: float) -> Text:
    title = Text.assemble(("asm-bridge demo", "bold"), f"  {now - stats.began:.0f} s  ")
    title.append(stats.state, "green" if stats.state == "ready" else "yellow")
    return title.append("   Ctrl-C stops it", "dim")


def _out(stats: DemoStats, endpoints: Endpoints) -> list[Text]:
    """From the agents to the topics."""
    polls = f"{stats.rate('polls'):.1f}/s"
    lines = [_rule(f"{endpoints.agents} agents -> getstatus {polls} -> bridge -> topics on {endpoints.kafka}")]
    for topic in SHOWN:
        if topic != "dead-letters" or stats.counts[topic]:
            row = Text(f"  {topic:<18}")
            row.append(f"{stats.rate(topic):6.1f}/s", "bold")
            lines.append(row.append(f"{stats.counts[topic]:9,d}"))
    return lines


def _narrow(line: str, width: int) -> str:
    """In a narrow terminal, lines omit the spaces that align their columns."""
    return line if width >= _WIDE else re.sub("  +", " ", line)


def _rule(text: str) -> Text:
    return Text(text, "cyan")
