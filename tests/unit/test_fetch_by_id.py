"""Fetches by a topic's id: what they ask for, and what they leave out."""

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition

from bridge.kafka import fetch_by_id
from bridge.kafka.fetch_by_id import FetchById
from bridge.kafka.protocol import FETCH_13

FORMER, NEW = bytes(range(16)), bytes(range(16, 32))
INBOX = [TopicPartition("asm.inject", number) for number in range(3)]


class Broker:
    """Answers fetches: ``found`` has the error code and the records of each partition, by the topic's id and number."""

    def __init__(self, newest: int = 17) -> None:
        self.newest = newest
        self.found: dict[tuple[bytes, int], tuple[int, bytes]] = {}
        self.asked: list[Any] = []

    async def send(self, node: int, request: Any) -> Any:
        struct = request.prepare({1: (4, self.newest)})
        self.asked.append(type(struct).decode(BytesIO(struct.encode())))
        if not isinstance(struct, FETCH_13):
            return SimpleNamespace(API_VERSION=struct.API_VERSION, topics=[])
        topics: list[Any] = []
        for topic_id, partitions, _ in self.asked[-1].topics:
            answers: list[Any] = []
            for number, *_ in partitions:
                code, records = self.found.get((topic_id, number), (0, b""))
                answers.append((number, code, 9, 8, 0, [(5, 3, {})], -1, records, {}))
            topics.append((topic_id, answers, {}))
        return FETCH_13.RESPONSE_TYPE.decode(BytesIO(FETCH_13.RESPONSE_TYPE(0, 0, 0, topics, {}).encode()))


def fetch(*positions: tuple[int, int]) -> FetchRequest:
    """A consumer's request: partition and offset."""
    return FetchRequest(500, 1, 1000, 1, [("asm.inject", [(number, offset, 100) for number, offset in positions])])


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_by_id, "_PAUSE", 0.0)


async def test_a_partition_is_fetched_from_the_topic_with_its_id() -> None:
    """Each partition is asked for under its own id, and the answer has the topic's name, as aiokafka expects it."""
    broker = Broker()
    client = FetchById(broker)
    client.ids |= {INBOX[0]: FORMER, INBOX[1]: NEW}
    broker.found = {(FORMER, 0): (0, b"a"), (NEW, 1): (0, b"b")}
    response = await client.send(1, fetch((0, 7), (1, 2)))
    asked = {(topic_id, one[0]): one[2] for topic_id, partitions, _ in broker.asked[0].topics for one in partitions}
    assert asked == {(FORMER, 0): 7, (NEW, 1): 2}
    assert response.API_VERSION == 11
    assert response.topics == [
        ("asm.inject", [(0, 0, 9, 8, 0, [(5, 3)], -1, b"a")]),
        ("asm.inject", [(1, 0, 9, 8, 0, [(5, 3)], -1, b"b")]),
    ]


@pytest.mark.parametrize("code", [100, 103])
async def test_an_id_that_the_broker_does_not_know_is_a_missing_topic(code: int) -> None:
    """A topic that was deleted and recreated looks to aiokafka as if it were missing: it looks for it again."""
    broker = Broker()
    client = FetchById(broker)
    client.ids[INBOX[0]] = FORMER
    broker.found[FORMER, 0] = (code, b"")
    ((_, [answer]),) = (await client.send(1, fetch((0, 7)))).topics
    assert answer[1] == UnknownTopicOrPartitionError.errno


async def test_what_was_read_from_the_former_topic_is_left_out() -> None:
    """An answer that comes when its partition is to be read from another topic is dropped."""
    broker = Broker()
    client = FetchById(broker)
    client.ids |= {INBOX[0]: FORMER, INBOX[1]: FORMER}
    original = broker.send

    async def meanwhile(node: int, request: Any) -> Any:
        client.ids[INBOX[0]] = NEW
        return await original(node, request)

    broker.send = meanwhile  # type: ignore[method-assign]
    response = await client.send(1, fetch((0, 0), (1, 0)))
    assert [answer[0] for _, [answer] in response.topics] == [1]


@pytest.mark.parametrize(("newest", "known"), [(12, True), (17, False)], ids=["old broker", "unknown id"])
async def test_without_ids_a_topic_is_fetched_by_its_name(newest: int, known: bool) -> None:
    """A broker before Kafka 3.1, or a partition without an id, is asked as aiokafka does."""
    broker = Broker(newest)
    client = FetchById(broker)
    if known:
        client.ids[INBOX[0]] = FORMER
    await client.send(1, fetch((0, 7)))
    assert broker.asked[0].API_VERSION == 11
    assert broker.asked[0].topics[0][0] == "asm.inject"
