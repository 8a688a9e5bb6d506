"""What can go wrong with a request to the service, by what the caller must do next."""


class AsmError(Exception):
    """There is no answer that can be used.

    ``reason`` is the word published in ``AgentObservationLost``; ``http_status`` is None where no answer came;
    ``possibly_processed``: the service may have processed the request's events all the same; ``retry_after``: seconds
    that the caller was asked to wait, None if it was not; ``counts_as_outage``: if this goes on for all agents, it is
    the service's trouble rather than theirs.
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
    moment ago, ask no more until the token changes (but for one try a minute)."""

    reason = "unauthorized"
    counts_as_outage = True


class Throttled(AsmError):
    """The service answered 429 or 503: ask again with back-off, and not before ``retry_after``."""

    reason = "throttled"
    counts_as_outage = True


class Unavailable(AsmError):
    """The service failed in another way: ask again with back-off."""

    reason = "unavailable"


class Unreachable(Unavailable):
    """There is no answer at all. It counts as an outage unless the host broke the request off (it is there), and of
    those that ended with one connection, once."""

    reason = "unreachable"

    def __init__(self, text: str, *, possibly_processed: bool = False, counts_as_outage: bool = True) -> None:
        super().__init__(text, possibly_processed=possibly_processed)
        self.counts_as_outage = counts_as_outage


class ForeignAnswer(AsmError):
    """What answered is not the service, but a proxy, a firewall or another program: nothing follows for the session,
    its calls or the request's events. Ask again with back-off; if that goes on for all agents, the host is down."""

    reason = "foreign_answer"
    counts_as_outage = True

    def __init__(self, text: str, *, http_status: int, retry_after: float | None = None) -> None:
        super().__init__(text, http_status=http_status, possibly_processed=True, retry_after=retry_after)


class Refused(AsmError):
    """The service answered 400, 404, 409, 412 or 422: the request is bad or its session has ended;
    ``getcurrentsession`` shows which."""

    reason = "refused"


class Malformed(AsmError):
    """An answer of the service that cannot be read, or that no record can hold: ask again with back-off."""

    reason = "malformed"
