"""What can go wrong with a request to the vendor, by what the caller must do next."""


class AsmError(Exception):
    """No answer that can be used.

    ``reason`` is the word published in ``AgentObservationLost``; ``http_status`` is None where no answer came;
    ``possibly_processed``: the service may have taken the request's events all the same.
    """

    reason = "failed"

    def __init__(self, text: str, *, http_status: int | None = None, possibly_processed: bool = False) -> None:
        super().__init__(text)
        self.http_status = http_status
        self.possibly_processed = possibly_processed


class Unauthorized(AsmError):
    """401, 403, or no token to send: ask no more until the token changes (a try a minute apart)."""

    reason = "unauthorized"


class Throttled(AsmError):
    """429, 503: ask again after ``retry_after`` seconds, or with back-off where the service named no time."""

    reason = "throttled"

    def __init__(self, text: str, *, http_status: int, retry_after: float | None = None) -> None:
        super().__init__(text, http_status=http_status)
        self.retry_after = retry_after


class Unavailable(AsmError):
    """Another 5xx, a time-out, a network failure: ask again with back-off."""

    reason = "unavailable"


class Unreachable(Unavailable):
    """No answer at all; if it goes on for everyone, the host is down.

    ``counts_as_outage``: whether this tells something about the host. Not of a request that the host broke off (it is
    there), nor of all but one of those that ended with their connection.
    """

    reason = "unreachable"

    def __init__(self, text: str, *, possibly_processed: bool = False, counts_as_outage: bool = True) -> None:
        super().__init__(text, possibly_processed=possibly_processed)
        self.counts_as_outage = counts_as_outage


class Refused(AsmError):
    """400, 404, 409, 412, 422: the request is bad or its session has ended; ``getcurrentsession`` tells which."""

    reason = "refused"


class Malformed(AsmError):
    """An answer that is none: unreadable JSON, wrong types, a status nobody expects. Ask again with back-off."""

    reason = "malformed"
