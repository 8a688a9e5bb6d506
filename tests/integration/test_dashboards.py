"""The alert rules and the dashboard, run by the real Prometheus with the bridge's real metrics."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.ops.http import free_port
from bridge.telemetry.metrics import METRICS
from bridge.testing.brokers import Broker
from bridge.testing.brokers.process import ends_with_us
from tests.support.ops import running

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/alerts.yml"
CONFIG = ROOT / "deploy/prometheus/prometheus.yml"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/asm-bridge.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
IMAGE = "prom/prometheus:latest"
DEADLINE = 30.0


def _has_image() -> bool:
    docker = shutil.which("docker")
    command = [str(docker), "image", "inspect", IMAGE]
    return docker is not None and subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0


def tool(name: str, directory: Path) -> list[str]:
    """The command that runs a program of Prometheus: this machine's own, or the one in the image. Skips
    without either.
    """
    if shutil.which(name):
        return [name]
    if not _has_image():
        pytest.skip(f"neither {name} nor the image {IMAGE} on this machine")
    mounts = [part for path in (ROOT, directory) for part in ("-v", f"{path}:{path}:ro")]
    return ["docker", "run", "--rm", "--user", "0", "--network", "host", *mounts, "--entrypoint", name, IMAGE]


def promtool(directory: Path, *arguments: str | Path) -> None:
    """Runs promtool, and fails with its output."""
    command = [*tool("promtool", directory), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[str]:
    return re.findall(r"- alert: (\w+)", RULES.read_text())


def metrics_of(text: str) -> set[str]:
    return set(re.findall(r"asm_bridge_\w+", text))


def exposed() -> set[str]:
    """The names of all series of the bridge."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "info": ["_info"], "gauge": [""]}
    families = list(METRICS.registry.collect())
    return {f"{family.name}{suffix}" for family in families for suffix in suffixes[family.type]}


def test_metrics_exist() -> None:
    """The bridge has every metric that the dashboard and the alert rules name."""
    expressions = [*EXPRESSIONS, *re.findall(r"expr: (.*)", RULES.read_text())]
    process = {"asm_bridge_process_cpu_seconds_total", "asm_bridge_process_resident_memory_bytes"}  # Linux only
    assert metrics_of(" ".join(expressions)) - exposed() - process == set()


def test_every_metric_is_shown() -> None:
    """The dashboard shows every metric of the bridge."""
    shown = metrics_of(" ".join(EXPRESSIONS))
    families = {family.name for family in METRICS.registry.collect() if "_process_" not in family.name}
    assert {name for name in families if not any(one.startswith(name) for one in shown)} == set()


def test_alerts_say_what_to_do() -> None:
    """Each alert has a severity, a summary and what to do."""
    text = RULES.read_text()
    count = len(alerts())
    assert count == len(set(alerts())) > 0
    for field in ("severity: ", "summary: ", "what_to_do: "):
        assert text.count(field) - text.startswith(f"# {field}") == count, field


def test_configuration_is_valid(tmp_path: Path) -> None:
    """Prometheus accepts its configuration and the rules."""
    promtool(tmp_path, "check", "rules", RULES)
    promtool(tmp_path, "check", "config", CONFIG)


# alert: the series that must set it off, and at which minute; labels as scraped
JOB = 'job="asm-bridge", instance="bridge:8080"'
FIRES: dict[str, tuple[dict[str, str], int]] = {
    "AsmBridgeDown": ({f"up{{{JOB}}}": "0x10"}, 2),
    "AsmBridgeNotReady": ({f"asm_bridge_ready{{{JOB}}}": "0x10"}, 3),
    "AsmBridgeNothingPolled": (
        {
            f'asm_bridge_polls_total{{result="ok", {JOB}}}': "100+0x10",
            f'asm_bridge_agents{{state="lost", {JOB}}}': "3x10",
        },
        4,
    ),
    "AsmBridgeServiceDown": ({f"asm_bridge_service_down{{{JOB}}}": "1x10"}, 2),
    "AsmBridgeAgentsLost": ({f'asm_bridge_agents{{state="lost", {JOB}}}': "2x10"}, 3),
    "AsmBridgeAgentsUnwatched": (
        {
            f"asm_bridge_registered_agents{{{JOB}}}": "10x10",
            f'asm_bridge_agents{{state="in_session", {JOB}}}': "9x10",
            f'asm_bridge_agents{{state="unknown", {JOB}}}': "5x10",
        },
        3,
    ),
    "AsmBridgePollsLate": (
        {
            f'asm_bridge_poll_lateness_seconds_bucket{{le="1.0", {JOB}}}': "0+1x20",
            f'asm_bridge_poll_lateness_seconds_bucket{{le="2.5", {JOB}}}': "0+100x20",
            f'asm_bridge_poll_lateness_seconds_bucket{{le="+Inf", {JOB}}}': "0+100x20",
        },
        15,
    ),
    "AsmBridgePollsSkipped": (
        {
            f'asm_bridge_skipped_ticks_total{{reason="late", {JOB}}}': "0+50x20",
            f'asm_bridge_polls_total{{result="ok", {JOB}}}': "0+100x20",
        },
        15,
    ),
    "AsmBridgeInboxAgeing": ({f"asm_bridge_inbox_oldest_seconds{{{JOB}}}": "0+60x10"}, 6),
    "AsmBridgeTransactionOpen": (
        {f'asm_bridge_stable_offset_behind_seconds{{topic="asm.inject", partition="3", {JOB}}}': "45x10"},
        2,
    ),
    "AsmBridgeClockWrong": ({f"asm_bridge_kafka_clock_ahead_seconds{{{JOB}}}": "-600x10"}, 4),
    "AsmBridgeInboxDeleted": ({f"asm_bridge_inbox_deleted_total{{{JOB}}}": "0 0 5x10"}, 4),
    "AsmBridgeDeadLetters": ({f'asm_bridge_dead_letters_total{{code="refused", {JOB}}}': "0 0 1x10"}, 4),
    "AsmBridgePartitionsLost": ({f"asm_bridge_partitions_lost_total{{{JOB}}}": "0 0 3 4x10"}, 4),
    "AsmBridgeCommitsFail": ({f'asm_bridge_commits_total{{result="failed", {JOB}}}': "0 0 1x10"}, 4),
    "AsmBridgeRegistryErrors": ({f"asm_bridge_registry_errors_total{{{JOB}}}": "0 0 1x10"}, 4),
}
HEALTHY = {
    f"up{{{JOB}}}": "1x20",
    f"asm_bridge_ready{{{JOB}}}": "1x20",
    f"asm_bridge_service_down{{{JOB}}}": "0x20",
    f"asm_bridge_registered_agents{{{JOB}}}": "10x20",
    f'asm_bridge_agents{{state="in_session", {JOB}}}': "10x20",
    f'asm_bridge_agents{{state="lost", {JOB}}}': "0x20",
    f'asm_bridge_polls_total{{result="ok", {JOB}}}': "0+600x20",
    f'asm_bridge_skipped_ticks_total{{reason="late", {JOB}}}': "0x20",
    f'asm_bridge_poll_lateness_seconds_bucket{{le="1.0", {JOB}}}': "0+600x20",
    f'asm_bridge_poll_lateness_seconds_bucket{{le="+Inf", {JOB}}}': "0+600x20",
    f"asm_bridge_inbox_oldest_seconds{{{JOB}}}": "5x20",
    f"asm_bridge_kafka_clock_ahead_seconds{{{JOB}}}": "0.4x20",
    f'asm_bridge_dead_letters_total{{code="refused", {JOB}}}': "7x20",
    f"asm_bridge_partitions_lost_total{{{JOB}}}": "2x20",
    f'asm_bridge_commits_total{{result="failed", {JOB}}}': "1x20",
    f"asm_bridge_registry_errors_total{{{JOB}}}": "1x20",
}


def rule_test(series: dict[str, str], tests: list[dict[str, Any]]) -> dict[str, Any]:
    given = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": given, "promql_expr_test": tests}


def test_alerts_go_off(tmp_path: Path) -> None:
    """Each alert fires on its condition, and none fires while all is well."""
    assert set(FIRES) == set(alerts())
    tests = [
        rule_test(series, [_count(f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) > bool 0', minute)])
        for name, (series, minute) in FIRES.items()
    ]
    quiet = {"expr": 'count(ALERTS{alertstate="firing"})', "eval_time": "18m", "exp_samples": []}
    tests.append(rule_test(HEALTHY, [quiet]))
    file = tmp_path / "tests.yml"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool(tmp_path, "test", "rules", file)


def _count(expression: str, minute: int) -> dict[str, Any]:
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": 1}]}


@asynccontextmanager
async def prometheus(target: str, directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A Prometheus that scrapes the target each second, with the alert rules; ready, and with four scrapes done."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "asm-bridge", "static_configs": [{"targets": [target.removeprefix("http://")]}]}
        ],
    }
    file, port = directory / "prometheus.yml", free_port()
    file.write_text(json.dumps(config))
    storage = directory / "data" if shutil.which("prometheus") else Path("/tmp/data")
    command = [
        *tool("prometheus", directory),
        f"--config.file={file}",
        f"--storage.tsdb.path={storage}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    with ends_with_us(process.pid):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            try:
                async with asyncio.timeout(DEADLINE):
                    while not await scraped(client):
                        assert process.returncode is None, "prometheus ended by itself"
                        await asyncio.sleep(0.2)
                yield client
            finally:
                process.terminate()
                await process.wait()


async def scraped(client: httpx.AsyncClient) -> bool:
    try:
        found = await query(client, "sum(count_over_time(up[1m])) >= 4")
    except (httpx.TransportError, AssertionError, ValueError):  # not up yet, or up and not ready
        return False
    return bool(found)


async def query(client: httpx.AsyncClient, expression: str) -> list[Any]:
    answer = (await client.get("/api/v1/query", params={"query": expression})).json()
    assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
    return list(answer["data"]["result"])


@pytest.mark.kafka
async def test_dashboard_and_rules_over_a_bridge(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """With a working bridge every panel of the dashboard shows data, every rule can be evaluated, and none fires."""
    tool("prometheus", tmp_path)
    async with running(broker, topics_prefix, tmp_path, 20) as (url, _), prometheus(url, tmp_path) as client:
        empty = [expr for expr in EXPRESSIONS if not await query(client, expr.replace("$__rate_interval", "30s"))]
        assert empty == []
        assert float((await query(client, 'sum(rate(asm_bridge_polls_total{result="ok"}[30s]))'))[0]["value"][1]) > 0
        groups = (await client.get("/api/v1/rules")).json()["data"]["groups"]
        rules = {rule["name"]: (rule["health"], rule["state"]) for group in groups for rule in group["rules"]}
        assert set(rules) == set(alerts())
        assert {health for health, _ in rules.values()} == {"ok"}
        assert [name for name, (_, state) in rules.items() if state == "firing"] == []
