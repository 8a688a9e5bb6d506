"""An OAuth server that grants client credentials, with tokens that Kafka's unsecured validator accepts."""

import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bridge.ops.http import answering, listen

CLIENT_ID, CLIENT_SECRET, SCOPE = "admin", "oauth-s3cret", "kafka"


class OAuthServer:
    """``lifetime``: of a token, in seconds; ``granted``: how many tokens it gave; ``down``: it answers with 503."""

    def __init__(self, lifetime: float = 60.0) -> None:
        self.lifetime = lifetime
        self.secret = CLIENT_SECRET
        self.granted = 0
        self.down = False
        self.says_lifetime = True
        self.url = ""

    async def token(self, request: Request) -> Response:
        form = dict(pair.split("=", 1) for pair in (await request.body()).decode().split("&"))
        expected = base64.b64encode(f"{CLIENT_ID}:{self.secret}".encode()).decode()
        if self.down:
            return Response("<html>", 503)
        if request.headers["authorization"] != f"Basic {expected}" or form["grant_type"] != "client_credentials":
            description = f"{self.secret} was expected, and not what was given"
            return JSONResponse({"error": "invalid_client", "error_description": description}, 401)
        if form.get("scope") == "forbidden":
            return JSONResponse({"error": "invalid_scope"}, 400)
        self.granted += 1
        answer = {"access_token": unsecured_token(self.lifetime, form.get("scope", "")), "token_type": "Bearer"}
        return JSONResponse(answer | ({"expires_in": self.lifetime} if self.says_lifetime else {}))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["OAuthServer"]:
        listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/token"
        async with answering(listener, Starlette(routes=[Route("/token", self.token, methods=["POST"])])):
            yield self


def unsecured_token(lifetime: float, scope: str) -> str:
    """A JWT without a signature (RFC 7515, A.5)."""
    now = time.time()
    claims = {"sub": CLIENT_ID, "iat": now, "exp": now + lifetime, "scope": scope}
    return (
        ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in ({"alg": "none"}, claims)
        )
        + "."
    )
