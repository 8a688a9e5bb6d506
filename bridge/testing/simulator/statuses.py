"""The statuses of a contact-centre agent, and which follows which: the plan of a plausible day."""

from random import Random

OUT = "LOGGED_OUT"
"""Not one of the vendor's: the agent has no session."""

NEXT: dict[str, dict[str, float]] = {
    OUT: {"IDLE": 1},
    "IDLE": {"PREPARING_AFTER_IDLE": 1},
    "PREPARING_AFTER_IDLE": {"READY": 1},
    "READY": {"PEERED": 0.82, "PAUSED": 0.1, "MANUAL_DIAL_PREPARED": 0.06, OUT: 0.02},
    "MANUAL_DIAL_PREPARED": {"MANUAL_DIAL_STARTED": 0.9, "PREPARING_AFTER_DIAL_CANCEL": 0.1},
    "MANUAL_DIAL_STARTED": {"PEERED": 0.7, "WRAPUP": 0.3},
    "PREPARING_AFTER_DIAL_CANCEL": {"READY": 1},
    "PEERED": {
        "WRAPUP": 0.6,
        "HUNGUP": 0.12,
        "PEERED_WITH_CALL_ON_HOLD": 0.14,
        "WARM_AGENT_TRANSFER_STARTED_SOURCE": 0.08,
        "WARM_OUTBOUND_TRANSFER_STARTED": 0.06,
    },
    "PEERED_WITH_CALL_ON_HOLD": {"PEERED": 1},
    "WARM_AGENT_TRANSFER_STARTED_SOURCE": {"WRAPUP": 0.7, "PEERED": 0.3},
    "WARM_OUTBOUND_TRANSFER_STARTED": {"WRAPUP": 0.6, "WARM_OUTBOUND_TRANSFER_PEER_LOST": 0.4},
    "WARM_OUTBOUND_TRANSFER_PEER_LOST": {"WRAPUP": 1},
    "HUNGUP": {"WRAPUP": 1},
    "WRAPUP": {"PREPARING_AFTER_WRAPUP": 0.9, "PAUSED": 0.1},
    "PREPARING_AFTER_WRAPUP": {"READY": 1},
    "PAUSED": {"PREPARING_AFTER_PAUSE": 1},
    "PREPARING_AFTER_PAUSE": {"READY": 1},
}
"""Status -> what may follow, with its share."""

_LENGTH = {OUT: 6.0, "READY": 1.5, "PEERED": 3.0, "PAUSED": 5.0, "WRAPUP": 1.0, "HUNGUP": 0.2, "IDLE": 0.5}
_LENGTH_OTHERWISE = 0.3

NUMBERS = {desc: number for number, desc in enumerate(("UNAVALIABLE", *NEXT), start=100)}
"""The switch's own number of a status; the vendor does not list them."""


def _visits() -> dict[str, float]:
    """How often each status occurs among many changes: the chain's stationary distribution, by iteration."""
    share = dict.fromkeys(NEXT, 1 / len(NEXT))
    for _ in range(500):
        # Half stays in place, so that a chain that swings between statuses settles too.
        moved = {status: weight / 2 for status, weight in share.items()}
        for status, weight in share.items():
            for following, chance in NEXT[status].items():
                moved[following] += weight * chance / 2
        share = moved
    return share


def _mean_length() -> float:
    return sum(share * _LENGTH.get(status, _LENGTH_OTHERWISE) for status, share in _visits().items())


_MEAN_LENGTH = _mean_length()
_PRESENCE = {s: share * _LENGTH.get(s, _LENGTH_OTHERWISE) for s, share in _visits().items() if s != OUT}


def dice(seed: int, what: object) -> Random:
    """The random generator for one part of a simulator: the same for the same seed, and independent of those of other
    parts."""
    return Random(f"{seed}/{what}")  # noqa: S311 - a simulation repeats itself on purpose


def first(rng: Random) -> str:
    """The status of an agent at a random moment; never ``OUT``."""
    return rng.choices(list(_PRESENCE), list(_PRESENCE.values()))[0]


def following(status: str, rng: Random) -> str:
    """The next status; a status outside the plan is followed by READY."""
    options = NEXT.get(status, {"READY": 1})
    return rng.choices(list(options), list(options.values()))[0]


def dwell(status: str, change_rate: float, rng: Random) -> float:
    """Seconds until the next change, such that all changes together occur at ``change_rate`` per second on average."""
    mean = _LENGTH.get(status, _LENGTH_OTHERWISE) / _MEAN_LENGTH / change_rate
    return rng.expovariate(1 / mean)
