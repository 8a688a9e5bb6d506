"""The vendor's service without the network: requests in, answers out, time from a clock that is passed in.

A request is `begin` (who asks, what will go wrong), `process` (after the delay that `begin` told) and `finish`.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from asm_bridge_schemas.protojson import ProtoJSONError
from bridge.testing.simulator import answers, gateway
from bridge.testing.simulator.answers import Answer, GatewayError
from bridge.testing.simulator.faults import Dice, FaultName
from bridge.testing.simulator.world import Caller, Options, World


@dataclass(slots=True)
class Visit:
    """A request under way; ``delay`` in seconds is to pass before it is processed."""

    call: str
    number: int
    caller: Caller | None
    fault: FaultName | None = None
    delay: float = 0.0


class Simulator:
    """A service with ``options.agents`` agents. Not thread-safe; all methods return at once."""

    def __init__(self, options: Options | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.world = World(options or Options(), clock)
        self.dice = Dice(self.world.options.seed, self.world.options.faults)
        self.requests = 0
        self.results: Counter[str] = Counter()
        self.by_call: Counter[str] = Counter()
        self.connections_open = 0
        self.connections_made = 0

    def begin(self, call: str, authorization: bytes, body: bytes) -> Visit:
        """A request came; ``call`` is the last part of its path, and one of ``gateway.CALLS``."""
        self.requests += 1
        self.by_call[call] += 1
        visit = Visit(call, self.requests, self.world.authorized(authorization), delay=self.world.options.latency)
        if visit.caller is not None:
            self._note_conduct(visit.caller, call)
            if self.dice.faults:
                self._throw(visit, visit.caller, body)
        return visit

    def process(self, visit: Visit, body: bytes) -> Answer:
        """Does what the request asks for; the answer says whether and how the connection is to be cut."""
        if visit.caller is None:
            return answers.error(401, "the bearer token is missing or unknown")
        try:
            if visit.fault is not None:
                return self._faulty(visit, visit.fault, visit.caller, body)
            answer = gateway.CALLS[visit.call](self.world, visit.caller, body, visit.number)
        except GatewayError as refused:
            return answers.error(refused.status, refused.message, code=refused.code)
        except ProtoJSONError as unreadable:
            return answers.error(400, f"proto: {unreadable}")
        if visit.call == "getstatus":
            gateway.note(self.world, visit.caller)
        return answer

    def finish(self, visit: Visit, result: str) -> None:
        """The request is over: answered with a status, ``cut``, or ``gone`` (the client left during the delay)."""
        self.results[result] += 1
        if visit.caller is not None:
            visit.caller.conduct.in_flight -= 1

    def _note_conduct(self, caller: Caller, call: str) -> None:
        conduct, now = caller.conduct, self.world.clock()
        conduct.requests += 1
        conduct.overlaps += conduct.in_flight > 0
        conduct.in_flight += 1
        if caller.retry_at:
            conduct.early_after_429 += now < caller.retry_at.get("status_429", 0.0)
            conduct.early_after_503 += now < caller.retry_at.get("status_503", 0.0)
        if call == "getstatus":
            self.world.ledger.polled(conduct, now)

    def _throw(self, visit: Visit, caller: Caller, body: bytes) -> None:
        carries_events = visit.call == "getstatus" and _carries_events(caller, body)
        visit.fault, slow = self.dice.throw(visit.call, caller.life.agent_id, carries_events)
        visit.delay += slow + (self.dice.faults["hang"].seconds if visit.fault == "hang" else 0.0)

    def _faulty(self, visit: Visit, fault: FaultName, caller: Caller, body: bytes) -> Answer:
        if fault.startswith("status_"):
            return self._refusal(fault, caller)
        if fault == "ended":
            raise gateway.ended(self.world)
        if fault == "hang":
            return answers.error(504, "simulated fault: hang")
        if fault == "cut":
            return Answer(0, b"", [], cut="before")
        return self._spoilt(visit, fault, caller, body)

    def _refusal(self, fault: FaultName, caller: Caller) -> Answer:
        status = int(fault.removeprefix("status_"))
        settings = self.dice.faults.get(fault)
        retry_after = settings.retry_after if settings is not None and status in (429, 503) else None
        if retry_after is not None:
            caller.retry_at[fault] = self.world.clock() + retry_after
        return answers.error(status, f"simulated fault: {fault}", retry_after=retry_after)

    def _spoilt(self, visit: Visit, fault: FaultName, caller: Caller, body: bytes) -> Answer:
        """Does what was asked, so events are taken, and lets the answer come to grief: nothing counts as shown."""
        answer = gateway.CALLS[visit.call](self.world, caller, body, visit.number)
        if fault == "malformed":
            return answers.malformed(visit.number)
        return answer._replace(cut="before" if visit.number % 2 else "during")


def _carries_events(caller: Caller, body: bytes) -> bool:
    try:
        return bool(gateway.read_poll(caller, body).events)
    except ProtoJSONError:
        return False
