"""The vendor's service without the network: requests in, answers out, time from a clock that is passed in.

A request is `begin` (the caller, the fault), `process` (after the delay that `begin` returned) and `finish`.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from asm_bridge_schemas.protojson import ProtoJSONError
from bridge.testing.simulator import answers, gateway, middle
from bridge.testing.simulator.answers import Answer, GatewayError
from bridge.testing.simulator.faults import Dice, FaultName
from bridge.testing.simulator.wire import Value
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
        self.dice = Dice(self.world.options.seed, self.world.options.faults, clock)
        self.requests = 0
        self.results: Counter[str] = Counter()
        self.by_call: Counter[str] = Counter()
        self.connections_open = 0
        self.connections_made = 0

    def begin(self, call: str, authorization: bytes, body: bytes) -> Visit:
        """Begins a request; ``call`` is the last part of its path, and one of ``gateway.CALLS``."""
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
            return self._error(401, "the bearer token is missing or unknown")
        try:
            if visit.fault is not None:
                return self._faulty(visit, visit.fault, visit.caller, body)
            return self._answered(visit, visit.caller, body)
        except GatewayError as refused:
            if visit.call == "getstatus":
                self._note_refusal(visit.caller, body, refused.status)
            return self._error(refused.status, refused.message, code=refused.code)
        except ProtoJSONError as unreadable:
            return self._error(400, f"proto: {unreadable}")

    def _answered(self, visit: Visit, caller: Caller, body: bytes) -> Answer:
        """The service's own answer, which is shown."""
        answer = gateway.CALLS[visit.call](self.world, caller, body, visit.number)
        if visit.call == "getstatus":
            gateway.note(self.world, caller)
        elif visit.call == "listconversations":
            gateway.note_list(self.world, caller)
        return answer

    def _note_refusal(self, caller: Caller, body: bytes, status: int) -> None:
        self.world.ledger.refuse(caller.life.agent_id, _events(caller, body), status, self.world.clock())

    def _error(self, status: int, message: str, *, code: int | None = None, retry_after: int | None = None) -> Answer:
        older = self.world.options.older_errors
        return answers.error(status, message, code=code, retry_after=retry_after, older=older)

    def finish(self, visit: Visit, result: str) -> None:
        """Ends a request: it was answered with a status, ``cut``, or ``gone`` (the client left during the delay)."""
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
        events = _events(caller, body) if visit.call == "getstatus" else ()
        marked = any(_is_marked(event) for event in events)
        visit.fault, slow = self.dice.throw(visit.call, caller.life.agent_id, bool(events), marked)
        silence = self.dice.faults[visit.fault].seconds if visit.fault in ("hang", "event_silence") else 0.0
        visit.delay += slow + silence

    def _faulty(self, visit: Visit, fault: FaultName, caller: Caller, body: bytes) -> Answer:
        if fault in middle.ANSWERS:
            return middle.ANSWERS[fault](visit.number)
        match fault:
            case "ended":
                raise gateway.ended(self.world)
            case "hang":
                return self._error(504, "simulated fault: hang")
            case "cut" | "event_cut":
                return Answer(0, b"", [], cut="before")
            case "event_413":
                return middle.page(self._status(fault, 413))
            case "retry_after_0" | "retry_after_3600" | "retry_after_date_past":
                return self._throttled(fault)
            case "unauthorized_burst":
                return self._error(self._status(fault, (401, 403)[visit.number % 2]), f"simulated fault: {fault}")
            case "gzip":
                return middle.compressed(self._answered(visit, caller, body), visit.number)
            case "odd":
                return middle.odd(self._answered(visit, caller, body))
            case "cut_after" | "malformed" | "error_after_taken":
                return self._spoilt(visit, fault, caller, body)
        return self._refusal(fault, caller)

    def _throttled(self, fault: FaultName) -> Answer:
        now, after = self.world.clock(), fault.removeprefix("retry_after_")
        retry_after = middle.http_date(now - 5) if after == "date_past" else after.encode()
        return middle.throttled(self._status(fault, 503), retry_after, now)

    def _status(self, fault: FaultName, otherwise: int) -> int:
        settings = self.dice.faults.get(fault)
        return otherwise if settings is None or settings.status is None else settings.status

    def _refusal(self, fault: FaultName, caller: Caller) -> Answer:
        status = int(fault[-3:])
        settings = self.dice.faults.get(fault)
        retry_after = settings.retry_after if settings is not None and status in (429, 503) else None
        if retry_after is not None:
            caller.retry_at[fault] = self.world.clock() + retry_after
        return self._error(status, f"simulated fault: {fault}", retry_after=retry_after)

    def _spoilt(self, visit: Visit, fault: FaultName, caller: Caller, body: bytes) -> Answer:
        """Processes the request, so events are taken, and spoils the answer, so that nothing counts as shown."""
        answer = gateway.CALLS[visit.call](self.world, caller, body, visit.number)
        if fault == "malformed":
            return answers.malformed(visit.number)
        if fault == "error_after_taken":
            status = self._status(fault, (502, 503, 504, 408, 499)[visit.number % 5])
            by_the_service = status in answers.CODES and visit.number % 2
            return self._error(status, f"simulated fault: {fault}") if by_the_service else middle.page(status)
        return answer._replace(cut="before" if visit.number % 2 else "during")


def _events(caller: Caller, body: bytes) -> tuple[Value, ...]:
    try:
        return gateway.read_poll(caller, body).events
    except ProtoJSONError:
        return ()


def _is_marked(event: Value) -> bool:
    return any(
        isinstance(kind, dict) and (kind.get("conversation") or {}).get("reference_id") == middle.MARK
        for kind in event.values()
    )
