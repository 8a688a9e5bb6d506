"""Dead letters: reading them, and preparing those that can be sent again."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from asm_bridge_schemas.cloudevents import unwrap
from asm_bridge_schemas.commands import UNWRITABLE, CommandError, read_event
from bridge import clock as times
from bridge import headers as names
from bridge.agents.step import DeadLetter
from bridge.kafka.encoding import read_dead_letter
from bridge.kafka.reading import read_to_end
from bridge.kafka.topics import partitions_of
from bridge.settings import KafkaSettings


@dataclass(frozen=True, slots=True)
class Resend:
    """The record to send for a dead letter; ``injection_id`` names it in its outcome, ``note`` is for the user."""

    agent_id: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    injection_id: str
    note: str | None = None


class NotResendable(Exception):
    """The dead letter cannot be sent again; the text says why and what to do instead."""


async def read(kafka: KafkaSettings, topic: str) -> AsyncIterator[DeadLetter]:
    """Every committed dead letter up to now, those of a partition in order. Raises ``KafkaError``, ``TimeoutError``."""
    connection = kafka.client_arguments()
    partitions = [(topic, number) for number in range(await partitions_of(connection, topic))]
    async for message in read_to_end(connection, partitions):
        yield read_dead_letter(message)


def resend(letter: DeadLetter, now: float) -> Resend:
    """The record to send for a dead letter at the time ``now`` (seconds since 1970). Raises ``NotResendable``.

    An original without ce_id goes under its old injection id, ``partition/offset``: so one that is sent again twice is
    delivered once.
    """
    agent_id, value = _agent(letter), _event(letter)
    kept = [(name, text) for name, text in letter.headers if text is not None and name not in names.OWN]
    note, texts = None, names.texts(letter.headers)
    if _has_passed(texts.get(names.EXPIRES_AT), now):
        kept = [header for header in kept if header[0].lower() != names.EXPIRES_AT]
        note = "its expires_at has passed and was left out"
    wrapped = unwrap(value, texts.get(names.CONTENT_TYPE))
    injection_id = texts.get(names.CE_ID) if wrapped is None else wrapped.id
    if not injection_id:
        injection_id = letter.origin.entry
        kept = [*(header for header in kept if header[0].lower() != names.CE_ID), (names.CE_ID, injection_id.encode())]
    return Resend(agent_id, value, tuple(kept), injection_id, note)


def _agent(letter: DeadLetter) -> str:
    if letter.key is None:
        raise NotResendable("it has no key, so no agent; send its value with `asm-bridge inject AGENT_ID`")
    try:
        return letter.key.decode()
    except UnicodeDecodeError:
        raise NotResendable("its key is not UTF-8, so no agent_id") from None


def _event(letter: DeadLetter) -> bytes:
    """The value of a dead letter, if the bridge would accept it."""
    if letter.code in ("literal_token", "malformed_entry"):
        raise NotResendable(
            "it is an entry of the registry, whose value is not kept; add it with `asm-bridge sessions add`"
        )
    if letter.code == UNWRITABLE and names.CE_TYPE in dict(letter.headers):
        raise NotResendable("it is a record of the bridge that Kafka refused, not an event")
    if letter.value is None and letter.code == "too_large":
        raise NotResendable("its value was longer than 512 KiB and was not kept; send a smaller one")
    if letter.value is None:
        raise NotResendable("it has no value")
    try:
        read_event(letter.value, names.texts(letter.headers).get(names.CONTENT_TYPE))
    except CommandError as error:
        raise NotResendable(
            f"its value is not an event ({error}); correct it and send it with `asm-bridge inject`"
        ) from None
    return letter.value


def _has_passed(expires_at: str | None, now: float) -> bool:
    """Whether the time has passed; an unreadable one counts as the reason for which the original was refused."""
    if expires_at is None:
        return False
    try:
        return times.seconds(expires_at) <= now
    except ValueError:
        raise NotResendable(
            "its header expires_at is not an RFC 3339 time; send its value with `asm-bridge inject`"
        ) from None
