"""Logs connections in to Kafka, with the current contents of the settings' files, or with OAuth tokens."""

import asyncio
import base64
import os
import re
import ssl
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import httpx
from aiokafka.abc import AbstractTokenProvider

from bridge.asm.http.connect_error import explain
from bridge.json_object import json_object
from bridge.kafka.errors import LoginError
from bridge.settings import KafkaSettings
from bridge.settings.types import ssl_context

_ANSWER_WITHIN = 5.0
"""Seconds for a request to the token URL."""
_RENEW_AT = 0.8
"""The share of a token's lifetime after which a new one is requested; until it expires, the old one can be used."""
_UNKNOWN_LIFE = 300.0
"""Seconds for which a token without a lifetime is used."""
_SHOWN = 200
_INSTALL = "kafka.sasl_mechanism=AWS_MSK_IAM requires a package: pip install 'asm-kafka-bridge[aws]'"


class Token(NamedTuple):
    """``renew_at`` and ``ends_at``: monotonic seconds."""

    text: str
    renew_at: float
    ends_at: float

    @classmethod
    def valid_for(cls, text: str, seconds: float) -> "Token":
        now = time.monotonic()
        return cls(text, now + seconds * _RENEW_AT, now + seconds)


class Login(AbstractTokenProvider):  # type: ignore[misc]
    """The login of all clients with the same settings, which share a token; without any login it remembers ``failure``.
    aiokafka hands it to every connection, which then uses the current ``arguments`` (see ``connection``)."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self.failure: Exception | None = None
        """Why the last connection was not made; None after one that was."""
        self._token: Token | None = None
        self._renewing = asyncio.Lock()

    def arguments(self) -> dict[str, Any]:
        """aiokafka's arguments for the login, with the current contents of the files of secrets and certificates.
        Raises ``LoginError`` where a certificate cannot be loaded."""
        try:
            arguments = self._kafka.login_arguments()
        except (ssl.SSLError, OSError, ValueError) as error:
            text = "kafka.ssl_certfile, kafka.ssl_keyfile or kafka.ssl_cafile cannot be loaded"
            raise LoginError(f"{text}: check that the files are PEM, that the key matches, and its password") from error
        return arguments | {"sasl_oauth_token_provider": self}

    async def token(self) -> str:
        """A token for a new connection. Raises ``LoginError``."""
        async with self._renewing:
            if self._token is None or time.monotonic() >= self._token.renew_at:
                try:
                    if self._kafka.sasl_mechanism == "AWS_MSK_IAM":
                        self._token = await _aws_token(self._kafka.bootstrap_servers)
                    else:
                        self._token = await self._client_credentials()
                except LoginError:
                    if self._token is None or time.monotonic() >= self._token.ends_at:
                        raise
            return self._token.text

    def refused(self) -> None:
        """A broker has refused the token: the next connection asks for another one."""
        self._token = None

    async def _client_credentials(self) -> Token:
        """A token by the OAuth grant of client credentials (RFC 6749, 4.4)."""
        url, identity, secret = self._kafka.oauth_credentials()
        form = {"grant_type": "client_credentials"}
        if self._kafka.oauth_scope:
            form["scope"] = self._kafka.oauth_scope
        try:
            verify = ssl_context(self._kafka.ssl_cafile)
            async with httpx.AsyncClient(timeout=_ANSWER_WITHIN, trust_env=False, verify=verify) as http:
                response = await http.post(url, data=form, auth=(identity, secret))
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise LoginError(
                f"the token URL {url} does not answer ({explain(error)[1]}): check kafka.oauth_token_url"
            ) from error
        answer = json_object(response.content) or {}
        if response.status_code != httpx.codes.OK:
            reason = _reason(answer).replace(secret, "********")
            scope = answer.get("error") == "invalid_scope"
            advice = "kafka.oauth_scope" if scope else "kafka.oauth_client_id and kafka.oauth_client_secret"
            raise LoginError(f"the token URL {url} answers with HTTP {response.status_code}{reason}: check {advice}")
        text, seconds = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(text, str) or not text.isascii() or not text.isprintable():
            raise LoginError(f"the answer of the token URL {url} has no access_token: check kafka.oauth_token_url")
        return Token.valid_for(text, _seconds(seconds) or _life(text) or _UNKNOWN_LIFE)


@lru_cache(maxsize=8)
def login_of(kafka: KafkaSettings) -> Login:
    """The one login of these settings."""
    return Login(kafka)


async def _aws_token(servers: str) -> Token:
    """A token signed with the environment's AWS credentials, as Amazon MSK expects it. Raises ``LoginError``."""
    try:
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    except ImportError as error:
        raise LoginError(_INSTALL) from error
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _region(servers)
    if region is None:
        raise LoginError("the region of AWS is not known: set AWS_REGION")
    try:
        text, ends_at_ms = await asyncio.to_thread(MSKAuthTokenProvider.generate_auth_token, region)
    except Exception as error:  # of botocore, which need not be there
        raise LoginError(f"no AWS credentials ({error}): check the environment, the profile or the role") from error
    return Token.valid_for(text, max(ends_at_ms / 1000 - time.time(), 0.0))


def _region(servers: str) -> str | None:
    """``eu-west-1`` of ``b-1.name.kafka.eu-west-1.amazonaws.com:9098``."""
    found = re.search(r"\.kafka(?:-serverless)?\.([a-z0-9-]+)\.amazonaws\.com", servers)
    return found[1] if found else None


def _reason(answer: Mapping[str, Any]) -> str:
    """The error in the answer, as defined in RFC 6749 (5.2)."""
    given = [answer.get(name) for name in ("error", "error_description")]
    text = ", ".join(one for one in given if isinstance(one, str) and one.isprintable())
    return f" ({text[:_SHOWN]})" if text else ""


def _seconds(value: Any) -> float | None:
    """A duration that some services send as text."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < 1e12 else None


def _life(token: str) -> float | None:
    """The seconds that a JWT is still valid for, by its own ``exp``."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json_object(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))) or {}
    except ValueError:
        return None
    ends_at = _seconds(claims.get("exp"))
    return None if ends_at is None else _seconds(ends_at - time.time())
