"""The registry: the last valid entry applies, and the second of two agents that share a session is sick."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from bridge.kafka.partitioner import partition_for
from bridge.registry.registry import InvalidEntry, Registry
from tests.support.strategies import Message

SECRET = "eyJhbGciOiJIUzI1NiJ9.secret"


@dataclass
class Book:
    """A registry, the agents that it reported as changed, and the next offset."""

    changed: list[str] = field(default_factory=list)
    refused: list[InvalidEntry] = field(default_factory=list)
    offset: int = 0

    def __post_init__(self) -> None:
        self.registry = Registry(self.changed.append, self.refused.append)

    def put(self, key: bytes | str | None, value: Any) -> None:
        self.offset += 1
        raw = value if isinstance(value, bytes | None) else json.dumps(value).encode()
        key = key.encode() if isinstance(key, str) else key
        message: Any = Message(self.offset, raw, (), key, partition=0, topic="asm.sessions")
        self.registry.read(message)

    def sick(self, *agents: str) -> list[str | None]:
        return [getattr(self.registry.unpollable(agent), "reason", None) for agent in agents]


def test_an_entry_is_registered_updated_and_removed() -> None:
    """A tombstone ends watching, and every change is reported."""
    book = Book()
    book.put("a", {})
    book.put("a", {"skills": ["english"]})
    registered = book.registry.get("a")
    assert registered is not None
    assert (registered.offset, registered.entry.skills) == (2, ["english"])
    book.put("a", None)
    book.put("never", None)
    assert book.registry.get("a") is None
    assert len(book.registry) == 0
    assert set(book.changed) == {"a", "never"}
    assert book.changed.count("a") == 3


@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"[]", b'{"unknown": 1}', b"\xff", b'{"interval": 0}', {"token": SECRET}, {"asm_session_sid": "x"}],
)
def test_a_bad_entry_leaves_the_last_good_one_in_force(value: Any) -> None:
    """An invalid entry leaves the last valid one in force, and is reported with its code and record id, without its
    value.
    """
    book = Book()
    book.put("a", {"skills": ["english"]})
    book.put("a", value)
    registered = book.registry.get("a")
    assert registered is not None
    assert registered.entry.skills == ["english"]
    (bad,) = book.refused
    assert (bad.origin.offset, bad.key, str(bad.origin)) == (2, b"a", "asm.sessions/0/2")
    assert bad.code == ("literal_token" if value == {"token": SECRET} else "malformed_entry")
    assert SECRET not in f"{bad}"
    assert book.registry.invalid_entries() == [bad]
    assert book.registry.entries() == {}  # what the topic has of it is to be written anew


def test_a_good_entry_clears_a_bad_one() -> None:
    """A valid entry clears the report of an invalid one with the same key."""
    book = Book()
    book.put("a", b"{")
    book.put("b", b"{")
    book.put("a", {})
    assert book.registry.entries().keys() == {"a"}
    assert [bad.key for bad in book.registry.invalid_entries()] == [b"b"]
    book.put("b", None)
    assert book.registry.invalid_entries() == []


@pytest.mark.parametrize("key", [b"", b"\xff", None])
def test_a_key_that_is_no_agent_is_refused(key: bytes | None) -> None:
    """A record whose key is not an agent id is refused, and the next one is read."""
    book = Book()
    book.put(key, {})
    book.put("a", {})
    assert [bad.code for bad in book.refused] == ["malformed_entry"]
    assert book.registry.get("a") is not None


@pytest.mark.parametrize("key", [b"", b"\xff", b"x" * 5000])
def test_a_tombstone_removes_an_entry_whose_key_is_no_agent(key: bytes) -> None:
    """A tombstone removes an entry whose key is not an agent id, and is not an invalid entry itself."""
    book = Book()
    book.put(key, {})
    book.put(key, None)
    assert book.registry.invalid_entries() == []
    assert len(book.refused) == 1


def test_the_second_agent_of_one_session_is_sick() -> None:
    """Of two agents with the same token reference and no sid, the one registered first is polled, and the other is
    sick.
    """
    book = Book()
    book.put("a", {"token": "file:t"})
    book.put("b", {"token": "file:t"})
    book.put("c", {"token": "file:other"})
    book.put("d", {})
    assert book.sick("a", "b", "c", "d") == [None, "session_shared", None, None]
    book.put("e", {"token": None})
    assert book.sick("d", "e") == [None, "session_shared"]


@pytest.mark.parametrize("cure", [None, {"token": "file:other"}, {"token": "file:t", "asm_session_sid": "5"}])
def test_the_second_recovers_when_the_first_goes(cure: Any) -> None:
    """A sick agent recovers, and is reported as changed, when the first is removed or gets a token or sid
    of its own.
    """
    book = Book()
    book.put("a", {"token": "file:t"})
    book.put("b", {"token": "file:t"})
    book.changed.clear()
    book.put("a", cure)
    assert book.sick("b") == [None]
    assert set(book.changed) == {"a", "b"}


def test_a_session_of_its_own_is_shared_with_nobody() -> None:
    """Agents with sids of their own do not share a session, even with the same token."""
    book = Book()
    for agent, sid in (("a", "1"), ("b", "2"), ("c", None)):
        book.put(agent, {"token": "file:t", "asm_session_sid": sid})
    assert book.sick("a", "b", "c") == [None, None, None]


def test_who_is_polled_does_not_depend_on_when_one_began_to_read() -> None:
    """Every process polls the same one of two agents that share a session, even after compaction."""
    history = [("a", {"token": "file:t"}), ("b", {"token": "file:t"}), ("a", {"token": "file:t", "skills": ["x"]})]
    long, fresh = Book(), Book()
    for agent, value in history:
        long.put(agent, value)
    fresh.offset = 1
    for agent, value in history[1:]:
        fresh.put(agent, value)
    assert long.sick("a", "b") == fresh.sick("a", "b")
    assert sorted(map(str, long.sick("a", "b"))) == ["None", "session_shared"]
    assert {"a", "b"} <= set(long.changed)


def test_agents_belong_to_partitions_by_murmur2() -> None:
    """An agent belongs to the partition that murmur2 gives its id."""
    book = Book()
    names = [f"agent-{number}" for number in range(50)] + ["日本"]
    for name in names:
        book.put(name, {"asm_session_sid": "1"})
    found = [sorted(book.registry.agents_of_partition(partition, 8)) for partition in range(8)]
    assert sorted(name for part in found for name in part) == sorted(names)
    assert all(partition_for(name, 8) == partition for partition, part in enumerate(found) for name in part)
