"""Every kind of login, and every right, against a real broker that requires them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.app import Bridge
from bridge.check import Finding, examine
from bridge.registry.topic import read_registry, write_registry
from bridge.settings import AsmSettings, KafkaSettings, OpsSettings, Settings, TopicsSettings
from bridge.telemetry.metrics import METRICS
from bridge.testing.brokers import maven
from tests.support.logins import ADMIN, KINDS, LoginsBroker
from tests.support.oauth import OAuthServer


@pytest.fixture(scope="module")
def broker_with_logins(authority: Path) -> Iterator[LoginsBroker]:
    """A broker with a listener for every kind of login, started only with real Kafka."""
    if why := maven.why_not():
        pytest.skip(f"Kafka with logins and rights needs the maven broker: {why}")
    broker = LoginsBroker(authority)
    broker.start()
    try:
        broker.set_password(*ADMIN)
        yield broker
    finally:
        broker.stop()


def settings(kafka: KafkaSettings, prefix: str, **others: Any) -> Settings:
    return Settings(
        kafka=kafka,
        asm=AsmSettings(base_url="http://127.0.0.1:1"),
        topics=TopicsSettings(prefix=prefix, partitions=2),
        ops=OpsSettings(listen="127.0.0.1:0"),
        **others,
    )


@contextlib.asynccontextmanager
async def running(given: Settings) -> AsyncIterator[Bridge]:
    """A bridge that runs."""
    bridge, stop = Bridge(given), asyncio.Event()
    task = asyncio.create_task(bridge.run(stop))
    try:
        yield bridge
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


async def until_ready(bridge: Bridge, seconds: float = 40) -> None:
    await until(bridge, None, seconds)


async def until(bridge: Bridge, text: str | None, seconds: float = 40) -> str | None:
    """Waits for a reason with this text (None: until it is ready). Returns the reason."""
    reason: str | None = ""
    try:
        async with asyncio.timeout(seconds):
            while (reason := bridge.readiness.reason()) is not None if text is None else text not in (reason or ""):
                await asyncio.sleep(0.05)
                reason = bridge.readiness.reason()
    except TimeoutError:
        pytest.fail(f"not {text or 'ready'!r} but {reason!r}")
    return reason


def problems(findings: list[Finding]) -> dict[str, str]:
    return {one.check: f"{one.found} -> {one.advice}" for one in findings if one.result == "problem"}


async def test_each_kind_of_login_runs(broker_with_logins: LoginsBroker, topics_prefix: str) -> None:
    """With each login the bridge starts, becomes ready and reads the registry that a command writes, and check finds
    nothing wrong; a session by OAuth that ends after 3 s costs nothing.
    """
    async with OAuthServer(lifetime=8.0).serving() as oauth:
        given = {
            kind: settings(
                broker_with_logins.settings(kind, oauth, group_id=f"{topics_prefix}{kind}"), f"{topics_prefix}{kind}."
            )
            for kind in KINDS
        }
        async with contextlib.AsyncExitStack() as stack:
            bridges = {kind: await stack.enter_async_context(running(one)) for kind, one in given.items()}
            await asyncio.gather(*map(until_ready, bridges.values()))
            lost = METRICS.registry.get_sample_value("asm_bridge_partitions_lost_total")
            await asyncio.gather(*(register(one) for one in given.values()))
            findings = await asyncio.gather(*map(examine, given.values()))
            for kind, found in zip(given, findings, strict=True):
                assert set(problems(found)) <= {"service", "secrets"}, kind
            granted = oauth.granted
            await asyncio.sleep(8)  # several sessions, and more than a token's life
            assert oauth.granted > granted
            for kind, bridge in bridges.items():
                assert bridge.readiness.reason() is None, kind
                assert bridge.snapshot().registered == 1, kind
            assert METRICS.registry.get_sample_value("asm_bridge_partitions_lost_total") == lost


async def register(given: Settings) -> None:
    topic = given.topics.name("sessions")
    await write_registry(given.kafka, topic, {"agent-7": b'{"token": "env:NO_TOKEN"}'})
    assert await read_registry(given.kafka, topic) == {"agent-7": b'{"token": "env:NO_TOKEN"}'}


@pytest.mark.parametrize(
    ("kind", "wrong", "found"),
    [
        ("scram-256", {"sasl_password": "wr0ng"}, "it refuses the login of admin -> check kafka.sasl_username"),
        ("oauth", {"oauth_client_secret": "wr0ng"}, "HTTP 401 (invalid_client"),
        ("oauth", {"oauth_scope": "other"}, "it refuses the token"),
        ("mutual", {"ssl_certfile": None, "ssl_keyfile": None}, "certificate"),
    ],
)
async def test_a_wrong_login_is_explained(
    broker_with_logins: LoginsBroker, topics_prefix: str, kind: str, wrong: dict[str, Any], found: str
) -> None:
    """check and readiness say what is wrong with a login, and neither shows a secret."""
    async with OAuthServer().serving() as oauth:
        given = settings(broker_with_logins.settings(kind, oauth, **wrong), topics_prefix)
        text = problems(await examine(given))["kafka"]
        assert found in text
        async with running(given) as bridge:
            reason = await until(bridge, "check kafka.", 20)
    assert "wr0ng" not in f"{text} {reason}"
    assert "refused" in (reason or "") or "HTTP 401" in (reason or "") or "certificate" in (reason or "")
