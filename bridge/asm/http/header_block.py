"""The heads of HTTP/2 answers: of a header block (HPACK, RFC 7541) the two fields that matter, fast.

``hpack`` takes 50 to 150 us for a block. So blocks are looked up, and new ones (a date, a length or an id has changed)
are skimmed without decoding what does not matter. It decides about the rest, and about all that touches the dynamic
table.
"""

from hpack import Decoder

MAX_HEAD = 65536
"""Bytes of a block, and of the fields in it."""
_MAX_KNOWN = 512

Head = tuple[int, str | None]
"""Status (0: none, or none that is valid) and Retry-After."""

_STATUSES = dict(zip(range(8, 15), (200, 204, 206, 304, 400, 404, 500), strict=True))
"""By index in the static table (appendix A)."""
_STATIC = range(1, 62)
_RETRY_AFTER = 53
_TELLING = frozenset({b":status", b"retry-after", bytes.fromhex("b8848d36a3"), bytes.fromhex("b0a9b3d2c39525b3")})
"""Names that must not be skipped: plain, and in Huffman code (appendix B)."""

_VALUE, _NAME_AND_VALUE, _INDEX_AND_VALUE, _UNUSUAL = -1, -2, -3, -4


def _meaning(first: int) -> int:
    """What follows a field's first byte; where nothing does, the status that it stands for, or 0."""
    if first & 0x80:
        index = first & 0x7F
        return _STATUSES.get(index, 0) if index in _STATIC and index != _RETRY_AFTER else _UNUSUAL
    if first & 0x60 == 0x20:  # the table changes its size
        return _UNUSUAL
    index, most = (first & 0x3F, 0x3F) if first & 0x40 else (first & 0x0F, 0x0F)
    if index == 0:
        return _NAME_AND_VALUE
    if index == most:
        return _INDEX_AND_VALUE if most == 0x0F else _UNUSUAL
    return _VALUE if index in _STATIC and index not in _STATUSES and index != _RETRY_AFTER else _UNUSUAL


_MEANING = tuple(map(_meaning, range(256)))


def skim(block: bytes, table_off: bool) -> Head | None:
    """What a block says that neither uses nor changes the dynamic table. None: ask the decoder."""
    at, end, status = 0, len(block), 0
    try:
        while at < end:
            first = block[at]
            meaning = _MEANING[first]
            at += 1
            if meaning >= 0:
                status = meaning or status
                continue
            if meaning == _UNUSUAL or (first & 0x40 and not table_off):
                return None
            if meaning == _NAME_AND_VALUE:
                size = block[at] & 0x7F
                if size == 0x7F or block[at + 1 : at + 1 + size] in _TELLING:
                    return None
                at += 1 + size
            elif meaning == _INDEX_AND_VALUE:
                index = 15 + block[at]
                if index == _RETRY_AFTER or index not in _STATIC:
                    return None
                at += 1
            size = block[at] & 0x7F
            if size == 0x7F:
                at += 1
                size += block[at]
                if block[at] & 0x80:
                    return None
            at += 1 + size
    except IndexError:
        return None
    return (status, None) if status and at == end else None


class Heads:
    """The header blocks of one connection, to be read in their order.

    While the dynamic table has no room, no block can change what another means, and all may be remembered. While it
    has, only those may that do not touch it, and none outlives a change from one to the other.
    """

    def __init__(self) -> None:
        self._decoder = Decoder(MAX_HEAD)
        self._table_off = False
        self._known: dict[bytes, Head] = {}
        self.known = self._known.get

    def read(self, block: bytes) -> Head:
        """A block that is not ``known``. Raises ``HPACKError``."""
        head = skim(block, self._table_off)
        if head is None:
            head = self._decode(block)
            before, self._table_off = self._table_off, self._decoder.header_table_size == 0
            if before != self._table_off:
                self._known.clear()
            if not (before and self._table_off):
                return head
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[block] = head
        return head

    def _decode(self, block: bytes) -> Head:
        fields = dict(self._decoder.decode(block, raw=True))
        status, retry_after = fields.get(b":status", b""), fields.get(b"retry-after")
        return (
            int(status) if len(status) == 3 and status.isdigit() else 0,
            None if retry_after is None else retry_after.decode("latin-1"),
        )
