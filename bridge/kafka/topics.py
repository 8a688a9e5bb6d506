"""The bridge's topics as data. Creates missing topics and checks existing ones, which are never altered."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, NodeNotReadyError, TopicAlreadyExistsError, for_code
from aiokafka.structs import TopicPartition

from asm_bridge_schemas import topics as documented
from bridge.kafka.clients import MAX_BATCH_BYTES, Clients, new_reader, open_admin
from bridge.kafka.errors import KafkaUnavailableError
from bridge.kafka.lifecycle import CALL_DEADLINE, connected, with_deadline
from bridge.settings import TopicsSettings

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, named without the prefix. ``partitioned``: it has topics.partitions partitions, else one."""

    name: str
    compacted: bool = False
    partitioned: bool = True
    output: bool = True
    configs: Mapping[str, str] = field(default_factory=dict)


_COMPACTED_OFTEN = {
    # Taking a partition over reads all states, and compaction does not touch the open segment: keep that one small,
    # but not below what managed services accept.
    "segment.bytes": str(50 * 1024 * 1024),
    "segment.ms": str(10 * 60 * 1000),
    "min.cleanable.dirty.ratio": "0.1",
}
TOPICS = tuple(
    Topic(
        name,
        compacted=known.cleanup == "compact",
        partitioned=known.partitions > 1,
        output=known.taken is None,
        configs={"max.message.bytes": str(known.max_bytes)}
        | ({"message.timestamp.type": "LogAppendTime"} if known.by_broker else {})
        | (_COMPACTED_OFTEN if name == "agent-state" else {}),
    )
    for name, known in documented.TOPICS.items()
)
"""All topics, in the order of ``asm_bridge_schemas.topics``, which describes them."""

_CHECKED = ("cleanup.policy", "max.message.bytes", "message.timestamp.type")
_LESS_SUITABLE = {
    "max.message.bytes": "larger records, of agents with thousands of calls for one, will be refused",
    "message.timestamp.type": "times to live count from the clocks of the events' writers",
    "segment.ms": "taking a partition over reads more than necessary",
}
"""Settings whose value may differ from ours, with the consequence."""
_REFUSALS = ("InvalidConfigurationError", "PolicyViolationError", "InvalidRequestError")
"""How the broker, or an administrator's policy, refuses a topic's settings."""

TopicOutcome = Literal["created", "exists", "missing", "differs", "failed"]


@dataclass(frozen=True, slots=True)
class TopicResult:
    """The result for a topic, by its full name: ``problems`` must be solved, ``notes`` are limitations.

    Each is a finding, a colon, and the advice. ``unchecked``: settings that the broker does not report; ``configs``:
    all that it does.
    """

    name: str
    outcome: TopicOutcome
    partitions: int
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    configs: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def usable(self) -> bool:
        return self.outcome in ("created", "exists")


def configs_of(topic: Topic, settings: TopicsSettings) -> dict[str, str]:
    """The configs with which the topic is created."""
    policy = {"cleanup.policy": "compact"}
    if not topic.compacted:
        policy = {"cleanup.policy": "delete", "retention.ms": str(settings.retention_ms)}
    return policy | dict(topic.configs)


async def ensure_topics(
    connection: Mapping[str, Any], settings: TopicsSettings, *, create: bool = True
) -> list[TopicResult]:
    """Creates missing topics (or, without ``create``, reports them) and checks the rest. Returns a result for each
    topic.

    ``connection``: the arguments of every aiokafka client. Safe to repeat, and to run in several processes at once.
    Raises ``KafkaUnavailableError``; a topic that cannot be created or does not fit is reported in its result.
    """
    heartbeats, servers = settings.name("heartbeats"), connection["bootstrap_servers"]
    left = _ATTEMPTS
    while True:
        left -= 1
        async with open_admin(connection) as admin:
            try:
                return await _ensure(
                    admin, settings, create, lambda count: _used_partitions(connection, heartbeats, count)
                )
            except (KafkaError, TimeoutError) as error:
                if not left or not isinstance(error, NodeNotReadyError):
                    raise KafkaUnavailableError(
                        f"Kafka at {servers} did not answer about topics ({type(error).__name__}): "
                        "check that the brokers run and that this client may describe topics"
                    ) from error
        await asyncio.sleep(1)  # the cluster has no controller at this moment


async def read_limits(clients: Clients) -> None:
    """Reads the limits of the output topics into ``clients.limits``; limits that the broker does not report stay
    unchanged.

    Raises ``KafkaUnavailableError``.
    """
    await _read_configs(clients, [topic for topic in TOPICS if topic.output])


async def judged_topics(clients: Clients, settings: TopicsSettings) -> dict[str, list[str]]:
    """By full name: what a start would refuse of a topic's settings as they are now, and what it would warn of. None
    are known of topics that the broker does not report. Raises ``KafkaUnavailableError``."""
    expected = {settings.name(topic.name): configs_of(topic, settings) for topic in TOPICS}
    configs = await _read_configs(clients, TOPICS)
    judged = {name: judge(found, expected[name]) for name, found in configs.items()}
    return {
        name: [*(f"{text}; until then no process can start" for text in problems), *notes]
        for name, (problems, notes) in judged.items()
    }


async def _read_configs(clients: Clients, topics: Iterable[Topic]) -> dict[str, dict[str, str]]:
    """The settings of these topics by full name, of which ``clients.limits`` takes those of the output topics."""
    names = {clients.topic(topic.name): topic for topic in topics}
    async with open_admin(clients.connection) as admin:
        configs = await _describe(admin, list(names))
    clients.limits.update({names[name].name: found for name, found in configs.items() if names[name].output})
    return configs


async def partition_counts(connection: Mapping[str, Any]) -> dict[str, int]:
    """Full name -> number of partitions, of every topic that this client can see. Raises ``KafkaUnavailableError``."""
    async with open_admin(connection) as admin:
        try:
            return await _counts(admin)
        except (KafkaError, TimeoutError) as error:
            raise KafkaUnavailableError(
                f"Kafka at {connection['bootstrap_servers']} does not list its topics: {error!r}"
            ) from error


async def partitions_of(connection: Mapping[str, Any], topic: str) -> int:
    """The number of partitions of a topic. Raises ``KafkaUnavailableError``, also if it does not exist."""
    counts = await partition_counts(connection)
    if topic not in counts:
        raise KafkaUnavailableError(
            f"the topic {topic} does not exist: check topics.prefix, or run `asm-bridge topics create`"
        )
    return counts[topic]


async def _ensure(
    admin: AIOKafkaAdminClient, settings: TopicsSettings, create: bool, used_partitions: Callable[[int], Awaitable[int]]
) -> list[TopicResult]:
    """``used_partitions(count)``: to how many of the ``count`` partitions of the heartbeats' topic something was
    written."""
    counts = await _counts(admin)
    made = {}
    if create:
        missing = [topic for topic in TOPICS if settings.name(topic.name) not in counts]
        made = {topic.name: await _create(admin, topic, settings) for topic in missing}
        counts = await with_deadline(_visible(admin, [result.name for result in made.values() if result.usable]))
    configs = await _describe(admin, [name for topic in TOPICS if (name := settings.name(topic.name)) in counts])
    used, heartbeats = 0, settings.name("heartbeats")
    if heartbeats in counts and any(counts.get(name, n) != n for name, n in wanted_partitions(settings).items()):
        used = await used_partitions(counts[heartbeats])
    return [_result(topic, settings, counts, configs, made.get(topic.name), used) for topic in TOPICS]


def wanted_partitions(settings: TopicsSettings) -> dict[str, int]:
    """The number of partitions that each topic should have, by its full name."""
    return {settings.name(topic.name): _partitions(topic, settings) for topic in TOPICS}


async def _used_partitions(connection: Mapping[str, Any], topic: str, count: int) -> int:
    """The number of partitions to which a bridge has written heartbeats, and so over which it has spread the agents.
    Zero if some in between have none: then it did not run for long enough."""
    partitions = [TopicPartition(topic, number) for number in range(count)]
    async with connected(new_reader(connection)) as consumer:
        consumer.assign(partitions)
        ends = await with_deadline(consumer.end_offsets(partitions))
    used = [partition.partition for partition, end in ends.items() if end > 0]
    return len(used) if max(used, default=-1) < len(used) else 0


async def _counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    # Requests all topics: a request for one by name would create it on brokers that create topics automatically.
    topics = await with_deadline(admin.describe_topics())
    return {topic["topic"]: len(topic["partitions"]) for topic in topics if topic["error_code"] == 0}


async def _visible(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    """The partition counts, once they contain every named topic: a new topic takes a moment to appear."""
    while not set(names) <= (counts := await _counts(admin)).keys():  # noqa: ASYNC110 - Kafka has no event for it
        await asyncio.sleep(0.05)
    return counts


async def _create(admin: AIOKafkaAdminClient, topic: Topic, settings: TopicsSettings) -> TopicResult:
    """Creates a topic, without those of its settings that the broker refuses."""
    name, partitions = settings.name(topic.name), _partitions(topic, settings)
    new = NewTopic(name, partitions, 1, topic_configs=configs_of(topic, settings))
    # NewTopic refuses -1, the broker's default, without an assignment of replicas.
    new.replication_factor = settings.replication_factor
    error, notes = await _send(admin, new), []
    if error is not None and error[0] in _REFUSALS:
        accepted = {}
        for key, value in configs_of(topic, settings).items():
            new.topic_configs = {key: value}
            if (alone := await _send(admin, new, validate_only=True)) is None:
                accepted[key] = value
            elif alone[0] in _REFUSALS:
                notes.append(f"is created without {key}={value}, which the broker refuses ({alone[1]})")
        new.topic_configs = accepted
        error = await _send(admin, new)
    if error is None:
        return TopicResult(name, "created", partitions, notes=tuple(notes))
    if error[0] == TopicAlreadyExistsError.__name__:  # another process was quicker
        return TopicResult(name, "exists", partitions)
    return TopicResult(name, "failed", partitions, problems=(f"cannot be created: {error[1]}",))


async def _send(admin: AIOKafkaAdminClient, new: NewTopic, *, validate_only: bool = False) -> tuple[str, str] | None:
    """Creates a topic, or only asks whether that is allowed. Returns None, or the kind of error and the broker's
    message.
    """
    timeout_ms = int(CALL_DEADLINE * 1000)
    response = await with_deadline(admin.create_topics([new], timeout_ms, validate_only))
    _, code, message = response.topic_errors[0]
    if code == 0:
        return None
    kind = for_code(code)
    return kind.__name__, message or getattr(kind, "description", "") or kind.__name__


async def _describe(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """Configs by topic, or none if the broker does not report them."""
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    try:
        responses = await with_deadline(admin.describe_configs(resources))
    except (KafkaError, TimeoutError):
        return {}
    found = [resource for response in responses for resource in response.to_object()["resources"]]
    return {
        one["resource_name"]: {
            entry["config_names"]: entry["config_value"]
            for entry in one["config_entries"]
            if entry["config_value"] is not None
        }
        for one in found
        if one["error_code"] == 0
    }


def _result(
    topic: Topic,
    settings: TopicsSettings,
    counts: Mapping[str, int],
    configs: Mapping[str, Mapping[str, str]],
    made: TopicResult | None,
    used: int,
) -> TopicResult:
    """The result for a topic. One that was just ``made`` is checked as at the next start. ``used``: see
    ``_wrong_count``."""
    name, wanted = settings.name(topic.name), _partitions(topic, settings)
    if made is not None and not made.usable:
        return made
    if name not in counts:
        return TopicResult(name, "missing", wanted, problems=("does not exist: run `asm-bridge topics create`",))
    actual, expected = configs.get(name, {}), configs_of(topic, settings)
    problems, notes = judge(actual, expected)
    if topic.partitioned and counts[name] > wanted == used:
        notes.insert(0, too_many(counts[name], wanted))
    elif counts[name] != wanted:
        problems.insert(0, _wrong_count(topic, counts[name], wanted, used))
    outcome: TopicOutcome = "differs" if problems else "exists" if made is None else made.outcome
    unchecked = tuple(key for key in _CHECKED if key in expected and key not in actual)
    notes = [*(made.notes if made else ()), *notes]
    return TopicResult(name, outcome, counts[name], tuple(problems), tuple(notes), unchecked, actual)


def not_reported(settings: Iterable[str]) -> str:
    """What to say of the ``unchecked`` settings of topics."""
    return f"not checked, because the broker does not report: {', '.join(sorted(set(settings)))}"


def judge(actual: Mapping[str, str], expected: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The problems and notes of a topic's configs, compared with those that we would create it with. Configs that are
    not reported are ignored.
    """
    problems, notes = [], []
    for key in sorted(expected.keys() & actual.keys()):
        value, wanted = actual[key], expected[key]
        if key == "cleanup.policy" and value.replace(" ", "") != wanted:
            problems.append(f"{key} is {value}, and must be {wanted}: set it with kafka-configs.sh")
        elif key == "max.message.bytes" and int(value) < MAX_BATCH_BYTES:
            problems.append(f"{key} is {value}, and must be at least {MAX_BATCH_BYTES}: set it with kafka-configs.sh")
        elif key in _LESS_SUITABLE and not _suits(key, value, wanted):
            notes.append(f"{key} is {value}, not {wanted}; {_LESS_SUITABLE[key]}: set it with kafka-configs.sh")
    return problems, notes


def _suits(key: str, value: str, wanted: str) -> bool:
    if key == "max.message.bytes":
        return int(value) >= int(wanted)
    return int(value) <= int(wanted) if key == "segment.ms" else value == wanted


def _partitions(topic: Topic, settings: TopicsSettings) -> int:
    return settings.partitions if topic.partitioned else 1


def unusable(actual: int, wanted: int) -> str:
    """The text about a topic that lacks partitions, or has several and must have one, while the bridge runs."""
    if actual == 0:
        return "does not exist: run `asm-bridge topics create`"
    remedy = "delete it and run `asm-bridge topics create`"
    if actual < wanted:  # a deletion would lose what is in it
        remedy = f"add the others with kafka-topics.sh --alter --partitions {wanted}; if it is empty, {remedy}"
    return f"has {actual} partitions, and must have {wanted}: {remedy}"


def too_many(actual: int, wanted: int) -> str:
    """The text about a topic that has more partitions than topics.partitions."""
    return (
        f"has {actual} partitions, of which {wanted} are used; events in the others are moved to the partitions of "
        f"their agents: leave topics.partitions at {wanted}, because another number would split the agents' streams"
    )


def _wrong_count(topic: Topic, actual: int, wanted: int, used: int) -> str:
    """``used``: over how many partitions a bridge has spread the agents, 0 if none has run."""
    if not topic.partitioned or used == wanted:
        return unusable(actual, wanted)
    return (
        f"has {actual} partitions, not {wanted}: set topics.partitions to {used if used > wanted else actual}, "
        "or use another topics.prefix"
    )
