"""The agents: the registry and the sessions file, whether tokens can be read and whether the service accepts them."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from asm_bridge_schemas.commands import SessionEntry
from bridge.asm.client import AsmClient
from bridge.asm.errors import AsmError, ForeignAnswer, Malformed, Unauthorized
from bridge.asm.tokens import Tokens
from bridge.asm.transport import build_transport
from bridge.check import service
from bridge.check.finding import Finding, ok, problem, skipped, warning
from bridge.kafka.errors import KafkaUnavailableError, TopicAuthorizationFailedError
from bridge.record_id import RecordId
from bridge.registry.file import SessionsFileError, changes, read_sessions_file
from bridge.registry.registry import Registry
from bridge.registry.topic import registry_records
from bridge.settings import Settings

K = TypeVar("K")

SAMPLE = 20
PER_SECOND = 10
_AFTER_ALL = 2**62
"""An offset beyond those of the registry."""
_SHOWN = 5
"""Maximum number of agents that a finding names."""
_FILE = "create it, and let this user read it (owner, mode); it is used within a second, without a restart"
_ENVIRONMENT = "set it for `run` (this is the environment of `check`), and restart that"


def sessions_file(settings: Settings) -> tuple[dict[str, SessionEntry], list[Finding]]:
    """The entries of the sessions file (none if one is invalid, as in ``run``), and the findings about it."""
    path = settings.sessions_file
    if path is None:
        return {}, []
    try:
        entries = read_sessions_file(path)
    except SessionsFileError as error:
        advice = "correct the file: `run` does not start with it"
        return {}, [problem("sessions_file", text, advice) for text in error.problems]
    return entries, [ok("sessions_file", f"{len(entries)} agents")]


async def registry(settings: Settings, watched: Registry) -> list[Finding]:
    """Reads the registry's topic into ``watched``."""
    topic = settings.topics.name("sessions")
    try:
        async for message in registry_records(settings.kafka, topic):
            watched.read(message)
    except (KafkaUnavailableError, TopicAuthorizationFailedError):
        return [skipped("registry", f"{topic} cannot be read, see topics and rights")]
    invalid = watched.invalid_entries()
    advice = "replace it (`asm-bridge sessions add`) or remove it; until then the last valid one stays in force"
    faults = [
        warning(
            "registry", f"the entry of {one.key.decode(errors='backslashreplace')} cannot be read: {one.text}", advice
        )
        for one in invalid[:_SHOWN]
    ]
    if len(invalid) > _SHOWN:
        faults.append(
            warning("registry", f"and {len(invalid) - _SHOWN} more entries", "`asm-bridge sessions list` shows all")
        )
    return faults or [ok("registry", f"{len(watched)} agents")]


def register(watched: Registry, topic: str, wanted: Mapping[str, SessionEntry]) -> None:
    """Adds the entries of the sessions file, as ``run`` does after it has read the registry."""
    for position, (agent_id, value) in enumerate(changes(watched.entries(), wanted).items()):
        watched.put(RecordId(topic, 0, _AFTER_ALL + position), agent_id.encode(), value)


def sharing(watched: Registry) -> list[Finding]:
    """Whether two agents would resolve to the same session."""
    if not watched:
        advice = "add some with `asm-bridge sessions add` or a sessions_file: there is nothing to watch yet"
        return [warning("sessions", "no agent is registered", advice)]
    sick = {agent: found for agent in watched.in_force() if (found := watched.unpollable(agent)) is not None}
    if not sick:
        return [ok("sessions", f"each of the {len(watched)} agents has a session of its own")]
    agent, first = next(iter(sick.items()))
    text = f"{_named(sick)} would share a session (session_shared) and would not be polled: {agent}: {first}"
    return [problem("sessions", text, "give each agent its own token or asm_session_sid")]


def readable(settings: Settings, watched: Registry) -> tuple[dict[str, str], list[Finding]]:
    """The tokens by agent, and the findings about those that cannot be read."""
    tokens = Tokens(settings.secrets_dir, settings.asm.token.get_secret_value() if settings.asm.token else None)
    had: dict[str, str] = {}
    lacking: dict[str, str] = {}
    for agent, entry in watched.in_force().items():
        try:
            had[agent] = tokens.get(entry.token)
        except Unauthorized as error:
            lacking[agent] = str(error)
    if not watched:
        return had, [skipped("secrets", "no agent is known")]
    if not lacking:
        return had, [ok("secrets", f"the tokens of {len(had)} agents can be read")]
    groups = _grouped(lacking)
    faults = []
    for text, agents in groups[:_SHOWN]:
        found, _, advice = text.partition(": set ")  # it says itself what to do, where it can
        advice = f"set {advice}" if advice else _ENVIRONMENT if "environment" in text else _FILE
        faults.append(problem("secrets", f"{_named(agents)}: {found}", advice))
    if rest := [agent for _, agents in groups[_SHOWN:] for agent in agents]:
        faults.append(problem("secrets", f"{_named(rest)}: no token either", "fix the others first, then check again"))
    return had, faults


async def accepted(
    settings: Settings, tokens: Mapping[str, str], all_agents: bool, on_progress: Callable[[int, int], None]
) -> list[Finding]:
    """Whether the service accepts the tokens, by ``getcurrentsession``, 10 per second; ``on_progress(n, of)``."""
    chosen = dict(list(tokens.items())[: None if all_agents else SAMPLE])
    if not chosen:
        return [skipped("tokens", "there is no token to try")]
    client = AsmClient(build_transport(service.bounded(settings.asm)), settings.asm.base_url)
    try:
        async with asyncio.TaskGroup() as tasks:
            answers = {}
            for number, (agent, token) in enumerate(chosen.items(), 1):
                answers[agent] = tasks.create_task(_ask(client, token))
                on_progress(number, len(chosen))
                await asyncio.sleep(1 / PER_SECOND)
    finally:
        await client.aclose()
    return _token_findings(settings, {agent: task.result() for agent, task in answers.items()}, len(tokens))


async def _ask(client: AsmClient, token: str) -> bool | AsmError:
    """Whether the agent is logged in."""
    try:
        return (await client.current_session(token)).asm_session_sid != "0"
    except AsmError as error:
        return error


def _token_findings(settings: Settings, answers: Mapping[str, bool | AsmError], total: int) -> list[Finding]:
    errors = {agent: (type(one), str(one)) for agent, one in answers.items() if isinstance(one, AsmError)}
    logged_in = sum(answer is True for answer in answers.values())
    share = f"{len(answers)} of {total} tried (--all-agents tries all)" if len(answers) < total else f"{total} tried"
    text = f"{len(answers) - len(errors)} accepted, {logged_in} agents logged in; {share}"
    well = [ok("tokens", text)] if len(errors) < len(answers) else []
    return [*well, *(_refused(settings, kind, agents) for kind, agents in _grouped(errors))]


def _refused(settings: Settings, kind: tuple[type[AsmError], str], agents: list[str]) -> Finding:
    cls, reason = kind
    if cls is Unauthorized:
        text = f"{_named(agents)}: the service refuses the token ({reason})"
        return problem("tokens", text, "replace the token: it may have expired, or belong to another region or agent")
    if cls in (Malformed, ForeignAnswer):
        text = f"{_named(agents)}: {reason}"
        return problem(
            "tokens", text, "check asm.base_url, and whether a proxy or gateway answers in place of the service"
        )
    text = f"{_named(agents)}: unknown: {reason}"
    return warning("tokens", text, "the service is in trouble, or there were too many requests: try again")


def _grouped(items: Mapping[str, K]) -> list[tuple[K, list[str]]]:
    """The agents by finding."""
    groups: defaultdict[K, list[str]] = defaultdict(list)
    for agent, kind in items.items():
        groups[kind].append(agent)
    return list(groups.items())


def _named(agents: Iterable[str]) -> str:
    names = list(agents)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"agent{'s' if len(names) > 1 else ''} {', '.join(names[:_SHOWN])}{more}"
