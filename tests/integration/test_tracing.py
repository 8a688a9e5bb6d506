"""An injection's trace, from its sender through a bridge and Kafka to the consumer of the outcome."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from bridge.testing.brokers import Broker
from tests.support.chaos.facts import read_topics
from tests.support.chaos.harness import Lab, lab

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """A stand-in for OpenTelemetry's collector: its address, and the bodies that it received."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        server.server_close()


async def inject(the_lab: Lab) -> dict[str, str]:
    """Sends one event with a traceparent. Returns the traceparents of the published records by topic."""
    await the_lab.bridge()
    agent_id, *_ = await the_lab.register_all(interval=0.2)
    await the_lab.inject(agent_id, "9007199254740993", headers=[("traceparent", PARENT.encode())])
    await the_lab.completed()
    assert await the_lab.bridges["bridge"].stop() == 0
    messages = await read_topics(the_lab.bootstrap_servers, the_lab.prefix)
    return {m.topic: value.decode() for m in messages for name, value in m.headers if name == "traceparent"}


async def test_a_senders_trace_is_carried_on_without_traces(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """With tracing off, the outcome and the delivered event have the sender's own traceparent."""
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, "--sessions", "1") as the_lab:
        found = await inject(the_lab)
    assert found == {"conversations": PARENT, "inject-outcomes": PARENT}


async def test_an_injection_is_one_trace(
    broker: Broker, topics_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an endpoint in its environment the bridge exports inject and poll in the sender's trace before it ends."""
    proto = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra otel is not installed"
    )
    with collector() as (address, bodies):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, "--sessions", "1") as the_lab:
            found = await inject(the_lab)
    spans = [span for body in bodies for span in _spans(proto.ExportTraceServiceRequest.FromString(body))]
    by_name = {span.name: span for span in spans if span.trace_id.hex() == TRACE_ID}
    assert set(by_name) == {"inject", "poll"}
    assert by_name["inject"].parent_span_id.hex() == SPAN_ID
    assert by_name["poll"].parent_span_id == by_name["inject"].span_id
    assert any(span.name == "commit" for span in spans)
    ours = f"00-{TRACE_ID}-{by_name['inject'].span_id.hex()}-01"
    assert found == {"conversations": ours, "inject-outcomes": ours}


def _spans(request: Any) -> Iterator[Any]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            yield from scope.spans
