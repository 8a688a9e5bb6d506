"""The vendor's service: its address, certificate and clock. Calls only methods that read."""

import time

import httpx

from asm_bridge_schemas.asm import AsmSession
from bridge.asm.answer import Answer, http_date, read_response
from bridge.asm.client import HEADERS, PATH
from bridge.asm.errors import ForeignAnswer, Unauthorized
from bridge.asm.http.connect_error import Cause, ConnectError
from bridge.asm.http.request import PreparedRequest, Target
from bridge.asm.http.response import Failure, Response
from bridge.asm.transport import build_transport, fetch
from bridge.check.finding import Finding, ok, problem, skipped, warning
from bridge.clock import difference, differs
from bridge.settings import AsmSettings

CONNECT, REQUEST = 4.0, 6.0
"""Maximum seconds, whatever the settings allow: a check must end."""


def bounded(asm: AsmSettings) -> AsmSettings:
    """The settings with time-outs short enough for a check."""
    bounds = {
        "connect_timeout": min(asm.connect_timeout, CONNECT),
        "request_timeout": min(asm.request_timeout, REQUEST),
    }
    return asm.model_copy(update=bounds)


async def address(asm: AsmSettings) -> list[Finding]:
    """Whether the ASM service is at asm.base_url: it alone knows the call, and refuses it without a token."""
    transport = build_transport(bounded(asm))
    try:
        request = PreparedRequest(Target.of(httpx.URL(f"{asm.base_url}{PATH}getcurrentsession")), HEADERS, b"{}")
        begin = time.time()
        response = await fetch(transport, request)
    finally:
        await transport.aclose()
    if isinstance(response, Failure):
        found, advice = explained(response)
        unreachable = problem("service", f"{asm.base_url}: {found}", advice)
        return [unreachable, skipped("clock", "the service does not answer")]
    return [_answered(asm, response), clock(response.date, begin, time.time())]


def _answered(asm: AsmSettings, response: Response) -> Finding:
    """The finding for the answer to a call without a token, which is read as in ``run``."""
    answer, status = read_response(AsmSession, response), response.status
    found = f"{asm.base_url} answers with HTTP {status}"
    if isinstance(answer, Unauthorized):
        return ok("service", f"{asm.base_url} is an ASM service: it requires a token")
    if isinstance(answer, Answer):
        return warning("service", f"{found} without a token", "it may be a mock: the real service refuses this")
    if status == 407:
        found, _, advice = str(answer).rpartition(": ")
        return problem("service", found, advice)
    advice = "check that asm.base_url is the address of your region, and that no proxy or gateway answers in its place"
    if status in (404, 405):
        return problem("service", f"{found}: {PATH}getcurrentsession does not exist there", advice)
    if not isinstance(answer, ForeignAnswer):
        advice = "the service is in trouble, or refuses this machine: try again, then ask TCN"
    kind = warning if status in (401, 403, 429) or status >= 500 else problem
    return kind("service", f"{asm.base_url}: {answer}", advice)


def clock(date: str | None, sent: float, arrived: float) -> Finding:
    """Compares this machine's clock with the answer's Date, which is in whole seconds (RFC 9110, 6.6.1)."""
    if (begun := http_date(date)) is None:
        return skipped("clock", "the service's answer has no Date to compare this machine's clock with")
    skew = (sent + arrived) / 2 - (begun + 0.5)
    if not differs(max(0.0, abs(skew) - (arrived - sent) / 2)):
        return ok("clock", "this machine's clock agrees with the service's, to the second")
    advice = "set it with NTP: times in records and expires_at are off by as much"
    return warning("clock", difference(skew, "the service's"), advice)


def explained(failure: Failure) -> tuple[str, str]:
    """Explains why no answer came: what is wrong and what to do."""
    error = failure.error
    if not isinstance(error, ConnectError):
        if "HTTP/1.1" in failure.text:
            return failure.text, "set asm.http2 to false"
        return failure.text, "check asm.base_url, and whether it requires https or a proxy (asm.proxy)"
    if error.cause in ("proxy", "proxy_login"):
        found, _, advice = str(error).partition(": ")
        return f"the proxy: {found}", advice
    setting = "asm.proxy" if error.at_proxy else "asm.base_url"
    return f"{'the proxy: ' if error.at_proxy else ''}{error}", _ADVICE[error.cause].format(setting=setting)


_ADVICE: dict[Cause, str] = {
    "name": "check {setting}, and the resolver of this machine",
    "refused": "check host and port in {setting}",
    "timeout": "check {setting}, the firewall, and whether a proxy is needed (asm.proxy)",
    "closed": "check {setting}, and whether a firewall or a proxy is in between",
    "no_tls": "if it is plain http, {setting} must begin with http://",
    "untrusted": "set asm.ca_file to the PEM file of that authority (a company's proxy may have its own)",
    "wrong_name": "use a name that is in the certificate; check {setting}",
    "expired": "renew the certificate, or check this machine's clock",
    "not_yet_valid": "check this machine's clock",
    "certificate": "check {setting}, asm.ca_file and this machine's clock",
    "other": "check {setting} and the network",
}
