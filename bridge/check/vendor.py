"""The vendor's service: its address, certificate and clock, and whether it takes a token. Only what reads is called."""

import email.utils
import json
import time

import httpx
from pyreqwest.exceptions import PyreqwestError

from bridge.asm.client import PATH
from bridge.asm.transport import pyreqwest_transport
from bridge.check.finding import Finding, ok, problem, skipped, warning
from bridge.settings import AsmSettings

CONNECT, REQUEST = 4.0, 6.0
"""Seconds at most, whatever the settings allow: a check is to end."""
_SKEW = 5.0
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}


def engine(asm: AsmSettings) -> httpx.AsyncBaseTransport:
    bounds = {
        "connect_timeout": min(asm.connect_timeout, CONNECT),
        "request_timeout": min(asm.request_timeout, REQUEST),
    }
    return pyreqwest_transport(asm.model_copy(update=bounds))


async def address(asm: AsmSettings) -> list[Finding]:
    """Whether the ASM service is at asm.base_url: it refuses a call without a token, anything else does not know it."""
    host = engine(asm)
    try:
        request = httpx.Request("POST", f"{asm.base_url}{PATH}getcurrentsession", headers=_JSON, content=b"{}")
        begin = time.time()
        response = await host.handle_async_request(request)
        body = await response.aread()
        return [_answered(asm, response.status_code, body), clock(response.headers.get("Date"), begin, time.time())]
    except (httpx.HTTPError, PyreqwestError) as error:
        found, advice = explained(asm, error)
        return [
            problem("service", f"{asm.base_url}: {found}", advice),
            skipped("clock", "the service does not answer"),
        ]
    finally:
        await host.aclose()


def _answered(asm: AsmSettings, status: int, body: bytes) -> Finding:
    """What a call without a token was answered with."""
    told = f"{asm.base_url} answers with HTTP {status}"
    address = "is asm.base_url the address of your region, and nothing in between that answers in its place?"
    if status == 407:
        return problem("service", f"the proxy wants a login (HTTP {status})", "put its user and password in asm.proxy")
    if status in (401, 403):
        return ok("service", f"{asm.base_url} is an ASM service: it wants a token")
    if status == 429 or status >= 500:
        return warning("service", told, "the service has trouble, or refuses this machine: try again, then ask TCN")
    if status < 300 and _is_object(body):
        return warning("service", f"{told} without a token", "is it a mock? The real one refuses this")
    if status in (404, 405):
        return problem("service", f"{told}: it knows no {PATH}getcurrentsession", address)
    return problem("service", f"{told}, which is no answer to this call", address)


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def clock(date: str | None, sent: float, arrived: float) -> Finding:
    """This machine's clock against the answer's Date, which is in whole seconds (RFC 9110, 6.6.1)."""
    try:
        theirs = email.utils.parsedate_to_datetime(date or "").timestamp() + 0.5
    except (ValueError, OverflowError):
        return skipped("clock", "the service's answer has no Date to compare this machine's clock with")
    skew = (sent + arrived) / 2 - theirs
    if abs(skew) <= _SKEW + (arrived - sent) / 2:
        return ok("clock", "this machine's clock and the service's agree, as far as whole seconds tell")
    text = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the service's"
    return warning("clock", text, "set it by NTP: times in records and expires_at are wrong by as much")


def explained(asm: AsmSettings, error: BaseException) -> tuple[str, str]:
    """What is wrong and what to do, where no answer came."""
    causes = " / ".join(_causes(error))
    way = "asm.proxy" if asm.proxy else "asm.base_url"
    for word, (found, advice) in _WORDS.items():
        if word in causes:
            return found.format(causes=causes.rsplit(" / ", 1)[-1]), advice.format(way=way)
    if isinstance(error, httpx.TimeoutException) or "timed out" in causes:
        return "no answer in time", f"check {way}, the firewall, and whether a proxy is needed (asm.proxy)"
    return f"no answer ({causes or type(error).__name__})", f"check {way} and the network"


_WORDS = {
    "dns error": ("its name is not known (DNS)", "check {way}, and the resolver of this machine"),
    "Connection refused": ("nobody listens there (connection refused)", "check host and port in {way}"),
    "UnknownIssuer": (
        "its certificate is by an authority that is not trusted here",
        "set asm.ca_file to the PEM file of that authority (a company's proxy may have its own)",
    ),
    "not valid for name": ("{causes}", "use a name that is in the certificate; check {way}"),
    "NotValidForName": ("its certificate is for another name", "use a name that is in it; check {way}"),
    "xpired": ("its certificate has expired", "have it renewed; is this machine's clock right?"),
    "NotValidYet": ("its certificate is not valid yet", "is this machine's clock right?"),
    "not valid yet": ("its certificate is not valid yet", "is this machine's clock right?"),
    "invalid peer certificate": ("{causes}", "check {way}, asm.ca_file and this machine's clock"),
    "corrupt message": ("no TLS is spoken there", "is it plain http? Then asm.base_url must begin with http://"),
    "(SendRequest)": ("it closes the connection without an answer", "is {way} right? Does it want https?"),
}
"""By what the engine says of the causes, outermost first."""


def _causes(error: BaseException) -> list[str]:
    seen: BaseException | None = error
    while seen is not None:
        details = getattr(seen, "details", None) or {}
        if causes := details.get("causes"):
            return [str(cause.get("message", "")) for cause in causes]
        seen = seen.__cause__
    return [str(error)] if str(error) else []
