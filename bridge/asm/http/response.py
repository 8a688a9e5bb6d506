"""The result of a request: a response, which has a limited size, or a failure."""

from collections.abc import Callable
from typing import NamedTuple

MAX_BODY = 16 * 1024 * 1024
"""The most bytes of a response's body that are read."""
LOGIN_REQUIRED = "it requires a user name and password, or other ones"
"""About a proxy that answers 407."""


class Response(NamedTuple):
    """A final response.

    ``retry_after`` is the field's text and ``date`` that of Date, so that a time of day can be read against the
    service's own clock. Of a 2xx without Retry-After there is no Date. The body is without its content coding.
    """

    status: int
    body: bytes
    retry_after: str | None = None
    date: str | None = None


class Failure(NamedTuple):
    """Why a request has no response.

    ``sent``: the service may have processed the request. ``counts_as_outage``: it says something about the host; False
    for a request that the host broke off (it is there), and for all but one of those that ended with one connection.
    ``error``: the ``ConnectError``, if there was no connection.
    """

    text: str
    sent: bool
    counts_as_outage: bool = True
    error: Exception | None = None


OnResponse = Callable[[Response | Failure], None]
"""Called once, with the response or the failure."""


class BodyBudget:
    """Bytes of unfinished bodies, ``used`` by all connections that share it.

    A response over the ``limit`` fails: without it, each request in flight could use ``MAX_BODY``.
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = 16 * MAX_BODY) -> None:
        self.limit = limit
        self.used = 0
