"""`asm-bridge check` with each failure that it must explain."""

import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from confluent_kafka import Consumer

from bridge.check import Finding, examine
from bridge.kafka.clients import Clients
from bridge.kafka.errors import KafkaUnavailableError
from bridge.kafka.topics import TOPICS, configs_of, ensure_topics, partition_counts
from bridge.ops.http import free_port
from bridge.registry.topic import write_registry
from bridge.settings import AsmSettings, KafkaSettings, OpsSettings, Settings, TopicsSettings
from bridge.telemetry.metrics import METRICS
from bridge.testing.brokers import Broker, maven
from bridge.testing.brokers.embedded import embedded_broker
from bridge.testing.brokers.secured import ADMIN, BRIDGE, SecuredBroker
from bridge.testing.simulator import Options, Simulator, serve
from bridge.testing.simulator.files import sessions_toml, write_tokens
from tests.support.patience import patient

NOWHERE = AsmSettings(base_url="http://127.0.0.1:1")
NO_KAFKA = KafkaSettings(bootstrap_servers="127.0.0.1:1")
ANY = OpsSettings(listen="127.0.0.1:0")


def settings(**sections: Any) -> Settings:
    return Settings(**{"kafka": NO_KAFKA, "asm": NOWHERE, "ops": ANY} | sections)


def told(findings: list[Finding], check: str) -> str:
    """The findings of a check with what to do, as one text, results first."""
    lines = [f"{one.result}: {one.found} -> {one.advice}" for one in findings if one.check == check]
    assert lines, f"no {check} among {[one.check for one in findings]}"
    return "\n".join(lines)


def problems(findings: list[Finding]) -> set[str]:
    return {one.check for one in findings if one.result == "problem"}


# -- all is well


@contextlib.asynccontextmanager
async def agents(directory: Path, **options: Any) -> AsyncIterator[dict[str, Any]]:
    """Simulated agents, with their tokens and a sessions file: sections of settings to watch them."""
    simulator = Simulator(Options(**{"agents": 3, "change_rate": 0.0, "logouts": False} | options))
    async with serve(simulator) as base_url:
        write_tokens(simulator, directory)
        (directory / "agents.toml").write_text(sessions_toml(simulator))
        yield {
            "asm": AsmSettings(base_url=base_url),
            "secrets_dir": directory,
            "sessions_file": directory / "agents.toml",
        }


@pytest.fixture
def kafka(bootstrap_servers: str, topics_prefix: str) -> dict[str, Any]:
    return {
        "kafka": KafkaSettings(bootstrap_servers=bootstrap_servers, group_id=f"{topics_prefix}g"),
        "topics": TopicsSettings(prefix=topics_prefix, partitions=2),
    }


@contextlib.asynccontextmanager
async def admin_of(servers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def create(kafka: dict[str, Any]) -> None:
    assert all(one.usable for one in await ensure_topics(kafka["kafka"].client_arguments(), kafka["topics"]))


async def picture(kafka: dict[str, Any]) -> tuple[Any, ...]:
    """Everything that a check could have changed: topics, groups, records."""
    servers, prefix = kafka["kafka"].bootstrap_servers, kafka["topics"].prefix
    async with admin_of(servers) as admin:
        names = sorted(name for name in await admin.list_topics() if name.startswith(prefix))
        groups = sorted(group[0] for group in await admin.list_consumer_groups() if group[0].startswith(prefix))
    consumer = AIOKafkaConsumer(*names, bootstrap_servers=servers)
    await consumer.start()
    try:
        return (
            names,
            groups,
            {one.partition: end for one, end in (await consumer.end_offsets(consumer.assignment())).items()},
        )
    finally:
        await consumer.stop()


@pytest.mark.transactions
async def test_all_is_well_and_nothing_is_changed(kafka: dict[str, Any], tmp_path: Path) -> None:
    """A check of a working installation finds no problem, and makes no topic, group or record."""
    await create(kafka)
    before = await picture(kafka)
    async with agents(tmp_path) as sections:
        findings = await examine(settings(**kafka, **sections))
    assert {one.result for one in findings if one.check != "clock"} == {"ok"}, findings
    assert "3 tried" in told(findings, "tokens")
    assert await picture(kafka) == before


@pytest.mark.kafka
async def test_the_command(kafka: dict[str, Any], tmp_path: Path) -> None:
    """The command prints a table or JSON, and exits with 0 for warnings, 1 for a problem, 2 for wrong settings."""
    await create(kafka)
    given = {
        "ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS": kafka["kafka"].bootstrap_servers,
        "ASM_BRIDGE_KAFKA__DELIVERY": "at_least_once",
        "ASM_BRIDGE_TOPICS__PREFIX": kafka["topics"].prefix,
        "ASM_BRIDGE_TOPICS__PARTITIONS": "2",
        "ASM_BRIDGE_OPS__LISTEN": "127.0.0.1:0",
        "ASM_BRIDGE_ASM__TOKEN": "t0ken-s3cret",
    }
    await write_registry(kafka["kafka"], kafka["topics"].name("sessions"), {"agent-7": b"{"})
    async with agents(tmp_path) as sections:
        given["ASM_BRIDGE_ASM__BASE_URL"] = sections["asm"].base_url
        arguments = (("--json",), ("--asm.base_url", "http://127.0.0.1:1"), ("--topics.partitions", "0"))
        runs = await asyncio.gather(*(command(given, *one) for one in arguments))
    (code, out, _), (failed, table, _), (wrong, _, complaint) = runs
    assert (code, failed, wrong) == (0, 1, 2), runs
    assert {"check": "service", "result": "ok"}.items() <= {one["check"]: one for one in json.loads(out)}[
        "service"
    ].items()
    assert "the entry of agent-7 cannot be read" in table
    assert "no agent is registered" in table
    assert re.search(r"service +problem +http://127.0.0.1:1: connection refused", table)
    assert "--topics.partitions" in complaint
    assert not any(err for _, _, err in runs[:2])
    assert "t0ken-s3cret" not in str(runs)


async def command(given: dict[str, str], *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", "check", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | given,
    )
    out, err = await asyncio.wait_for(process.communicate(), 40)
    return process.returncode, out.decode(), err.decode()


async def test_offline_needs_no_network(tmp_path: Path) -> None:
    """--offline checks settings, files and secrets, and reports what it skipped."""
    async with agents(tmp_path) as sections:
        findings = await examine(settings(**sections), offline=True)
    assert not problems(findings)
    assert "3 agents" in told(findings, "secrets")
    for name in ("kafka", "topics", "rights", "transactions", "group", "registry", "service", "clock", "tokens"):
        assert told(findings, name).startswith("skipped: offline")


# -- Kafka


@contextlib.asynccontextmanager
async def server(answer: bytes | None, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Gives the same answer to everything, or none. Yields its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
                    break
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("servers", "found"),
    [
        ("127.0.0.1:1", "127.0.0.1:1: connection refused -> check host and port in kafka.bootstrap_servers"),
        (
            "kafka.invalid:9092",
            "kafka.invalid:9092: the name cannot be resolved (DNS) -> check kafka.bootstrap_servers",
        ),
    ],
)
async def test_a_wrong_bootstrap_address(servers: str, found: str) -> None:
    """A wrong bootstrap address is reported with the reason for each server, and the checks that need Kafka are
    skipped.
    """
    findings = await examine(settings(kafka=KafkaSettings(bootstrap_servers=servers)))
    assert told(findings, "kafka").startswith(f"problem: {found}")
    for name in ("topics", "rights", "transactions", "group", "registry"):
        assert told(findings, name).startswith("skipped: Kafka cannot be used")


async def test_what_never_answers_ends_the_check_all_the_same() -> None:
    """A check of a Kafka and a service that never answer ends within half a minute with a problem."""
    begin = time.monotonic()
    async with server(None) as port:
        kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}")
        findings = await examine(settings(kafka=kafka, asm=AsmSettings(base_url=f"http://127.0.0.1:{port}")))
    assert time.monotonic() - begin < patient(15)
    assert "no answer within 5 s" in told(findings, "kafka")
    assert "no answer within 6 s" in told(findings, "service")


async def test_what_is_not_kafka() -> None:
    """A port of a program other than Kafka is reported as such."""
    async with server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        findings = await examine(settings(kafka=KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}")))
    assert "that it is Kafka's" in told(findings, "kafka")


@pytest.mark.kafka
async def test_one_wrong_server_of_two_is_a_warning(kafka: dict[str, Any], bootstrap_servers: str) -> None:
    """One wrong bootstrap server of two is a warning, since `run` works without it."""
    both = KafkaSettings(bootstrap_servers=f"127.0.0.1:1,{bootstrap_servers}", group_id=kafka["kafka"].group_id)
    findings = await examine(settings(kafka=both, topics=kafka["topics"]))
    assert told(findings, "kafka").startswith("warning: 127.0.0.1:1: connection refused")


@pytest.mark.kafka
async def test_missing_topics(kafka: dict[str, Any]) -> None:
    """Each missing topic is reported with how to create it, and none is created by the check."""
    findings = await examine(settings(**kafka))
    prefix = kafka["topics"].prefix
    assert told(findings, "topics").startswith(f"problem: missing: {prefix}agent-status, {prefix}queued-calls")
    assert "run `asm-bridge topics create`" in told(findings, "topics")
    async with admin_of(kafka["kafka"].bootstrap_servers) as admin:
        assert not [name for name in await admin.list_topics() if name.startswith(prefix)]


@pytest.mark.kafka
async def test_topics_that_do_not_fit(kafka: dict[str, Any]) -> None:
    """A wrong number of partitions, a wrong cleanup policy and a missing topic are reported by name."""
    wanted: TopicsSettings = kafka["topics"]
    topics = {topic.name: NewTopic(wanted.name(topic.name), 2 if topic.partitioned else 1, 1) for topic in TOPICS}
    for topic in TOPICS:
        topics[topic.name].topic_configs = configs_of(topic, wanted)
    topics["agent-state"].topic_configs["cleanup.policy"] = "delete"
    topics["inject"].num_partitions = 3
    del topics["conversations"]
    async with admin_of(kafka["kafka"].bootstrap_servers) as admin:
        await admin.create_topics(list(topics.values()))
    findings = await examine(settings(**kafka))
    missing, policy, count = told(findings, "topics").splitlines()
    assert missing.startswith(f"problem: missing: {wanted.prefix}conversations -> run `asm-bridge topics create`")
    assert policy.startswith(
        f"problem: {wanted.prefix}agent-state cleanup.policy is delete, and must be compact -> set"
    )
    assert count.startswith(f"problem: {wanted.prefix}inject has 3 partitions, not 2 -> set topics.partitions to 3")


@pytest.mark.transactions
async def test_a_setting_that_the_broker_refuses_is_left_out(
    kafka: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real broker refuses one setting: the topic is created with the others, and the next start accepts it."""
    refused = [replace(topic, configs={**topic.configs, "segment.bytes": "1"}) for topic in TOPICS]
    monkeypatch.setattr("bridge.kafka.topics.TOPICS", refused)
    one: KafkaSettings = kafka["kafka"]
    for outcome in ("created", "exists"):
        results = await ensure_topics(one.client_arguments(), kafka["topics"])
        assert {result.outcome for result in results} == {outcome}
        assert all(len(result.notes) == (outcome == "created") for result in results), results
    assert "all 10 exist and have the right settings" in told(await examine(settings(**kafka)), "topics")


@pytest.mark.transactions
async def test_a_group_that_is_full(kafka: dict[str, Any]) -> None:
    """A group with as many members as partitions, or of another program, is reported with what to do."""
    # Tansu, which has no transactions, does not tell who is in a group either.
    await create(kafka)
    one: KafkaSettings = kafka["kafka"]
    clients = Clients(one.client_arguments(), one.group_id, kafka["topics"].name)
    other = AIOKafkaConsumer(bootstrap_servers=one.bootstrap_servers, group_id=f"{one.group_id}-other")
    consumers = [clients.group_consumer() for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for consumer in (*consumers, other):
            await consumer.start()
            stack.push_async_callback(consumer.stop)
            consumer.subscribe([kafka["topics"].name("inject")])
        found = await until(settings(**kafka), "group", "3 processes")
        assert found.startswith("warning: 3 processes are in the group")
        assert "1 of them without work -> there are 2 partitions" in found
        kafka["kafka"] = KafkaSettings(bootstrap_servers=one.bootstrap_servers, group_id=f"{one.group_id}-other")
        assert "set kafka.group_id to a name" in await until(settings(**kafka), "group", "problem: ")


@pytest.mark.kafka
@pytest.mark.transactions
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_stranger_in_the_group(kafka: dict[str, Any], protocol: str) -> None:
    """Another program in the group takes partitions away, silently where it agrees upon the assignor or uses the
    protocol of KIP-848: it is a problem, and a bridge is none."""
    await create(kafka)
    wanted, name = settings(**kafka), kafka["kafka"].group_id
    clients = Clients.of(wanted.kafka, wanted.topics)
    bridge = clients.group_consumer()
    bridge.subscribe([clients.topic("inject")])
    await bridge.start()
    try:
        await until(wanted, "group", f"1 processes are in the group {name}")
        servers = kafka["kafka"].bootstrap_servers
        if protocol == "classic":
            stranger = AIOKafkaConsumer(
                clients.topic("inject"),
                bootstrap_servers=servers,
                group_id=name,
                client_id="a-script",
                partition_assignment_strategy=(StickyPartitionAssignor,),
            )
            await stranger.start()
            found, close = "a-script at 127.0.0.1", stranger.stop
        else:
            other = Consumer({"bootstrap.servers": servers, "group.id": name, "group.protocol": "consumer"})
            other.subscribe([clients.topic("inject")])
            await asyncio.to_thread(other.poll, 1.0)
            found, close = "KIP-848", partial(asyncio.to_thread, other.close)
        try:
            assert "problem: members of the group" in await until(wanted, "group", found)
        finally:
            await close()
    finally:
        await bridge.stop()


async def until(wanted: Settings, check: str, text: str) -> str:
    """Repeats the check until the group is stable and the text is found."""
    async with asyncio.timeout(patient(40)):
        while text not in (found := told(await examine(wanted), check)):
            await asyncio.sleep(0.2)
    return found


async def test_a_broker_without_transactions(topics_prefix: str) -> None:
    """exactly_once on a broker without transactions is reported with both remedies."""
    async with embedded_broker() as servers:
        sections = {"kafka": KafkaSettings(bootstrap_servers=servers), "topics": TopicsSettings(prefix=topics_prefix)}
        await create(sections)
        findings = await examine(settings(**sections))
        sections["kafka"] = KafkaSettings(bootstrap_servers=servers, delivery="at_least_once")
        well = await examine(settings(**sections))
    assert told(findings, "transactions").startswith("problem: the broker does not support transactions")
    assert "set kafka.delivery to at_least_once" in told(findings, "transactions")
    assert problems(well) == {"service"}


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredBroker]:
    """A secured broker, started only for the tests that need it and only with real Kafka."""
    if why := maven.why_not():
        pytest.skip(f"Kafka with logins and rights needs the maven broker: {why}")
    broker = SecuredBroker()
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def login(broker: Broker, user: tuple[str, str], **others: Any) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=broker.bootstrap_servers,
        security_protocol="SASL_PLAINTEXT",
        sasl_username=user[0],
        sasl_password=user[1],
        **others,
    )


async def test_a_wrong_password(secured: SecuredBroker) -> None:
    """A wrong password, a wrong mechanism and a missing login are distinguished, without showing the password."""
    findings = await examine(settings(kafka=login(secured, ("bridge", "wr0ng-s3cret"))))
    assert "it refuses the login of bridge -> check kafka.sasl_username and kafka.sasl_p" in told(findings, "kafka")
    assert "wr0ng-s3cret" not in str(findings)
    findings = await examine(settings(kafka=login(secured, BRIDGE, sasl_mechanism="SCRAM-SHA-256")))
    assert "does not support SASL SCRAM-SHA-256" in told(findings, "kafka")
    findings = await examine(settings(kafka=KafkaSettings(bootstrap_servers=secured.bootstrap_servers)))
    assert "set kafka.security_protocol to SASL_PLAINTEXT" in told(findings, "kafka")


async def test_rights_that_lack(secured: SecuredBroker, topics_prefix: str) -> None:
    """Missing rights to write, read or see a topic are reported without writing anything."""
    group = f"{topics_prefix}g"
    topics = TopicsSettings(prefix=topics_prefix, partitions=2)
    admin = {"kafka": login(secured, ADMIN), "topics": topics}
    await create(admin)
    await write_registry(admin["kafka"], topics.name("sessions"), {"agent-7": b'{"token": "env:TOKEN_7"}'})
    ours = settings(kafka=login(secured, BRIDGE, group_id=group), topics=topics)

    findings = await examine(ours)
    assert f"the login bridge lacks Describe, Read on {topics_prefix}sessions" in told(findings, "rights")
    assert f"grant Read on the group {group}" in told(findings, "group")
    assert f"transactional ids that begin with {group}-" in told(findings, "transactions")
    assert told(findings, "sessions").startswith("skipped: the registry was not read")

    await asyncio.to_thread(secured.grant, ("TOPIC", topics_prefix, "DESCRIBE"), ("GROUP", group, "DESCRIBE"))
    findings = await examine(ours)
    assert f"lacks Write, Read on {topics_prefix}agent-state, {topics_prefix}inject -> grant" in told(
        findings, "rights"
    )
    assert "not checked, because the broker does not report" in told(findings, "topics")
    assert told(findings, "registry").startswith("skipped")
    assert "may not join" in told(findings, "group")

    rights = [("TOPIC", topics_prefix, right) for right in ("READ", "WRITE", "DESCRIBE_CONFIGS")]
    await asyncio.to_thread(secured.grant, *rights, ("GROUP", group, "READ"), ("TRANSACTIONAL_ID", group, "WRITE"))
    findings = await examine(ours)
    assert problems(findings) == {"service", "secrets"}
    assert "agent agent-7: the environment has no variable TOKEN_7" in told(findings, "secrets")


# -- the vendor's service


async def of_service(base_url: str, **asm: Any) -> str:
    return told(await examine(settings(asm=AsmSettings(base_url=base_url, **asm))), "service")


@pytest.mark.parametrize(
    ("base_url", "found"),
    [
        ("https://asm.invalid", "the name cannot be resolved (DNS) -> check asm.base_url"),
        ("http://127.0.0.1:1", "connection refused -> check host and port in asm.base_url"),
    ],
)
async def test_a_wrong_address(base_url: str, found: str) -> None:
    """A wrong address of the service is reported with the reason, and the checks that need the service are skipped."""
    findings = await examine(settings(asm=AsmSettings(base_url=base_url)))
    assert told(findings, "service").startswith(f"problem: {base_url}: {found}")
    assert told(findings, "tokens").startswith("skipped: the service cannot be reached")


async def test_a_proxy_that_is_not_there() -> None:
    """An unreachable proxy is reported by its setting, without its password."""
    found = await of_service("https://asm.invalid", proxy="http://me:pr0xy-s3cret@127.0.0.1:1")
    assert "check host and port in asm.proxy" in found
    assert "pr0xy-s3cret" not in found


async def test_an_address_of_something_else() -> None:
    """A web server that is not ASM is reported as such."""
    async with serve(Simulator(Options(agents=1))) as base_url:
        assert (await of_service(base_url)).startswith("ok: ")
        assert (await of_service(base_url + "/other")).startswith(f"problem: {base_url}/other answers with HTTP 404")
    async with server(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>") as port:
        assert "problem: http://127.0.0.1" in await of_service(f"http://127.0.0.1:{port}")


async def test_a_bad_certificate(authority: Path) -> None:
    """An unknown authority, another host's certificate, an expired one and a port without TLS are distinguished, each
    with what to do.
    """
    trusted = {"ca_file": authority / "ca.pem"}
    async with with_certificate(authority, "good") as base_url:
        assert (await of_service(base_url, **trusted)).startswith("ok: ")
        assert "an authority that is not trusted -> set asm.ca_file" in await of_service(base_url)
        assert "closed the connection without an answer" in await of_service(base_url.replace("https", "http"))
    async with with_certificate(authority, "other") as base_url:
        assert "use a name that is in the certificate" in await of_service(base_url, **trusted)
    async with with_certificate(authority, "old") as base_url:
        assert "certificate has expired" in await of_service(base_url, **trusted)
    async with serve(Simulator(Options(agents=1))) as base_url:
        assert "asm.base_url must begin with http://" in await of_service(base_url.replace("http", "https"))


@contextlib.asynccontextmanager
async def with_certificate(authority: Path, name: str) -> AsyncIterator[str]:
    files = {"ssl_certfile": str(authority / f"{name}.pem"), "ssl_keyfile": str(authority / f"{name}.key")}
    async with serve(Simulator(Options(agents=1)), **files) as base_url:
        yield base_url


async def test_a_bad_certificate_of_kafka(authority: Path) -> None:
    """A bad certificate of a broker is reported with what to do, in the words of `run`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, host, ca, advice in (
        ("good", "127.0.0.1", None, "set kafka.ssl_cafile"),
        ("other", "127.0.0.1", authority / "ca.pem", "use a name that is in the certificate"),
        ("old", "127.0.0.1", authority / "ca.pem", "renew the certificate"),
    ):
        context.load_cert_chain(authority / f"{name}.pem", authority / f"{name}.key")
        async with server(None, context) as port:
            kafka = KafkaSettings(bootstrap_servers=f"{host}:{port}", security_protocol="SSL", ssl_cafile=ca)
            said = told(await examine(settings(kafka=kafka)), "kafka")
            assert advice in said
            with pytest.raises(KafkaUnavailableError) as caught:
                await partition_counts(kafka.client_arguments())
        words = str(caught.value).partition(" failed (")[2].partition(")")[0]
        assert words.startswith("the certificate ")
        assert words in said
    async with serve(Simulator(Options(agents=1))) as base_url:
        kafka = KafkaSettings(bootstrap_servers=base_url.removeprefix("http://"), security_protocol="SSL")
        assert "the server does not speak TLS" in told(await examine(settings(kafka=kafka)), "kafka")


@pytest.mark.parametrize(("ahead", "result"), [(60, "warning"), (-60, "warning"), (0, "ok")])
async def test_a_clock_that_is_wrong(ahead: int, result: str) -> None:
    """A difference between this machine's clock and the Date of the service's answer is reported."""
    date = formatdate(time.time() + ahead, usegmt=True)
    async with server(f"HTTP/1.1 401 Unauthorized\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode()) as port:
        findings = await examine(settings(asm=AsmSettings(base_url=f"http://127.0.0.1:{port}")))
    found = told(findings, "clock")
    assert found.startswith(f"{result}: ")
    assert ahead == 0 or re.search(r"is (59|60|61) s " + ("behind" if ahead > 0 else "ahead of"), found)
    assert "problem" not in told(findings, "service")


# -- agents and their tokens


async def test_a_refused_token(tmp_path: Path) -> None:
    """A refused token is reported by its agent and never shown, while the other tokens are found valid."""
    async with agents(tmp_path) as sections:
        tokens = tmp_path / "sim-tokens.json"
        tokens.write_text(tokens.read_text().replace("sim-token-agent-1", "str4nge-t0ken"))
        findings = await examine(settings(**sections))
    good, bad = told(findings, "tokens").splitlines()
    assert good.startswith("ok: 2 accepted")
    assert bad.startswith("problem: agent agent-1: the service refuses the token (HTTP 401")
    assert "-> replace the token" in bad
    assert "str4nge-t0ken" not in str(findings)


async def test_not_all_of_many_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a sample of tokens is tried, 10 per second; with --all-agents every one."""
    monkeypatch.setattr("bridge.check.agents.SAMPLE", 4)
    async with agents(tmp_path, agents=12) as sections:
        assert "4 of 12 tried" in told(await examine(settings(**sections)), "tokens")
        seen: list[tuple[int, int]] = []
        begin = time.monotonic()
        asked = await examine(settings(**sections), all_agents=True, on_progress=lambda *how_far: seen.append(how_far))
        assert time.monotonic() - begin > 1
    assert "12 tried" in told(asked, "tokens")
    assert seen == [(number, 12) for number in range(1, 13)]


async def test_secrets_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or invalid file, a missing key and a missing variable are each reported with what to do."""
    monkeypatch.delenv("TOKEN_9", raising=False)
    (tmp_path / "tokens.json").write_text('{"a": "s3cret-in-json"}')
    (tmp_path / "folder").mkdir()
    file = tmp_path / "agents.toml"
    entries = {
        "a": "file:lost",
        "b": "file:folder",
        "c": "file:tokens.json#b",
        "d": "env:TOKEN_9",
        "e": "file:tokens.json#a",
    }
    file.write_text("".join(f'[[sessions]]\nagent_id = "{one}"\ntoken = "{token}"\n' for one, token in entries.items()))
    findings = await examine(settings(sessions_file=file, secrets_dir=tmp_path), offline=True)
    lost, folder, key, variable = told(findings, "secrets").splitlines()
    assert lost.startswith("problem: agent a: the secrets directory has no readable file lost -> create it")
    assert "agent b: the secrets directory has no readable file folder" in folder
    assert "agent c: tokens.json in the secrets directory is not a JSON object with the key b" in key
    assert "agent d: the environment has no variable TOKEN_9 -> set it for `run`" in variable
    assert "s3cret-in-json" not in str(findings)
    without = await examine(settings(sessions_file=file), offline=True)
    assert "set ASM_BRIDGE_SECRETS_DIR" in told(without, "secrets")


@pytest.mark.kafka
async def test_agents_that_would_share_a_session(kafka: dict[str, Any], tmp_path: Path) -> None:
    """An agent of the sessions file with the token of one in the registry is reported, as by `run`."""
    await create(kafka)
    topic = kafka["topics"].name("sessions")
    await write_registry(kafka["kafka"], topic, {"z": b'{"token": "file:x"}', "broken": b"{"})
    file = tmp_path / "agents.toml"
    file.write_text('[[sessions]]\nagent_id = "a"\ntoken = "file:x"\n')
    findings = await examine(settings(**kafka, sessions_file=file, secrets_dir=tmp_path))
    assert told(findings, "sessions").startswith("problem: agent a would share a session (session_shared)")
    assert "agent 'z' has the same token" in told(findings, "sessions")
    assert told(findings, "registry").startswith("warning: the entry of broken cannot be read")


async def test_a_wrong_sessions_file(tmp_path: Path) -> None:
    """Every wrong entry of a sessions file is reported."""
    file = tmp_path / "agents.toml"
    file.write_text('[[sessions]]\nagent_id = "a"\ntoken = "eyJsecret"\n[[sessions]]\nskills = ["x"]\n')
    findings = await examine(settings(sessions_file=file), offline=True)
    first, second = told(findings, "sessions_file").splitlines()
    assert "entry 1 (a): " in first
    assert "literal token" in first
    assert "entry 2: agent_id is missing" in second
    assert "eyJsecret" not in str(findings)


# -- this machine


async def test_an_address_that_is_taken() -> None:
    """An ops address in use is a problem, or a warning if a bridge uses it; one that the machine lacks is a problem."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        findings = await examine(settings(ops=OpsSettings(listen=listen)), offline=True)
    assert told(findings, "ops.listen").startswith(f"problem: {listen} cannot be listened on: Address already in use")
    port = free_port()
    running, _ = prometheus_client.start_http_server(port, "127.0.0.1", METRICS.registry)
    try:
        findings = await examine(settings(ops=OpsSettings(listen=f"127.0.0.1:{port}")), offline=True)
    finally:
        await asyncio.to_thread(running.shutdown)
        running.server_close()
    assert told(findings, "ops.listen").startswith("warning: a bridge is already running here")
    findings = await examine(settings(ops=OpsSettings(listen="192.0.2.1:80")), offline=True)
    assert told(findings, "ops.listen").startswith("problem: 192.0.2.1:80 cannot be listened on")
