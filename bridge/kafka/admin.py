"""Read-only requests that return more than aiokafka's clients do: connections, topics' ids, rights, groups' members."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.conn import create_conn
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
    for_code,
)

from bridge.kafka.clients import Clients, login_arguments
from bridge.kafka.internals import send_request
from bridge.kafka.protocol import group_with_rights, topics_with_ids, topics_with_rights

READ, WRITE = 1 << 3, 1 << 4
"""AclOperation's numbers as bits (KIP-430)."""
_NOT_REPORTED = -(2**31)
_UNAUTHORIZED, _MISSING, _NO_LEADER = (29, 30), 3, 5
"""TOPIC_AUTHORIZATION_FAILED and GROUP_AUTHORIZATION_FAILED, UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE."""
_RETRY = 0.2
_CLIENT, _HOST = 1, 2
"""Fields of a group's member."""


async def connection_error(connection: Mapping[str, Any], host: str, port: int, within: float) -> Exception | None:
    """Why a connection to this one server fails (network, TLS, login) or takes longer than ``within`` seconds, or None.

    A client that starts from several servers does not say which of them failed, and why.
    """
    try:
        arguments = login_arguments(connection)
        del arguments["bootstrap_servers"]
        async with asyncio.timeout(within):
            made = await create_conn(host, port, **arguments)
    except Exception as error:  # noqa: BLE001 - if it is not Kafka, aiokafka raises ValueError and AssertionError, too
        return error
    made.close()
    return None


class SeenTopic(NamedTuple):
    """A topic as a broker knows it. Its id (KIP-516) distinguishes it from a former topic of the same name;
    ``partitions`` is 0 if the topic does not exist.
    """

    id: str
    partitions: int


async def seen_topics(admin: AIOKafkaAdminClient, names: Iterable[str]) -> Mapping[str, SeenTopic] | None:
    """Topics by full name, without those that this client may not describe; None if the broker is too old to report
    ids (before Kafka 2.8). Creates no topic. Raises ``KafkaError``.
    """
    if (answer := await send_request(admin, topics_with_ids(names))) is None:
        return None
    found = {}
    for code, name, topic_id, _, partitions, *_ in answer.topics:
        if code == _MISSING:
            found[name] = SeenTopic("", 0)
        elif code in (0, _NO_LEADER) and partitions:
            found[name] = SeenTopic(topic_id.hex(), len(partitions))
        elif code not in (*_UNAUTHORIZED, _NO_LEADER):
            error: KafkaError = for_code(code)(name)
            raise error
    return found


@dataclass(frozen=True, slots=True)
class Rights:
    """The client's rights to a topic or group: bits of operations, or None if the broker does not report them.

    ``seen``: we may describe it, and it is there.
    """

    seen: bool
    refused: bool
    operations: int | None

    def lacks(self, operation: int) -> bool:
        return self.operations is not None and not self.operations & operation


@dataclass(frozen=True, slots=True)
class Members:
    """A consumer group: the client's rights to it, the number of members, and the assignor that they agreed upon;
    ``strangers``: the members that are not bridges with this inbox, by name and host."""

    rights: Rights
    count: int
    protocol: str
    strangers: tuple[str, ...] = ()


async def topic_rights(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, Rights] | None:
    """Rights by full name, or None if the broker is too old to report them (before Kafka 2.3). Raises
    ``KafkaError``.
    """
    answer = await send_request(admin, topics_with_rights(names))
    return None if answer is None else {topic[1]: _rights(topic[0], topic[-1]) for topic in answer.topics}


async def group_members(admin: AIOKafkaAdminClient, clients: Clients) -> Members | None:
    """The group of ``clients``, or None if the broker is too old to report it. Raises ``KafkaError``; without the right
    to see the group, ``GroupAuthorizationFailedError``.
    """
    while True:
        try:
            coordinator = await admin.find_coordinator(clients.group_id)
            answer = await send_request(admin, group_with_rights(clients.group_id), coordinator)
            if answer is None:
                return None
            code, _, state, _, protocol, members, operations = answer.groups[0]
            if code not in (0, *_UNAUTHORIZED):
                raise for_code(code)(clients.group_id)
            others = [member for member in members if member[_CLIENT] != clients.member_client_id]
            strangers = tuple(f"{member[_CLIENT]} at {member[_HOST].lstrip('/')}" for member in others)
            if state == "Dead" and any(name == clients.group_id for name, _ in await admin.list_consumer_groups()):
                strangers = ("a consumer of the protocol of KIP-848 (group.protocol=consumer)",)
            return Members(_rights(code, operations), len(members), protocol, strangers)
        except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError):
            await asyncio.sleep(_RETRY)


def _rights(code: int, operations: int) -> Rights:
    return Rights(code == 0, code in _UNAUTHORIZED, None if operations == _NOT_REPORTED else operations)
