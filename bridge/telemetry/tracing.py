"""OpenTelemetry traces (extra ``otel``), if the environment asks for them; otherwise OpenTelemetry is not imported.

Spans: ``inject``, from an entry's arrival to its outcome, in its sender's trace; ``poll``, for requests that carry
events or report something, below the ``inject`` of the first event that it carries; ``commit``, linked to the polls and
injections whose records it writes. Attributes are named as in OpenTelemetry's semantic conventions for messaging
(Kafka) and HTTP; our own begin with ``asm.``.

A sender's ``traceparent`` reaches the outcome also where tracing is off.
"""

import contextlib
import functools
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

import structlog

from asm_bridge_schemas.records import InjectionCompleted
from bridge.agents.traceparent import Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanContext, Tracer

    from bridge.agents.injection import Injection
    from bridge.agents.request import PollRequest
    from bridge.agents.step import Step

log = structlog.get_logger()

P = ParamSpec("P")
INSTALL = "pip install 'asm-kafka-bridge[otel]'"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FLUSH_WITHIN = 5.0


@dataclass(frozen=True, slots=True)
class _On:
    tracer: "Tracer"
    group_id: str


_on: _On | None = None


# -- on and off


def requested_exporters(environ: Mapping[str, str]) -> list[str]:
    """The exporters that OpenTelemetry's own environment variables ask for; empty: no traces."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    if exporters := environ.get("OTEL_TRACES_EXPORTER", ""):
        return [name for name in re.split(r"[,\s]+", exporters) if name not in ("", "none")]
    return ["otlp"] if any(environ.get(name) for name in _ENDPOINTS) else []


@contextlib.contextmanager
def traces(group_id: str) -> Iterator[None]:
    """Traces within the block, if the environment asks for it. On exit, exports the remaining spans for at most 5 s."""
    exporters = requested_exporters(os.environ)
    stop = _start(exporters, group_id) if exporters else None
    try:
        yield
    finally:
        if stop is not None:
            _switch(None)
            last = threading.Thread(target=stop, daemon=True)
            last.start()
            last.join(_FLUSH_WITHIN)


def _start(exporters: list[str], group_id: str) -> Callable[[], None] | None:
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = Resource.create({"service.name": "asm-kafka-bridge"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=named, shutdown_on_exit=False)
        for name in exporters:
            provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    except ImportError:
        log.warning("tracing.unavailable", note=f"the environment asks for traces: {INSTALL}")
        return None
    except ValueError as error:
        log.warning("tracing.unavailable", error=error)
        return None
    _switch(provider.get_tracer("asm-kafka-bridge"), group_id)
    log.info("tracing.started", exporters=exporters)
    return provider.shutdown


def _exporter(name: str) -> "SpanExporter":
    if name == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    raise ValueError(f"OTEL_TRACES_EXPORTER: {name!r} is none of otlp (over HTTP), console, none")


def _switch(tracer: "Tracer | None", group_id: str = "") -> None:
    global _on  # noqa: PLW0603 - tracing is the process's, as its metrics and its log are
    _on = None if tracer is None else _On(tracer, group_id)


# -- spans


def _never_raises(record: Callable[P, None]) -> Callable[P, None]:
    """Does nothing when tracing is off; when it is on, a fault in it costs a span, never a record."""

    @functools.wraps(record)
    def recorded(*args: P.args, **kwargs: P.kwargs) -> None:
        if _on is not None:
            try:
                record(*args, **kwargs)
            except Exception as error:
                log.exception("span.lost", error=error)

    return recorded


@_never_raises
def received(injection: "Injection") -> None:
    """An injection was read: starts its ``inject`` span, to which its outcome refers."""
    assert _on is not None
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    w3c = TraceContextTextMapPropagator()
    headers = injection.trace.headers if injection.trace else ()
    carrier = {name: value.decode(errors="replace") for name, value in headers}
    topic, partition, offset = injection.origin
    span = _on.tracer.start_span(
        "inject",
        w3c.extract(carrier),
        SpanKind.CONSUMER,
        {
            **_kafka("inject", "process", str(partition)),
            "messaging.destination.name": topic,
            "messaging.kafka.offset": offset,
            "messaging.kafka.message.key": injection.agent_id,
            "messaging.message.id": injection.injection_id,
        },
        start_time=int(min(injection.received_at, time.time()) * 1e9),
    )
    carrier = {}
    w3c.inject(carrier, set_span_in_context(span))
    injection.trace = Trace(tuple((name, value.encode()) for name, value in carrier.items()), span)


@_never_raises
def polled(request: "PollRequest", step: "Step | None", status: int | None, error: str | None = None) -> None:
    """A request was answered, or failed with ``error``.

    One that carries no event and reports nothing makes no span: of thousands of polls a second, most are such.
    """
    if step is None and not request.injections:
        return
    assert _on is not None
    from opentelemetry.trace import Link, SpanKind, set_span_in_context

    now = time.time_ns()
    carried = _spans(injection.trace for injection in request.injections)
    span = _on.tracer.start_span(
        "poll",
        set_span_in_context(carried[0]) if carried else None,
        SpanKind.CLIENT,
        {"http.request.method": "POST", "asm.call": request.call, "asm.events": len(request.injections)},
        [Link(one.get_span_context()) for one in carried[1:]],
        start_time=now - int((time.monotonic() - request.sent_at) * 1e9),
    )
    if step is not None:
        span.set_attributes({"asm.agent_id": step.state.agent_id, "asm.records": len(step.records)})
        step.span = span.get_span_context()
    if status is not None:
        span.set_attribute("http.response.status_code", status)
    _fail(span, error)
    span.end(now)


@contextlib.contextmanager
def commit(steps: Sequence["Step"], partition: int, messages: int) -> Iterator[None]:
    """The span of a transaction that writes ``messages``, those of ``steps`` among them; it ends the ``inject`` spans
    of completed injections.
    """
    if _on is None or not messages:
        yield
        return
    from opentelemetry.trace import Link, SpanKind

    done = [(step.records[index], trace) for step in steps for index, trace in step.traces.items()]
    contexts: list[SpanContext] = [step.span for step in steps if step.span is not None]
    contexts += [span.get_span_context() for span in dict.fromkeys(_spans(trace for _, trace in done))]
    attributes = {**_kafka("commit", "send", str(partition)), "messaging.batch.message_count": messages}
    span = _on.tracer.start_span("commit", None, SpanKind.PRODUCER, attributes, [Link(one) for one in contexts])
    error: str | None = None
    try:
        yield
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        _fail(span, error)
        span.end()
        for record, trace in done:
            if isinstance(record, InjectionCompleted) and trace.span is not None:
                _complete(trace.span, record, error)


def _complete(span: "Span", outcome: InjectionCompleted, error: str | None) -> None:
    span.set_attributes({"asm.outcome": outcome.outcome, "asm.attempts": outcome.attempts})
    if outcome.http_status is not None:
        span.set_attribute("http.response.status_code", outcome.http_status)
    failed = outcome.outcome not in ("delivered", "duplicate")
    _fail(span, error or (outcome.reason or outcome.outcome if failed else None))
    span.end()


def _fail(span: "Span", error: str | None) -> None:
    if error is not None:
        from opentelemetry.trace import StatusCode

        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR)


def _spans(found: Iterable[Trace | None]) -> "list[Span]":
    return [trace.span for trace in found if trace is not None and trace.span is not None]


def _kafka(operation: str, kind: str, partition: str) -> dict[str, Any]:
    assert _on is not None
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.consumer.group.name": _on.group_id,
        "messaging.destination.partition.id": partition,
    }
