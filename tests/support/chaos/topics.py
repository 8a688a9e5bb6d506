"""Deletes and recreates topics, as an administrator does."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError
from aiokafka.structs import TopicPartition
from confluent_kafka import KafkaException
from confluent_kafka import admin as confluent

from tests.support.chaos.facts import OUTPUT, read_topics
from tests.support.chaos.faults import TINY, Fault, Trial
from tests.support.chaos.harness import PARTITIONS, Lab, until

_COMPACTED = ("sessions", "agent-state")
_COMPLETED = 120.0
"""Seconds within which every event has its outcome when no more are sent."""
_OWNED, _WRITTEN = 120.0, 90.0
"""Seconds within which all partitions have owners when no process is disturbed, and states are written again."""
_CONFIGURED = 60.0
_STEADY = 3.0
_BEFORE = 10**9
"""What is taken from the offsets of a deleted log, so that they stand before those of the next one."""


@asynccontextmanager
async def _admin(the_lab: Lab) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=the_lab.bootstrap_servers)
    await admin.start()

    async def led() -> bool:  # not at once after a restart of the broker
        await admin._client.force_metadata_update()
        return admin._client.cluster.controller is not None

    try:
        await until(led, "the controller is known")
        yield admin
    finally:
        await admin.close()


async def delete(the_lab: Lab, topic: str) -> None:
    """Deletes a topic, named without the prefix."""
    async with _admin(the_lab) as admin:
        await admin.delete_topics([the_lab.prefix + topic])


async def recreate(the_lab: Lab, topic: str, partitions: int, *, exists: bool = True) -> None:
    """Deletes a topic if it ``exists``, and creates it again, unless a bridge that starts has done so."""
    if exists:
        await delete(the_lab, topic)
    configs = {"cleanup.policy": "compact"} if topic in _COMPACTED else {"max.message.bytes": str(2**21)}
    if topic == "inject":
        configs["message.timestamp.type"] = "LogAppendTime"
    async with _admin(the_lab) as admin:

        async def created() -> bool:
            new = NewTopic(the_lab.prefix + topic, partitions, 1, topic_configs=configs)
            made = await admin.create_topics([new])
            return made.topic_errors[0][1] in (0, TopicAlreadyExistsError.errno)

        await until(created, f"{topic} is created again")
    await the_lab.reconnect()


# -- the lane


async def registry_recreated(trial: Trial, rng: Random) -> None:
    """The registry is deleted and recreated, and its entries are written again."""
    async with trial.administration, trial.lab.held("sessions"):
        await _away_and_back(trial, rng, "sessions", 1)
        await asyncio.sleep(rng.choice((0, rng.uniform(1, 4))))
        await trial.lab.register_again()


async def outcomes_recreated(trial: Trial, rng: Random) -> None:
    """The outcomes' topic is deleted and recreated. It is read before, when nothing is written to it because every
    event has its outcome; events that come while it is missing have theirs later.
    """
    the_lab, topic = trial.lab, "inject-outcomes"
    async with trial.administration:
        with trial.unusable():
            async with _all_completed(the_lab):
                found = await read_topics(the_lab.bootstrap_servers, the_lab.prefix, [topic])
                former = [message for message in the_lab.salvaged if message.topic == topic]
                others = [message for message in the_lab.salvaged if message.topic != topic]
                early = [message._replace(offset=message.offset - _BEFORE) for message in former + found]
                the_lab.salvaged = others + early
                await delete(the_lab, topic)
            await asyncio.sleep(_absence(rng))
            await recreate(the_lab, topic, PARTITIONS, exists=False)


async def inbox_recreated(trial: Trial, rng: Random) -> None:
    """The inbox is deleted and recreated when every event in it has its outcome, so that none is lost.

    No offset occurs twice: the judge knows an event by its own. Records of an aborted transaction take those that
    the former log had; ``test_another_log`` has inboxes that begin again with 0.
    """
    the_lab = trial.lab
    async with trial.administration, _all_completed(the_lab):
        the_lab.salvaged += await read_topics(the_lab.bootstrap_servers, the_lab.prefix, ["inject"])
        ends = await _ends(the_lab, "inject")
        await _away_and_back(trial, rng, "inject", PARTITIONS)
        await _fill(the_lab, "inject", ends)


async def heartbeats_recreated(trial: Trial, rng: Random) -> None:
    """The heartbeats' topic is deleted and recreated; the former heartbeats are lost."""
    async with trial.administration:
        await _away_and_back(trial, rng, "heartbeats", PARTITIONS)


async def states_recreated(trial: Trial, rng: Random) -> None:
    """The states' topic is deleted and recreated. Its owners write all states again before any partition changes hands:
    a new owner could not know them, and its agents would begin new streams.
    """
    async with trial.administration, trial.undisturbed():
        await until(lambda: _all_owned(trial), "all partitions are owned", _OWNED)
        await _away_and_back(trial, rng, "agent-state", PARTITIONS)
        await until(lambda: _states_written(trial), "all states are written again", _WRITTEN)


async def _all_owned(trial: Trial) -> bool:
    """Whether every process is ready, and every partition has one owner; for long enough that each member of the group
    would know of a rebalance."""
    since = time.monotonic()
    while time.monotonic() - since < _STEADY:
        for name in trial.processes:
            trial.see_to(name)  # nobody else does meanwhile
        answers = await asyncio.gather(*(trial.lab.ask(name, "api/status") for name in trial.processes))
        reports = [json.loads(text) for code, text in answers if code == 200]
        owned = sorted(one["number"] for report in reports if report["ready"] for one in report["partitions"])
        if len(reports) < len(trial.processes) or owned != list(range(PARTITIONS)):
            return False  # a process that is starting will take partitions over
        await asyncio.sleep(0.5)
    return True


async def _states_written(trial: Trial) -> bool:
    """Whether every registered agent has a state again. A single state does not say that its owner has noticed: it may
    be of a commit that was in progress."""
    the_lab, agents = trial.lab, {agent_id.encode() for agent_id in trial.agents}
    registered = {key for key, entry in the_lab.registry.items() if key in agents and entry is not None}
    found = await read_topics(the_lab.bootstrap_servers, the_lab.prefix, ["agent-state"])
    return registered <= {message.key for message in found}


async def topic_takes_nothing(trial: Trial, rng: Random) -> None:
    """An output topic refuses every record for some seconds, because none is so small. What is observed, and what the
    service took, is published later. A process that starts meanwhile says so and ends.
    """
    async with trial.administration:
        topic = rng.choice(OUTPUT)
        with trial.unusable():
            await configure(trial.lab, topic, **{"max.message.bytes": TINY})
            await asyncio.sleep(rng.uniform(1, 6))
            await configure(trial.lab, topic, **{"max.message.bytes": 2**23})


async def configure(the_lab: Lab, topic: str, **configs: int | str) -> None:
    """Changes these settings of a topic, named without the prefix, when the broker is there: faults overlap."""
    client = confluent.AdminClient({"bootstrap.servers": the_lab.bootstrap_servers})
    entries = [
        confluent.ConfigEntry(name, str(value), incremental_operation=confluent.AlterConfigOpType.SET)  # type: ignore[attr-defined]
        for name, value in configs.items()
    ]
    resource = confluent.ConfigResource(  # type: ignore[attr-defined]
        confluent.ConfigResource.Type.TOPIC,  # type: ignore[attr-defined]
        the_lab.prefix + topic,
        incremental_configs=entries,
    )

    async def configured() -> bool:
        try:
            for future in client.incremental_alter_configs([resource]).values():
                await asyncio.to_thread(future.result, 10)
        except TimeoutError:
            return False
        except KafkaException as error:
            if error.args[0].code() >= 0 and not error.args[0].retriable():  # the library's own codes are negative
                raise
            return False
        return True

    await until(configured, f"{topic} is configured", _CONFIGURED)


@asynccontextmanager
async def _all_completed(the_lab: Lab) -> AsyncIterator[None]:
    async with the_lab.held("inject"):
        await the_lab.completed(_COMPLETED)
        yield


async def _away_and_back(trial: Trial, rng: Random, topic: str, partitions: int) -> None:
    with trial.unusable():
        await delete(trial.lab, topic)
        await asyncio.sleep(_absence(rng))
        await recreate(trial.lab, topic, partitions, exists=False)


def _absence(rng: Random) -> float:
    """Seconds for which a topic is missing."""
    return rng.choice((0, rng.uniform(0.5, 3), rng.uniform(3, 8)))


async def _ends(the_lab: Lab, topic: str) -> dict[int, int]:
    async with AIOKafkaConsumer(bootstrap_servers=the_lab.bootstrap_servers) as consumer:
        partitions = [TopicPartition(the_lab.prefix + topic, partition) for partition in range(PARTITIONS)]
        return {place.partition: end for place, end in (await consumer.end_offsets(partitions)).items()}


async def _fill(the_lab: Lab, topic: str, ends: dict[int, int]) -> None:
    """Takes the offsets before ``ends`` with records that are not read."""
    name = f"{the_lab.prefix}{topic}"
    filler = AIOKafkaProducer(bootstrap_servers=the_lab.bootstrap_servers, transactional_id=f"{name}-filler")
    async with filler:
        await filler.begin_transaction()
        sent = [await filler.send(name, b"?", b"?", partition) for partition, end in ends.items() for _ in range(end)]
        await asyncio.gather(*sent)
        await filler.abort_transaction()


TOPICS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (registry_recreated, outcomes_recreated, inbox_recreated, heartbeats_recreated, states_recreated)
}
STATES: dict[str, Fault] = {states_recreated.__name__: states_recreated}
REFUSALS: dict[str, Fault] = {topic_takes_nothing.__name__: topic_takes_nothing}
