"""The partition of a key, as Java's default partitioner chooses it."""

from aiokafka.partitioner import murmur2


def key_hash(key: bytes | str) -> int:
    """murmur2 of a key (text: its UTF-8 bytes), without the sign. It takes some microseconds: keep the result if you
    need it often."""
    return int(murmur2(key.encode() if isinstance(key, str) else key) & 0x7FFFFFFF)


def partition_for(key: bytes | str, partitions: int) -> int:
    """The partition, 0 to ``partitions`` - 1, of a key, as Kafka's ``BuiltInPartitioner`` chooses it."""
    return key_hash(key) % partitions
