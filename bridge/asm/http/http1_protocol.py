"""HTTP/1.1's responses without I/O (RFC 9112): bytes in, a response out. httptools (llhttp) parses.

The service cannot make this grow without bound: a body has at most ``MAX_BODY`` bytes, and at most
``MAX_HEAD`` bytes in a row may be none of a body's (heads, interim responses, trailers, the framing of chunks).
"""

import re

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from bridge.asm.http.content_encoding import ContentError, decode
from bridge.asm.http.response import MAX_BODY, BodyBudget, Response

MAX_HEAD = 65536
"""Consecutive bytes that do not belong to a body; exceeded by one read at most."""
_LENGTHS = frozenset({b"content-length", b"transfer-encoding"})
_RELEVANT_NAMES = frozenset({b"retry-after", b"date", b"content-encoding", b"keep-alive"})
_TIMEOUT = re.compile(rb"(?:^|[\s,;])timeout=(\d{1,6})(?!\d)", re.IGNORECASE)


class InvalidResponse(Exception):
    """Data from the service that is not a response to a request, or is larger than allowed."""


class Http1Protocol:
    """The responses of one connection, one after the other; ``expecting`` is set when a request was sent.

    ``idle_timeout``: seconds after which the service closes the connection when it is unused, as it says itself
    (Keep-Alive: timeout=N; RFC 9112, appendix C.2.2), or None.
    """

    def __init__(self, budget: BodyBudget) -> None:
        self.idle_timeout: float | None = None
        self._budget = budget
        self._parser = HttpResponseParser(self)
        self.expecting = False
        self._held = 0
        self._error = ""
        self._begin()

    def _begin(self) -> None:
        self._fields: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""
        self._without_body = self._status = 0
        self._has_length = self._head_read = self._complete = self._keep = False

    @property
    def begun(self) -> bool:
        """Whether any part of the response has arrived."""
        return self._without_body + self._held > 0

    def forget(self) -> None:
        """Releases the memory of a body that is not needed any more."""
        self._budget.used -= self._held
        self._held = 0
        self._body = b""

    def receive_data(self, data: bytes) -> tuple[Response, bool] | None:
        """The response, when it is complete, and whether the connection can be reused. Raises ``InvalidResponse``."""
        if not self.expecting:
            raise InvalidResponse("unsolicited response")
        error, size = "", len(self._body)
        try:
            self._parser.feed_data(data)
        except HttpParserError as reason:
            error = f"invalid HTTP response: {self._error or reason}"
        except HttpParserUpgrade:
            error = "invalid HTTP response: the protocol was switched without being asked to"
        if self._complete:  # only now: bytes after it must not be taken for the next response
            keep = self._keep and not error
            return self._response(), keep
        if error or (error := self._exceeded(len(data), len(self._body) - size)):
            raise InvalidResponse(error)
        return None

    def _exceeded(self, received: int, grown: int) -> str:
        """The limit that an unfinished response exceeds, if any."""
        self._without_body = 0 if grown else self._without_body + received
        self._held += grown
        self._budget.used += grown
        if self._without_body > MAX_HEAD:
            return f"more than {MAX_HEAD} bytes without a response"
        if self._held > MAX_BODY:
            return f"the response is longer than {MAX_BODY} bytes"
        return "too many unfinished responses" if self._budget.used > self._budget.limit else ""

    def receive_eof(self) -> Response | None:
        """Ends a response without a length with its connection (RFC 9112, section 6.3)."""
        if self.expecting and self._head_read and not self._has_length:
            return self._response()
        return None

    def _response(self) -> Response:
        status, body, fields = self._status, bytes(self._body), self._fields
        if self._held:
            self.forget()
        self._begin()
        self.expecting = False
        if b"content-encoding" in fields:
            try:
                body = decode(body, fields[b"content-encoding"].decode("latin-1"), MAX_BODY)
            except ContentError as error:
                raise InvalidResponse(f"invalid response: {error}") from error
        if 200 <= status < 300 and b"retry-after" not in fields:
            return tuple.__new__(Response, (status, body, None, None))  # half Response()'s time
        return Response(status, body, _text(fields.get(b"retry-after")), _text(fields.get(b"date")))

    # Called by the parser; an exception ends the parsing.

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _LENGTHS:
            self._has_length = True
        elif name in _RELEVANT_NAMES and not self._head_read:  # a trailer's are not the head's (RFC 9110, section 6.5)
            self._fields[name] = value
            if name == b"keep-alive":
                found = _TIMEOUT.search(value)
                self.idle_timeout = float(found[1]) if found else None

    def on_message_begin(self) -> None:
        self._keep = not self._complete

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        self._head_read = True
        self._status = status = self._parser.get_status_code()
        if status < 100 or status == 101:  # our requests ask for no other protocol (RFC 9110, section 15.2.2)
            self._error = f"status {status}"
            raise InvalidResponse(self._error)

    def on_body(self, chunk: bytes) -> None:
        if self._complete:
            return
        if not self._body:
            self._body = chunk
        else:  # parts may be as small as a byte: objects for each would be many times the body
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += chunk

    def on_message_complete(self) -> None:
        if self._complete:
            return
        if self._status < 200:  # an interim response: the real one follows
            without_body = self._without_body
            self._begin()
            self._without_body = without_body
        else:
            self._complete, self._keep = True, self._parser.should_keep_alive()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
