"""The bridge as a process of its own, between the simulator and Kafka."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from datetime import datetime
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator, FormatChecker

from asm_bridge_schemas import records
from bridge.testing.brokers import Broker
from tests.support import ROOT
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.facts import Record, read_topics
from tests.support.chaos.harness import TOKENS, Lab, lab, until

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

AT_ONCE = 2.0
"""Seconds: "within a second", on a machine that is busy with other things."""
MARKERS = count(9_007_199_254_740_993)


async def test_a_simulated_day(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """A simulated day at high speed emits records of every type, valid by their JSON Schemas and equal to what was
    shown.
    """
    async with lab(
        broker.bootstrap_servers, topics_prefix, tmp_path, "--sessions", "20", "--change-rate", "3"
    ) as the_lab:
        await the_lab.bridge()
        listing = {"get_conversations": True, "conversations_interval": 0.5}
        agents = await the_lab.register_all(interval=0.2, labels={"site": "manila"}, **listing)
        await asyncio.gather(*(the_lab.inject(agent_id, str(next(MARKERS))) for agent_id in agents))
        await _lose_sight_of(the_lab, agents[0])
        await the_lab.register(agents[1], interval=0.2, labels={"site": "cebu"}, **listing)
        await the_lab.produce("sessions", None, agents[-1].encode())
        await the_lab.completed()
        await the_lab.sim.settle(agents[:-1])
        assert await the_lab.bridges["bridge"].stop() == 0
        facts = await the_lab.facts()
    assert_kept(facts)
    types = {told.record["type"] for told in (*facts.told, *facts.heartbeats)}
    assert types == {cls.__name__ for cls in records.TOPICS} - {"AgentState"}
    for name in ("QueuedCallChanged", "ConversationChanged"):
        changes = {t.record["change"] for t in facts.told if t.record["type"] == name}
        assert changes == {"entered", "updated", "left"}
    values = [told.record for told in (*facts.told, *facts.heartbeats)]
    values += [state for state in facts.states.values() if state]
    problems = [(v["type"], error.message) for v in values for error in _schema(v["type"]).iter_errors(v)]
    assert problems == []
    assert len(values) > 500


async def _lose_sight_of(the_lab: Lab, agent_id: str) -> None:
    """Makes an agent's answers unusable until its loss is emitted, then usable again."""
    await the_lab.sim.post("faults", status_500={"agents": [agent_id]})
    await until(lambda: told(the_lab, agent_id, "AgentObservationLost"), "the loss was told")
    await the_lab.sim.post("faults")
    await until(lambda: told(the_lab, agent_id, "AgentObservationResumed"), "the end of the loss was told", 60)


@cache
def _schema(name: str) -> Draft202012Validator:
    schema = json.loads((ROOT / "schemas" / "json" / f"{name}.json").read_text())
    return Draft202012Validator(schema, format_checker=FormatChecker())


async def told(the_lab: Lab, agent_id: str, *types: str) -> list[Record]:
    """An agent's records of these types so far (of all types, if none is given), in the order of their sequence."""
    messages = await read_topics(the_lab.bootstrap_servers, the_lab.prefix, ["agent-status", "queued-calls"])
    found = [json.loads(m.value or b"{}") for m in messages if m.key == agent_id.encode()]
    return sorted((r for r in found if not types or r["type"] in types), key=lambda r: int(r["sequence"]))


async def told_types(the_lab: Lab, agent_id: str, *expected: str) -> list[Record]:
    """Waits until the agent's records on the status topic have these types. Returns the records."""

    async def as_expected() -> list[Record] | None:
        found = [r for r in await told(the_lab, agent_id) if r["type"] != "QueuedCallChanged"]
        return found if [r["type"] for r in found] == list(expected) else None

    found: list[Record] = await until(as_expected, f"{agent_id}: {expected}")
    return found


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def quiet(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    """A bridge, and agents whose state changes only on request; each test registers its own."""
    prefix, directory = f"t{secrets.token_hex(4)}.", tmp_path_factory.mktemp("end-to-end")
    async with lab(broker.bootstrap_servers, prefix, directory, "--sessions", "6", "--change-rate", "0") as the_lab:
        await the_lab.bridge()
        yield the_lab


BEGUN = ("AgentWatchStarted", "AgentSessionStarted", "AgentStatusChanged")


async def test_the_registry_is_live(quiet: Lab) -> None:
    """An agent that is added, changed or removed while the bridge runs is watched accordingly within a second."""
    added = time.time()
    await quiet.register("agent-0", interval=0.5, labels={"site": "cebu"}, skills=["english", "spanish", "tagalog"])
    started = (await told_types(quiet, "agent-0", *BEGUN))[0]
    assert seconds(started["observed_at"]) - added < AT_ONCE
    assert started["labels"] == {"site": "cebu"}
    await until(lambda: told(quiet, "agent-0", "QueuedCallChanged"), "calls are in view")
    changed = time.time()
    await quiet.register("agent-0", interval=0.5, get_queued_calls=False)
    left = (await until(lambda: _left(quiet, "agent-0"), "the calls are not asked for"))[0]
    assert left["reason"] == "not_asked"
    assert seconds(left["observed_at"]) - changed < AT_ONCE + 0.5
    removed = time.time()
    await quiet.produce("sessions", None, b"agent-0")
    ends = "AgentProfileChanged", "AgentSessionEnded", "AgentWatchEnded"
    *_, ended = await told_types(quiet, "agent-0", *BEGUN, *ends)
    assert seconds(ended["observed_at"]) - removed < AT_ONCE
    await quiet.register("agent-0", interval=0.5)
    again = await until(lambda: _of_another_stream(quiet, "agent-0", ended["stream_id"]), "a new stream")
    assert again[0]["sequence"] == 1


async def _left(the_lab: Lab, agent_id: str) -> list[Record]:
    return [r for r in await told(the_lab, agent_id, "QueuedCallChanged") if r["change"] == "left"]


async def _of_another_stream(the_lab: Lab, agent_id: str, stream_id: str) -> list[Record]:
    return [r for r in await told(the_lab, agent_id) if r["stream_id"] != stream_id]


async def test_an_injection_goes_out_at_once(quiet: Lab) -> None:
    """An event goes out in a request of its own before the agent's next tick."""
    await quiet.register("agent-1", interval=60)
    await told_types(quiet, "agent-1", *BEGUN)
    produced, marker = time.time(), str(next(MARKERS))
    await quiet.inject("agent-1", marker)

    async def taken() -> list[Record]:
        return [event for event in await quiet.sim.get("events") if marker in json.dumps(event)]

    (event,) = await until(taken, "the service took the event")
    assert event["at"] - produced < AT_ONCE


async def test_logins_and_logouts(quiet: Lab) -> None:
    """A session's end, a new session, the return of the same one, and a replacement are each emitted."""
    await quiet.register("agent-2", interval=0.2)
    expected = list(BEGUN)
    first = (await told_types(quiet, "agent-2", *expected))[1]
    steps: dict[str, tuple[str, ...]] = {
        "logout": ("AgentSessionEnded",),
        "resume": ("AgentSessionStarted", "AgentStatusChanged"),
        "login": ("AgentSessionEnded", "AgentSessionStarted", "AgentStatusChanged"),
    }
    found: list[Record] = []
    for lever, types in steps.items():
        await quiet.sim.post(f"agents/agent-2/{lever}")
        expected += types
        found = await told_types(quiet, "agent-2", *expected)
    sids = [r["asm_session_sid"] for r in found if r["type"] in ("AgentSessionStarted", "AgentSessionEnded")]
    assert sids[:4] == [first["asm_session_sid"]] * 4
    assert sids[4] not in (None, first["asm_session_sid"])
    assert [r["reason"] for r in found if r["type"] == "AgentSessionEnded"] == ["ended", "replaced"]
    assert [r["previous_status_desc"] for r in found if r["type"] == "AgentStatusChanged"] == [None] * 3


async def test_a_new_token_is_used_at_once(quiet: Lab) -> None:
    """After a 401 a token is tried a few times, and a file that replaces it by renaming is used within a second."""
    await quiet.register("agent-3", interval=0.2)
    await told_types(quiet, "agent-3", *BEGUN)
    await quiet.sim.post("agents/agent-3/token", token="another-token")
    await until(lambda: _metric(quiet, 'asm_bridge_polls_total{result="unauthorized"}'), "a 401 came")
    before = await quiet.sim.get("agents/agent-3")
    tokens = quiet.directory / "secrets" / TOKENS
    renewed = {**json.loads(tokens.read_text()), "agent-3": "another-token"}
    (tokens.parent / "new").write_text(json.dumps(renewed))
    (tokens.parent / "new").replace(tokens)

    async def shown_more() -> bool:
        return bool((await quiet.sim.get("agents/agent-3"))["shown"] > before["shown"])

    await until(shown_more, "the agent is asked with its new token", AT_ONCE + 0.5)
    assert await _metric(quiet, 'asm_bridge_polls_total{result="unauthorized"}') <= 4  # a few quick tries, no flood


async def _metric(the_lab: Lab, name: str) -> float:
    """The sum of a metric over all labels."""
    _, text = await the_lab.ask("bridge", "metrics")
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


async def test_health_and_metrics(quiet: Lab) -> None:
    """/healthz says alive, /readyz says ready, and every metric of the bridge begins with asm_bridge_."""
    assert (await quiet.ask("bridge", "healthz"))[0] == 200
    assert (await quiet.ask("bridge", "readyz"))[0] == 200
    status, text = await quiet.ask("bridge", "metrics")
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert status == 200
    assert {name for name in names if not name.startswith("asm_bridge_")} == set()
    wanted: dict[str, Any] = {
        "asm_bridge_polls_total": 0,
        "asm_bridge_records_total": 0,
        "asm_bridge_commits_total": 0,
        "asm_bridge_partitions_owned": 7,
    }
    for name, least in wanted.items():
        assert await _metric(quiet, name) > least, name


async def test_not_ready_without_kafka(tmp_path: Path) -> None:
    """While Kafka does not answer, the process lives and says why it is not ready; a signal ends it with 0."""
    the_lab = Lab("127.0.0.1:1", "t.", tmp_path, "http://127.0.0.1:1")
    (tmp_path / "secrets").mkdir()
    child = the_lab.launch()
    try:

        async def not_ready() -> str:
            status, text = await the_lab.ask("bridge", "readyz")
            return text if status == 503 and "127.0.0.1:1" in text else ""

        await until(not_ready, "readyz says that Kafka does not answer")
        assert (await the_lab.ask("bridge", "healthz"))[0] == 200
        assert await child.stop() == 0
    finally:
        child.kill()
