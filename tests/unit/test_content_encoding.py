"""Bodies that are compressed although the request asked for identity."""

import gzip
import time
import tracemalloc
import zlib

import pytest

from bridge.asm.http.content_encoding import ContentError, decode

BODY = b'{"a": 1}' * 100


def raw(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(body) + deflater.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY[:100], mtime=0) + gzip.compress(BODY[100:], mtime=0)),
        ("deflate", zlib.compress(BODY)),
        ("Deflate", raw(BODY)),
        ("identity", BODY),
        ("", BODY),
        ("deflate, gzip", gzip.compress(zlib.compress(BODY), mtime=0)),
    ],
)
def test_known_codings_are_taken_off(encoding: str, body: bytes) -> None:
    """gzip with one or several members, deflate as zlib and raw, and several codings in a row are decoded."""
    assert decode(body, encoding, 10_000) == BODY


def test_an_unknown_coding_is_left_as_it_is() -> None:
    """A body in an unknown coding is left unchanged."""
    assert decode(b"\x0b\x02\x80", "br", 10) == b"\x0b\x02\x80"


@pytest.mark.parametrize(
    "body", [b"{}", gzip.compress(BODY, mtime=0)[:-1], gzip.compress(BODY, mtime=0) + b"x", b"\x1f"]
)
def test_what_is_not_compressed_as_it_says_is_an_error(body: bytes) -> None:
    """A body that is not compressed as declared, is cut short, or continues after its end is an error."""
    with pytest.raises(ContentError):
        decode(body, "gzip", 10_000)


def test_a_bomb_is_not_unpacked() -> None:
    """Decompression stops at the limit, so that memory and time are bounded, even with many empty members."""
    bomb = gzip.compress(bytes(200 * 2**20), 1)
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(ContentError, match="longer than 100000"):
        decode(bomb, "gzip", 100_000)
    assert decode(gzip.compress(b"", mtime=0) * 5000, "gzip", 100_000) == b""
    assert time.process_time() - begin < 5
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 * 2**20
