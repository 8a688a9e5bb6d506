"""What is measured, as data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KINDS = ("load", "flat", "latency", "memory", "scale", "workers", "recovery", "queue")
ON_REQUEST = ("growth",)
"""Kinds that take minutes: measured only when they are named."""
SIZES = (500, 1000, 2000, 5000)

EXACTLY_ONCE, AT_LEAST_ONCE = "exactly_once", "at_least_once"
HTTP2, FAST_COMMITS = "exactly_once, HTTP/2 + TLS", "exactly_once, commits every 10 ms"
HTTP1_TLS = "exactly_once, HTTP/1.1 + TLS"
WORKERS = "exactly_once, --workers 2"
GO, GO_SLOTS, GO_HTTP2 = "Go poller", "Go poller, 100 ms slots", "Go poller, HTTP/2 + TLS"
AIOHTTP, HTTPX = "aiohttp script", "httpx script"
BRIDGES, PEERS = (EXACTLY_ONCE, AT_LEAST_ONCE, HTTP2), (GO, GO_SLOTS, AIOHTTP)
_CROWD = 2000
"""Sessions of the two workers: polled every 50 ms, the shortest interval, they are more than two cores carry."""


@dataclass(frozen=True)
class Scenario:
    """``seconds`` are measured after all sessions were polled and ``warm`` more have passed.

    ``interval``: seconds between two polls of a session, 0 for as fast as it goes; ``change``: chance that a poll finds
    a change; ``latency``: seconds that an answer takes; ``queue``: calls in a queue that all agents see; ``injected``:
    events a second, over all agents.
    """

    kind: str
    sessions: int
    clients: Sequence[str]
    seconds: float
    warm: float = 3.0
    interval: float = 1.0
    change: float = 0.05
    latency: float = 0.02
    queue: int = 0
    injected: float = 0.0


def scenarios(
    kinds: Iterable[str], sizes: Sequence[int], seconds: float, quick: bool, interval: float = 1.0
) -> list[Scenario]:
    """All of ``kinds``, one after the other; ``quick`` leaves out what takes long among the clients.

    ``interval`` is that of the loads and of the smaller scale; the larger one polls as much, four times as many
    sessions a fourth as often, and from the second round on: first answers cost several times as much. The first polls
    of a recovery are more than one core makes in a second, so their sessions get twice the time. The latency begins
    late: a broker that has just started compiles what it has not run before, for some ten seconds, and answers slowly
    meanwhile; with fast commits nothing is injected, which is a load of its own (docs/benchmarks.md). The growth lasts
    fifteen times as long as the others: a million polls at the defaults.
    """
    wanted, warm = set(kinds), 1.0 if quick else 3.0
    middle, largest = sorted(sizes)[(len(sizes) - 1) // 2], max(sizes)
    beside = (EXACTLY_ONCE, GO) if quick else (*BRIDGES, GO, AIOHTTP)
    few, many = (largest, 5 * largest) if quick else (max(1, largest // 10), largest)
    again = (largest, interval) if quick else (2 * largest, 2 * interval)
    everything = [
        *(Scenario("load", size, _loaded(size, sizes, quick), seconds, warm, interval) for size in sorted(sizes)),
        Scenario("flat", min(500, largest), beside, seconds, warm, 0.0),
        Scenario("latency", middle, (EXACTLY_ONCE,), seconds, 4 * warm, injected=50.0),
        Scenario("latency", middle, (FAST_COMMITS,), seconds, 4 * warm),
        *(Scenario("memory", size, beside[: 1 if quick else None], 2 * warm, warm, 2.0) for size in (few, many)),
        *(
            Scenario(
                "scale", n * largest, (EXACTLY_ONCE,), max(seconds, n * interval), warm + n * interval, n * interval
            )
            for n in (1, 4)
        ),
        Scenario("workers", _CROWD, (EXACTLY_ONCE, WORKERS), seconds, warm, 0.0),
        Scenario("recovery", again[0], (EXACTLY_ONCE,), seconds, warm, again[1]),
        Scenario("queue", middle, BRIDGES[: 1 if quick else 2], seconds, warm, change=0.0, queue=50),
        Scenario("growth", min(500, largest), (EXACTLY_ONCE,), 15 * seconds, seconds, 0.0),
    ]
    return [scenario for scenario in everything if scenario.kind in wanted]


def _loaded(size: int, sizes: Sequence[int], quick: bool) -> tuple[str, ...]:
    """httpx fails beyond some hundred sessions, which takes long to measure: it is measured once."""
    if quick:
        return (EXACTLY_ONCE, AT_LEAST_ONCE, *PEERS)
    return (*BRIDGES, HTTP1_TLS, *PEERS, GO_HTTP2, *((HTTPX,) if size == min(sizes) else ()))
