"""``asm-bridge bench``: what it works out, how it starts things, and that all of it comes out of one short run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.bench import runner
from bridge.bench.clients import BRIDGES, Client, Place, agent_id, arguments, environment, prepare
from bridge.bench.figures import Measurement, Moment, load_figures, per_session, percentile, spread
from bridge.bench.machine import Process, parse_ps, parse_stat, pinned, tree, usage
from bridge.bench.report import as_json, ratio, tables, with_memory, yardstick
from bridge.bench.scenarios import AIOHTTP, AT_LEAST_ONCE, EXACTLY_ONCE, GO, HTTPX, KINDS, Scenario, scenarios
from bridge.bench.target import Service, http, own_queue, shared_queue, status
from bridge.cli.bench import numbers
from bridge.cli.output import UsageError
from bridge.sessions_file import read_sessions_file
from schemas import protojson
from schemas.asm import GetStatusRes
from tests.brokers import Broker

SEEN = {
    "window_s": 10.0, "polls": 1000, "changes": 50, "cpu_s": 0.02, "connections": 7,
    "gap": spread([1.0, 1.1]), "inject": spread([]),
}  # fmt: skip


def place(directory: Path, sessions: int = 3, interval: float = 1.0) -> Place:
    return Place(sessions, interval, "http://127.0.0.1:1", "127.0.0.1:2", "b.", directory, 3)


def loaded(client: str, us: float, sessions: int = 500, rss: int = 10**8, kind: str = "load") -> Measurement:
    return Measurement(kind, client, sessions, {"us_per_poll": us, "polls_per_s": 1e6 / us, "rss": rss})


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 51), (0.99, 100), (1, 101)])
def test_percentiles(share: float, expected: float) -> None:
    """A percentile is one of the values that were seen; of nothing there is none."""
    assert percentile(range(1, 102), share) == expected
    assert percentile([7.0], share) == 7
    assert percentile([], share) is None


def test_what_two_moments_say() -> None:
    """CPU a poll is the client's alone, over the polls that the target counted; its own CPU is apart."""
    figures = load_figures(Moment(1.0, 5), Moment(1.2, 6), SEEN, [0.1] * 75)
    assert figures["us_per_poll"] == pytest.approx(200)
    assert figures["target_us_per_poll"] == pytest.approx(20)
    assert (figures["polls_per_s"], figures["records_per_change"], figures["rss"]) == (100, 1.5, 6)
    assert (figures["gap_max"], figures["inject_p99"], figures["readable_p50"]) == (1.1, None, 0.1)


def test_a_client_that_did_nothing_has_no_cost() -> None:
    """No polls: no CPU a poll, rather than a failure of the whole run."""
    nothing = {**SEEN, "polls": 0, "changes": 0}
    figures = load_figures(Moment(1.0, 5), Moment(1.2, 6), nothing, [])
    assert (figures["us_per_poll"], figures["records_per_change"]) == (None, None)


def test_proc_stat_is_read_whatever_the_name() -> None:
    """A process whose name has spaces and brackets is read right."""
    fields = "S 42 1 1 0 -1 0 0 0 0 0 150 50 7 3 20 0 1 0 99 123456 250 0"
    assert parse_stat(f"77 (a) b (c) {fields}", 100, 4096) == Process(42, 2.1, 250 * 4096)


def test_ps_is_read_where_there_is_no_proc() -> None:
    """macOS: minutes with hundredths, hours, days."""
    text = "  1     0   0:01.50  2048\n 20     1  1:02:03  10\n  30    20 2-00:00:01 0\n"
    found = parse_ps(text)
    assert found == {1: Process(0, 1.5, 2048 * 1024), 20: Process(1, 3723.0, 10240), 30: Process(20, 172801.0, 0)}
    assert tree(1, found) == [1, 20, 30]
    assert tree(20, found) == [20, 30]


def test_the_use_of_a_tree_of_processes_is_counted() -> None:
    """A client's CPU and memory include those of the processes that it starts."""
    child = "x = bytearray(64_000_000)\nfor i in range(2_000_000): pass\nprint('done', flush=True)\ninput()"
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        used = usage(process.pid)
        process.communicate(b"\n")
    assert used.rss > 64_000_000
    assert used.cpu > 0


def test_pinning_holds_for_what_is_started_within() -> None:
    """The client has its core from its first instruction, and the bench itself keeps its own."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot pin")
    before = os.sched_getaffinity(0)
    core = max(before)
    ask = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
    with pinned({core}):
        assert json.loads(subprocess.check_output(ask)) == [core]
    assert os.sched_getaffinity(0) == before


def test_ours_is_started_with_a_session_of_its_own_for_each_agent(tmp_path: Path) -> None:
    """The registry that the bridge gets is one it takes: fixed sessions, a token each."""
    prepare(place(tmp_path))
    entries = read_sessions_file(tmp_path / "sessions.toml")
    assert {agent: (entry.asm_session_sid, entry.token) for agent, entry in entries.items()} == {
        agent_id(n): (str(1_000_000 + n), f"file:tokens.json#{agent_id(n)}") for n in range(3)
    }
    assert json.loads((tmp_path / "tokens.json").read_text())["agent-2"] == "tok-2"


def test_ours_gets_only_the_settings_of_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set for a bridge on this machine does not change the measurement; flat out is the shortest interval."""
    monkeypatch.setenv("ASM_BRIDGE_RECORDS__ENCODING", "msgpack")
    settings = environment(BRIDGES[0], place(tmp_path, interval=0))
    assert "ASM_BRIDGE_RECORDS__ENCODING" not in settings
    assert settings["ASM_BRIDGE_KAFKA__DELIVERY"] == "exactly_once"
    assert (settings["ASM_BRIDGE_POLL__INTERVAL"], settings["ASM_BRIDGE_TOPICS__PREFIX"]) == ("0.05", "b.")
    assert arguments(BRIDGES[0], place(tmp_path)) == [sys.executable, "-m", "bridge", "run"]


def test_a_peers_command_line_is_filled_in(tmp_path: Path) -> None:
    """A peer is told the same sessions, rate, service, Kafka and topic as the bridge."""
    client = Client("peer", command=("peer", "{n}", "{interval}s", "{base}", "{brokers}", "{topic}"))
    filled = ["peer", "3", "1.0s", "http://127.0.0.1:1", "127.0.0.1:2", "b.agent-status"]
    assert arguments(client, place(tmp_path)) == filled
    assert not any(name.startswith("ASM_BRIDGE_") for name in environment(client, place(tmp_path)))


def test_the_plan_has_what_was_asked_for() -> None:
    """Every kind by default; with --only some; what is compared is measured with the same sessions and seconds."""
    whole = scenarios(KINDS, [500, 1000], 5, quick=False)
    assert [one.kind for one in whole if one.kind != "memory"] == [
        "load", "load", "flat", "latency", "recovery", "queue",
    ]  # fmt: skip
    assert {one.kind for one in scenarios(["flat", "queue"], [500], 5, quick=True)} == {"flat", "queue"}
    slow = scenarios(["load", "flat"], [20_000], 5, quick=False, interval=10)
    assert [one.interval for one in slow] == [10, 0]
    loads = [one for one in whole if one.kind == "load"]
    assert [(one.sessions, HTTPX in one.clients) for one in loads] == [(500, True), (1000, False)]
    assert all({EXACTLY_ONCE, AT_LEAST_ONCE, GO, AIOHTTP} <= set(one.clients) for one in loads)


def test_ratios_are_to_the_go_poller_of_the_same_size() -> None:
    """The Go poller is the yardstick, without it the aiohttp script, without that there is none."""
    small, large = loaded(EXACTLY_ONCE, 300), loaded(EXACTLY_ONCE, 100, 5000)
    measured = [small, loaded(GO, 200), loaded(AIOHTTP, 600), large, loaded(GO, 50, 5000), loaded("x", 1, 7)]
    assert [ratio(one, measured) for one in measured] == [1.5, 1, 3, 2, 1, None]
    assert yardstick([small, loaded(AIOHTTP, 600)]) == AIOHTTP
    assert yardstick([small, Measurement("load", GO, 500, note="it has ended")]) is None


def test_memory_a_session_comes_from_two_sizes() -> None:
    """What a session costs beyond the base; not from one size alone."""
    small, large = loaded("a", 1, 500, 80_000_000, "memory"), loaded("a", 1, 5000, 170_000_000, "memory")
    assert per_session(small, large) == 20_000
    assert per_session(small, small) is None
    assert [one.figures["per_session"] for one in with_memory([small, large])] == [None, 20_000]


def test_the_table_has_the_ratio_first_and_says_why_a_figure_is_missing() -> None:
    """A person sees who is better at a glance, and a client that broke stays in the table with its reason."""
    broken = Measurement("load", HTTPX, 500, note="it has ended; it said: no")
    [(_, headers, rows)] = tables([loaded(EXACTLY_ONCE, 150), loaded(GO, 300), broken])
    assert headers[:4] == ["sessions", "client", "CPU / Go poller's", "us/poll"]
    assert rows[0][:4] == ["500", EXACTLY_ONCE, "0.50", "150"]
    assert (rows[2][2], rows[2][-1]) == ("-", broken.note)
    assert {len(row) for row in rows} == {len(headers)}


def test_json_has_the_raw_figures() -> None:
    """A program gets unrounded figures, the machine, and what was left out."""
    made = json.loads(json.dumps(as_json({"cores": "2"}, [loaded(GO, 300)], ["no aiohttp script"])))
    assert made["measurements"][0]["figures"]["us_per_poll"] == 300
    assert (made["machine"], made["yardstick"], made["notes"]) == ({"cores": "2"}, GO, ["no aiohttp script"])


def test_the_target_answers_as_the_vendor_does() -> None:
    """What is measured is reading real answers: some 1.1 kB, head included, that the bridge understands."""
    text = status(7, 4, own_queue(7)).encode()
    assert 1_000 < len(http("200 OK", text)) < 1_200
    answer = protojson.read(GetStatusRes, text)
    assert answer.voice_status is not None
    assert answer.voice_status.queued_calls is not None
    assert answer.voice_status.status_desc == "TALKING"
    assert len(answer.voice_status.queued_calls.agent_queue_calls) == 2


def test_a_shared_queue_changes_by_one_call_a_second() -> None:
    """Everyone sees the same calls, and each second one of them is another."""
    before, after = (json.loads(f"[{shared_queue(50, second)}]") for second in (1000, 1001))
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1
    assert {call["callSid"] for call in before} == {call["callSid"] for call in after}


def test_the_target_counts() -> None:
    """Polls, sessions, changes and the latency of an event, each from the last reset on."""
    service = Service(change=0, queue=0)
    for number in (1, 2, 1):
        service.poll(number, b"{}")
    first = json.loads(service.stats(reset=True).partition(b"\r\n\r\n")[2])
    assert (first["polls"], first["sessions_seen"], first["changes"], first["gap"]["count"]) == (3, 2, 2, 1)
    event = b'{"activatedConversationEvent":{"conversation":{"conversationSid":"1000000000000000000"}}}'
    service.poll(1, b'{"events":[' + event + b"]}")
    second = json.loads(service.stats(reset=False).partition(b"\r\n\r\n")[2])
    assert (second["polls"], second["sessions_seen"], second["changes"], second["inject"]["count"]) == (1, 1, 0, 1)


def test_a_client_that_stalls_does_not_look_punctual(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silence that lasts when the measurement ends counts as a gap."""
    now = [0]
    monkeypatch.setattr("bridge.bench.target.time.monotonic_ns", lambda: now[0])
    service = Service(change=0, queue=0)
    for now[0] in (1_000_000_000, 2_000_000_000):
        service.poll(1, b"{}")
    now[0] = 2_500_000_000
    assert json.loads(service.stats(reset=False).partition(b"\r\n\r\n")[2])["gap"]["max"] == 1.0
    now[0] = 9_000_000_000
    assert json.loads(service.stats(reset=False).partition(b"\r\n\r\n")[2])["gap"]["max"] == 7.0


@pytest.mark.parametrize("text", ["", "x", "500,", "0", "500;1000"])
def test_wrong_sizes_are_refused(text: str) -> None:
    """A wrong --sessions says what is expected."""
    with pytest.raises(UsageError, match=r"e\.g\. 500,1000"):
        numbers(text)


@pytest.mark.kafka
def test_a_short_run_gives_all_figures(broker: Broker) -> None:
    """One run, all figures: CPU, rates, gaps, memory, latencies both ways, recovery."""
    name = EXACTLY_ONCE if broker.transactions else AT_LEAST_ONCE
    plan = [
        Scenario("latency", 20, (name,), seconds=2, warm=0.5, change=0.3, injected=20),
        Scenario("recovery", 20, (name,), seconds=2, warm=0.5),
    ]
    report = runner.run(broker.bootstrap_servers, plan, print)
    latency, recovery = report.measurements
    assert (latency.note, recovery.note) == ("", "")
    found = {name: value for name, value in latency.figures.items() if value is not None}
    assert found["polls_per_s"] > 20 * 0.7
    assert min(found["us_per_poll"], found["rss"], found["gap_p99"], found["target_us_per_poll"]) > 0
    assert 0 < found["inject_p99"] < 5
    assert 0 < found["readable_p99"] < 5
    assert found["records_per_change"] > 0.5
    assert 0 < (recovery.figures["recovery"] or 0) < 30
    assert report.machine["cores"]
