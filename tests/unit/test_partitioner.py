"""An agent's partition is the one that Java's default partitioner chooses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.kafka.partitioner import partition_for

# From Apache Kafka's UtilsTest.testMurmur2 (signed hashes).
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "murmur2"), JAVA.items())
@pytest.mark.parametrize("partitions", [1, 2, 8, 9, 100])
def test_the_partition_is_javas(key: bytes, murmur2: int, partitions: int) -> None:
    """A Java producer with the default partitioner and the bridge agree on every key's partition."""
    assert partition_for(key, partitions) == (murmur2 & 0x7FFFFFFF) % partitions


@given(st.text(), st.integers(1, 1000))
def test_a_text_is_its_utf8(key: str, partitions: int) -> None:
    """The partition of any agent_id lies within the topic and is that of its UTF-8 bytes."""
    assert 0 <= partition_for(key, partitions) < partitions
    assert partition_for(key, partitions) == partition_for(key.encode(), partitions)
