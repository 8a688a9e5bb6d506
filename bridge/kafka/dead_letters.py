"""Dead letters: reading them, and what of them can be sent again."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from asm_bridge_schemas.commands import CommandError, read_event
from bridge import clock as times
from bridge.kafka import connected
from bridge.kafka.clients import DEADLINE, bounded
from bridge.registry.topic import partitions_of, reader
from bridge.settings import KafkaSettings

Headers = tuple[tuple[str, bytes | None], ...]
_OURS = "asm_"
"""What the headers begin with that the bridge added to a dead letter."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: the original key, value and headers (with the bridge's own), why it is one, and where the original
    stood (``topic/partition/offset``). ``time`` is in seconds since 1970."""

    time: float
    key: bytes | None
    value: bytes | None
    headers: Headers
    code: str
    error: str
    origin: str

    @property
    def agent_id(self) -> str | None:
        return None if self.key is None else self.key.decode(errors="backslashreplace")

    @property
    def entry(self) -> str:
        """``partition/offset`` of the original, which names it in its outcome."""
        return self.origin.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Again:
    """What to send for a dead letter; ``injection_id`` names it in its outcome, ``note`` is for the sender."""

    agent_id: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    injection_id: str
    note: str | None = None


class UnfitError(Exception):
    """The dead letter cannot be sent again; the text says why and what to do instead."""


async def read(kafka: KafkaSettings, topic: str) -> AsyncIterator[Letter]:
    """Every committed dead letter up to now, those of a partition in order. Raises ``KafkaUnavailableError``,
    ``KafkaError``, ``TimeoutError``."""
    partitions = [TopicPartition(topic, number) for number in range(await partitions_of(kafka, topic))]
    async with connected(reader(kafka), kafka.bootstrap_servers) as consumer:
        consumer.assign(partitions)
        ends = await bounded(consumer.end_offsets(partitions))
        async for message in _up_to(consumer, ends):
            yield letter(message)


async def _up_to(consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> AsyncIterator[ConsumerRecord]:
    clock = asyncio.get_running_loop().time
    heard, unread, wait = clock(), dict(ends), 500
    while unread := {part: end for part, end in unread.items() if await bounded(consumer.position(part)) < end}:
        messages = (await consumer.getmany(*unread, timeout_ms=wait)).items()
        wait = 0 if messages else 500  # a transaction's end is read by a call of its own
        for part, found in messages:
            for message in found:
                if message.offset < unread[part]:
                    yield message
        heard = clock() if messages else heard
        if clock() - heard > DEADLINE:
            raise TimeoutError


def letter(message: ConsumerRecord) -> Letter:
    """The dead letter in a record of its topic."""
    texts = _texts(message.headers)
    return Letter(
        time=message.timestamp / 1000,
        key=message.key,
        value=message.value,
        headers=tuple(message.headers),
        code=texts.get("asm_error_code", "unknown"),
        error=texts.get("asm_error", ""),
        origin=texts.get("asm_origin", f"{message.topic}/{message.partition}/{message.offset}"),
    )


def again(letter: Letter, now: float) -> Again:
    """What to send for a dead letter at the time ``now`` (seconds since 1970). Raises ``UnfitError``.

    An original without ce_id goes under its old injection id, ``partition/offset``: so one that is sent again twice is
    delivered once.
    """
    agent_id, value = _agent(letter), _event(letter)
    kept = [(name, text) for name, text in letter.headers if text is not None and not name.startswith(_OURS)]
    note = None
    if _has_passed(dict(kept).get("expires_at"), now):
        kept = [header for header in kept if header[0] != "expires_at"]
        note = "its expires_at has passed and was left out"
    injection_id = _texts(letter.headers).get("ce_id")
    if not injection_id:
        injection_id = letter.entry
        kept = [*(header for header in kept if header[0] != "ce_id"), ("ce_id", injection_id.encode())]
    return Again(agent_id, value, tuple(kept), injection_id, note)


def _agent(letter: Letter) -> str:
    if letter.key is None:
        raise UnfitError("it has no key, so no agent; send its value with `asm-bridge inject AGENT_ID`")
    try:
        return letter.key.decode()
    except UnicodeDecodeError:
        raise UnfitError("its key is not UTF-8, so no agent_id") from None


def _event(letter: Letter) -> bytes:
    """The value of one that the bridge would take."""
    if letter.code in ("literal_token", "malformed_entry"):
        raise UnfitError(
            "it is an entry of the registry, whose value is not kept; add it with `asm-bridge sessions add`"
        )
    if letter.value is None and letter.code == "too_large":
        raise UnfitError("its value was longer than 512 KiB and was not kept; send a smaller one")
    if letter.value is None:
        raise UnfitError("it has no value")
    try:
        read_event(letter.value, _texts(letter.headers).get("content-type"))
    except CommandError as error:
        raise UnfitError(f"its value is no event ({error}); correct it and send it with `asm-bridge inject`") from None
    return letter.value


def _has_passed(expires_at: bytes | None, now: float) -> bool:
    """Whether the time has passed; one that cannot be read is why the original was refused."""
    if expires_at is None:
        return False
    try:
        return times.seconds(expires_at.decode()) <= now
    except ValueError:
        raise UnfitError("its header expires_at is no RFC 3339 time; send its value with `asm-bridge inject`") from None


def _texts(headers: Headers) -> dict[str, str]:
    return {name: text.decode(errors="backslashreplace") for name, text in headers if text is not None}
