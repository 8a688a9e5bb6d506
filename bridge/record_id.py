"""The position of a record in Kafka, and its text form ``topic/partition/offset``."""

from typing import NamedTuple, Protocol


class _Placed(Protocol):
    topic: str
    partition: int
    offset: int


class RecordId(NamedTuple):
    """A record's topic (full name), partition and offset; its text form is ``topic/partition/offset``.

    The records of one topic sort in the order of their partitions and offsets.
    """

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def entry(self) -> str:
        """``partition/offset``, as outcomes name an entry of the inbox."""
        return f"{self.partition}/{self.offset}"

    @classmethod
    def of(cls, record: _Placed) -> "RecordId":
        """The id of a record as it was read from Kafka."""
        return cls(record.topic, record.partition, record.offset)

    @classmethod
    def parse(cls, text: str) -> "RecordId":
        """The id in ``topic/partition/offset``. Raises ``ValueError`` for any other text."""
        topic, *numbers = text.rsplit("/", 2)
        if not topic or len(numbers) != 2 or not all(map(_is_number, numbers)):
            raise ValueError(f"{text!r} is not topic/partition/offset")
        return cls(topic, int(numbers[0]), int(numbers[1]))


def _is_number(text: str) -> bool:
    """Whether the text is a number that fits into 64 bits, as Kafka's offsets do."""
    return text.isascii() and text.isdigit() and int(text[:20]) < 2**63
