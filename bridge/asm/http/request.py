"""A request as bytes, and one sending of it."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

import httpx
from hpack import Encoder
from hpack.hpack import encode_integer

from bridge.asm.http.response import Failure, OnResponse, Response

PER_REQUEST = {"authorization": b"\x1f\x08", "content-length": b"\x0f\x0d"}
"""The headers that differ from request to request: literals with a name of the static table (RFC 7541, appendix A),
never to be indexed (6.2.3) and not indexed (6.2.2)."""


class Target(NamedTuple):
    """The destination of requests, in HTTP's terms."""

    scheme: str
    authority: str
    path: str

    @classmethod
    def of(cls, url: httpx.URL) -> "Target":
        return cls(url.scheme, url.netloc.decode(), url.raw_path.decode())


class PreparedRequest:
    """A POST as bytes: for each version of HTTP made when it is first needed, and kept.

    ``headers`` have lower-case names, and requests may share them; ``authorization`` is this one's own. Host,
    Content-Length and Accept-Encoding (``identity``) are added. ``repeatable``: it does no harm if the service
    processes it twice.
    """

    __slots__ = ("_common", "_http1", "_http2", "authorization", "body", "repeatable", "target")

    def __init__(
        self,
        target: Target,
        headers: Mapping[str, str],
        body: bytes,
        *,
        authorization: str | None = None,
        repeatable: bool = False,
    ) -> None:
        self.repeatable = repeatable
        self.target = target
        self.authorization = authorization
        self.body = body
        self._common = headers
        self._http1 = self._http2 = b""

    @property
    def headers(self) -> dict[str, str]:
        """All but Host."""
        own = {} if self.authorization is None else {"authorization": self.authorization}
        return {**self._common, **own, "accept-encoding": "identity", "content-length": str(len(self.body))}

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
        """The header block (RFC 7541). It does not use the dynamic table, so that it is valid at any time, on any
        connection.
        """
        if not self._http2:
            fields = self.headers
            own = {name: value for name, value in fields.items() if name in PER_REQUEST}
            common = tuple(one for one in fields.items() if one[0] not in own)
            self._http2 = _block(self.target, common) + b"".join(
                PER_REQUEST[name] + encode_integer(len(value), 7) + value.encode() for name, value in own.items()
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

    ``sent``: whether any of it may have gone out; ``on_end`` is called before ``on_response``. A connection calls one
    of the four methods, once for each time that it is sent; ``resend(exchange[, most])`` has it sent again, if it was
    not yet sent again that often (``resends``, which is not set before).
    """

    __slots__ = ("_on_end", "_on_response", "_resend", "deadline", "request", "resends", "sent")

    resends: int

    def __init__(
        self,
        request: PreparedRequest,
        on_response: OnResponse,
        deadline: float,
        on_end: "Callable[[Exchange], None]" = lambda _: None,
        resend: "Callable[..., bool]" = lambda *_: False,
    ) -> None:
        self.request = request
        self.deadline = deadline
        self.sent = False
        self._on_response = on_response
        self._on_end = on_end
        self._resend = resend

    def answered(self, response: Response) -> None:
        self._on_end(self)
        self._on_response(response)

    def failed(self, text: str, *, counts_as_outage: bool = True, error: Exception | None = None) -> None:
        self._on_end(self)
        self._on_response(Failure(text, self.sent, counts_as_outage, error))

    def not_processed(self, text: str) -> None:
        """The service has certainly not processed the request (RFC 9113, section 8.7), which is sent again."""
        self.sent = False
        if not self._resend(self):  # who refuses it again and again takes no requests
            self.failed(text)

    def connection_lost(self, text: str, *, counts_as_outage: bool = True) -> None:
        """The connection ended before the first byte of the response: a ``repeatable`` request is sent again, once."""
        if not (self.request.repeatable and self._resend(self, 1)):
            self.failed(text, counts_as_outage=counts_as_outage)
