"""The promises about injections: exactly one outcome each, and events sent as produced, in order. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from aiokafka.partitioner import murmur2

from bridge.testing.simulator.middle import MARK
from tests.support.chaos.facts import Facts, Message, Produced, Record

MAX_BYTES = 512 * 1024


def broken(facts: Facts) -> Iterator[str]:
    """The promises that were broken, each with its evidence."""
    outcomes = _outcomes(facts)
    arrivals = _arrivals(facts)
    refusals = _refusals(facts)
    for produced in facts.produced:
        found = outcomes.get(produced.entry, [])
        for problem in [*one_outcome(produced, found), *one_dead_letter(produced, found, facts)]:
            yield f"entry {produced.entry} ({produced.injection_id} for {produced.agent_id}): {problem}"
        if len(found) == 1 and produced.marker is not None:
            refused = refusals.get(produced.marker, [])
            for problem in [
                *arrived(found[0], arrivals.get(produced.marker, [])),
                *rejected(produced, found[0], refused),
            ]:
                yield f"entry {produced.entry} ({produced.injection_id} for {produced.agent_id}): {problem}"
    entries = {produced.entry for produced in facts.produced}
    yield from (f"an outcome for the entry {entry}, which nobody produced" for entry in outcomes.keys() - entries)
    yield from delivered_once(facts)
    yield from nothing_made_up(facts)
    yield from first_arrivals_in_order(facts, arrivals)
    yield from moved_once(facts)


def one_outcome(produced: Produced, outcomes: list[Record]) -> Iterator[str]:
    """Every entry with an agent's key has exactly one outcome, its own; one without has none."""
    expected = int(produced.has_agent)
    if len(outcomes) != expected:
        yield f"has {len(outcomes)} outcomes {[(o['outcome'], o['sequence']) for o in outcomes]}, expected {expected}"
    for outcome in outcomes:
        if (outcome["injection_id"], outcome["agent_id"]) != (produced.injection_id, produced.agent_id):
            yield f"its outcome is about {outcome['injection_id']} of {outcome['agent_id']}"


def one_dead_letter(produced: Produced, outcomes: list[Record], facts: Facts) -> Iterator[str]:
    """A rejected or undeliverable record, or one without an agent's key, has a dead letter with its value and the
    reason; no other record has one.
    """
    origin = f"{facts.inbox}/{produced.entry}"
    letters = [letter for letter in facts.dead_letters if letter.header("asm_origin") == origin]
    due = not produced.has_agent or any(o["outcome"] in ("rejected", "undeliverable") for o in outcomes)
    if len(letters) != int(due):
        yield f"has {len(letters)} dead letters, expected {int(due)}"
    for letter in letters:
        yield from _like(letter, produced)


def _like(letter: Message, produced: Produced) -> Iterator[str]:
    value = None if len(produced.value or b"") > MAX_BYTES else produced.value
    key = produced.key if produced.has_agent else None
    if key is None and value is None:
        value = b""  # a record has a key or a value
    if (letter.key, letter.value) != (key, value):
        yield f"its dead letter has another key or value: {letter.key!r}, {(letter.value or b'')[:200]!r}"
    if not letter.header("asm_error_code") or not letter.header("asm_error"):
        yield f"its dead letter does not say why: {letter.headers}"


def arrived(outcome: Record, arrivals: list[Record]) -> Iterator[str]:
    """``delivered``: the event reached the service, in the session of its outcome, and more than once only if the
    outcome says so.
    """
    if outcome["outcome"] == "delivered" and not arrivals:
        yield "is delivered, and never reached the service"
    refused = outcome["outcome"] == "rejected" and not outcome["possibly_repeated"]
    if (refused or outcome["outcome"] == "duplicate") and arrivals:
        yield f"is {outcome['outcome']}, and reached the service {len(arrivals)} times"
    if len(arrivals) > 1 and not outcome["possibly_repeated"]:
        yield f"reached the service {len(arrivals)} times, and possibly_repeated is false"
    if arrivals and outcome["outcome"] != "delivered" and not outcome["possibly_repeated"]:
        yield f"is {outcome['outcome']}, reached the service all the same, and possibly_repeated is false"
    if outcome["outcome"] == "delivered" and arrivals:
        sids = {arrival["asm_session_sid"] for arrival in arrivals}
        if outcome["asm_session_sid"] not in sids:
            yield f"was taken in session {sorted(sids)}, and its outcome says {outcome['asm_session_sid']}"
    if any(arrival["agent_id"] != outcome["agent_id"] for arrival in arrivals):
        yield f"reached {sorted({a['agent_id'] for a in arrivals})}, and is {outcome['agent_id']}'s"


def rejected(produced: Produced, outcome: Record, refusals: list[Record]) -> Iterator[str]:
    """``rejected``: the service refused the event alone, with that status, or a firewall that blocks it did."""
    disliked = MARK.encode() in (produced.value or b"")
    statuses = {refusal["status"] for refusal in refusals if refusal["alone"]}
    if outcome["outcome"] == "rejected" and not disliked and outcome["http_status"] not in statuses:
        yield f"is rejected with {outcome['http_status']}, and the service refused it alone with {sorted(statuses)}"


def delivered_once(facts: Facts) -> Iterator[str]:
    """``ConversationEventDelivered`` occurs once per outcome ``delivered``, with the event that was produced."""
    told: Counter[Any] = Counter()
    outcomes: Counter[Any] = Counter()
    markers = {(p.agent_id, p.injection_id, p.marker) for p in facts.produced}
    for _, record in facts.told:
        name = record["agent_id"], record.get("injection_id")
        if record["type"] == "ConversationEventDelivered":
            told[name] += 1
            if (*name, record["conversation_sid"]) not in markers:
                yield f"{name} was delivered with conversation {record['conversation_sid']}, which nobody produced"
        elif record["type"] == "InjectionCompleted" and record["outcome"] == "delivered":
            outcomes[name] += 1
    for name in told.keys() | outcomes.keys():
        if told[name] != outcomes[name]:
            yield f"{name} has {told[name]} ConversationEventDelivered and {outcomes[name]} outcomes delivered"


def nothing_made_up(facts: Facts) -> Iterator[str]:
    """Nothing that was never produced reaches the service or the dead letters."""
    known = {(produced.agent_id, produced.marker) for produced in facts.produced}
    for event in facts.taken:
        if (event["agent_id"], marker_of(event["event"])) not in known:
            yield f"{event['agent_id']} was sent an event that nobody produced: {event['event']}"
    origins = {f"{facts.inbox}/{produced.entry}" for produced in facts.produced}
    for letter in facts.dead_letters:
        origin = letter.header("asm_origin") or ""
        if origin.startswith(f"{facts.inbox}/") and origin not in origins:
            yield f"a dead letter of {origin}, which nobody produced"


def first_arrivals_in_order(facts: Facts, arrivals: dict[str, list[Record]]) -> Iterator[str]:
    """The events of one agent reach the service in the order in which they were produced (to one partition)."""
    order: defaultdict[tuple[Any, int], list[Produced]] = defaultdict(list)
    for produced in sorted(facts.produced, key=lambda p: p.offset):
        if produced.marker in arrivals:
            order[produced.agent_id, produced.partition].append(produced)
    for (agent_id, _), entries in order.items():
        firsts = [arrivals[entry.marker or ""][0]["index"] for entry in entries]
        if firsts != sorted(firsts):
            yield f"{agent_id}: {[entry.entry for entry in entries]} first arrived in the order {firsts}"


def moved_once(facts: Facts) -> Iterator[str]:
    """Beside what was produced, the inbox (if it was read) has one copy of each record of a wrong partition, in its
    agent's partition, with its key and value; those of one partition are in their order.
    """
    read = [message for message in facts.messages if message.topic == "inject"]
    if not read:
        return
    own = {produced.entry: produced for produced in facts.produced}
    copies: defaultdict[str, list[Message]] = defaultdict(list)
    for message in sorted(read, key=lambda message: message.offset):
        if f"{message.partition}/{message.offset}" not in own:
            copies[(message.header("asm_origin") or "").removeprefix(f"{facts.inbox}/")].append(message)
    for entry in own.keys() | copies.keys():
        yield from _moved(entry, own.get(entry), copies[entry], facts)
    yield from _moved_in_order(copies)


def _moved(entry: str, produced: Produced | None, copies: list[Message], facts: Facts) -> Iterator[str]:
    if produced is None:
        yield f"the inbox has {[copy.place for copy in copies]} of {entry!r}, which nobody produced"
        return
    home = None if produced.key is None else (murmur2(produced.key) & 0x7FFFFFFF) % facts.partitions
    foreign = produced.partition >= facts.partitions  # a partition that was added has no agents
    due = home not in (None, produced.partition) and (foreign or _is_an_agents(produced))  # else it is put away there
    if len(copies) != int(due):
        yield f"entry {entry} was moved {len(copies)} times, expected {int(due)}: {[copy.place for copy in copies]}"
    value = None if produced.value is None else produced.value[: MAX_BYTES + 1]  # what is too large stays just so
    for copy in copies:
        if (copy.partition, copy.key, copy.value) != (home, produced.key, value):
            yield f"entry {entry} was moved to {copy.place}, with the key {copy.key!r}; its home is {home}"


def _is_an_agents(produced: Produced) -> bool:
    """Whether the key can be an agent_id at all."""
    try:
        (produced.key or b"").decode()
    except UnicodeDecodeError:
        return False
    return produced.has_agent


def _moved_in_order(copies: dict[str, list[Message]]) -> Iterator[str]:
    ways: defaultdict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for entry, found in copies.items():
        partition, _, offset = entry.partition("/")
        for copy in found:
            ways[partition, copy.partition].append((int(offset or -1), copy.offset))
    for (origin, home), offsets in ways.items():
        arrived = [there for _, there in sorted(offsets)]
        if arrived != sorted(arrived):
            yield f"what was moved from {origin} to {home} stands there in the order {arrived}"


def marker_of(event: Record) -> str | None:
    """The conversation_sid of an event as the simulator took it."""
    for kind in event.values():
        if isinstance(kind, dict) and "conversation" in kind:
            return str(kind["conversation"].get("conversation_sid"))
    return None


def _outcomes(facts: Facts) -> dict[str, list[Record]]:
    outcomes: defaultdict[str, list[Record]] = defaultdict(list)
    for _, record in facts.told:
        if record["type"] == "InjectionCompleted":
            outcomes[record["entry"]].append(record)
    return dict(outcomes)


def _refusals(facts: Facts) -> dict[str, list[Record]]:
    refusals: defaultdict[str, list[Record]] = defaultdict(list)
    for refusal in facts.refused:
        refusals[marker_of(refusal["event"]) or ""].append(refusal)
    return dict(refusals)


def _arrivals(facts: Facts) -> dict[str, list[Record]]:
    arrivals: defaultdict[str, list[Record]] = defaultdict(list)
    for event in sorted(facts.taken, key=lambda event: event["index"]):
        arrivals[marker_of(event["event"]) or ""].append(event)
    return dict(arrivals)
