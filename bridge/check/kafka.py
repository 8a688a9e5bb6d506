"""Kafka: the connection, topics, rights, transactions, the group. Writes nothing and does not join the group."""

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Iterator, Mapping

from bridge.asm.http.connect_error import Cause, explain
from bridge.check.finding import Finding, ok, problem, skipped, warning
from bridge.clock import Clock, difference
from bridge.kafka.admin import READ, WRITE, Members, Rights, connection_error, group_members, topic_rights
from bridge.kafka.clients import ASSIGNOR, Clients, open_admin
from bridge.kafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    KafkaUnavailableError,
    LoginError,
    NoTransactionsError,
    SaslAuthenticationFailed,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)
from bridge.kafka.internals import brokers
from bridge.kafka.kafka_clock import Reading, read_clock, try_transaction
from bridge.kafka.lifecycle import CONNECT_DEADLINE, network_fault, refusal
from bridge.kafka.topics import TOPICS, TopicResult, ensure_topics, not_reported
from bridge.settings import KafkaSettings, Settings
from bridge.settings.types import host_port, show_host_port

_READ = frozenset({"agent-state", "sessions", "inject"})
_TLS: dict[Cause, str] = {
    "untrusted": "set kafka.ssl_cafile to the PEM file of the authority that signed it",
    "wrong_name": "use a name that is in the certificate, or get a certificate for this name",
    "expired": "renew the certificate, or check this machine's clock",
    "not_yet_valid": "check this machine's clock",
    "no_tls": "without TLS, kafka.security_protocol is PLAINTEXT or SASL_PLAINTEXT",
}
"""What to do about a fault of TLS."""


async def connection(kafka: KafkaSettings) -> list[Finding]:
    """Whether one of kafka.bootstrap_servers and all addresses that the brokers advertise accept us."""
    servers = [host_port(server) for server in kafka.bootstrap_servers.split(",")]
    found = await _try_all(kafka, servers, "kafka.bootstrap_servers")
    if len(found) == len(servers):
        return found
    try:
        async with open_admin(kafka.client_arguments()) as admin:
            advertised = brokers(admin)
    except KafkaUnavailableError:
        text = f"{kafka.bootstrap_servers} accepts the connection, but does not answer"
        advice = f"if it requires a login, set kafka.security_protocol to SASL_{kafka.security_protocol}, and the login"
        if kafka.uses_sasl:
            advice = "check whether it is overloaded, and the broker's log"
        return [problem("kafka", text, advice)]
    lost = await _try_all(kafka, [broker for broker in advertised if broker not in servers], "its advertised.listeners")
    if lost:
        return [
            problem(one.check, f"a broker advertises an address that fails: {one.found}", one.advice) for one in lost
        ]
    if found:
        return [warning(one.check, one.found, one.advice) for one in found]
    return [ok("kafka", f"brokers that answer: {', '.join(show_host_port(*broker) for broker in advertised)}")]


async def _try_all(kafka: KafkaSettings, servers: list[tuple[str, int]], setting: str) -> list[Finding]:
    """The errors of the servers that fail."""
    arguments = kafka.client_arguments()
    errors = await asyncio.gather(*(connection_error(arguments, *server, CONNECT_DEADLINE) for server in servers))
    return [
        problem("kafka", f"{show_host_port(*server)}: {found}", advice)
        for server, error in zip(servers, errors, strict=True)
        if error is not None
        for found, advice in [_explained(kafka, error, setting)]
    ]


def _explained(kafka: KafkaSettings, error: Exception, setting: str) -> tuple[str, str]:
    in_force = f"kafka.security_protocol={kafka.security_protocol}"
    if (fault := network_fault(error, setting, in_force)) is not None:
        return fault
    protocol = f"that {in_force} is right for this port"
    if isinstance(error, ssl.SSLError):
        cause, text = explain(error)
        return text, _TLS.get(cause, f"check {protocol}, and the certificates of both sides (kafka.ssl_certfile)")
    if isinstance(error, LoginError):
        found, _, advice = str(error).rpartition(": ")
        return found, advice
    if isinstance(error, AuthenticationFailedError | SaslAuthenticationFailed):
        if kafka.mechanism in ("OAUTHBEARER", "AWS_MSK_IAM"):
            advice = "check kafka.oauth_scope, and which issuer and audience the broker expects"
            return f"it refuses the token ({refusal(error)})", advice if kafka.user else "check the AWS role's rights"
        return f"it refuses the login of {kafka.sasl_username}", "check kafka.sasl_username and kafka.sasl_password"
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"it does not support SASL {kafka.mechanism}", "set kafka.sasl_mechanism to one that it supports"
    reason = str(error) or type(error).__name__
    if kafka.uses_ssl and kafka.ssl_certfile is None:
        protocol += ", whether it requires a client certificate (kafka.ssl_certfile)"
    return f"it closes the connection, or does not speak Kafka ({reason})", f"check {protocol}, and that it is Kafka's"


async def topics(settings: Settings) -> list[Finding]:
    """Whether each topic exists, has the right settings, and may be written and read."""
    connection = settings.kafka.client_arguments()
    results = await ensure_topics(connection, settings.topics, create=False)
    async with open_admin(connection) as admin:
        rights = await topic_rights(admin, [result.name for result in results])
    hidden = {name for name, one in (rights or {}).items() if one.refused}
    seen = [result for result in results if result.name not in hidden]
    missing = [result.name for result in seen if result.outcome == "missing"]
    faults = [_missing(settings, missing)] if missing else []
    texts = [(one.name, *text.partition(": ")) for one in seen if one.name not in missing for text in one.problems]
    faults += [problem("topics", f"{name} {found}", advice) for name, found, _, advice in texts]
    faults += _limits(seen)
    unchecked = [key for result in results for key in result.unchecked]
    untold = f"; {not_reported(unchecked)}" if unchecked else ""
    fits = [ok("topics", f"all {len(results)} exist and have the right settings{untold}")]
    if hidden and not faults:
        fits = [skipped("topics", "some are not visible to this client, see rights")]
    return [*(faults or fits), *_rights(settings, rights)]


def _limits(results: list[TopicResult]) -> list[Finding]:
    """A warning for each setting that works less well than the bridge's own, with its topics."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for result in results:
        for note in result.notes:
            names[note].append(result.name)
    parts = [(", ".join(topics), *note.partition(": ")) for note, topics in names.items()]
    return [warning("topics", f"{topics}: {found}", advice) for topics, found, _, advice in parts]


def _missing(settings: Settings, names: list[str]) -> Finding:
    advice = "run `asm-bridge topics create`, or check topics.prefix"
    advice += " (`run` would create them, too: topics.create is true)" if settings.topics.create else ""
    return problem("topics", f"missing: {', '.join(names)}", advice)


def _rights(settings: Settings, rights: dict[str, Rights] | None) -> Iterator[Finding]:
    if rights is None or all(one.operations is None and not one.refused for one in rights.values()):
        yield skipped("rights", "the broker does not report the rights on topics, and check does not write to find out")
        return
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    for name, operations in _lacking(settings, rights):
        lacking[", ".join(operations)].append(name)
    if not lacking:
        yield ok("rights", "this client may write and read the topics that it needs")
    for operation, names in lacking.items():
        text = f"{_login(settings.kafka)} lacks {operation} on {', '.join(names)}"
        yield problem("rights", text, f"grant it on topics that begin with {settings.topics.prefix} (kafka-acls.sh)")


def _lacking(settings: Settings, rights: Mapping[str, Rights]) -> Iterator[tuple[str, list[str]]]:
    for topic in TOPICS:
        name = settings.topics.name(topic.name)
        one = rights[name]
        writes = topic.name != "sessions" or settings.sessions_file is not None
        wanted = {"Write": WRITE} if writes else {}
        wanted |= {"Read": READ} if topic.name in _READ else {}
        if one.refused:
            yield name, ["Describe", *wanted]
        elif one.seen and (missing := [label for label, bit in wanted.items() if one.lacks(bit)]):
            yield name, missing


def _login(kafka: KafkaSettings) -> str:
    return f"the login {kafka.user}" if kafka.user else "this client"


async def transactions(settings: Settings, clients: Clients) -> list[Finding]:
    """Whether a transactional producer may start, as in ``run``; no record is written."""
    if not clients.exactly_once:
        text = "not used: kafka.delivery is at_least_once, which works with one process only"
        return [ok("transactions", text), _clock(await read_clock(clients))]
    try:
        reading = await try_transaction(clients)
    except NoTransactionsError:
        advice = "use Apache Kafka, or set kafka.delivery to at_least_once (one process only)"
        text = "the broker does not support transactions, which kafka.delivery=exactly_once requires"
        return [problem("transactions", text, advice)]
    except (TransactionalIdAuthorizationFailed, ClusterAuthorizationFailedError):
        text = f"{_login(settings.kafka)} may not use transactional ids that begin with {clients.group_id}-"
        return [problem("transactions", text, "grant Write and Describe on these transactional ids (kafka-acls.sh)")]
    return [ok("transactions", f"allowed, with ids that begin with {clients.group_id}-"), _clock(reading)]


def _clock(reading: Reading | None) -> Finding:
    """Compares this machine's clock with Kafka's."""
    if reading is None:
        return skipped("kafka_clock", "only a transaction shows it, in Kafka 3.0 or newer")
    clock = Clock()
    clock.follow(*reading)
    if not clock.differs:
        return ok("kafka_clock", f"{difference(clock.ahead)}, to the second")
    return warning("kafka_clock", difference(clock.ahead), "set it with NTP; meanwhile `run` uses Kafka's clock")


async def group(settings: Settings) -> list[Finding]:
    """Whether we may join, and would be assigned partitions."""
    kafka = settings.kafka
    grant = f"grant Read on the group {kafka.group_id} (kafka-acls.sh)"
    async with open_admin(kafka.client_arguments()) as admin:
        try:
            members = await group_members(admin, Clients.of(kafka, settings.topics))
        except GroupAuthorizationFailedError:
            return [problem("group", f"{_login(kafka)} may not see the group {kafka.group_id}", grant)]
        except KafkaError:  # a broker that is not Apache Kafka's may lack the call
            members = None
    if members is None:
        return [skipped("group", "the broker does not report the members of a group")]
    if members.rights.refused or members.rights.lacks(READ):
        return [problem("group", f"{_login(kafka)} may not join the group {kafka.group_id}", grant)]
    return [_membership(settings, members)]


def _membership(settings: Settings, members: Members) -> Finding:
    name, count, partitions = settings.kafka.group_id, members.count, settings.topics.partitions
    if count and members.protocol and members.protocol != ASSIGNOR:
        text = f"the group {name} belongs to another program (its assignor is {members.protocol})"
        return problem("group", text, "set kafka.group_id to a name that nothing else uses")
    if members.strangers:
        text = f"members of the group {name} are not bridges of this installation: {', '.join(members.strangers)}"
        return problem("group", text, "stop them, or set kafka.group_id to a name that nothing else uses")
    if count > partitions:
        text = f"{count} processes are in the group {name}, {count - partitions} of them without work"
        return warning("group", text, f"there are {partitions} partitions: stop those, or use a new topics.prefix")
    if count == partitions:
        text = f"{count} processes are in the group {name}, as many as there are partitions"
        return warning("group", text, "one more would only be a standby")
    if count and settings.kafka.delivery == "at_least_once":
        text = f"{count} processes are in the group {name}, and kafka.delivery is at_least_once"
        return warning("group", text, "that works with one process only: do not start another")
    return ok("group", f"{count} processes are in the group {name}, at most {partitions} can be")
