"""Topics are created with what the broker accepts of their settings, and judged by what the bridge needs."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource

from bridge.kafka import topics
from bridge.kafka.clients import Clients
from bridge.kafka.topics import TOPICS, TopicResult, configs_of, judge, read_limits
from bridge.settings import TopicsSettings

SETTINGS = TopicsSettings(prefix="t.", partitions=2)
KAFKAS_OWN = {"cleanup.policy": "delete", "max.message.bytes": "1048588", "message.timestamp.type": "CreateTime"}
KAFKAS_OWN |= {"segment.bytes": str(2**30), "segment.ms": "604800000", "min.cleanable.dirty.ratio": "0.5"}

Policy = Callable[[str, str], str | None]
"""Given a setting and its value, the reason for which a broker refuses it."""


class Cluster:
    """Answers what topics.py asks an admin client, as a cluster does whose administrator has a policy."""

    def __init__(self, refuses: Policy, defaults: dict[str, str] = KAFKAS_OWN) -> None:
        self.topics: dict[str, NewTopic] = {}
        self.spread = 0
        """Over how many partitions a bridge has spread the agents."""
        self._refuses = refuses
        self._defaults = defaults

    async def describe_topics(self) -> list[dict[str, Any]]:
        return [
            {"topic": name, "partitions": [0] * new.num_partitions, "error_code": 0}
            for name, new in self.topics.items()
        ]

    async def create_topics(self, new: list[NewTopic], timeout_ms: int, validate_only: bool) -> Any:
        configs = new[0].topic_configs
        reason = next((reason for one in configs.items() if (reason := self._refuses(*one))), None)
        if reason is None and not validate_only:
            self.topics[new[0].name] = new[0]
        return SimpleNamespace(topic_errors=[(new[0].name, 44 if reason else 0, reason)])

    async def describe_configs(self, resources: list[ConfigResource]) -> list[Any]:
        found = []
        for resource in resources:
            configs = self._defaults | self.topics[resource.name].topic_configs
            entries = [{"config_names": key, "config_value": value} for key, value in configs.items()]
            found.append({"resource_name": resource.name, "error_code": 0, "config_entries": entries})
        return [SimpleNamespace(to_object=lambda: {"resources": found})]

    async def used(self, count: int) -> int:
        return self.spread

    async def start(self) -> dict[str, TopicResult]:
        """What a start of the bridge makes of this cluster, by the topics' names without their prefix."""
        results = await topics._ensure(self, SETTINGS, True, self.used)
        return {result.name.removeprefix("t."): result for result in results}


def managed(key: str, value: str) -> str | None:
    """Refuse what managed services do: a message above 1 MB, and settings that they keep for themselves."""
    if key == "max.message.bytes" and int(value) > 1_000_000:
        return "max.message.bytes may be at most 1000000"
    return f"{key} cannot be set" if key == "min.cleanable.dirty.ratio" else None


async def test_only_the_refused_setting_is_left_out() -> None:
    """A topic is created with every setting but the one that the broker refuses, and says which one that is and why."""
    cluster = Cluster(lambda key, value: "at least 1 hour" if key == "segment.ms" else None)
    results = await cluster.start()
    state = configs_of(next(topic for topic in TOPICS if topic.name == "agent-state"), SETTINGS)
    assert cluster.topics["t.agent-state"].topic_configs == {k: v for k, v in state.items() if k != "segment.ms"}
    assert results["agent-state"].outcome == "created"
    refused, consequence = results["agent-state"].notes
    assert refused == "is created without segment.ms=600000, which the broker refuses (at least 1 hour)"
    assert consequence.startswith("segment.ms is 604800000, not 600000; taking a partition over reads more")


async def test_a_managed_service_is_accepted_at_every_start() -> None:
    """A service with limits of 1 MB that keeps settings for itself is worked with: created, then found to exist."""
    cluster = Cluster(managed, KAFKAS_OWN | {"max.message.bytes": "1000000"})
    assert {result.outcome for result in (await cluster.start()).values()} == {"created"}
    again = await cluster.start()
    assert {result.outcome for result in again.values()} == {"exists"}
    (note,) = again["inject"].notes
    assert note.startswith("max.message.bytes is 1000000, not 2097152; larger records, of agents with thousands")


async def test_what_the_second_start_refuses_the_first_one_refuses() -> None:
    """A topic that was created without a setting that the bridge needs is reported at once, not at the next start."""
    cluster = Cluster(managed, KAFKAS_OWN | {"max.message.bytes": "300000"})
    first, second = await cluster.start(), await cluster.start()
    problem = "max.message.bytes is 300000, and must be at least 900000: set it with kafka-configs.sh"
    assert first["inject"].problems == second["inject"].problems == (problem,)
    assert first["inject"].outcome == second["inject"].outcome == "differs"


async def test_added_partitions_are_a_limitation_where_a_bridge_has_run() -> None:
    """A bridge has spread the agents over topics.partitions: more of them are a limitation, with the advice to leave
    that number as it is. Where none has run, or with another number, it is a problem, and the number to set is named.
    """
    cluster = Cluster(lambda *_: None)
    await cluster.start()
    cluster.topics["t.inject"].num_partitions = 3
    cluster.spread = 2
    inbox = (await cluster.start())["inject"]
    assert (inbox.outcome, inbox.problems) == ("exists", ())
    assert "leave topics.partitions at 2" in inbox.notes[0]
    for spread in (0, 3):
        cluster.spread = spread
        inbox = (await cluster.start())["inject"]
        assert (inbox.outcome, inbox.notes) == ("differs", ())
        assert inbox.problems[0].startswith("has 3 partitions, not 2: set topics.partitions to 3")


async def test_a_topic_that_is_refused_whatever_its_settings_says_why() -> None:
    """Where the policy is about something else than a setting the topic fails with the broker's words."""
    cluster = Cluster(lambda key, value: None)
    cluster.create_topics = refuse_all  # type: ignore[method-assign]
    assert (await cluster.start())["inject"].problems == ("cannot be created: names must begin with team-",)


async def refuse_all(new: list[NewTopic], timeout_ms: int, validate_only: bool) -> Any:
    return SimpleNamespace(topic_errors=[(new[0].name, 44, "names must begin with team-")])


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_kafkas_defaults_are_enough(topic: topics.Topic) -> None:
    """A topic with Kafka's own defaults works, but for the compaction of those that must keep the latest record."""
    problems, _ = judge(
        KAFKAS_OWN | {"cleanup.policy": "compact" if topic.compacted else "delete"}, configs_of(topic, SETTINGS)
    )
    assert problems == []
    problems, _ = judge(KAFKAS_OWN, configs_of(topic, SETTINGS))
    assert [text.partition(" is ")[0] for text in problems] == (["cleanup.policy"] if topic.compacted else [])


async def test_what_the_topics_take_is_read_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of each output topic is its own, or that of its segments if they are smaller; one that the broker does
    not report, or that is not a number, is what it was: at first Kafka's default."""
    cluster = Cluster(lambda *_: None)
    await cluster.start()
    reported: dict[str, Any] = {"agent-status": "900000", "dead-letters": None, "conversations": "?"}
    for name, value in reported.items():
        cluster.topics[f"t.{name}"].topic_configs = {"max.message.bytes": value}
    cluster.topics["t.queued-calls"].topic_configs["segment.bytes"] = "1100000"

    @asynccontextmanager
    async def admin(_: object) -> AsyncIterator[Cluster]:
        yield cluster

    monkeypatch.setattr(topics, "open_admin", admin)
    clients = Clients({}, "group", "t.{}".format)
    await read_limits(clients)
    names = ("agent-status", "agent-state", "dead-letters", "conversations", "heartbeats", "queued-calls")
    limits = [900_000, 2**23, 1_048_588, 1_048_588, 2**21, 1_100_000]
    assert [clients.limits[name] for name in names] == limits
