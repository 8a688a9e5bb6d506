"""Traces: an injection is followed from its sender to its outcome, and costs nothing while tracing is off."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from structlog.testing import capture_logs

from asm_bridge_schemas.asm import GetStatusRes
from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.records import AgentState
from bridge.agents.agent import Agent
from bridge.agents.injection import Injection, read_injection
from bridge.agents.request import PollRequest
from bridge.agents.step import Step
from bridge.agents.traceparent import read_trace
from bridge.asm.answer import Answer, read_response
from bridge.asm.errors import Unavailable
from bridge.asm.http.response import Response
from bridge.backoff import Backoff
from bridge.clock import Instant
from bridge.kafka.encoding import Encoder
from bridge.settings.model import InjectionSettings
from bridge.telemetry import tracing
from tests.support.strategies import EPOCH, Message, status_body

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01".encode()
EVENT = b'{"pause_event": {}}'
AT = Instant(1000.0, EPOCH)
ANSWER = read_response(GetStatusRes, Response(200, status_body()))
assert isinstance(ANSWER, Answer)


def message(offset: int = 7, *, headers: tuple[tuple[str, bytes], ...] = (("traceparent", PARENT),)) -> Message:
    return Message(offset, key=b"a", value=EVENT, timestamp=int(EPOCH * 1000), headers=headers)


def agent() -> Agent:
    made = Agent(AgentState(agent_id="a"), InjectionSettings(max_attempts=1), Backoff(), AT)
    made.watch(SessionEntry(asm_session_sid="42"), 1.0, AT)
    return made


def taken_in(asked: Agent, *entries: Injection) -> PollRequest:
    """The request that carries these entries."""
    for one in entries:
        tracing.received(one)
        asked.take(one, AT)
    return asked.next_request("t", AT)


def told(step: Step | None) -> list[tuple[str, dict[str, bytes]]]:
    """Topic and headers of the records that a step emits."""
    assert step is not None
    encoder = Encoder("json", "asm.inject")
    sent = [encoder.record(record, step.traces.get(index)) for index, record in enumerate(step.records)]
    return [(one.topic, dict(one.headers)) for one in sent]


# -- where tracing is off


def test_a_senders_trace_reaches_the_outcome_without_opentelemetry() -> None:
    """traceparent and tracestate of an entry are headers of its outcome and its delivered event, and of no other
    record.
    """
    headers = (("traceparent", PARENT), ("tracestate", b"x=1"))
    asked = agent()
    request = taken_in(asked, read_injection(message(headers=headers), 300, False))
    found = dict(told(asked.answered(request, ANSWER, AT)))
    for topic in ("conversations", "inject-outcomes"):
        assert (found[topic]["traceparent"], found[topic]["tracestate"]) == (PARENT, b"x=1")
    assert "traceparent" not in found["agent-status"]


@pytest.mark.parametrize("wrong", [b"", b"00-1-2-01", PARENT.upper(), PARENT + b"\n", b"\xff" * 55])
def test_what_is_no_traceparent_is_not_passed_on(wrong: bytes) -> None:
    """A header that W3C Trace Context does not allow is dropped, and so is a tracestate without a traceparent."""
    assert read_trace((("traceparent", wrong), ("tracestate", b"x=1"))) is None


def test_a_tracestate_too_long_is_left_out() -> None:
    """A tracestate of more than 512 bytes is dropped, as W3C allows."""
    trace = read_trace((("traceparent", PARENT), ("tracestate", b"x" * 513)))
    assert trace is not None
    assert dict(trace.headers) == {"traceparent": PARENT}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, ["otlp"]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp"]),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_the_environment_decides(environ: dict[str, str], expected: list[str]) -> None:
    """OpenTelemetry's own variables turn tracing on; without them it is off."""
    assert tracing.requested_exporters(environ) == expected


def test_nothing_of_opentelemetry_is_imported_unless_wanted() -> None:
    """A bridge without tracing does not load OpenTelemetry, even if it is installed."""
    script = (
        "import bridge.app, sys; from bridge.telemetry import tracing\n"
        "with tracing.traces('g'): pass\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={})
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("exporter", "missing", "says"),
    [("otlp", True, "asm-kafka-bridge[otel]"), ("zipkin", False, "'zipkin' is none of otlp")],
)
def test_traces_that_cannot_be_made_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, exporter: str, missing: bool, says: str
) -> None:
    """A missing extra or an unknown exporter is a warning with what to do, and does not stop the bridge."""
    if missing:
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    else:
        pytest.importorskip("opentelemetry.sdk")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", exporter)
    with capture_logs() as said, tracing.traces("g"):
        assert tracing._on is None
    assert [line["event"] for line in said] == ["tracing.unavailable"]
    assert says in str(said[0])


# -- where it is on


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``spans()`` returns the spans that have ended, in that order."""
    pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing._switch(provider.get_tracer("test"), "asm-bridge")
    yield exporter.get_finished_spans
    tracing._switch(None)


def test_an_injection_is_one_trace_from_its_sender_to_its_outcome(spans: Any) -> None:
    """inject continues the sender's trace, poll is its child, and the outcome's traceparent names inject."""
    asked = agent()
    request = taken_in(asked, read_injection(message(), 300, False))
    step = asked.answered(request, ANSWER, AT)
    tracing.polled(request, step, 200)
    assert step is not None
    with tracing.commit([step], 3, 9):
        assert [span.name for span in spans()] == ["poll"]
    poll, commit, inject = spans()
    assert (inject.name, f"{inject.context.trace_id:032x}", f"{inject.parent.span_id:016x}") == (
        "inject", TRACE_ID, SPAN_ID,
    )  # fmt: skip
    assert poll.parent.span_id == inject.context.span_id
    assert {link.context.span_id for link in commit.links} == {poll.context.span_id, inject.context.span_id}
    for topic, headers in told(step):
        expected = f"00-{TRACE_ID}-{inject.context.span_id:016x}-01".encode()
        assert headers.get("traceparent") == (expected if topic in ("conversations", "inject-outcomes") else None)


def test_attributes_have_the_conventions_names(spans: Any) -> None:
    """Attributes follow OpenTelemetry's messaging and HTTP conventions for partition, offset, group and status."""
    asked = agent()
    request = taken_in(asked, read_injection(message(), 300, False))
    step = asked.answered(request, ANSWER, AT)
    tracing.polled(request, step, 200)
    assert step is not None
    with tracing.commit([step], 3, 9):
        pass
    poll, commit, inject = (dict(span.attributes) for span in spans())
    group = {"messaging.system": "kafka", "messaging.consumer.group.name": "asm-bridge"}
    assert inject.items() >= group.items()
    assert inject["messaging.destination.name"] == "asm.inject"
    assert (inject["messaging.destination.partition.id"], inject["messaging.kafka.offset"]) == ("3", 7)
    assert (inject["asm.outcome"], inject["http.response.status_code"]) == ("delivered", 200)
    assert (poll["http.response.status_code"], poll["asm.call"], poll["asm.events"]) == (200, "getstatus", 1)
    assert commit.items() >= group.items()
    assert (commit["messaging.destination.partition.id"], commit["messaging.batch.message_count"]) == ("3", 9)


def test_a_poll_that_tells_nothing_makes_no_span(spans: Any) -> None:
    """An unchanged poll makes no span; the first one, which emitted the status, does."""
    asked = agent()
    for _ in range(3):
        request = asked.next_request("t", AT)
        tracing.polled(request, asked.answered(request, ANSWER, AT), 200)
    assert [span.name for span in spans()] == ["poll"]


def test_a_failure_is_an_error_in_its_span(spans: Any) -> None:
    """A refused request, an event given up and a failed commit set error.type."""
    asked = agent()
    request = taken_in(asked, read_injection(message(), 300, False))
    step = asked.failed(request, Unavailable("HTTP 500", http_status=500), AT)
    tracing.polled(request, step, 500, "unavailable")
    assert step is not None
    with tracing.commit([step], 0, 1):
        pass
    with pytest.raises(TimeoutError), tracing.commit([], 0, 1):
        raise TimeoutError
    assert [(span.name, span.attributes.get("error.type")) for span in spans()] == [
        ("poll", "unavailable"), ("commit", None), ("inject", "attempts_exhausted"), ("commit", "TimeoutError"),
    ]  # fmt: skip
    assert [span.status.is_ok for span in spans()] == [False, True, False, False]


def test_events_sent_together_are_all_linked(spans: Any) -> None:
    """The span of a request with three senders' events is a child of the first one's and linked to the others'."""
    asked = agent()
    request = taken_in(asked, *(read_injection(message(n, headers=()), 300, False) for n in range(3)))
    step = asked.answered(request, ANSWER, AT)
    tracing.polled(request, step, 200)
    assert step is not None
    with tracing.commit([step], 0, 1):
        pass
    poll, _, *injects = spans()
    assert [poll.parent.span_id, *(link.context.span_id for link in poll.links)] == [
        inject.context.span_id for inject in injects
    ]


def test_what_is_traced_reaches_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an endpoint in the environment spans are exported as OTLP over HTTP, the last ones when the bridge ends."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the OTLP exporter is not installed")
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        with tracing.traces("the-group"), tracing.commit([], 0, 1):
            pass
    finally:
        server.shutdown()
        server.server_close()
    (path, body), *more = got
    assert (path, more) == ("/v1/traces", [])
    assert b"the-group" in body
    assert b"asm-kafka-bridge" in body
