"""The log is for people, so repeated lines are rare."""

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiokafka.errors import ProducerFenced

import bridge
from asm_bridge_schemas.protojson import ProtoJSONError
from bridge.telemetry.logs import CONVENTIONS, RepeatFilter, _demote, _LibraryRepeatFilter, setup_logging
from bridge.telemetry.metrics import METRICS
from bridge.telemetry.unreadable import UnreadableFields

ROOT = Path(bridge.__file__).parent


def record(name: str, line: int, created: float, level: int = logging.ERROR) -> logging.LogRecord:
    made = logging.LogRecord(name, level, "client.py", line, "Unable connect to node", None, None)
    made.created = created
    return made


def test_what_aiokafka_repeats_is_logged_once_in_half_a_minute() -> None:
    """A line that aiokafka repeats in an outage is logged once in half a minute."""
    seldom = _LibraryRepeatFilter()
    kept = [seldom(record("aiokafka", 7, 1000.0 + second / 10)) for second in range(600)]
    assert sum(kept) == 2
    assert seldom(record("aiokafka", 8, 1001.0))


def test_nothing_of_the_bridge_itself_is_left_out() -> None:
    """Only repeated warnings and errors of aiokafka are left out of the log."""
    seldom = _LibraryRepeatFilter()
    assert all(seldom(record("bridge.partitions.owner", 7, 1000.0)) for _ in range(3))
    assert all(seldom(record("aiokafka", 7, 1000.0, logging.DEBUG)) for _ in range(3))


def test_a_failure_is_told_again_only_when_it_is_news() -> None:
    """A repeated error is logged once; another error, or the same one after a quiet minute, is logged again."""
    news = RepeatFilter()
    assert [news.is_new(OSError("down"), now) for now in range(100, 400)] == [True] + [False] * 299
    assert news.is_new(OSError("refused"), 400)
    assert not news.is_new(OSError("refused"), 401)
    assert news.is_new(OSError("refused"), 500)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """``said(format)`` sets up the log; ``said()`` returns what was written since."""
    root = logging.getLogger()
    handlers, level, configured = root.handlers, root.level, structlog.get_config()

    def use(format: str | None = None) -> str:  # noqa: A002 - the setting's name
        if format is not None:
            setup_logging(format)
        return capsys.readouterr().err

    yield use
    root.handlers = handlers
    root.setLevel(level)
    structlog.configure(**configured)


def test_programs_find_opentelemetrys_names(said: Any) -> None:
    """JSON lines name partition, topic, group, offset and error by OpenTelemetry's conventions; other fields keep their
    names.
    """
    said("json")
    log = structlog.get_logger()
    log.warning("x.failed", partition=3, topic="asm.inject", group="g", offset=7, agent_id="a", error=TimeoutError())
    line = json.loads(said())
    expected = {
        "event": "x.failed",
        "level": "warning",
        "messaging.destination.partition.id": "3",
        "messaging.destination.name": "asm.inject",
        "messaging.consumer.group.name": "g",
        "messaging.kafka.offset": 7,
        "agent_id": "a",
        "error.type": "TimeoutError",
        "error.message": "TimeoutError",
    }
    assert {key: line.get(key) for key in expected} == expected
    assert not line.keys() & CONVENTIONS.keys()


def test_a_traceback_has_its_conventional_name(said: Any) -> None:
    """A JSON line for an internal error has its traceback under exception.stacktrace."""
    said("json")
    try:
        raise ValueError("odd")
    except ValueError as error:
        structlog.get_logger().exception("poll.failed", error=error)
    line = json.loads(said())
    assert (line["error.type"], line["error.message"]) == ("ValueError", "odd")
    assert "Traceback" in line["exception.stacktrace"]


def test_people_read_short_names(said: Any) -> None:
    """A line for a terminal has short names, such as partition=3, and the error's text."""
    said("console")
    structlog.get_logger().warning("partition.lost", partition=3, error=OSError("no route"))
    text = said()
    assert "partition=3" in text
    assert "error='no route'" in text
    assert "messaging" not in text
    assert "OSError" not in text


def events() -> dict[str, str]:
    """Every event that the bridge logs, with its level, as found in its source."""
    levels = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
    found: dict[str, str] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (level := _level(node.func, levels)):
                found[str(ast.literal_eval(node.args[0]))] = level
    return found


def _level(called: ast.expr, levels: dict[str, str]) -> str | None:
    """The level of ``log.info``, or the first one of ``(log.warning if ... else log.info)``."""
    if isinstance(called, ast.IfExp):
        return _level(called.body, levels)
    if isinstance(called, ast.Attribute) and ast.unparse(called.value) == "log":
        return levels.get(called.attr)
    return None


def test_every_event_is_in_the_operators_list() -> None:
    """docs/operations.md lists exactly the log events in the code, with their levels, and all are named
    noun.what_happened.
    """
    table = (ROOT.parent / "docs" / "operations.md").read_text().partition("## Log")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \| (\w+) \|", table, re.MULTILINE)
    documented = {event: level for names, level in rows for event in re.findall(r"`([^`]+)`", names)}
    assert documented == events()
    assert all(re.fullmatch(r"[a-z_]+\.[a-z_]+", event) for event in documented)


def test_what_a_fenced_producer_leaves_behind_is_no_error() -> None:
    """A fenced producer logs one line for the partition's loss; asyncio's lines about aiokafka's forgotten futures are
    dropped.
    """
    left = record("asyncio", 7, 1000.0)
    left.exc_info = (ProducerFenced, ProducerFenced(), None)
    ours = record("asyncio", 7, 1000.0)
    ours.exc_info = (ValueError, ValueError("x"), None)
    assert not _demote(left)
    assert _demote(ours)


def test_a_field_that_cannot_be_read_is_counted_and_logged_once(said: Any) -> None:
    """Each unreadable field of an answer is logged once, however many calls have it, and has a counter of its own."""
    said("console")
    count = METRICS.unreadable_fields.labels("voice_status.queued_calls.hqm_calls.call_sid")
    before, observer = count._value.get(), UnreadableFields()
    for position in range(3):
        observer(ProtoJSONError("expected an integer", f"voice_status.queued_calls.hqm_calls[{position}].call_sid"))
    observer(ProtoJSONError("expected an integer", "voice_status.status"))
    lines = [line for line in said().splitlines() if "asm.field_unreadable" in line]
    assert ["hqm_calls[0].call_sid: expected an integer" in lines[0], "voice_status.status" in lines[1]] == [True, True]
    assert len(lines) == 2
    assert count._value.get() == before + 3
