"""Each of the examples, run as its README says. `make examples` runs these tests; two of them need no tools."""

import asyncio
import importlib.util
import json
import py_compile
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asm_bridge_schemas.frame import unframed
from bridge.testing.brokers import Broker
from tests.support import ROOT, examples
from tests.support.chaos.facts import read_topics
from tests.support.chaos.harness import lab, until
from tests.support.examples import EXAMPLES, environment, flink, npm, opt_in, python, run, schema_registry
from tests.support.kept_demo import KeptDemo, kept_demo

PROGRAMS = sorted(path for path in EXAMPLES.glob("*/*.py"))
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_programs_compile(program: Path, tmp_path: Path) -> None:
    """Each program of the examples is valid Python."""
    py_compile.compile(str(program), str(tmp_path / "compiled"), doraise=True)


def test_each_example_pins_its_requirements_and_is_linked() -> None:
    """Each example pins what it installs, has a target in the Makefile, and is linked from the guide for readers."""
    guide, makefile = (ROOT / "docs/subscribe.md").read_text(), (ROOT / "Makefile").read_text()
    assert NAMES == ["analytics", "calls", "microservice", "typescript"]
    for name in NAMES:
        assert f"../examples/{name}" in guide
        assert f"make example-{name}" in (EXAMPLES / name / "README.md").read_text()
        assert name in makefile
    for requirements in EXAMPLES.glob("*/requirements.in"):
        locked = requirements.with_suffix(".txt").read_text()
        for name in re.findall(r"^[\w-]+", requirements.read_text(), re.MULTILINE):
            assert re.search(rf"^{name}==", locked, re.MULTILINE), (requirements, name)
    packages = json.loads((EXAMPLES / "typescript/package.json").read_text())
    versions = [*packages["dependencies"].values(), *packages["devDependencies"].values()]
    assert all(re.fullmatch(r"[\d.]+", version) for version in versions)


def test_calls_are_folded_in_any_order_of_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call's row is the same in whichever order the views of its agents come, and there is none while one sees it."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "calls"))
    import fold  # type: ignore[import-not-found]

    views = {
        "agent-1": [("entered", 1, None), ("left", 5, "gone")],
        "agent-2": [("entered", 2, None), ("updated", 3, None), ("left", 4, "session_ended")],
    }
    rows = []
    for order in (("agent-1", "agent-2"), ("agent-2", "agent-1")):
        state: dict[str, Any] = {}
        for agent_id in order:
            for change, second, reason in views[agent_id]:
                fold.see(state, call(agent_id, change, second, reason))
                if change != "left":
                    assert fold.row("42", state) is None
        rows.append(fold.row("42", state))
    assert rows[0] == rows[1]
    assert rows[0]["left_at"] == "2026-11-28T02:16:05.500000Z"
    assert (rows[0]["waited_ms"], rows[0]["seen_by"]) == (5500, ["agent-1", "agent-2"])


def call(agent_id: str, change: str, second: int, reason: str | None) -> dict[str, Any]:
    return {
        "agent_id": agent_id,
        "list": "agent_queue",
        "call_sid": "42",
        "change": change,
        "reason": reason,
        "observed_at": f"2026-11-28T02:16:0{second}.500000Z",
        "start_date": "2026-11-28T02:16:00Z",
        "call_type": "INBOUND",
        "skills": ["english"],
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptDemo]:
    with kept_demo(tmp_path_factory.mktemp("bin")) as running:
        yield running


@opt_in
def test_analytics(demo: KeptDemo, tmp_path: Path) -> None:
    """The report has a row for each agent, misses no record, goes on where it stopped, and draws a picture, whatever
    its folder is called."""
    picture, data = tmp_path / "report.svg", tmp_path / "it's, [data] of 100% *"
    command = [python("analytics"), str(EXAMPLES / "analytics/report.py"), "--data", str(data)]
    command += ["--picture", str(picture)]
    env = environment(demo.brokers, "asm.")
    for _ in range(30):  # the first heartbeat comes after 10 s, and with it the watermark
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode == 0 and "\nagent-7 " in done.stdout:
            break
        assert "Traceback" not in done.stderr, done.stderr
        time.sleep(1)
    said = run(command, env)
    assert "No record is missing." in said
    assert all(f"\nagent-{number} " in said for number in range(8))
    assert len(list((data / "agent-status").glob("*.parquet"))) > 1
    assert picture.read_text().rstrip().endswith("</svg>")


PROGRAMS_OF_READERS = {
    "analytics": lambda: [python("analytics"), str(EXAMPLES / "analytics/report.py")],
    "analytics in Flink": lambda: [*flink(), str(EXAMPLES / "analytics/report.flink.sql")],
    "calls": lambda: [python("calls"), str(EXAMPLES / "calls/calls.py")],
    "microservice": lambda: [python("microservice"), str(EXAMPLES / "microservice/long_waits.py")],
    "typescript": lambda: [npm(), "start", "--silent"],
}


@opt_in
@pytest.mark.parametrize("name", PROGRAMS_OF_READERS)
def test_what_is_wrong_is_said(demo: KeptDemo, tmp_path: Path, name: str) -> None:
    """Without topics under the prefix, and without Kafka, an example ends with what is wrong in its last line; it does
    not wait."""
    command = PROGRAMS_OF_READERS[name]()
    command += ["--data", str(tmp_path)] if name == "analytics" else []
    for brokers, prefix, wrong in (
        (demo.brokers, "wrong.", "there is no topic wrong."),
        ("127.0.0.1:1", "asm.", "127.0.0.1:1"),
    ):
        env = environment(brokers, prefix) | {"SECONDS": "5"}
        cwd = EXAMPLES / name if name == "typescript" else tmp_path
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode not in (0, None)
        assert wrong in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr


@opt_in
def test_typescript_proves_on_the_demos_broker(demo: KeptDemo) -> None:
    """The proof does not rely on the ends that the demo's broker gives, which lie before its last batches."""
    folder, env = EXAMPLES / "typescript", environment(demo.brokers, "asm.")
    for _ in range(3):
        said = run([npm(), "run", "--silent", "prove"], env, folder, timeout=90)
        assert "nothing is missing, nothing is repeated" in said


@opt_in
def test_microservice(demo: KeptDemo) -> None:
    """A call that waits for long leads to an event that the service takes, and its outcome comes back."""
    env = environment(demo.brokers, "asm.") | {"LONG_WAIT": "3"}
    command = [python("microservice"), str(EXAMPLES / "microservice/long_waits.py")]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stopper = threading.Timer(60, process.kill)
    stopper.start()
    try:
        assert process.stdout is not None
        found = next((line for line in process.stdout if "delivered" in line), None)
        assert found is not None
        process.send_signal(signal.SIGINT)
        process.communicate()
    finally:
        stopper.cancel()
        process.kill()
        process.wait()
    sid = re.search(r"call (\d+) has waited", found)
    assert sid is not None
    taken = [one["event"]["activated_conversation_event"]["conversation"] for one in demo.simulator("events")]
    assert sid[1] in [conversation["conversation_sid"] for conversation in taken]


@opt_in
def test_typescript(demo: KeptDemo) -> None:
    """The wallboard shows every agent, with types generated from the schemas."""
    folder = EXAMPLES / "typescript"
    env = environment(demo.brokers, "asm.") | {"SECONDS": "4"}
    said = run([npm(), "start", "--silent"], env, folder, timeout=90)
    assert all(f"\nagent-{number} " in said for number in range(8))
    assert "interface AgentStatusChanged" in (folder / "src/generated/Published.ts").read_text()


@opt_in
@pytest.mark.kafka
@pytest.mark.transactions
@pytest.mark.timeout(300)
async def test_typescript_proves_that_nothing_is_missing(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """A consumer in another language that knows schemas/asyncapi.json alone reads every topic of a run in which the
    bridge is killed twice, and finds each number of each stream once. The last bridge frames values for a Schema
    Registry.
    """
    arguments = ["--sessions", "20", "--change-rate", "1"]
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *arguments) as the_lab:
        await the_lab.bridge(RECORDS__HEARTBEAT_INTERVAL="1")
        agents = await the_lab.register_all(interval=0.5, get_conversations=True, conversations_interval=1)
        for number in range(3):
            if number:
                the_lab.kill()
            if number == 1:
                await the_lab.bridge()
            if number == 2:
                with schema_registry() as url:
                    await the_lab.bridge("framed", SCHEMA_REGISTRY__URL=url)
            for index, agent_id in enumerate(agents):
                await the_lab.inject(agent_id, str(1000 * number + index))
            await the_lab.inject_raw(b"agent-0", b"not an event")
            await the_lab.sim.post("thaw")
            await the_lab.sim.settle(agents, rounds=20)
        await the_lab.completed()
        assert await the_lab.bridges["framed"].stop() == 0
        env = environment(broker.bootstrap_servers, topics_prefix)
        said = run([npm(), "run", "--silent", "prove"], env, EXAMPLES / "typescript", timeout=120)
    sys.stdout.write(said)
    counts = dict(re.findall(rf"{re.escape(topics_prefix)}(\S+): (\d+) records", said))
    assert len(counts) == 8
    assert all(int(count) for count in counts.values()), counts
    assert "nothing is missing, nothing is repeated, and each topic is in order" in said
    assert said.count("20 streams") == 1


@opt_in
@pytest.mark.kafka
@pytest.mark.transactions
@pytest.mark.timeout(300)
async def test_calls_exactly_once(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """Each call has one row although several agents saw it, also when the program is killed and started again, and
    when the bridge frames values for a Schema Registry from then on."""
    spec = importlib.util.spec_from_file_location("example_fold", EXAMPLES / "calls/fold.py")
    assert spec is not None
    assert spec.loader is not None
    fold = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fold)
    interpreter, program = python("calls"), str(EXAMPLES / "calls/calls.py")
    env = environment(broker.bootstrap_servers, topics_prefix) | {"STATE_DIR": str(tmp_path / "state")}
    arguments = ["--sessions", "12", "--change-rate", "1"]
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *arguments) as the_lab:
        await the_lab.bridge()
        agents = await the_lab.register_all(interval=0.5)

        async def rows() -> list[Any]:
            found = await read_topics(broker.bootstrap_servers, topics_prefix, ["calls"])
            return [(message.key.decode(), json.loads(message.value)) for message in found]

        log = (tmp_path / "calls.log").open("ab")
        process = subprocess.Popen([interpreter, program], env=env, cwd=tmp_path, stdout=log, stderr=log)
        try:

            async def some() -> bool:
                try:
                    return len(await rows()) > 10
                except KeyError:  # the program has not created the topic yet
                    return False

            await until(some, "ten calls have rows", 60)
            process.kill()
            process.wait()
            process = subprocess.Popen([interpreter, program], env=env, cwd=tmp_path, stdout=log, stderr=log)
            assert await the_lab.bridges["bridge"].stop() == 0
            with schema_registry() as url:
                await the_lab.bridge("framed", SCHEMA_REGISTRY__URL=url)
            await the_lab.sim.settle(agents, rounds=10)
            assert await the_lab.bridges["framed"].stop() == 0
            views: dict[str, Any] = {}
            for message in await read_topics(broker.bootstrap_servers, topics_prefix, ["queued-calls"]):
                record = json.loads(unframed(message.value))
                if record["list"] != "on_hold":
                    fold.see(views.setdefault(record["call_sid"], {}), record)
            wanted = {sid: row for sid, own in views.items() if (row := fold.row(sid, own)) is not None}

            async def all_there() -> bool:
                return dict(await rows()) == wanted

            await until(all_there, f"rows of {len(wanted)} calls", 60)
        finally:
            process.kill()
            process.wait()
            log.close()
        written = await rows()
    assert any(len(row["seen_by"]) > 1 for row in wanted.values())
    texts = [json.dumps(row, sort_keys=True) for _, row in written]
    assert len(texts) == len(set(texts)), "a row was written twice"
    sys.stdout.write(f"{len(written)} rows for {len(wanted)} calls, {sum(map(len, views.values()))} views")


@opt_in
@pytest.mark.kafka
@pytest.mark.transactions
@pytest.mark.timeout(400)
async def test_flink_says_what_duckdb_says(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """Flink SQL finds the same seconds in each state, and the same calls, as DuckDB does in the Parquet files."""
    command = flink()
    arguments = ["--sessions", "8", "--change-rate", "0.5"]
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *arguments) as the_lab:
        await the_lab.bridge(RECORDS__HEARTBEAT_INTERVAL="1")
        await the_lab.register_all(interval=0.5)
        await asyncio.sleep(15)
        assert await the_lab.bridges["bridge"].stop() == 0
    env = environment(broker.bootstrap_servers, topics_prefix)
    report = [python("analytics"), str(EXAMPLES / "analytics/report.py"), "--data", str(tmp_path / "data")]
    run([*report, "--picture", str(tmp_path / "report.png")], env)
    times, waits = examples.query_report(
        tmp_path / "data", "FROM time_in_state ORDER BY agent_id, state", "FROM waits ORDER BY skill"
    )
    said = run([*command, str(EXAMPLES / "analytics/report.flink.sql")], env, timeout=300)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line.startswith("|")]
    split = [number for number, row in enumerate(rows) if row[0] in ("agent_id", "skill")]
    assert [row[:2] for row in rows[1 : split[1]]] == [[row["agent_id"], row["state"]] for row in times]
    for flinks, row in zip(rows[1 : split[1]], times, strict=True):
        assert abs(float(flinks[2]) - row["seconds"]) < 0.1, (flinks, row)
    counted = [[row["skill"], *(row[name] for name in ("calls", "waiting", "end_unobserved"))] for row in waits]
    assert [[row[0], *map(int, row[1:4])] for row in rows[split[1] + 1 :]] == counted
