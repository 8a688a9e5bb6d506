"""The result of a request: a response, or a failure."""

from collections.abc import Callable
from typing import NamedTuple


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
