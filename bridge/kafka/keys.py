"""Which partition a key belongs to, as Java's default partitioner has it."""

from aiokafka.partitioner import murmur2


def partition_for(key: bytes | str, partitions: int) -> int:
    """The partition, 0 to ``partitions`` - 1, of a key (text: its UTF-8 bytes).

    Kafka's ``BuiltInPartitioner``: murmur2 of the bytes, without the sign, modulo the number of partitions.
    """
    data = key.encode() if isinstance(key, str) else key
    return int(murmur2(data) & 0x7FFFFFFF) % partitions
