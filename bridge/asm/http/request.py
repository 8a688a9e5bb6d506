"""A request as it goes over the wire, and one sending of it."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import httpx
from hpack import Encoder
from hpack.hpack import encode_integer

from bridge.asm.errors import Unreachable

Fetched = tuple[int, str | None, bytes]
"""Status, Retry-After and body of an answer."""
Done = Callable[[Fetched | Unreachable], None]
"""Called once, with the answer or with why there is none."""

MAX_BODY = 16 * 1024 * 1024
"""Bytes of an answer that are read at most."""
_OWN = {"authorization": b"\x1f\x08", "content-length": b"\x0f\x0d"}
"""What differs from request to request: literals with a name of the static table (RFC 7541, appendix A), never to be
indexed (6.2.3) and not indexed (6.2.2)."""


class Target(NamedTuple):
    """Where requests go, in the words of HTTP."""

    scheme: str
    authority: str
    path: str

    @classmethod
    def of(cls, url: httpx.URL) -> "Target":
        return cls(url.scheme, url.netloc.decode(), url.raw_path.decode())


class Request:
    """A POST as bytes: for each version of HTTP made when it is first needed, and kept.

    ``headers`` have lower-case names; Host and Content-Length are added.
    """

    __slots__ = ("_http1", "_http2", "body", "headers", "target")

    def __init__(self, target: Target, headers: Mapping[str, str], body: bytes) -> None:
        self.target = target
        self.headers = {**headers, "content-length": str(len(body))}
        self.body = body
        self._http1 = self._http2 = b""

    @property
    def http1(self) -> bytes:
        """Head and body."""
        if not self._http1:
            lines = [f"POST {self.target.path} HTTP/1.1", f"host: {self.target.authority}"]
            lines += [f"{name}: {value}" for name, value in self.headers.items()]
            self._http1 = "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body
        return self._http1

    @property
    def http2(self) -> bytes:
        """The header block (RFC 7541). It leaves the dynamic table alone, so that it holds at any time, on any
        connection."""
        if not self._http2:
            own = {name: value for name, value in self.headers.items() if name in _OWN}
            common = tuple(one for one in self.headers.items() if one[0] not in own)
            self._http2 = _block(self.target, common) + b"".join(
                _OWN[name] + encode_integer(len(value), 7) + value.encode() for name, value in own.items()
            )
        return self._http2


@lru_cache(maxsize=16)
def _block(target: Target, headers: tuple[tuple[str, str], ...]) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    pseudo = zip((":scheme", ":authority", ":path"), target, strict=True)
    block: bytes = encoder.encode([(":method", "POST"), *pseudo, *headers])
    return block


class Exchange:
    """One sending of a request, until ``deadline`` (monotonic seconds).

    ``left``: whether any of it may have gone out; ``ended`` is called before ``done``.
    """

    __slots__ = ("_done", "_ended", "deadline", "left", "request")

    def __init__(
        self, request: Request, done: Done, deadline: float, ended: "Callable[[Exchange], None]" = lambda _: None
    ) -> None:
        self.request = request
        self.deadline = deadline
        self.left = False
        self._done = done
        self._ended = ended

    def answered(self, answer: Fetched) -> None:
        self._ended(self)
        self._done(answer)

    def failed(self, why: str, *, silence: bool = True) -> None:
        self._ended(self)
        self._done(Unreachable(why, possibly_processed=self.left, silence=silence))
