"""The scanner of header blocks (HPACK, RFC 7541), held against ``hpack``.

``corpus/header_blocks.txt`` keeps connections' blocks: as servers and proxies write them, and those broken at random
(``python -m tests.unit.test_header_block`` writes it again).
"""

import itertools
import random

import pytest
from hpack import Decoder, Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.asm.http.header_block import Head, HeaderBlockReader, scan
from tests.support.header_blocks import CORPUS, compare, connections, reference


def test_the_corpus_is_read_as_hpack_reads_it() -> None:
    """Each block of each connection is read as ``hpack`` reads it, with a dynamic table and without one."""
    read = [compare(blocks) for blocks in connections()]
    assert len(read) >= 200
    assert sum(read) >= 600


BLOCKS = st.lists(st.sampled_from([block for blocks in connections() for block in blocks]), min_size=1, max_size=4)


@settings(deadline=None)
@given(BLOCKS, st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4))
def test_blocks_that_are_changed_are_read_as_hpack_reads_them(
    blocks: list[bytes], changes: list[tuple[int, int]]
) -> None:
    """Blocks of the corpus in any order, with some bytes replaced, are read as ``hpack`` reads them."""
    whole = bytearray(b"".join(blocks))
    for at, value in changes:
        whole[at % len(whole)] = value
    cuts = [sum(map(len, blocks[:number])) for number in range(len(blocks) + 1)]
    compare([bytes(whole[begin:end]) for begin, end in itertools.pairwise(cuts)])


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=3))
def test_any_bytes_are_read_as_hpack_reads_them(blocks: list[bytes]) -> None:
    """Any bytes are read as ``hpack`` reads them, or are refused by both."""
    compare(blocks)


NAMES = st.sampled_from(
    [":status", "retry-after", "date", "content-length", "x-request-id", "server", "alt-svc", "set-cookie", "x" * 130]
)
FIELDS = st.lists(
    st.tuples(NAMES.filter(lambda name: name != ":status"), st.text("aZ09-:;, ", max_size=140)), max_size=6
)


@settings(max_examples=100, deadline=None)
@given(
    blocks=st.lists(
        st.tuples(
            st.sampled_from(["200", "204", "404", "429", "500", "503"]),
            FIELDS,
            st.booleans(),
            st.sampled_from([None, None, None, 0, 64, 4096]),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_any_head_is_read_right(
    blocks: list[tuple[str, list[tuple[str, str]], bool, int | None, bool]],
) -> None:
    """Scanned, cached or decoded, with a table of any size or none, a head gives the same status and Retry-After."""
    encoder, heads = Encoder(), HeaderBlockReader()
    for status, fields, huffman, size, again in blocks:
        if size is not None:
            encoder.header_table_size = size
        for _ in range(2 if again else 1):
            block = encoder.encode([(":status", status), *fields], huffman=huffman)
            retry_after = dict(fields).get("retry-after")
            assert (heads.known(block) or heads.read(block))[:2] == (int(status), retry_after)


def test_a_table_that_comes_back() -> None:
    """A block cached without a dynamic table is decoded again once there is one, since it adds to the table."""
    encoder, heads = Encoder(), HeaderBlockReader()
    one, other = [(":status", "200"), ("x", "1")], [(":status", "404")]
    encoder.header_table_size = 0
    read = [(heads.known(block) or heads.read(block)) for block in map(encoder.encode, (one, one, one))]
    encoder.header_table_size = 4096
    read += [(heads.known(block) or heads.read(block)) for block in map(encoder.encode, (other, one, one))]
    throttled = [(":status", "429"), ("x", "1"), ("retry-after", "8")]
    read += [(heads.known(block) or heads.read(block)) for block in map(encoder.encode, (throttled, throttled))]
    assert [head.status for head in read] == [200, 200, 200, 404, 200, 200, 429, 429]


@pytest.mark.parametrize("huffman", [False, True])
def test_names_spelled_out(huffman: bool) -> None:
    """A header name with an HPACK number may also be sent as text, plain or Huffman-coded."""

    def text(value: bytes) -> bytes:
        coded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(value) if huffman else value
        return bytes([0x80 * huffman | len(coded)]) + coded

    fields = {b":status": b"200", b"server": b"x", b"retry-after": b"12", b"date": b"y" * 30}
    block = b"".join(b"\0" + text(name) + text(value) for name, value in fields.items())
    assert HeaderBlockReader().read(block) == Head(200, "12", "y" * 30)
    assert HeaderBlockReader().read(
        b"\x88" + b"".join(b"\x10" + text(name) + text(b"1") for name in (b"via", b"z"))
    ) == Head(200)


@pytest.mark.parametrize("huffman", [False, True])
@pytest.mark.parametrize("name", ["retry-after", "content-encoding", ":status"])
def test_no_name_that_matters_is_skipped(name: str, huffman: bool) -> None:
    """Each relevant name is found when it is spelled out after an indexed status."""
    coded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(name.encode()) if huffman else name.encode()
    block = b"\x88\x00" + bytes([0x80 * huffman | len(coded)]) + coded + b"\x03404"
    assert scan(block, table_off=True) == 0
    assert HeaderBlockReader().read(block) == reference(Decoder(), block)


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 256, 16_000])
def test_long_values_are_skipped(size: int) -> None:
    """Irrelevant values are skipped without the decoder, however long a cookie or policy is."""
    encoder = Encoder()
    encoder.header_table_size = 0
    block = encoder.encode([(":status", "200"), ("x", "y" * size), ("age", "1")], huffman=False).lstrip(b"\x20")
    assert scan(block, table_off=True) == 200


@given(st.binary(max_size=40), st.booleans())
def test_scanning_takes_any_bytes(block: bytes, table_off: bool) -> None:
    """Scanning returns no result for bytes that it does not know, and never raises."""
    scan(block, table_off)


def write_corpus() -> None:
    """Writes heads as servers and proxies send them, with dynamic tables of several sizes, and mutations of them."""
    chance, lines = random.Random(20261128), []
    date = ("date", "Wed, 25 Nov 2026 09:18:17 GMT")
    servers: list[list[tuple[str, str]]] = [
        [("server", "nginx/1.26.2"), date, ("content-type", "application/json"), ("content-length", "580")],
        [("content-type", "application/json"), ("x-envoy-upstream-service-time", "3"), date, ("server", "envoy")],
        [date, ("content-length", "2"), ("strict-transport-security", "max-age=31536000; includeSubDomains")],
        [("server", "h2o/2.3.0"), date, ("vary", "accept-encoding"), ("set-cookie", "a=" + "b" * 200)],
        [
            ("content-type", "text/html; charset=utf-8"),
            date,
            ("alt-svc", 'h3=":443"; ma=2592000'),
            ("via", "1.1 google"),
        ],
        [("grpc-metadata-content-type", "application/grpc"), ("x-request-id", "0"), date, ("x-cloud-trace", "c" * 64)],
        [("content-security-policy", "default-src 'self' " * 30), ("age", "0"), date],
    ]
    extras = [("retry-after", "7"), ("retry-after", date[1]), ("content-encoding", "gzip"), ("etag", '"x"')]
    for turn in range(200):
        encoder, blocks = Encoder(), []
        encoder.header_table_size = chance.choice([0, 0, 64, 256, 4096])
        for _ in range(chance.randint(2, 6)):
            fields = [*chance.choice(servers), *chance.sample(extras, chance.choice([0, 0, 0, 1, 2]))]
            status = chance.choice(["200", "200", "200", "204", "103", "404", "429", "500", "503"])
            fields = [(name, str(chance.random()) if name == "x-request-id" else value) for name, value in fields]
            head = [(":status", status), *fields] if chance.random() < 0.95 else fields
            block = bytearray(encoder.encode(head, huffman=chance.random() < 0.6))
            if turn % 2 and chance.random() < 0.3:
                block[chance.randrange(len(block))] = chance.randrange(256)
            if turn % 5 == 1 and chance.random() < 0.2:
                del block[chance.randrange(len(block)) :]
            blocks.append(block.hex())
        lines.append(" ".join(block for block in blocks if block))
    CORPUS.parent.mkdir(exist_ok=True)
    CORPUS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_corpus()
