"""The scanner of header blocks beside ``hpack``, and the corpus of blocks that servers and proxies wrote."""

import contextlib
from pathlib import Path

from hpack import Decoder, HPACKError

from bridge.asm.http.header_block import MAX_HEAD, Head, HeaderBlockReader

CORPUS = Path(__file__).parents[1] / "unit" / "corpus" / "header_blocks.txt"


def reference(decoder: Decoder, block: bytes) -> Head:
    """Decodes a whole block with ``hpack``. Raises ``HPACKError``."""
    fields = {name: value.decode("latin-1") for name, value in decoder.decode(block, raw=True)}
    code = fields.get(b":status", "")
    status = int(code) if len(code) == 3 and code.isascii() and code.isdigit() else 0
    retry_after = fields.get(b"retry-after")
    date = None if 200 <= status < 300 and retry_after is None else fields.get(b"date")
    return Head(status, retry_after, date, fields.get(b"content-encoding"))


def compare(blocks: list[bytes]) -> int:
    """Scans one connection's blocks in order, up to the first that ``hpack`` refuses. Returns how many were equal."""
    reader, decoder = HeaderBlockReader(), Decoder(MAX_HEAD)
    for number, block in enumerate(blocks):
        try:
            expected = reference(decoder, block)
        except HPACKError:
            with contextlib.suppress(HPACKError):  # it may skip what is broken, but raises nothing else
                reader.read(block)
            return number
        assert (reader.known(block) or reader.read(block)) == expected, (number, block.hex())
    return len(blocks)


def connections() -> list[list[bytes]]:
    """The connections of the corpus: one per line, with their blocks in hexadecimal."""
    return [[bytes.fromhex(block) for block in line.split()] for line in CORPUS.read_text().splitlines()]
