"""The ops endpoint of ``run --workers``: alive if all workers are, ready if all are, with the metrics of all. It passes
every request on to the workers' own endpoints.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.ops.access import Guard
from bridge.ops.http import verdict
from bridge.settings import OpsSettings

STARTING = "starting"
"""The text about a worker that has not yet answered since its start."""
Answers = Mapping[int, tuple[int, str]]
"""The status and the text of each worker's own endpoint; 0 and the reason if it does not answer."""


def application(
    get_all: Callable[[str], Awaitable[Answers]], restarts: Callable[[], Sequence[int]], ops: OpsSettings
) -> Starlette:
    """``get_all(path)``: the answers of all workers; ``restarts()``: how often each of them was restarted."""

    def respond(reasons: Mapping[int, str], good: str) -> Response:
        return verdict("\n".join(f"worker {number}: {reason}" for number, reason in reasons.items()), good)

    async def healthz(request: Request) -> Response:
        return respond(not_alive(await get_all("healthz")), "ok")

    async def readyz(request: Request) -> Response:
        return respond(not_ready(await get_all("readyz")), "ready")

    async def metrics(request: Request) -> Response:
        return Response(metrics_of(await get_all("metrics"), restarts()), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    return Starlette(routes=routes, middleware=[Middleware(Guard, ops=ops)])


def not_ready(answers: Answers) -> dict[int, str]:
    """Which workers are not ready, and why."""
    return {number: text for number, (status, text) in answers.items() if status != 200}


def not_alive(answers: Answers) -> dict[int, str]:
    """Which workers are not alive, and why. A worker that has just been started may need some time to answer."""
    return {number: text for number, text in not_ready(answers).items() if text != STARTING}


def metrics_of(answers: Answers, restarts: Sequence[int]) -> bytes:
    texts = {number: text for number, (status, text) in answers.items() if status == 200}
    alive = GaugeMetricFamily("asm_bridge_workers_alive", "Worker processes that run and answer", len(texts))
    restarted = CounterMetricFamily("asm_bridge_worker_restarts", "Times a worker was restarted", labels=["worker"])
    for number, times in enumerate(restarts):
        restarted.add_metric([str(number)], times)
    return generate_latest(_Families([*merged(texts), alive, restarted]))


def merged(texts: Mapping[int, str]) -> list[Metric]:
    """The metrics of all workers, one family for each name, each sample with the label ``worker``."""
    families: dict[str, Metric] = {}
    for number, text in texts.items():
        for family in text_string_to_metric_families(text):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            whole.samples += [
                sample._replace(labels={**sample.labels, "worker": str(number)}) for sample in family.samples
            ]
    return list(families.values())


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
