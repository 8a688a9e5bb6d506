"""The bytes of one input, cut into what a target needs, and inputs made of others at random."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_ODD = [
    b"",
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"NaN",
    b"{}",
    b"[]",
    b"\r\n",
    b'"',
    b"~",
    b"9" * 5000,
    b"[" * 2000,
    b'{"a":' * 2000,
    b"\\ud800",
    b"2026-11-23T09:30:00Z",
    b"9223372036854775808",
    b"0x7f",
    b"%00",
    b"..",
]
"""What readers of text and numbers stumble over."""


class Data:
    """Hands out the bytes of an input from its beginning; where there are no more, zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def choice(self, of: Sequence[T]) -> T:
        return of[self.byte() % len(of)]

    def part(self) -> bytes:
        """Up to the next 0xFE, which neither text nor most numbers have."""
        end = self._data.find(b"\xfe", self._at)
        end = len(self._data) if end < 0 else end
        part, self._at = self._data[self._at : end], end + 1
        return part

    def rest(self) -> bytes:
        return self._data[self._at :]

    def pieces(self) -> list[bytes]:
        """The rest, cut where the first few bytes of it say."""
        sizes = [self.byte() for _ in range(self.byte() % 8)]
        rest, pieces = self.rest(), []
        for size in sizes:
            pieces.append(rest[:size])
            rest = rest[size:]
        return [*filter(None, pieces), rest]


def mutated(seeds: Sequence[bytes], chance: random.Random, longest: int = 8192) -> bytes:
    """An input made of one or two of the seeds, with a few changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        size = min(chance.choice((1, 1, 2, 4, 16, 64)), len(data) - at)
        match chance.randrange(6):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                data[at : at + size] = b""
            case 2:
                data[at:at] = chance.choice(_ODD)
            case 3:
                data[at : at + size] = chance.choice(_ODD)
            case 4:
                data[at:at] = data[at : at + size] * chance.choice((1, 2, 40))
            case _:
                other = chance.choice(seeds)
                begin = chance.randrange(len(other) + 1)
                data[at:at] = other[begin : begin + chance.choice((4, 32, 400))]
    return bytes(data[:longest])
