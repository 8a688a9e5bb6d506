"""``/api/status``: the bridge in numbers, and what needs your attention."""

import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from bridge.agents.agent import CONDITIONS
from bridge.clock import difference, differs, rfc3339
from bridge.ops.agents import ADVICE, why_sick
from bridge.ops.events import OpsEvent
from bridge.ops.rates import Sample, per_second, quantile
from bridge.ops.readiness import STANDING_BY
from bridge.ops.snapshot import PartitionView, Snapshot

_INBOX_OLD = 60.0
_LATE = 0.5


class Rate(msgspec.Struct, frozen=True):
    """A counter per second now, and its total since the process began."""

    per_second: float
    total: int


class Quantiles(msgspec.Struct, frozen=True):
    """Seconds, or None without recent observations."""

    p50: float | None
    p99: float | None


class Notice(msgspec.Struct, frozen=True):
    """A problem that does not make the process unready."""

    text: str
    advice: str


class AgentCounts(msgspec.Struct, frozen=True):
    """Agents in memory, by condition; ``sick``: see ``/api/sessions?condition=sick``."""

    total: int
    by_condition: dict[str, int]
    sick: int
    sick_by_reason: dict[str, int]


class Polls(msgspec.Struct, frozen=True):
    per_second: float
    by_result: dict[str, Rate]
    seconds: Quantiles
    lateness: Quantiles
    skipped: dict[str, Rate]


class Commits(msgspec.Struct, frozen=True):
    per_second: float
    failed: int
    seconds: Quantiles


class InboxCounts(msgspec.Struct, frozen=True):
    """``outcomes``: the totals since the process began."""

    pending: int
    oldest_seconds: float
    outcomes: dict[str, int]


class History(msgspec.Struct, frozen=True):
    """One value for each of the last seconds, oldest first."""

    polls: list[float]
    records: list[float]


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """Rates and quantiles are those of the last ten seconds. ``events``: newest first."""

    version: str
    process: str
    at: str
    started_at: str
    uptime_seconds: float
    ready: bool
    reason: str | None
    notices: list[Notice]
    group_id: str
    partitions: list[PartitionView]
    partitions_total: int
    registered: int
    refused: int
    service_down: bool
    agents: AgentCounts
    polls: Polls
    records: dict[str, Rate]
    commits: Commits
    inbox: InboxCounts
    dead_letters: dict[str, int]
    events: list[OpsEvent]
    history: History


class About(msgspec.Struct, frozen=True):
    """Facts that do not change while the process lives."""

    version: str
    process: str
    started_at: float


def status_report(
    about: About, snapshot: Snapshot, old: Sample, new: Sample, events: Sequence[OpsEvent], history: History
) -> StatusReport:
    """The present report; rates are those between the two samples."""
    now = time.time()
    agents, inbox, polls = _agents(snapshot), _inbox(snapshot, new), _polls(old, new)
    return StatusReport(
        version=about.version,
        process=about.process,
        at=rfc3339(now),
        started_at=rfc3339(about.started_at),
        uptime_seconds=round(now - about.started_at, 1),
        ready=snapshot.not_ready is None,
        reason=snapshot.not_ready,
        notices=notices(snapshot, agents, inbox, polls),
        group_id=snapshot.group_id,
        partitions=snapshot.partitions,
        partitions_total=snapshot.partitions_total,
        registered=snapshot.registered,
        refused=snapshot.refused,
        service_down=snapshot.service_down,
        agents=agents,
        polls=polls,
        records=_rates(old, new, "records_total"),
        commits=_commits(old, new),
        inbox=inbox,
        dead_letters={code: count for code, count in _totals(new, "dead_letters_total").items() if count},
        events=list(reversed(events)),
        history=history,
    )


def notices(snapshot: Snapshot, agents: AgentCounts, inbox: InboxCounts, polls: Polls) -> list[Notice]:
    """The notices that need attention, most important first."""
    found: list[Notice] = []
    if snapshot.standing_by:
        found.append(Notice(STANDING_BY, "it takes over when another one ends"))
    if snapshot.service_down:
        found.append(Notice("the service does not answer", ADVICE["unreachable"]))
    if agents.sick:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in agents.sick_by_reason.items())
        advice = next(
            (ADVICE[reason] for reason in agents.sick_by_reason if reason in ADVICE),
            "see the list of sick agents for what to do",
        )
        found.append(Notice(f"{agents.sick:,} of {agents.total:,} agents are sick ({reasons})", advice))
    if polls.lateness.p99 is not None and polls.lateness.p99 >= _LATE:
        text = f"polls are late (p99 {polls.lateness.p99:.1f} s)"
        found.append(Notice(text, "this process has more agents than it can poll: start another one"))
    if inbox.oldest_seconds >= _INBOX_OLD:
        text = f"an injection has waited for {inbox.oldest_seconds:.0f} s"
        found.append(Notice(text, "its agent has no session or is sick; it expires after injection.ttl"))
    if differs(snapshot.clock_ahead):
        advice = "set it with NTP; the bridge uses Kafka's clock, so no event expires because of it"
        found.append(Notice(difference(snapshot.clock_ahead), advice))
    if snapshot.refused:
        text = f"{snapshot.refused} registry entries cannot be read"
        found.append(Notice(text, "read asm.dead-letters and correct them with `asm-bridge sessions add`"))
    return found


def _agents(snapshot: Snapshot) -> AgentCounts:
    conditions: Counter[str] = Counter(dict.fromkeys(CONDITIONS, 0))
    reasons: Counter[str] = Counter()
    for one in snapshot.agents():
        conditions[one.agent.condition] += 1
        if (reason := why_sick(one)) is not None:
            reasons[reason] += 1
    return AgentCounts(conditions.total(), dict(conditions), reasons.total(), dict(reasons.most_common()))


def _polls(old: Sample, new: Sample) -> Polls:
    return Polls(
        per_second=round(per_second(old, new, "polls_total"), 1),
        by_result=_rates(old, new, "polls_total"),
        seconds=_quantiles(old, new, "poll_seconds"),
        lateness=_quantiles(old, new, "poll_lateness_seconds"),
        skipped=_rates(old, new, "skipped_ticks_total"),
    )


def _commits(old: Sample, new: Sample) -> Commits:
    return Commits(
        per_second=round(per_second(old, new, "commits_total", "ok"), 1),
        failed=int(new.by_label("commits_total").get("failed", 0)),
        seconds=_quantiles(old, new, "commit_seconds"),
    )


def _inbox(snapshot: Snapshot, new: Sample) -> InboxCounts:
    arrivals = snapshot.arrivals()
    oldest = max(0.0, snapshot.now - min(arrivals, default=snapshot.now))
    return InboxCounts(len(arrivals), round(oldest, 1), _totals(new, "injection_outcomes_total"))


def _rates(old: Sample, new: Sample, name: str) -> dict[str, Rate]:
    totals = new.by_label(name)
    return {label: Rate(round(per_second(old, new, name, label), 1), int(totals[label])) for label in totals}


def _totals(new: Sample, name: str) -> dict[str, int]:
    return {label: int(value) for label, value in new.by_label(name).items()}


def _quantiles(old: Sample, new: Sample, name: str) -> Quantiles:
    p50, p99 = (quantile(old, new, name, q) for q in (0.5, 0.99))
    return Quantiles(None if p50 is None else round(p50, 4), None if p99 is None else round(p99, 4))
