"""The errors of a request to the service, by what the caller must do next."""


class AsmError(Exception):
    """A request without a usable answer.

    ``reason`` is the word published in ``AgentObservationLost``; ``http_status`` is None where no answer came;
    ``possibly_processed``: the service may have processed the request's events nevertheless; ``retry_after``: seconds
    that the caller was asked to wait, or None; ``counts_as_outage``: if it happens to all agents, the service is down.
    """

    reason = "failed"
    counts_as_outage = False

    def __init__(
        self,
        text: str,
        *,
        http_status: int | None = None,
        possibly_processed: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text)
        self.http_status = http_status
        self.possibly_processed = possibly_processed
        self.retry_after = retry_after


class Unauthorized(AsmError):
    """The service answered 401 or 403, or there is no token to send: after a few quick tries for a token that worked a
    moment ago, do not send until the token changes, except for one try per minute.
    """

    reason = "unauthorized"
    counts_as_outage = True


class Throttled(AsmError):
    """The service answered 429 or 503: retry with back-off, and not before ``retry_after``."""

    reason = "throttled"
    counts_as_outage = True


class Unavailable(AsmError):
    """The service failed in another way: retry with back-off."""

    reason = "unavailable"


class Unreachable(Unavailable):
    """No answer came. It counts as an outage unless the host closed the connection (so it is there), and
    only once for all requests that ended with one connection.
    """

    reason = "unreachable"

    def __init__(self, text: str, *, possibly_processed: bool = False, counts_as_outage: bool = True) -> None:
        super().__init__(text, possibly_processed=possibly_processed)
        self.counts_as_outage = counts_as_outage


class ForeignAnswer(AsmError):
    """The answer is not from the service but from a proxy, a firewall or another program: it says nothing about the
    session, its calls or the request's events. Retry with back-off; if it continues for all agents, the host is
    down.
    """

    reason = "foreign_answer"
    counts_as_outage = True

    def __init__(self, text: str, *, http_status: int, retry_after: float | None = None) -> None:
        super().__init__(text, http_status=http_status, possibly_processed=True, retry_after=retry_after)


class Refused(AsmError):
    """The service answered 400, 404, 409, 412 or 422: the request is bad or its session has ended;
    ``getcurrentsession`` shows which."""

    reason = "refused"


class Malformed(AsmError):
    """An answer of the service that is unreadable, or too large for a record: retry with back-off."""

    reason = "malformed"


REASONS = tuple(
    error.reason for error in (Unauthorized, Throttled, Unavailable, Unreachable, ForeignAnswer, Refused, Malformed)
)
"""The words of all errors."""
