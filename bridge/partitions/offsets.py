"""How far the inbox's committed offset may move: pure."""

from collections import OrderedDict

import msgspec


class OffsetTracker:
    """The committed offset is a prefix: everything before it is finished, and one open entry holds it."""

    def __init__(self, position: int) -> None:
        self.position = position
        self._open: OrderedDict[int, None] = OrderedDict()

    def read(self, offset: int) -> None:
        self._open[offset] = None
        self.position = offset + 1

    def finish(self, offset: int) -> None:
        self._open.pop(offset, None)

    @property
    def open(self) -> int:
        """How many entries were read and are not finished."""
        return len(self._open)

    @property
    def prefix(self) -> int:
        return next(iter(self._open), self.position)


class CommitMetadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the offset commit carries as metadata: the partition's own bookkeeping.

    ``clean``: the owner handed over with nothing under way. ``in_place``: the highest offset among the records that
    were moved or put
    away without an agent. ``registry``: the highest offset of a bad registry entry already put away.
    """

    clean: bool = False
    in_place: int = -1
    registry: int = -1

    def text(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def read(cls, text: str | None) -> "CommitMetadata":
        """The bookmark in a commit's metadata; of another program's commit, an unclean one."""
        try:
            return msgspec.json.decode(text or "", type=cls)
        except msgspec.DecodeError:
            return cls()
