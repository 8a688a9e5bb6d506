"""Why no connection was made, in words."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Literal

Cause = Literal[
    "name", "refused", "timeout", "closed", "no_tls", "untrusted", "wrong_name", "expired", "not_yet_valid",
    "certificate", "proxy_login", "proxy", "other",
]  # fmt: skip

_CERTIFICATES: dict[int, tuple[Cause, str]] = {
    9: ("not_yet_valid", "the certificate is not valid yet"),
    10: ("expired", "the certificate has expired"),
    **dict.fromkeys(
        (2, 18, 19, 20, 21), ("untrusted", "the certificate is signed by an authority that is not trusted")
    ),
    **dict.fromkeys((62, 64), ("wrong_name", "the certificate is for another name")),
}
"""By OpenSSL's X509_V_ERR_... (openssl-verification-options(1))."""


class ConnectError(Exception):
    """The connection failed and nothing was sent. The text says what is wrong with the service, or ``at_proxy``."""

    def __init__(self, cause: Cause, text: str, *, at_proxy: bool = False) -> None:
        super().__init__(text)
        self.cause = cause
        self.at_proxy = at_proxy


@contextlib.asynccontextmanager
async def step(*, at_proxy: bool, until: float, too_late: str) -> AsyncIterator[None]:
    """A step of connecting, which ends before ``until`` (in the event loop's seconds). The errors of the operating
    system and OpenSSL are raised as ``ConnectError``, and so is ``too_late``.
    """
    try:
        async with asyncio.timeout_at(until):
            yield
    except TimeoutError as error:
        raise ConnectError("timeout", too_late, at_proxy=at_proxy) from error
    except (OSError, EOFError) as error:
        cause, text = explain(error)
        raise ConnectError(cause, text, at_proxy=at_proxy) from error


def lost(error: Exception) -> str:
    """Why an open connection was lost."""
    cause, words = explain(error)
    return f"the connection was lost: {'it was reset' if cause == 'closed' else words}"


def explain(error: BaseException) -> tuple[Cause, str]:
    """Describes an error in words, or the one that caused it: other clients have errors of their own."""
    if isinstance(error, ssl.SSLCertVerificationError):
        general: tuple[Cause, str] = "certificate", f"the certificate is not valid: {error.verify_message}"
        return _CERTIFICATES.get(error.verify_code, general)
    if isinstance(error, socket.gaierror):
        return "name", "the name cannot be resolved (DNS)"
    if isinstance(error, ConnectionRefusedError):
        return "refused", "connection refused"
    if isinstance(error, EOFError | ConnectionError | ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "closed", "the connection was closed immediately"
    if isinstance(error, ssl.SSLError):
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
            return "no_tls", "the server does not speak TLS"
        return "other", f"TLS fails: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, TimeoutError):
        return "timeout", "no answer in time"
    cause = error.__cause__ or error.__context__
    if cause is not None and (explained := explain(cause))[0] != "other":
        return explained
    return "other", str(error) or type(error).__name__
