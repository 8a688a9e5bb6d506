"""Every kind of login, and every right, against a real broker that requires them."""

import asyncio
import contextlib
import gc
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import conn
from pydantic import SecretStr
from structlog.testing import capture_logs

from bridge.app import Bridge
from bridge.check import Finding, examine
from bridge.kafka.connection import KafkaConnection
from bridge.kafka.partitioner import partition_for
from bridge.kafka.reading import read_to_end
from bridge.kafka.topics import ensure_topics
from bridge.kafka.writing import open_writer
from bridge.registry.file import read_sessions_file
from bridge.registry.topic import read_registry, write_registry
from bridge.settings import AsmSettings, KafkaSettings, OpsSettings, Settings, TopicsSettings, load_settings
from bridge.telemetry.metrics import METRICS
from bridge.testing.brokers import maven
from bridge.testing.simulator import Options, Simulator, serve
from bridge.testing.simulator.files import sessions_toml, write_tokens
from tests.support import SOURCES
from tests.support.logins import ADMIN, BRIDGE, KINDS, LoginsBroker
from tests.support.oauth import OAuthServer
from tests.support.patience import patient


@pytest.fixture(scope="module")
def broker_with_logins(authority: Path) -> Iterator[LoginsBroker]:
    """A broker with a listener for every kind of login, started only with real Kafka."""
    if why := maven.why_not():
        pytest.skip(f"Kafka with logins and rights needs the maven broker: {why}")
    broker = LoginsBroker(authority)
    broker.start()
    try:
        broker.set_password(*ADMIN)
        broker.set_password(*BRIDGE)
        yield broker
    finally:
        broker.stop()


def settings(kafka: KafkaSettings, prefix: str, **others: Any) -> Settings:
    sections = {
        "kafka": kafka,
        "asm": AsmSettings(base_url="http://127.0.0.1:1"),
        "topics": TopicsSettings(prefix=prefix, partitions=2),
        "ops": OpsSettings(listen="127.0.0.1:0"),
    }
    return Settings(**(sections | others))


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
        async with asyncio.timeout(patient(seconds)):
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
    async with OAuthServer(lifetime=5.0).serving() as oauth:
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
            async with asyncio.timeout(patient(20)):
                while oauth.granted < granted + 2:  # with each token come new sessions
                    await asyncio.sleep(0.1)
            for kind, bridge in bridges.items():
                assert bridge.readiness.reason() is None, kind
                assert bridge.snapshot().registered == 1, kind
            assert METRICS.registry.get_sample_value("asm_bridge_partitions_lost_total") == lost


async def register(given: Settings) -> None:
    topic = given.topics.name("sessions")
    await write_registry(given.kafka, topic, {"agent-7": b'{"token": "env:NO_TOKEN"}'})
    assert await read_registry(given.kafka, topic) == {"agent-7": b'{"token": "env:NO_TOKEN"}'}


COMMANDS = (
    ("topics", "create"),
    ("sessions", "add", "agent-7", "--token", "env:NO_TOKEN"),
    ("sessions", "list", "--json"),
    ("inject", "agent-7", "event.json", "--no-wait"),
    ("tail", "--until-end", "--json", "inject"),
    ("dead-letters", "list", "--json"),
    ("dead-letters", "resend", "--all", "--dry-run"),
)


async def test_every_command_logs_in(
    broker_with_logins: LoginsBroker, topics_prefix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each command that uses Kafka works with a login by SASL over TLS, and none shows the password."""
    kafka = broker_with_logins.settings("encrypted", OAuthServer())
    named = {name: getattr(kafka, name) for name in kafka.model_fields_set}
    given = {
        f"ASM_BRIDGE_KAFKA__{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in named.items()
    }
    given |= {"ASM_BRIDGE_TOPICS__PREFIX": topics_prefix, "ASM_BRIDGE_TOPICS__PARTITIONS": "2", "PYTHONPATH": SOURCES}
    event = '{"activated_conversation_event": {"conversation": {"conversation_sid": "7"}}}'
    (tmp_path / "event.json").write_text(event)
    for arguments in COMMANDS:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bridge", *arguments), env=os.environ | given, cwd=tmp_path
        )
        code = await asyncio.wait_for(process.wait(), 40)
        out, err = capfd.readouterr()
        assert code == 0, f"{arguments}: {err}"
        assert ADMIN[1] not in out + err
        if arguments[0] == "tail":
            assert json.loads(out)["key"] == "agent-7"


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


# -- rights


def of_docs(prefix: str) -> dict[str, tuple[str, str, str]]:
    """The rights that docs/operations.md names, by the words for one that lacks."""
    return {
        "not authorised to read": ("TOPIC", f"{prefix}asm.", "READ"),
        "not authorised to write": ("TOPIC", f"{prefix}asm.", "WRITE"),
        "not authorised to use the group": ("GROUP", f"{prefix}group", "READ"),
        "not authorised to use the transactional id": ("TRANSACTIONAL_ID", f"{prefix}group-", "WRITE"),
    }


def of_bridge(broker: LoginsBroker, prefix: str, group: str = "group", **others: Any) -> Settings:
    """Settings of the user that may do what it is granted."""
    kafka = broker.settings("scram-256", OAuthServer(), group_id=f"{prefix}{group}", session_timeout=6.0)
    kafka = kafka.model_copy(update={"sasl_username": BRIDGE[0], "sasl_password": SecretStr(BRIDGE[1])})
    return settings(kafka, f"{prefix}asm.", **others)


async def create(broker: LoginsBroker, prefix: str) -> dict[str, Any]:
    """Creates the topics. Returns the connection of the user who may do all."""
    connection = broker.settings("plain", OAuthServer()).client_arguments()
    topics = TopicsSettings(prefix=f"{prefix}asm.", partitions=2)
    assert all(one.usable for one in await ensure_topics(connection, topics))
    return connection


async def test_the_rights_of_the_docs_suffice(
    broker_with_logins: LoginsBroker, topics_prefix: str, tmp_path: Path
) -> None:
    """With exactly the rights that the docs name a bridge starts, polls and delivers an event, a second one takes over,
    and check finds nothing wrong.
    """
    admin = await create(broker_with_logins, topics_prefix)
    await asyncio.to_thread(broker_with_logins.grant, *of_docs(topics_prefix).values())
    simulator = Simulator(Options(agents=1, change_rate=0.0, logouts=False))
    async with serve(simulator) as base_url:
        write_tokens(simulator, tmp_path)
        (tmp_path / "sessions.toml").write_text(sessions_toml(simulator))
        given = of_bridge(
            broker_with_logins,
            topics_prefix,
            asm=AsmSettings(base_url=base_url),
            secrets_dir=tmp_path,
            sessions_file=tmp_path / "sessions.toml",
        )
        (agent_id,) = read_sessions_file(tmp_path / "sessions.toml")
        for number in range(2):  # the second one takes over
            async with running(given) as bridge:
                await until_ready(bridge)
                assert problems(await examine(given)).keys() <= {"ops.listen"}
                event = b'{"activated_conversation_event": {"conversation": {"conversation_sid": "%d"}}}' % (7 + number)
                async with open_writer(admin) as writer:
                    inbox = given.topics.name("inject")
                    await writer.put(inbox, partition_for(agent_id, 2), agent_id.encode(), event)
                await outcomes(admin, given.topics.name("inject-outcomes"), number + 1)


async def outcomes(admin: dict[str, Any], topic: str, count: int) -> None:
    """Waits for so many outcomes, all of them delivered."""
    async with asyncio.timeout(patient(20)):
        while True:
            found = [json.loads(one.value) async for one in read_to_end(admin, [(topic, 0), (topic, 1)])]
            assert {one["outcome"] for one in found} <= {"delivered"}
            if len(found) == count:
                return


async def test_a_right_that_is_taken_away_and_given_back(broker_with_logins: LoginsBroker, topics_prefix: str) -> None:
    """Each right that is taken away while the bridge runs is named by readiness, with its object, by check, and by a
    process that starts without it; the process lives on, writes a line once, and is ready again within a minute of the
    right's return.
    """
    names = list(of_docs(""))
    with capture_logs() as logged:
        await asyncio.gather(
            *(
                taken_and_given(broker_with_logins, f"{topics_prefix}{number}", name)
                for number, name in enumerate(names)
            )
        )
    assert {line["log_level"] for line in logged} <= {"info", "warning", "debug"}
    told = Counter((line["event"], line.get("partition"), str(line.get("error"))) for line in logged if "error" in line)
    repeated = {line: count for line, count in told.items() if count > 2 and line[0] not in _OF_DEBUG}
    assert not repeated  # there are two processes


_OF_DEBUG = {"partition.lost"}
"""Repeated at the level of debugging only."""


async def taken_and_given(broker: LoginsBroker, prefix: str, name: str) -> None:
    await create(broker, prefix)
    await asyncio.to_thread(broker.grant, *of_docs(prefix).values())
    given = of_bridge(broker, prefix)
    _, of, _ = right = of_docs(prefix)[name]
    async with running(given) as bridge:
        await until_ready(bridge)
        await asyncio.to_thread(broker.revoke, right)
        reason = await until(bridge, name, 30)
        assert of in (reason or "")
        found = problems(await examine(given))
        assert found.keys() & {"rights", "group", "transactions"}, (name, found)
        async with running(of_bridge(broker, prefix, "group-2")) as second:
            assert of in (await until(second, name, 30) or "")
        await asyncio.to_thread(broker.grant, right)
        await until_ready(bridge, 60)
        assert bridge.readiness.given_up() is None


# -- rotation


async def test_a_rotated_password_is_used_without_a_restart(
    broker_with_logins: LoginsBroker, topics_prefix: str, tmp_path: Path
) -> None:
    """When connections are lost after the password was changed, readiness says that the login is refused; once the file
    in the secrets directory has the new one, the same process works again.
    """
    user = f"{topics_prefix}user"
    await asyncio.to_thread(broker_with_logins.set_password, user, "first-s3cret")
    await asyncio.to_thread(broker_with_logins.grant, *of_docs(topics_prefix).values(), user=user)
    await create(broker_with_logins, topics_prefix)
    file = tmp_path / "asm_bridge_kafka__sasl_password"
    file.write_text("first-s3cret")
    given = load_settings(
        None,
        {
            "kafka.bootstrap_servers": broker_with_logins.settings("scram-256", OAuthServer()).bootstrap_servers,
            "kafka.security_protocol": "SASL_PLAINTEXT",
            "kafka.sasl_mechanism": "SCRAM-SHA-256",
            "kafka.sasl_username": user,
            "kafka.group_id": f"{topics_prefix}group",
            "kafka.session_timeout": "6s",
            "topics.prefix": f"{topics_prefix}asm.",
            "topics.partitions": "2",
            "ops.listen": "127.0.0.1:0",
            "secrets_dir": str(tmp_path),
        },
    )
    async with running(given) as bridge:
        await until_ready(bridge)
        await asyncio.to_thread(broker_with_logins.set_password, user, "second-s3cret")
        close_connections()
        reason = await until(bridge, "refused the login", 30)
        assert "s3cret" not in (reason or "")
        file.write_text("second-s3cret")
        await until_ready(bridge, 60)


async def test_a_rotated_certificate_is_used_without_a_restart(
    broker_with_logins: LoginsBroker, topics_prefix: str, authority: Path, tmp_path: Path
) -> None:
    """Once the files have a certificate that has expired, new connections are refused, and readiness says so; as soon
    as they have a valid one, the same process works again.
    """
    pair = {suffix: tmp_path / f"client{suffix}" for suffix in (".pem", ".key")}

    def rotate(name: str) -> None:
        for suffix, path in pair.items():
            new = tmp_path / f"new{suffix}"
            new.write_bytes((authority / f"{name}{suffix}").read_bytes())
            new.replace(path)

    rotate("good")
    files = {"ssl_certfile": pair[".pem"], "ssl_keyfile": pair[".key"]}
    others = {"group_id": f"{topics_prefix}group", "session_timeout": 6.0}
    given = settings(broker_with_logins.settings("mutual", OAuthServer(), **files, **others), f"{topics_prefix}asm.")
    async with running(given) as bridge:
        await until_ready(bridge)
        rotate("old")
        close_connections()
        await until(bridge, "certificate", 30)
        rotate("good")
        await until_ready(bridge, 60)


def close_connections() -> None:
    """Closes every connection of this process to Kafka, as a broker that is restarted does."""
    for connection in [one for one in gc.get_objects() if type(one) is KafkaConnection]:
        connection.close(conn.CloseReason.CONNECTION_BROKEN)
