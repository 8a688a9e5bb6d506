"""Access to the operations endpoints: the host names, the token, and what browsers may do."""

import asyncio
import base64
import hmac
import ipaddress
import socket
from functools import cache

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.settings import OpsSettings

PROBES = frozenset({"/healthz", "/readyz"})
"""The paths for orchestrators and load balancers, which have no token and send any name. The answers contain nothing
about agents."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_CHALLENGES = ('Basic realm="asm-bridge: any user name, and ops.token as the password"', "Bearer")
_NOT_PUBLIC = (".localhost", ".local", ".internal", ".svc", ".cluster.local")
"""Domains in which an attacker cannot register a name."""


class Guard:
    """Adds ``_HEADERS`` to every response: the page loads nothing from other origins and cannot be framed. Without the
    token, if one is set, it answers 401, and under a foreign name 421.
    """

    def __init__(self, app: ASGIApp, ops: OpsSettings) -> None:
        self._app = app
        self._token = ops.token.get_secret_value().encode() if ops.token else None
        self._names = {ops.host.lower(), *ops.host_names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        app = self._app if scope["path"] in PROBES else await self._refusal(Headers(scope=scope)) or self._app
        await app(scope, receive, with_headers)

    async def _refusal(self, headers: Headers) -> ASGIApp | None:
        """The answer to a request that may not be served, or None."""
        if self._token is not None:
            given = _token(headers.get("authorization", ""))
            if given is not None and hmac.compare_digest(given, self._token):
                return None  # a foreign web page does not know it
            answer = PlainTextResponse("the token of ops.token is required\n", 401)
            # Each in a separate header, because Chromium reads only the first of several in one.
            for challenge in _CHALLENGES:
                answer.headers.append("WWW-Authenticate", challenge)
            return answer
        name = _host_name(headers.get("host", ""))
        if _is_ours(name) or name in self._names or name in await asyncio.to_thread(_machine_names):
            return None
        text = "this name is not one of this machine's: use its IP address, or add the name to ops.hosts\n"
        return PlainTextResponse(text, 421)


def _token(authorization: str) -> bytes | None:
    """The token of a bearer, or the password of a browser's user."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
        except ValueError:  # not base64, or not even ASCII
            return None
    return None


def _host_name(host: str) -> str:
    """``[::1]:8080`` -> ``::1``, ``Bridge.:8080`` -> ``bridge``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().removesuffix(".")


def _is_ours(name: str) -> bool:
    """Whether an attacker's DNS server cannot make a browser use this name for us (DNS rebinding): it is an address, or
    a name outside the public domains. A request without a name comes from a program, not from a browser.
    """
    if ("." not in name and ":" not in name) or name.endswith(_NOT_PUBLIC):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@cache
def _machine_names() -> frozenset[str]:
    return frozenset({socket.gethostname().lower(), socket.getfqdn().lower()})
