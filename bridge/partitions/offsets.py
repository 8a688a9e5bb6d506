"""How far the inbox's committed offset may move: pure."""

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from asm_bridge_schemas.records import AgentState, Books


class OffsetTracker:
    """Everything before the committed offset is completed; one open entry holds it back."""

    def __init__(self, position: int) -> None:
        self.position = position
        self._open: OrderedDict[int, None] = OrderedDict()

    def opened(self, offset: int) -> None:
        """Records that an entry was read."""
        self._open[offset] = None
        self.position = offset + 1

    def completed(self, offset: int) -> None:
        """Records that an entry has its outcome, or needs none. Safe to repeat."""
        self._open.pop(offset, None)

    @property
    def open(self) -> int:
        """How many entries were read and are not completed."""
        return len(self._open)

    @property
    def committable(self) -> int:
        """The offset of the first entry that is not completed."""
        return next(iter(self._open), self.position)


def differ(one: str | None, other: str | None) -> bool:
    """Whether two ids are those of different topics: both are known then."""
    return None not in (one, other) and one != other


def last_known(position: int, books: Iterable[Books]) -> int:
    """The highest inbox offset that the group or a state remembers; -1 without any. A log that ends before it is not
    the one that was read."""
    return max((position - 1, *(book.inbox_offset for book in books)))


def forget_inbox(state: AgentState) -> AgentState:
    """The state without its inbox offsets, for an inbox that has become another log. The ids of delivered events
    stay: they are the senders'."""
    return msgspec.structs.replace(state, bridge=msgspec.structs.replace(state.bridge, inbox_offset=-1, inbox_open=[]))


class CommitMetadata(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={"relocated_up_to": "in_place", "invalid_entries_up_to": "registry"},
):
    """The metadata of an offset commit: the partition's own accounting.

    ``clean``: the owner handed over with nothing in progress. ``relocated_up_to``: the highest offset among the inbox's
    records that were moved to their partition, or became dead letters for lack of a key. ``invalid_entries_up_to``: the
    highest offset of an invalid registry entry that became a dead letter, in the registry with ``registry_id``.
    ``observed_until``: everything observed before this time (seconds since 1970) is published. ``inbox``: the id of the
    inbox that the offsets are of. ``states``: the id of the topic that has the states of all agents;
    ``states_from``: its first offset in this partition.
    """

    clean: bool = False
    relocated_up_to: int = -1
    invalid_entries_up_to: int = -1
    observed_until: float | None = None
    inbox: str | None = None
    registry_id: str | None = None
    states: str | None = None
    states_from: int = 0

    def encode(self) -> str:
        """Encodes the metadata as JSON, under the names that earlier releases read."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str | None) -> "CommitMetadata":
        """Decodes a commit's metadata. That of another program counts as an unclean hand-over."""
        try:
            return msgspec.json.decode(text or "", type=cls)
        except (msgspec.DecodeError, RecursionError):
            return cls()


def relocated(metadata: CommitMetadata, books: Iterable[Books]) -> CommitMetadata:
    """The metadata with what the states know of it: when an entry was completed, all before it had been read, and were
    moved if they had to be. So nothing is moved again where the group's offsets have expired, or were set back."""
    return msgspec.structs.replace(metadata, relocated_up_to=max(metadata.relocated_up_to, last_known(0, books)))
