"""Connections to Kafka, against a server that speaks as much of its protocol as a login takes."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.conn import create_conn
from aiokafka.errors import SaslAuthenticationFailed
from aiokafka.protocol.admin import (
    ApiVersionResponse_v0,
    SaslAuthenticateResponse_v1,
    SaslHandShakeResponse_v1,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest
from aiokafka.protocol.metadata import MetadataRequest, MetadataResponse_v0

from bridge.kafka import internals
from bridge.kafka.clients import Clients, new_producer, new_reader
from bridge.kafka.connection import KafkaConnection, unreachable
from bridge.kafka.errors import LoginError
from bridge.kafka.lifecycle import CALL_DEADLINE
from bridge.kafka.login import Login
from bridge.settings import KafkaSettings

METADATA, HANDSHAKE, VERSIONS, AUTHENTICATE = 3, 17, 18, 36


class FakeBroker:
    """``lifetime_ms``: of a session; ``refusal``: what it says of a token; ``silent``: it answers nothing."""

    def __init__(self) -> None:
        self.lifetime_ms = 0
        self.refusal = b""
        self.silent = False
        self.connections = 0
        self.tokens: list[bytes] = []
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeBroker"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(EOFError, OSError):
            while True:
                request = await reader.readexactly(struct.unpack(">i", await reader.readexactly(4))[0])
                key, _, correlation = struct.unpack_from(">hhi", request)
                if not self.silent:
                    answer = struct.pack(">i", correlation) + self._answer(key, request).encode()
                    writer.write(struct.pack(">i", len(answer)) + answer)
        writer.close()

    def _answer(self, key: int, request: bytes) -> Any:
        if key == VERSIONS:
            return ApiVersionResponse_v0(
                0, [(VERSIONS, 0, 0), (HANDSHAKE, 1, 1), (AUTHENTICATE, 1, 1), (METADATA, 0, 0)]
            )
        if key == HANDSHAKE:
            return SaslHandShakeResponse_v1(0, ["OAUTHBEARER"])
        if key == METADATA:
            return MetadataResponse_v0([], [])
        if b"auth=Bearer" in request:
            self.tokens.append(request)
            return SaslAuthenticateResponse_v1(0, None, self.refusal, 0 if self.refusal else self.lifetime_ms)
        return SaslAuthenticateResponse_v1(58, "the scope is missing", b"", 0)


class FakeLogin(Login):
    """Has a new token for each refusal."""

    def __init__(self) -> None:
        super().__init__(KafkaSettings())
        self.refusals = 0

    def arguments(self) -> dict[str, Any]:
        return {}

    async def token(self) -> str:
        return f"token-{self.refusals}"

    def refused(self) -> None:
        self.refusals += 1


async def connected(broker: FakeBroker, login: Login | None = None, **others: Any) -> KafkaConnection:
    arguments = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"} if login else {}
    made = await create_conn("127.0.0.1", broker.port, sasl_oauth_token_provider=login, **arguments, **others)
    assert isinstance(made, KafkaConnection)
    return made


async def test_a_connection_is_closed_before_its_session_ends() -> None:
    """A session of a second is given up after four fifths of it: at once if nothing is asked, otherwise after the
    answer, which the caller gets.
    """
    async with FakeBroker().serving() as broker:
        broker.lifetime_ms = 1000
        idle, busy = await connected(broker, FakeLogin()), await connected(broker, FakeLogin())
        answers = 0
        async with asyncio.timeout(5):
            while busy.connected():
                assert await busy.send(MetadataRequest([]))
                answers += 1
                await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert not idle.connected()
        assert answers > 3
        broker.lifetime_ms = 0
        endless = await connected(broker, FakeLogin())
        await asyncio.sleep(0.1)
        assert endless.connected()
        endless.close()


async def test_a_broker_that_cannot_be_reached_is_named_until_it_can() -> None:
    """Its address and the cause are known as soon as an attempt to connect to it has failed."""
    broker = FakeBroker()
    async with broker.serving():
        pass
    with pytest.raises(ConnectionRefusedError):
        await connected(broker)
    refused = f"127.0.0.1:{broker.port} (connection refused)"
    assert refused in (unreachable() or "")
    server = await asyncio.start_server(broker._serve, "127.0.0.1", broker.port)
    async with server:
        (await connected(broker)).close()
    assert refused not in (unreachable() or "")


async def test_a_refused_token_is_an_error() -> None:
    """A broker that refuses a token is heard, with its reason, and the next connection asks for another token."""
    async with FakeBroker().serving() as broker:
        broker.refusal = b'{"status":"insufficient_scope"}'
        login = FakeLogin()
        with pytest.raises(SaslAuthenticationFailed, match="the scope is missing"):
            await connected(broker, login)
        assert isinstance(login.failure, SaslAuthenticationFailed)
        assert login.refusals == 1
        broker.refusal = b""
        (await connected(broker, login)).close()
        assert login.failure is None
        assert b"token-1" in broker.tokens[-1]


async def test_each_connection_brings_itself_up_to_date() -> None:
    """A login that cannot be had is the error of the connection."""

    def arguments() -> dict[str, Any]:
        raise LoginError("kafka.ssl_keyfile cannot be loaded")

    async with FakeBroker().serving() as broker:
        login = FakeLogin()
        login.arguments = arguments  # type: ignore[method-assign]
        with pytest.raises(LoginError, match="ssl_keyfile"):
            await connected(broker, login)
        assert broker.connections == 0


async def test_the_kernel_tests_a_silent_connection() -> None:
    """Each connection has keep-alive, so that neither a firewall forgets it nor a dead end goes unnoticed."""
    async with FakeBroker().serving() as broker:
        made = await connected(broker)
        keeps = made._writer.get_extra_info("socket")
        assert keeps.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert keeps.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        made.close()


async def test_a_request_into_the_void_ends_in_time() -> None:
    """Where nothing is answered any more, a request fails after its time-out, a login after 5 s at most."""
    async with FakeBroker().serving() as broker:
        made = await connected(broker, request_timeout_ms=300)
        broker.silent = True
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.send(MetadataRequest([])), 5)
        made.close()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connected(broker, request_timeout_ms=300), 5)


async def test_the_time_outs_of_every_client() -> None:
    """Connections are closed, and metadata looked at, after less than four minutes, and a request has a third of what
    a call may take; in the group less than the session time-out.
    """
    connection = {"bootstrap_servers": "127.0.0.1:1"}
    member = Clients(connection, "group", str, session_timeout=10.0).group_consumer()
    clients = {"reader": new_reader(connection), "member": member, "producer": new_producer(connection)}
    for name, client in clients.items():
        inner = client.client if name == "producer" else client._client
        assert inner._connections_max_idle_ms < 240_000 > inner._metadata_max_age_ms, name
        assert inner._request_timeout_ms <= (5_000 if name == "member" else CALL_DEADLINE * 1000 / 3), name
        await client.stop()


def test_what_may_take_longer() -> None:
    """A join waits for the other members, and records may come slowly: these requests have more time than others."""
    join = JoinGroupRequest("g", 10_000, 12_000, "", "", "consumer", [])
    assert internals.allowance(join) == 12.0
    assert internals.allowance(FetchRequest(0, 0, 0, 0, [])) == 20.0
    assert internals.allowance(SimpleNamespace()) == 0.0
