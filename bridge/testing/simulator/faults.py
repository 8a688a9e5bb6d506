"""The faults of the simulator, and the random generator that decides when they occur."""

from collections.abc import Callable
from typing import Literal, get_args

import msgspec

from bridge.testing.simulator import statuses

FaultName = Literal[
    "slow", "status_401", "status_429", "status_500", "status_503", "ended", "hang", "cut", "cut_after", "malformed",
    "foreign_400", "foreign_401", "foreign_403", "foreign_404", "foreign_json", "no_route", "envelope", "html_200",
    "empty_200", "redirect", "retry_after_0", "retry_after_date_past", "retry_after_3600", "unauthorized_burst",
    "error_after_taken", "event_403", "event_413", "event_500", "event_cut", "event_silence", "gzip", "odd",
]  # fmt: skip
"""`foreign_...` to `redirect`: what stands between answers, and the service sees nothing. `retry_after_...`: the
service throttles. `unauthorized_burst`: the service refuses good tokens, with 401 and 403 in turn. `error_after_taken`:
the service takes the request, and the answer is 502, 503, 504, 408 and 499 in turn, by what stands between or by the
service. `event_...`: each time that a marked event (``middle.MARK``) is in the request. `gzip`: gzip and deflate in
turn, unasked for. `odd`: the answer in JSON as no gateway should print it."""
NAMES: tuple[FaultName, ...] = get_args(FaultName)
"""The faults, in the order in which they are tried; the first that hits is used; `slow` combines with any."""

GETSTATUS_ONLY = frozenset({"ended"})
_AT_MARKED = frozenset(name for name in NAMES if name.startswith("event_"))


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kind of fault: its probability, its agents, its greatest number, and its own measure."""

    probability: float = 1.0
    agents: list[str] | None = None
    """Only these agents; None: any."""
    count: int | None = None
    """At most this often; None: without limit."""
    calls: list[str] | None = None
    """Only these calls, as ``getstatus``; None: any (`ended`: getstatus only)."""
    only_events: bool = False
    """Only requests that carry events."""
    retry_after: int | None = None
    """`status_429`, `status_503`: the Retry-After header, in seconds."""
    status: int | None = None
    """`unauthorized_burst`, `error_after_taken`, `event_413`, `retry_after_...`: always this status."""
    duration: float | None = None
    """Seconds after which it is over; None: only the next settings end it."""
    ms: float = 1000.0
    """`slow`: the delay, in milliseconds."""
    seconds: float = 60.0
    """`hang`, `event_silence`: how long there is no answer (then it is 504)."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is {self.probability}; give a number from 0 to 1")


Faults = dict[FaultName, Fault]


class Dice:
    """Decides which fault hits a request, in a sequence fixed by the seed."""

    def __init__(self, seed: int, faults: Faults, clock: Callable[[], float]) -> None:
        self._rng = statuses.dice(seed, "faults")
        self._clock = clock
        self.replace(faults)

    def replace(self, faults: Faults) -> None:
        """Applies new settings; the counts and durations start again."""
        self._since = dict.fromkeys(faults, self._clock())
        self.faults = {name: faults[name] for name in NAMES if name in faults}
        self.hits = dict.fromkeys(self.faults, 0)

    def put(self, name: FaultName, fault: Fault) -> None:
        """Applies one fault, and leaves the others unchanged; its count and duration start again."""
        faults, self.hits[name], self._since[name] = {**self.faults, name: fault}, 0, self._clock()
        self.faults = {name: faults[name] for name in NAMES if name in faults}

    def throw(self, call: str, agent_id: str, carries_events: bool, marked: bool) -> tuple[FaultName | None, float]:
        """The fault that hits this request (None: none), and the delay of `slow` in seconds."""
        delay = 0.0
        for name, fault in self.faults.items():
            if (
                not self._concerns(name, fault, call, agent_id, carries_events)
                or (name in _AT_MARKED and not marked)
                or self._rng.random() >= fault.probability
            ):
                continue
            self.hits[name] += 1
            if name != "slow":
                return name, delay
            delay = fault.ms / 1000
        return None, delay

    def _concerns(self, name: FaultName, fault: Fault, call: str, agent_id: str, carries_events: bool) -> bool:
        return (
            (fault.count is None or self.hits[name] < fault.count)
            and (fault.duration is None or self._clock() < self._since[name] + fault.duration)
            and (fault.agents is None or agent_id in fault.agents)
            and (call in fault.calls if fault.calls is not None else name not in GETSTATUS_ONLY or call == "getstatus")
            and (carries_events or not fault.only_events)
        )
