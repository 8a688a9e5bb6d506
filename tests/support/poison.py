"""Records that aiokafka's own producer refuses to write: those with a header name that is not UTF-8."""

import struct
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

CRC, AFTER_CRC = slice(17, 21), 21
"""Where a record batch has its checksum, and what that covers (KIP-98)."""


def checked(raw: bytearray) -> bytes:
    """The batch with the checksum of its present content."""
    raw[CRC] = struct.pack(">I", calc_crc32c(bytes(raw[AFTER_CRC:])))
    return bytes(raw)


async def send_with_header_name(
    producer: AIOKafkaProducer, topic: str, partition: int, key: bytes | None, value: bytes | None, name: bytes
) -> int:
    """Writes a record with a header of this name, whatever its bytes. Returns the record's offset."""
    batch = producer.create_batch()
    batch.append(key=key, value=value, timestamp=None, headers=[("?" * len(name), b"x"), ("ce_source", b"/crm")])
    build: Any = batch._build

    def built() -> bytes:
        return checked(bytearray(build().replace(b"?" * len(name), name, 1)))

    batch._build = built
    sent = await (await producer.send_batch(batch, topic, partition=partition))
    return int(sent.offset)
