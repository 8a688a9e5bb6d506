"""The heads of HTTP/2 responses: reads the few relevant fields of a header block (HPACK, RFC 7541) quickly.

``hpack`` takes 50 to 150 us for a block. So blocks are looked up, and new ones (a date, a length or an id has changed)
are scanned without decoding what does not matter. ``hpack`` decodes the rest, and all that touches the dynamic table.
"""

from typing import NamedTuple

from hpack import Decoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

MAX_HEAD = 65536
"""Bytes of a block, and of the fields in it."""
_MAX_KNOWN = 512
_MAX_KNOWN_SIZE = 2048
"""Blocks that are remembered, and bytes of the longest one: 1 MiB a connection at most."""


class Head(NamedTuple):
    """``status`` is 0 if it is missing or invalid. A 2xx without ``retry_after`` has no ``date``."""

    status: int
    retry_after: str | None = None
    date: str | None = None
    content_encoding: str | None = None


_OK = tuple(map(Head, range(1000)))
"""The heads in which only the status matters."""
_STATUSES = dict(zip(range(8, 15), (200, 204, 206, 304, 400, 404, 500), strict=True))
"""By index in the static table (RFC 7541, appendix A)."""
_STATIC = range(1, 62)
_RELEVANT_INDEXES = frozenset({26, 53})
"""Content-Encoding and Retry-After in the static table."""
_HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
_PLAIN_NAMES = (b":status", b"retry-after", b"content-encoding")
RELEVANT_NAMES = frozenset({*_PLAIN_NAMES, *map(_HUFFMAN.encode, _PLAIN_NAMES)})
"""Names that must not be skipped: plain, and in Huffman code (appendix B)."""

_VALUE, _NAME_AND_VALUE, _INDEX_AND_VALUE, _UNUSUAL = -1, -2, -3, -4


def classify(first: int) -> int:
    """The representation that a field's first byte announces (section 6), or if it is complete, its status or 0."""
    if first & 0x80:  # an indexed field (6.1)
        index = first & 0x7F
        return _STATUSES.get(index, 0) if index in _STATIC and index not in _RELEVANT_INDEXES else _UNUSUAL
    if first & 0x60 == 0x20:  # the table changes its size (6.3)
        return _UNUSUAL
    # A literal: added to the table (6.2.1), or not (6.2.2), or never to be (6.2.3).
    index, most = (first & 0x3F, 0x3F) if first & 0x40 else (first & 0x0F, 0x0F)
    if index == 0:
        return _NAME_AND_VALUE
    if index == most:
        return _INDEX_AND_VALUE if most == 0x0F else _UNUSUAL
    return _VALUE if index in _STATIC and index not in _STATUSES and index not in _RELEVANT_INDEXES else _UNUSUAL


_CLASSES = tuple(map(classify, range(256)))


def scan(block: bytes, table_off: bool) -> int:
    """The status of a block that has no other relevant field, and neither uses nor changes the dynamic table, or 0 if
    the decoder must read it.
    """
    at, end, status = 0, len(block), 0
    try:
        while at < end:
            first = block[at]
            meaning = _CLASSES[first]
            at += 1
            if meaning >= 0:
                status = meaning or status
                continue
            if meaning == _UNUSUAL or (first & 0x40 and not table_off):
                return 0
            if meaning == _NAME_AND_VALUE:
                size = block[at] & 0x7F
                if size == 0x7F or block[at + 1 : at + 1 + size] in RELEVANT_NAMES:
                    return 0
                at += 1 + size
            elif meaning == _INDEX_AND_VALUE:
                index = 15 + block[at]
                if index in _RELEVANT_INDEXES or index not in _STATIC:
                    return 0
                at += 1
            size = block[at] & 0x7F
            if size == 0x7F:  # the length continues (section 5.1)
                at += 1
                size += block[at] & 0x7F
                if block[at] & 0x80:
                    at += 1
                    size += block[at] << 7
                    if block[at] & 0x80:
                        return 0
            at += 1 + size
    except IndexError:
        return 0
    return status if at == end else 0


class HeaderBlockReader:
    """Reads the header blocks of one connection in order.

    While the dynamic table has no room, no block can change the meaning of another, so all of them may be remembered.
    Otherwise only those that do not touch the table may be, and none outlives a change between the two.
    """

    def __init__(self) -> None:
        self._decoder = Decoder(MAX_HEAD)
        self._table_off = False
        self._known: dict[bytes, Head] = {}
        self.known = self._known.get

    def read(self, block: bytes) -> Head:
        """Reads a block that is not ``known``. Raises ``HPACKError``."""
        status = scan(block, self._table_off)
        if 200 <= status < 300:  # of all others the date matters, too
            head = _OK[status]
        else:
            head = self._decode(block)
            before, self._table_off = self._table_off, self._decoder.header_table_size == 0
            if before != self._table_off:
                self._known.clear()
            if not (before and self._table_off):
                return head
        if len(block) <= _MAX_KNOWN_SIZE:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[block] = head
        return head

    def _decode(self, block: bytes) -> Head:
        fields = {name: value.decode("latin-1") for name, value in self._decoder.decode(block, raw=True)}
        code, retry_after = fields.get(b":status", ""), fields.get(b"retry-after")
        status = int(code) if len(code) == 3 and code.isascii() and code.isdigit() else 0
        date = None if 200 <= status < 300 and retry_after is None else fields.get(b"date")
        return Head(status, retry_after, date, fields.get(b"content-encoding"))
