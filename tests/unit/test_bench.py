"""``asm-bridge bench``: its calculations, the processes that it starts, and one short run with all its outputs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from asm_bridge_schemas import protojson
from asm_bridge_schemas.asm import GetStatusRes
from bridge.cli.bench import numbers
from bridge.cli.errors import UsageError
from bridge.ops.http import free_port
from bridge.registry.file import read_sessions_file
from bridge.testing.bench import runner
from bridge.testing.bench.clients import BRIDGES, Client, Place, agent_id, arguments, environment, prepare
from bridge.testing.bench.figures import Measurement, Moment, load_figures, per_session, percentile, spread
from bridge.testing.bench.goals import goals
from bridge.testing.bench.machine import Cores, Process, deal, parse_ps, parse_stat, pinned, tree, usage
from bridge.testing.bench.measure import doubt
from bridge.testing.bench.processes import MeasurementError, Target
from bridge.testing.bench.report import as_json, ratio, tables, with_memory, yardstick
from bridge.testing.bench.scenarios import (
    AIOHTTP,
    AT_LEAST_ONCE,
    EXACTLY_ONCE,
    FAST_COMMITS,
    GO,
    GO_HTTP2,
    GO_SLOTS,
    HTTP2,
    HTTPX,
    KINDS,
    ON_REQUEST,
    SIZES,
    WORKERS,
    Scenario,
    scenarios,
)
from bridge.testing.bench.target import Service, http, own_queue, shared_queue, status

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
    """A percentile is one of the observed values, or None without any."""
    assert percentile(range(1, 102), share) == expected
    assert percentile([7.0], share) == 7
    assert percentile([], share) is None


def test_what_two_moments_say() -> None:
    """CPU per poll is the client's alone, over the polls that the target counted, without the target's own CPU."""
    figures = load_figures(Moment(1.0, 5), Moment(1.2, 6), SEEN, [0.1] * 75)
    assert figures["us_per_poll"] == pytest.approx(200)
    assert figures["target_us_per_poll"] == pytest.approx(20)
    assert (figures["polls_per_s"], figures["records_per_change"], figures["rss"]) == (100, 1.5, 6)
    assert (figures["gap_max"], figures["inject_p99"], figures["readable_p50"]) == (1.1, None, 0.1)


def test_a_client_that_did_nothing_has_no_cost() -> None:
    """A client that made no polls has no CPU per poll, and does not fail the run."""
    nothing = {**SEEN, "polls": 0, "changes": 0}
    figures = load_figures(Moment(1.0, 5), Moment(1.2, 6), nothing, [])
    assert (figures["us_per_poll"], figures["records_per_change"]) == (None, None)


def test_growth_is_that_of_the_measured_time() -> None:
    """Growth is the difference of memory over the measured time, and what a million polls would add."""
    figures = load_figures(Moment(1.0, 90_000_000), Moment(1.2, 90_002_000), SEEN, [])
    assert (figures["polls"], figures["rss_before"], figures["growth"]) == (1000, 90_000_000, 2_000_000)


def test_proc_stat_is_read_whatever_the_name() -> None:
    """/proc/PID/stat is read correctly for a process whose name has spaces and brackets."""
    fields = "S 42 1 1 0 -1 0 0 0 0 0 150 50 7 3 20 0 1 0 99 123456 250 0"
    assert parse_stat(f"77 (a) b (c) {fields}", 100, 4096) == Process(42, 2.1, 250 * 4096)


def test_ps_is_read_where_there_is_no_proc() -> None:
    """Without /proc (macOS) the times of ps are read in hours, days and hundredths of a second."""
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
    """A client is pinned to its core from its first instruction, and the bench keeps its own core."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot pin")
    before = os.sched_getaffinity(0)
    core = max(before)
    ask = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
    with pinned({core}):
        assert json.loads(subprocess.check_output(ask)) == [core]
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ({3}, Cores(None, None, None)),
        ({0, 1}, Cores({1}, None, {0})),
        ({0, 2, 4, 6}, Cores({6}, {4, 6}, {0, 2})),
    ],
)
def test_two_workers_get_a_core_each_where_four_are(
    allowed: set[int], expected: Cores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else runs on the client's cores, whether it is one process or two."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    assert deal() == expected


def test_where_the_workers_have_no_cores_it_is_said() -> None:
    """A measurement that needs more cores than the machine has is left out with a note."""
    plan = scenarios(["flat", "workers"], [500], 5, quick=False)
    notes: list[str] = []
    assert [one.kind for one in runner._carried(plan, Cores({1}, None, {0}), notes)] == ["flat"]
    assert "four cores" in notes[0]
    assert runner._carried(plan, Cores({3}, {2, 3}, {0, 1}), notes) == plan
    assert len(notes) == 1


def test_ours_is_started_with_a_session_of_its_own_for_each_agent(tmp_path: Path) -> None:
    """The bench's registry is valid for the bridge: each agent has a fixed session and a token of its own."""
    prepare(place(tmp_path))
    entries = read_sessions_file(tmp_path / "sessions.json")
    assert {agent: (entry.asm_session_sid, entry.token) for agent, entry in entries.items()} == {
        agent_id(n): (str(1_000_000 + n), f"file:tokens.json#{agent_id(n)}") for n in range(3)
    }
    assert json.loads((tmp_path / "tokens.json").read_text())["agent-2"] == "tok-2"


def test_ours_gets_only_the_settings_of_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bridge's settings on this machine do not affect a measurement; the bench polls at the shortest interval."""
    monkeypatch.setenv("ASM_BRIDGE_RECORDS__ENCODING", "msgpack")
    settings = environment(BRIDGES[0], place(tmp_path, interval=0))
    assert "ASM_BRIDGE_RECORDS__ENCODING" not in settings
    assert settings["ASM_BRIDGE_KAFKA__DELIVERY"] == "exactly_once"
    assert (settings["ASM_BRIDGE_POLL__INTERVAL"], settings["ASM_BRIDGE_TOPICS__PREFIX"]) == ("0.05", "b.")
    assert arguments(BRIDGES[0], place(tmp_path)) == [sys.executable, "-m", "bridge", "run"]
    assert arguments(Client("", {}, workers=2), place(tmp_path))[-3:] == ["run", "--workers", "2"]


def test_a_peers_command_line_is_filled_in(tmp_path: Path) -> None:
    """A peer is started with the same sessions, rate, service, Kafka and topic as the bridge."""
    client = Client("peer", command=("peer", "{n}", "{interval}s", "{base}", "{brokers}", "{topic}"))
    filled = ["peer", "3", "1.0s", "http://127.0.0.1:1", "127.0.0.1:2", "b.agent-status"]
    assert arguments(client, place(tmp_path)) == filled
    assert not any(name.startswith("ASM_BRIDGE_") for name in environment(client, place(tmp_path)))


def test_a_peer_over_tls_trusts_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer over TLS gets its authorities in SSL_CERT_FILE; over plain HTTP the variable is not set."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    secure = replace(place(tmp_path), ca_file=tmp_path / "ca.pem")
    assert environment(Client("peer"), secure)["SSL_CERT_FILE"] == str(tmp_path / "ca.pem")
    assert "SSL_CERT_FILE" not in environment(Client("peer"), place(tmp_path))


def test_the_plan_has_what_was_asked_for() -> None:
    """The default plan has every measurement but those of minutes; compared ones use the same sessions and seconds."""
    whole = scenarios(KINDS, [500, 1000], 5, quick=False)
    assert [one.kind for one in whole if one.kind != "memory"] == [
        "load", "load", "flat", "latency", "latency", "scale", "scale", "workers", "recovery", "queue",
    ]  # fmt: skip
    assert {one.kind for one in scenarios(["flat", "queue"], [500], 5, quick=True)} == {"flat", "queue"}
    slow = scenarios(["load", "flat"], [20_000], 5, quick=False, interval=10)
    assert [one.interval for one in slow] == [10, 0]
    loads = [one for one in whole if one.kind == "load"]
    assert [(one.sessions, HTTPX in one.clients) for one in loads] == [(500, True), (1000, False)]
    assert all({EXACTLY_ONCE, AT_LEAST_ONCE, GO, GO_HTTP2, AIOHTTP} <= set(one.clients) for one in loads)
    assert [one.seconds for one in scenarios(ON_REQUEST, [500], 15, quick=False)] == [225]


def test_the_plan_at_the_defaults_is_what_the_goals_name() -> None:
    """The default plan has the sizes that the goals name: latency at 1,000 sessions, as many polls at 20,000 as at
    5,000, and recovery of 10,000.
    """
    plan = scenarios(KINDS, SIZES, 15, quick=False)
    asked = [(one.kind, one.sessions, one.interval) for one in plan if one.kind in ("latency", "scale", "recovery")]
    latencies = [(one.clients, one.injected) for one in plan if one.kind == "latency"]
    assert latencies == [((EXACTLY_ONCE,), 50), ((FAST_COMMITS,), 0)]
    assert asked == [
        ("latency", 1000, 1),
        ("latency", 1000, 1),
        ("scale", 5000, 1),
        ("scale", 20_000, 4),
        ("recovery", 10_000, 2),
    ]


def test_ratios_are_to_the_go_poller_of_the_same_size() -> None:
    """Ratios refer to the Go poller, or without it to the aiohttp script, or are left out."""
    small, large = loaded(EXACTLY_ONCE, 300), loaded(EXACTLY_ONCE, 100, 5000)
    measured = [small, loaded(GO, 200), loaded(AIOHTTP, 600), large, loaded(GO, 50, 5000), loaded("x", 1, 7)]
    assert [ratio(one, measured) for one in measured] == [1.5, 1, 3, 2, 1, None]
    assert yardstick([small, loaded(AIOHTTP, 600)]) == AIOHTTP
    assert yardstick([small, Measurement("load", GO, 500, note="it has ended")]) is None


def test_the_bridge_is_its_own_yardstick_in_scale_and_workers() -> None:
    """In scale and workers the bridge is compared with itself: more sessions with fewer, two processes with one."""
    scale = [loaded(EXACTLY_ONCE, 100, kind="scale"), loaded(EXACTLY_ONCE, 150, 2000, kind="scale")]
    workers = [loaded(EXACTLY_ONCE, 100, kind="workers"), loaded(WORKERS, 50, kind="workers")]
    measured = [loaded(GO, 10), *scale, *workers]
    assert [ratio(one, measured) for one in measured] == [1, 1, 1.5, 1, 2]
    headers = [headers[2] for _, headers, _ in tables(measured) if headers[0] == "sessions"]
    assert headers == ["CPU / Go poller's", "CPU / the smaller's", "polls / one process's"]


def test_goals_that_are_met_and_by_how_much_others_are_missed() -> None:
    """Goals compare the bridge with the Go poller at each size, HTTP/2 with HTTP/1.1, and up to 2,000 sessions the
    bridge with the slotted poller.
    """
    small = [loaded(EXACTLY_ONCE, 150), loaded(HTTP2, 75), loaded(GO, 300)]
    large = [loaded(one, 240, 5000) for one in (EXACTLY_ONCE, AT_LEAST_ONCE, HTTP2, GO_SLOTS)] + [loaded(GO, 200, 5000)]
    slotted = [loaded(AT_LEAST_ONCE, 110, 2000), loaded(GO_SLOTS, 100, 2000)]
    found = goals([*large, *small, *slotted])
    assert [(one.name.partition(" /")[0], one.sessions, one.measured, one.verdict) for one in found] == [
        ("CPU", 500, 0.5, "met"),
        ("CPU", 5000, 1.2, "missed by 20.0%"),
        ("CPU over HTTP/2 + TLS", 500, 0.25, "met"),
        ("CPU over HTTP/2 + TLS", 5000, 1.2, "missed by 20.0%"),
        ("CPU over HTTP/2 + TLS", 500, 0.5, "met"),
        ("CPU over HTTP/2 + TLS", 5000, 1.0, "missed by 0.0%"),
        ("CPU of at_least_once", 2000, pytest.approx(1.1), "met"),
    ]


@pytest.mark.parametrize(
    ("kind", "figures", "verdict"),
    [
        ("flat", {"polls_per_s": 8000.0}, "met"),
        ("flat", {"polls_per_s": 6000.0}, "missed by 25.0%"),
        ("load", {"gap_p99": 1.049, "interval": 1.0}, "met"),
        ("load", {"gap_p99": 4.0, "interval": 4.0}, None),
        ("latency", {"inject_p99": 0.03}, "missed by 0.0%"),
        ("latency", {"inject_p99": None, "readable_p99": 0.15}, "met"),
        ("memory", {"per_session": 22_000.0}, "missed by 10.0%"),
        ("memory", {"rss": 1.0}, None),
        ("growth", {"polls": 1.1e6, "growth": 500_000.0}, "met"),
        ("growth", {"polls": 60_000.0, "growth": 30e6}, None),
        ("recovery", {"recovery": 10.0}, "missed by 100.0%"),
        ("queue", {"cores": 0.49}, "met"),
    ],
)
def test_goals_of_one_figure(kind: str, figures: dict[str, float | None], verdict: str | None) -> None:
    """A goal with a single figure has a limit of its own, and is left out if it was not measured."""
    found = goals([Measurement(kind, EXACTLY_ONCE, 1000, figures)])
    assert [one.verdict for one in found] == ([verdict] if verdict else [])


def test_a_rate_that_so_few_sessions_cannot_make_is_no_goal() -> None:
    """The rate goal is left out if so few sessions cannot reach it: 200 sessions every 50 ms make 4,000 polls/s at
    best.
    """
    assert goals([Measurement("flat", EXACTLY_ONCE, 200, {"polls_per_s": 4000.0})]) == []


def test_the_goals_of_scale_and_workers() -> None:
    """Four times the sessions may cost at most a fifth more per poll, and two workers must make 1.9 times the polls."""
    scale = [loaded(EXACTLY_ONCE, 100, kind="scale"), loaded(EXACTLY_ONCE, 118, 2000, kind="scale")]
    workers = [loaded(EXACTLY_ONCE, 100, kind="workers"), loaded(WORKERS, 50, kind="workers")]
    found = goals([*scale, *workers])
    assert [(one.sessions, one.measured, one.met) for one in found] == [(2000, 1.18, True), (500, 2.0, True)]


def test_where_the_bridge_breaks_its_goal_is_missed() -> None:
    """A goal is missed if the bridge fails during the measurement, however good its figure is."""
    [first, *_] = goals([replace(loaded(EXACTLY_ONCE, 30), note="it breaks"), loaded(GO, 300)])
    assert (first.measured, first.met, first.verdict) == (0.1, False, "missed: it breaks")
    [recovery] = goals([Measurement("recovery", EXACTLY_ONCE, 500, note="it has ended; it said: no")])
    assert (recovery.measured, recovery.verdict) == (None, "missed: it has ended")


@pytest.mark.parametrize(
    ("kind", "rate", "expected"),
    [("load", 499.0, ""), ("load", 425.0, "it falls behind: 85% of its polls"), ("flat", 1.0, "")],
)
def test_a_cost_at_another_rate_is_in_doubt(kind: str, rate: float, expected: str) -> None:
    """The cost of a client that skips polls is marked as doubtful."""
    assert doubt(Scenario(kind, 1000, (), 5, interval=2.0), rate) == expected


def test_memory_a_session_comes_from_two_sizes() -> None:
    """Memory per session is calculated from two sizes, and is left out with only one."""
    small, large = loaded("a", 1, 500, 80_000_000, "memory"), loaded("a", 1, 5000, 170_000_000, "memory")
    assert per_session(small, large) == 20_000
    assert per_session(small, small) is None
    assert [one.figures["per_session"] for one in with_memory([small, large])] == [None, 20_000]


def test_the_table_has_the_ratio_first_and_says_why_a_figure_is_missing() -> None:
    """The table shows goals and ratios first, and keeps a client that failed, with the reason."""
    broken = Measurement("load", HTTPX, 500, note="it has ended; it said: no")
    [(title, _, held), (_, headers, rows)] = tables([loaded(EXACTLY_ONCE, 150), loaded(GO, 300), broken])
    assert (title, held) == ("Goals: 1 of 1 met", [["CPU / Go poller's", "500", "below 1", "0.500", "met"]])
    assert headers[:4] == ["sessions", "client", "CPU / Go poller's", "us/poll"]
    assert rows[0][:4] == ["500", EXACTLY_ONCE, "0.50", "150"]
    assert (rows[2][2], rows[2][-1]) == ("-", broken.note)
    assert {len(row) for row in rows} == {len(headers)}


def test_json_has_the_raw_figures() -> None:
    """JSON output has unrounded figures, the machine, and what was left out."""
    measured = [loaded(GO, 300), loaded(EXACTLY_ONCE, 150)]
    made = json.loads(json.dumps(as_json({"cores": "2"}, measured, ["no aiohttp script"])))
    assert [(goal["measured"], goal["target"], goal["met"]) for goal in made["goals"]] == [(0.5, 1, True)]
    assert made["measurements"][0]["figures"]["us_per_poll"] == 300
    assert (made["machine"], made["yardstick"], made["notes"]) == ({"cores": "2"}, GO, ["no aiohttp script"])


def test_the_target_answers_as_the_vendor_does() -> None:
    """The target's answers are like the vendor's: about 1.1 kB with the head, and readable by the bridge."""
    text = status(7, 4, own_queue(7)).encode()
    assert 1_000 < len(http("200 OK", text)) < 1_200
    answer = protojson.read(GetStatusRes, text)
    assert answer.voice_status is not None
    assert answer.voice_status.queued_calls is not None
    assert answer.voice_status.status_desc == "TALKING"
    assert len(answer.voice_status.queued_calls.agent_queue_calls) == 2


def test_a_shared_queue_changes_by_one_call_a_second() -> None:
    """All agents see the same queue, of which one call changes each second."""
    before, after = (json.loads(f"[{shared_queue(50, second)}]") for second in (1000, 1001))
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1
    assert {call["callSid"] for call in before} == {call["callSid"] for call in after}


def test_the_target_counts() -> None:
    """The target counts polls, sessions, changes and the latency of an event since the last reset."""
    service = Service(change=0, queue=0, clock=lambda: 1)  # no agent is silent while the clock stands
    for number in (1, 2, 1):
        service.poll(number, b"{}")
    first = json.loads(service.stats(reset=True).partition(b"\r\n\r\n")[2])
    assert (first["polls"], first["sessions_seen"], first["changes"], first["gap"]["count"]) == (3, 2, 2, 1)
    event = b'{"activatedConversationEvent":{"conversation":{"conversationSid":"1000000000000000000"}}}'
    service.poll(1, b'{"events":[' + event + b"]}")
    second = json.loads(service.stats(reset=False).partition(b"\r\n\r\n")[2])
    assert (second["polls"], second["sessions_seen"], second["changes"], second["inject"]["count"]) == (1, 1, 0, 1)


def test_a_client_that_stalls_does_not_look_punctual() -> None:
    """A stall that lasts until the measurement ends counts as a gap."""
    now = [0]
    service = Service(change=0, queue=0, clock=lambda: now[0])
    for now[0] in (1_000_000_000, 2_000_000_000):
        service.poll(1, b"{}")
    now[0] = 2_500_000_000
    assert json.loads(service.stats(reset=False).partition(b"\r\n\r\n")[2])["gap"]["max"] == 1.0
    now[0] = 9_000_000_000
    assert json.loads(service.stats(reset=False).partition(b"\r\n\r\n")[2])["gap"]["max"] == 7.0


@pytest.mark.parametrize("text", ["", "x", "500,", "0", "500;1000"])
def test_wrong_sizes_are_refused(text: str) -> None:
    """An invalid --sessions is refused with the form that is expected."""
    with pytest.raises(UsageError, match=r"e\.g\. 500,1000"):
        numbers(text)


async def test_a_target_that_is_silent_spoils_one_measurement_only() -> None:
    """A target that does not answer costs one measurement, which becomes a note; earlier ones are kept."""
    listen = f"127.0.0.1:{free_port()}"
    service = Target(listen, f"http://{listen}", None)
    with pytest.raises(MeasurementError, match="does not answer"):
        await service.stats()
    await service.close()
