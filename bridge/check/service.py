"""The vendor's service: its address, certificate and clock, and whether it takes a token. Only what reads is called."""

import email.utils
import json
import time

import httpx

from bridge.asm.client import PATH
from bridge.asm.http.connector import Cause, ConnectError
from bridge.asm.http.request import Failure, PreparedRequest, Target
from bridge.asm.transport import build_transport, fetch
from bridge.check.finding import Finding, ok, problem, skipped, warning
from bridge.settings import AsmSettings

CONNECT, REQUEST = 4.0, 6.0
"""Seconds at most, whatever the settings allow: a check is to end."""
_SKEW = 5.0
_JSON = {"content-type": "application/json", "accept": "application/json", "user-agent": "asm-kafka-bridge"}


def bounded(asm: AsmSettings) -> AsmSettings:
    """The settings, with time-outs that let a check end."""
    bounds = {
        "connect_timeout": min(asm.connect_timeout, CONNECT),
        "request_timeout": min(asm.request_timeout, REQUEST),
    }
    return asm.model_copy(update=bounds)


async def address(asm: AsmSettings) -> list[Finding]:
    """Whether the ASM service is at asm.base_url: it refuses a call without a token, anything else does not know it."""
    transport = build_transport(bounded(asm))
    try:
        request = PreparedRequest(Target.of(httpx.URL(f"{asm.base_url}{PATH}getcurrentsession")), _JSON, b"{}")
        begin = time.time()
        response = await fetch(transport, request)
    finally:
        await transport.aclose()
    if isinstance(response, Failure):
        found, advice = explained(response)
        return [
            problem("service", f"{asm.base_url}: {found}", advice),
            skipped("clock", "the service does not answer"),
        ]
    return [_answered(asm, response.status, response.body), clock(response.date, begin, time.time())]


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


def explained(failure: Failure) -> tuple[str, str]:
    """What is wrong and what to do, where no answer came."""
    error = failure.error
    if not isinstance(error, ConnectError):
        return failure.text, "is asm.base_url right? Does it want https, or a proxy (asm.proxy)?"
    setting = "asm.proxy" if error.at_proxy else "asm.base_url"
    return f"{'the proxy: ' if error.at_proxy else ''}{error}", _ADVICE[error.cause].format(setting=setting)


_ADVICE: dict[Cause, str] = {
    "name": "check {setting}, and the resolver of this machine",
    "refused": "check host and port in {setting}",
    "timeout": "check {setting}, the firewall, and whether a proxy is needed (asm.proxy)",
    "closed": "is {setting} right? A firewall or a proxy in between?",
    "no_tls": "is it plain http? Then {setting} must begin with http://",
    "untrusted": "set asm.ca_file to the PEM file of that authority (a company's proxy may have its own)",
    "wrong_name": "use a name that is in the certificate; check {setting}",
    "expired": "have it renewed; is this machine's clock right?",
    "not_yet_valid": "is this machine's clock right?",
    "certificate": "check {setting}, asm.ca_file and this machine's clock",
    "proxy_login": "put its user and password into asm.proxy",
    "proxy": "check asm.base_url, and what the proxy allows",
    "other": "check {setting} and the network",
}
