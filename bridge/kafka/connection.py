"""Every connection to Kafka. It extends aiokafka's: it logs in again before the session ends (KIP-368), uses rotated
passwords and certificates, notices a broker's refusal of a token, and keeps the reason why no connection was made.
"""

import asyncio
import socket
import time
from typing import Any

from aiokafka import conn
from aiokafka.conn import OAuthAuthenticator
from aiokafka.protocol.admin import SaslAuthenticateRequest

from bridge.kafka.internals import allowance
from bridge.kafka.lifecycle import CONNECT_DEADLINE, network_fault

_RENEW_AT = 0.8
"""The share of a session's lifetime after which its connection is replaced, between two requests."""
_FRESH = 15.0
"""Seconds for which a failed attempt counts: clients try a broker that is down again and again, and one that has got
another address never."""
_failed: dict[str, tuple[Exception, float]] = {}
"""By broker: the error of the last attempt to connect to it, if that failed, and its time (monotonic seconds)."""


def unreachable() -> str | None:
    """The brokers to which no connection could be made a moment ago, and why; None if there are none."""
    now, named = time.monotonic(), []
    for address, (error, at) in sorted(_failed.items()):
        if now - at < _FRESH:
            fault = network_fault(error)
            named.append(f"{address} ({fault[0] if fault else str(error) or type(error).__name__})")
    return f"no connection to Kafka at {', '.join(named)}" if named else None


class _TokenAuthenticator:
    """Like aiokafka's, which mistakes a broker's refusal for consent (RFC 7628, 3.2.3)."""

    def __init__(self, login: Any) -> None:
        self._login = login
        self._authenticator = OAuthAuthenticator(sasl_oauth_token_provider=login)

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if payload:
            self._login.refused()
            return b"\x01", True  # to which the broker answers with an error
        step: tuple[bytes, bool] | None = await self._authenticator.step(payload)
        return step


class KafkaConnection(conn.AIOKafkaConnection):  # type: ignore[misc]
    """A connection that uses the current login, and is renewed before its session ends."""

    _request_timeout: float
    _renewal: asyncio.TimerHandle | None = None

    async def connect(self) -> Any:
        usual, self._request_timeout = self._request_timeout, min(self._request_timeout, CONNECT_DEADLINE)
        login = self._sasl_oauth_token_provider
        try:
            if login is not None:
                arguments = login.arguments()
                self._ssl_context = arguments.get("ssl_context")
                self._sasl_plain_username = arguments.get("sasl_plain_username")
                self._sasl_plain_password = arguments.get("sasl_plain_password")
            made = await super().connect()
        except Exception as error:
            _failed[f"{self.host}:{self.port}"] = error, time.monotonic()
            if login is not None:
                login.failure = error
            raise
        finally:
            self._request_timeout = usual
        _failed.pop(f"{self.host}:{self.port}", None)
        if login is not None:
            login.failure = None
        _keep_alive(self._writer.get_extra_info("socket"))
        return made

    def authenticator_oauth(self) -> _TokenAuthenticator:
        return _TokenAuthenticator(self._sasl_oauth_token_provider)

    def send(self, request: Any, expect_response: bool = True) -> Any:
        usual = self._request_timeout
        self._request_timeout += allowance(request)
        try:
            answer = super().send(request, expect_response)
        finally:
            self._request_timeout = usual
        if isinstance(request, SaslAuthenticateRequest):
            self._requests[-1][2].add_done_callback(self._authenticated)
        return answer

    def close(self, *args: Any, **kwargs: Any) -> Any:
        if self._renewal is not None:
            self._renewal.cancel()
        return super().close(*args, **kwargs)

    def _authenticated(self, answer: "asyncio.Future[Any]") -> None:
        if answer.cancelled() or answer.exception() is not None:
            return
        lifetime = getattr(answer.result(), "session_lifetime_ms", 0) / 1000
        if lifetime > 0:
            self._renewal = self._loop.call_later(lifetime * _RENEW_AT, self._renew)

    def _renew(self, *_: object) -> None:
        """Closes between two requests: the next one opens another connection."""
        if self._requests:
            self._requests[-1][2].add_done_callback(self._renew)
        else:
            self.close(conn.CloseReason.IDLE_DROP)


def _keep_alive(connected: socket.socket) -> None:
    """Lets the kernel test an idle connection, and give it up if the other end acknowledges nothing."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 10_000)):
        if hasattr(socket, name):  # not on every system
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


conn.AIOKafkaConnection = KafkaConnection
