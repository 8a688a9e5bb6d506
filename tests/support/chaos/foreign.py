"""Faults of other programs that write to the bridge's topics: open transactions, and records that are hard to read."""

import asyncio
import contextlib
import json
import secrets
from random import Random

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from bridge.kafka.partitioner import partition_for
from tests.support.chaos.facts import Produced
from tests.support.chaos.faults import Fault, Trial, registered
from tests.support.chaos.harness import PARTITIONS, event_of
from tests.support.chaos.traffic import new_marker
from tests.support.poison import send_with_header_name

STRANGER = b"another-program"
"""The key of the records that other programs write to ``asm.agent-state``; no agent has this name."""


async def transaction_open(trial: Trial, rng: Random, *, aborted: bool) -> None:
    """Another program's transaction in inbox, states and registry is open for some seconds, so that no client can read
    what was written after it. An aborted one has states and tombstones of real agents, which must have no effect.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=trial.lab.bootstrap_servers,
        transactional_id=f"{trial.lab.prefix}stranger-{secrets.token_hex(4)}",
    )
    async with trial.administration:  # its topics exist
        # Kafka was away: nothing was begun, or the broker aborts it. aiokafka asserts that a broker is known.
        with contextlib.suppress(KafkaError, AssertionError):
            async with producer:
                await producer.begin_transaction()
                events = await _foreign_records(trial, rng, producer, aborted)
                await asyncio.sleep(rng.choice((rng.uniform(1, 4), rng.uniform(6, 15))))
                if aborted:
                    await producer.abort_transaction()
                else:
                    trial.lab.produced += events  # first: the bridge may have them before this call returns
                    await producer.commit_transaction()


async def _foreign_records(trial: Trial, rng: Random, producer: AIOKafkaProducer, aborted: bool) -> list[Produced]:
    """Writes the transaction's records. Returns the events among them."""
    events, prefix = [], trial.lab.prefix
    trial.lab.foreign.add(STRANGER)
    for agent_id in rng.sample(trial.agents, 4):
        key, marker = agent_id.encode(), new_marker()
        home, value = partition_for(agent_id, PARTITIONS), event_of(marker)
        sent = await producer.send_and_wait(f"{prefix}inject", value, key, home)
        events.append(Produced(agent_id, home, sent.offset, f"{home}/{sent.offset}", key, value, marker))
        state = {"agent_id": agent_id, "stream_id": "stolen", "sequence": 7, "version": 2}
        await producer.send_and_wait(
            f"{prefix}agent-state", json.dumps(state).encode() if aborted else b"?", key if aborted else STRANGER, home
        )
        await producer.send_and_wait(f"{prefix}sessions", None if aborted else b"?", key if aborted else STRANGER)
    return events


def _transaction(aborted: bool) -> Fault:
    return lambda trial, rng: transaction_open(trial, rng, aborted=aborted)


TRANSACTIONS: dict[str, Fault] = {
    "foreign transaction, aborted": _transaction(True),
    "foreign transaction, committed": _transaction(False),
}


# -- records that are hard to read


async def poisoned_events(trial: Trial, rng: Random) -> None:
    """Sound events whose headers are not, and values that are hard to parse, sometimes in a wrong partition."""
    for _ in range(6):
        await _poisoned_event(trial, rng)


async def _poisoned_event(trial: Trial, rng: Random) -> None:
    agent_id, marker = rng.choice(trial.agents), new_marker()
    key, home = agent_id.encode(), partition_for(agent_id, PARTITIONS)
    partition = rng.choice((home, home, (home + 1) % PARTITIONS))
    drawn = rng.random()
    if drawn < 0.4:
        name, value = rng.choice(list(_HEADERS)), event_of(marker)
        headers = [(name, _HEADERS[name])]
        await trial.lab.inject_raw(key, value, marker=marker, headers=headers, partition=partition)
    elif drawn < 0.5:
        escaped = f"\\xff{marker}"
        headers = [("ce_id", b"\xff" + marker.encode())]
        made = await trial.lab.inject_raw(key, event_of(marker), marker=marker, headers=headers, partition=partition)
        trial.lab.produced[trial.lab.produced.index(made)] = made._replace(injection_id=escaped)
    elif drawn < 0.6:
        strange = b"\xff" + marker.encode()
        home = partition_for(strange.decode(errors="backslashreplace"), PARTITIONS)
        await trial.lab.inject_raw(strange, event_of(marker), marker=marker, partition=home)
    elif drawn < 0.7:
        await trial.lab.inject_raw(marker.encode() * 100, event_of(marker), marker=marker, partition=partition)
    else:
        await trial.lab.inject_raw(key, rng.choice(_VALUES), partition=partition)


async def unreadable_header_name(trial: Trial, rng: Random) -> None:
    """Sound records with a header name that is not UTF-8: an event, an event without a key, a registry entry."""
    lab, agent_id = trial.lab, rng.choice(trial.agents)
    key, home = agent_id.encode(), partition_for(agent_id, PARTITIONS)
    async with trial.administration, AIOKafkaProducer(bootstrap_servers=lab.bootstrap_servers) as producer:
        for given, partition in ((key, home), (key, (home + 1) % PARTITIONS), (None, rng.randrange(PARTITIONS))):
            marker = new_marker()
            value, name = event_of(marker), rng.choice(_NAMES)
            offset = await send_with_header_name(producer, f"{lab.prefix}inject", partition, given, value, name)
            who = agent_id if given else None
            lab.produced.append(Produced(who, partition, offset, f"{partition}/{offset}", given, value, marker))
        entry = lab.entry(agent_id, skills=trial.skills[agent_id], interval=rng.choice(trial.intervals))
        await send_with_header_name(producer, f"{lab.prefix}sessions", 0, key, entry, rng.choice(_NAMES))
    await registered(trial, rng, agent_id)


async def poisoned_registry(trial: Trial, rng: Random) -> None:
    """Registry entries that are hard to parse: of an agent, whose last valid one stays in force, and under keys of no
    agent. The agent has a valid one soon after, for a registry that is recreated gets the last entries only.
    """
    agent_id = rng.choice(trial.agents)
    await trial.lab.produce("sessions", rng.choice(_VALUES), agent_id.encode())
    await trial.lab.produce("sessions", rng.choice((*_VALUES, b"{}", None)), rng.choice((*_KEYS, _NUL)))
    await asyncio.sleep(rng.uniform(0, 2))
    await registered(trial, rng, agent_id)


async def poisoned_states(trial: Trial, rng: Random) -> None:
    """Records under keys of no agent among the states; who takes a partition over reads them (lane ``kills``)."""
    state = json.dumps({"agent_id": rng.choice(trial.agents), "stream_id": "stolen", "sequence": 7}).encode()
    trial.lab.foreign |= {*_KEYS, STRANGER}
    servers = trial.lab.bootstrap_servers
    async with trial.administration, AIOKafkaProducer(bootstrap_servers=servers, max_request_size=2**20) as producer:
        for partition in range(PARTITIONS):
            topic = f"{trial.lab.prefix}agent-state"
            value = rng.choice((state, None, *_VALUES))
            await producer.send_and_wait(topic, value, rng.choice(_KEYS), partition)
            await send_with_header_name(producer, topic, partition, STRANGER, b"\xff", rng.choice(_NAMES))


_KEYS = (b"\xff\xfe", b"", b"x" * 2000, b"\xed\xa0\x80")
"""Those of no agent."""
_NUL = b"\x00"
"""The key of an agent, however strange."""
_NAMES = (b"gr\xf6sse", b"\xff", b"\xed\xa0\x80", b"x" * 200 + b"\x80")
_HEADERS: dict[str, bytes | None] = {
    "ce_id": None,
    "ce_source": b"s" * 2000,
    "expires_at": b"\xff",
    "content-type": b"\xff/\x00",
    "traceparent": b"00-\xff",
    "asm_origin": b"\xff/-1/x",
    "asm_received_at": b"9" * 5000,
    "x": b"x" * 100_000,
}
_VALUES = (
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"9" * 100_000,
    b'{"pause_event": {}, "x": "\xff\xfe"}',
    b'{"activated_conversation_event": {"conversation": {"conversation_sid": "\\ud800"}}}',
    b'{"activated_conversation_event": {"conversation": {"conversation_sid": 1e999}}}',
    b'{"send_status_event": {}, "event_time": ' + b"9" * 5000 + b"}",
    b"\x00" * 1000,
)
POISON: dict[str, Fault] = {
    fault.__name__: fault for fault in (poisoned_events, unreadable_header_name, poisoned_registry, poisoned_states)
}
