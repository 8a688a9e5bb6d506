"""The agents: the registry and the sessions file, tokens that can be read, and whether the service takes them."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.structs import ConsumerRecord, TopicPartition

from asm_bridge_schemas.commands import SessionEntry
from bridge.asm.client import AsmClient
from bridge.asm.errors import AsmError, Malformed, Unauthorized
from bridge.asm.tokens import Tokens
from bridge.asm.transport import HttpxAdapter
from bridge.check import vendor
from bridge.check.finding import Finding, ok, problem, skipped, warning
from bridge.kafka import KafkaUnavailableError
from bridge.kafka.clients import Clients
from bridge.registry.file import SessionsFileError, changes, read_sessions_file
from bridge.registry.registry import Registry
from bridge.registry.topic import partitions_of
from bridge.settings import Settings

K = TypeVar("K")

SAMPLE = 20
PER_SECOND = 10
_SHOWN = 5
"""Most agents that a finding names."""
_FILE = "put it there, and let this user read it (owner, mode); it is used within a second, without a restart"
_ENVIRONMENT = "set it for `run` (this is the environment of `check`), and start that anew"


@dataclass(slots=True)
class Watched:
    """Who would be watched, by the registry and then the sessions file; as ``run`` has it after its start."""

    registry: Registry = field(default_factory=lambda: Registry(lambda _: None, lambda _: None))
    entries: dict[str, SessionEntry] = field(default_factory=dict)
    end: int = 0

    def read(self, message: ConsumerRecord) -> None:
        self.registry.read(message)
        self.end = message.offset + 1
        agent_id = (message.key or b"").decode(errors="backslashreplace")
        registered = self.registry.get(agent_id)
        if registered is None:
            self.entries.pop(agent_id, None)
        else:
            self.entries[agent_id] = registered.entry

    def add(self, topic: str, wanted: Mapping[str, SessionEntry]) -> None:
        for agent_id, value in changes(self.registry.entries(), wanted).items():
            self.read(ConsumerRecord(topic, 0, self.end, 0, 0, agent_id.encode(), value, None, 0, 0, ()))


def sessions_file(settings: Settings) -> tuple[dict[str, SessionEntry], list[Finding]]:
    """Its sound entries (none if one is wrong, as ``run`` has it), and what is to say about it."""
    path = settings.sessions_file
    if path is None:
        return {}, []
    try:
        entries = read_sessions_file(path)
    except SessionsFileError as error:
        advice = "correct the file: `run` does not start with it"
        return {}, [problem("sessions_file", text, advice) for text in error.problems]
    return entries, [ok("sessions_file", f"{len(entries)} agents")]


async def registry(settings: Settings, clients: Clients, watched: Watched) -> list[Finding]:
    """Read the registry into ``watched``."""
    topic = settings.topics.name("sessions")
    try:
        await partitions_of(settings.kafka, topic)  # a consumer of a missing topic could make the broker create it
        async for message in clients.read_whole(TopicPartition(topic, 0)):
            watched.read(message)
    except (KafkaUnavailableError, TopicAuthorizationFailedError):
        return [skipped("registry", f"{topic} cannot be read, see topics and rights")]
    bad = watched.registry.bad()
    advice = "write it anew (`asm-bridge sessions add`), or remove it; until then the last good one is in force"
    faults = [
        warning(
            "registry", f"the entry of {one.key.decode(errors='backslashreplace')} cannot be read: {one.text}", advice
        )
        for one in bad[:_SHOWN]
    ]
    if len(bad) > _SHOWN:
        faults.append(
            warning("registry", f"and {len(bad) - _SHOWN} more entries", "`asm-bridge sessions list` has all")
        )
    return faults or [ok("registry", f"{len(watched.registry)} agents")]


def sharing(watched: Watched) -> list[Finding]:
    """Whether two agents would resolve to one session."""
    if not watched.entries:
        advice = "`asm-bridge sessions add`, or a sessions_file: without agents there is nothing to watch"
        return [warning("sessions", "no agent is registered", advice)]
    sick = {agent: found for agent in watched.entries if (found := watched.registry.unpollable(agent)) is not None}
    if not sick:
        return [ok("sessions", f"each of the {len(watched.entries)} agents has a session of its own")]
    agent, first = next(iter(sick.items()))
    text = f"{_named(sick)} would share a session (session_shared) and not be polled: of {agent}, {first}"
    return [problem("sessions", text, "give each a token of its own, or an asm_session_sid")]


def readable(settings: Settings, watched: Watched) -> tuple[dict[str, str], list[Finding]]:
    """The tokens by agent, and whose cannot be had."""
    tokens = Tokens(settings.secrets_dir, settings.asm.token.get_secret_value() if settings.asm.token else None)
    had: dict[str, str] = {}
    lacking: dict[str, str] = {}
    for agent, entry in watched.entries.items():
        try:
            had[agent] = tokens.get(entry.token)
        except Unauthorized as error:
            lacking[agent] = str(error)
    if not watched.entries:
        return had, [skipped("secrets", "no agent is known")]
    if not lacking:
        return had, [ok("secrets", f"the tokens of {len(had)} agents can be read")]
    groups = _grouped(lacking)
    faults = [
        problem("secrets", f"{_named(agents)}: {text}", _ENVIRONMENT if "environment" in text else _FILE)
        for text, agents in groups[:_SHOWN]
    ]
    if rest := [agent for _, agents in groups[_SHOWN:] for agent in agents]:
        faults.append(problem("secrets", f"{_named(rest)}: no token either", "look at those first, then check again"))
    return had, faults


async def accepted(
    settings: Settings, tokens: Mapping[str, str], all_agents: bool, asked: Callable[[int, int], None]
) -> list[Finding]:
    """Whether the service takes the tokens, by ``getcurrentsession``; 10 a second. ``asked(n, of)`` tells how far."""
    chosen = dict(list(tokens.items())[: None if all_agents else SAMPLE])
    if not chosen:
        return [skipped("tokens", "there is no token to try")]
    host = vendor.engine(settings.asm)
    client = AsmClient(HttpxAdapter(host), settings.asm.base_url)
    try:
        async with asyncio.TaskGroup() as tasks:
            answers = {}
            for number, (agent, token) in enumerate(chosen.items(), 1):
                answers[agent] = tasks.create_task(_ask(client, token))
                asked(number, len(chosen))
                await asyncio.sleep(1 / PER_SECOND)
    finally:
        await host.aclose()
    return _told(settings, {agent: task.result() for agent, task in answers.items()}, len(tokens))


async def _ask(client: AsmClient, token: str) -> bool | AsmError:
    """Whether the agent is logged in."""
    try:
        return (await client.current_session(token)).asm_session_sid != "0"
    except AsmError as error:
        return error


def _told(settings: Settings, answers: Mapping[str, bool | AsmError], total: int) -> list[Finding]:
    errors = {agent: (type(one), str(one)) for agent, one in answers.items() if isinstance(one, AsmError)}
    logged_in = sum(answer is True for answer in answers.values())
    share = f"{len(answers)} of {total} tried (--all-agents tries all)" if len(answers) < total else f"{total} tried"
    text = f"{len(answers) - len(errors)} taken, {logged_in} agents logged in; {share}"
    well = [ok("tokens", text)] if len(errors) < len(answers) else []
    return [*well, *(_refused(settings, kind, agents) for kind, agents in _grouped(errors))]


def _refused(settings: Settings, kind: tuple[type[AsmError], str], agents: list[str]) -> Finding:
    cls, told = kind
    if cls is Unauthorized:
        text = f"{_named(agents)}: the service refuses the token ({told})"
        return problem("tokens", text, "replace the token: expired, of another region, or not this agent's?")
    if cls is Malformed:
        text = f"{_named(agents)}: {told}"
        return problem("tokens", text, "is asm.base_url right? A proxy's page in between?")
    text = f"{_named(agents)}: not to be told, {told}"
    return warning("tokens", text, "the service has trouble, or it is too many requests: try again")


def _grouped(items: Mapping[str, K]) -> list[tuple[K, list[str]]]:
    """The agents by what is said of them."""
    groups: defaultdict[K, list[str]] = defaultdict(list)
    for agent, kind in items.items():
        groups[kind].append(agent)
    return list(groups.items())


def _named(agents: Iterable[str]) -> str:
    names = list(agents)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"agent{'s' if len(names) > 1 else ''} {', '.join(names[:_SHOWN])}{more}"
