"""Any valid answer, in whatever form a gateway prints it, is published with exactly its values."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import groupby, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvicorn
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, seed, settings

from asm_bridge_schemas.records import Status
from bridge.ops.http import listen
from bridge.testing.brokers import Broker
from tests.support.chaos.facts import Facts, Record, Told, read_topics
from tests.support.chaos.harness import Lab, opened, until
from tests.support.protobuf import SHAPES, messages, printed

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

ANSWERS = 600
AGENTS = 30
INTERVAL = 0.1
LISTS = {"agent_queue": "agent_queue_calls", "on_hold": "on_hold_calls", "hqm": "hqm_calls"}
ALERTS = ("backoffice_message", "directed_call_ringing", "directed_call_hangup")
STATUS_FIELDS = Status.__struct_fields__
CALL_FIELDS = (
    "phone_number",
    "caller_id",
    "call_type",
    "start_date",
    "hold_date",
    "skills",
    "agent_specific",
    "queued_notification_type",
)
ALERT_FIELDS = (
    "expire_duration",
    "timestamp",
    "target_agent_session",
    "message",
    "caller_sid",
    "caller_id",
    "destination_number",
)
COUNTS = ("status", "last_status_change", "calls_count", "last_sip_code", "message_timestamp", "expire_duration")
"""Published as numbers; other 64-bit fields are identifiers, published in digits."""
FIRST_MESSAGE = 2**60


def random_answers() -> list[Any]:
    """Valid answers, drawn by hypothesis, with the extremes of every type; each message and alert is new."""
    drawn: list[Any] = []

    @seed(7)
    @settings(
        max_examples=ANSWERS * 2,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(messages("GetStatusRes"))
    def draw(answer: Any) -> None:
        if len(drawn) < ANSWERS and _identifies_calls(answer.voice_status):
            drawn.append(_made_new(answer, len(drawn)))

    draw()
    return drawn


def _identifies_calls(voice: Any) -> bool:
    """Whether no list has two calls with the same sid, which a service does not send."""
    sids = [[call.call_sid for call in getattr(voice.queued_calls, name)] for name in LISTS.values()]
    return all(len(found) == len(set(found)) for found in sids)


def _made_new(answer: Any, number: int) -> Any:
    voice = answer.voice_status
    if answer.HasField("voice_status") and voice.message:
        voice.message_timestamp = FIRST_MESSAGE + number
    if kind := voice.HasField("alert") and voice.alert.WhichOneof("alert"):
        getattr(voice.alert, kind).id += f"#{number}"
    return answer


class Gateway:
    """Gives each agent its answers, one per request, then repeats the last one."""

    def __init__(self, answers: dict[str, list[bytes]]) -> None:
        self._answers = {agent_id: iter(given) for agent_id, given in answers.items()}
        self._last: dict[str, bytes] = {}
        self.exhausted: set[str] = set()

    def answer(self, agent_id: str, call: str) -> bytes:
        if call == "getcurrentsession":
            return b'{"asmSessionSid": "1"}'
        following = next(self._answers[agent_id], None)
        if following is None:
            self.exhausted.add(agent_id)
            return self._last[agent_id]
        self._last[agent_id] = following
        return following

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            """The request says nothing that is looked at."""
        agent_id = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        body = self.answer(agent_id, scope["path"].rpartition("/")[2])
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the test run."""
        yield


@contextlib.asynccontextmanager
async def serving(gateway: Gateway) -> AsyncIterator[str]:
    listener = listen("127.0.0.1", 0)
    server = Server(uvicorn.Config(gateway.app, interface="asgi3", log_config=None, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def test_600_random_answers_in_every_shape(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """600 random valid answers in all shapes are published with exactly their values, none lost, none a dead letter."""
    rng, answers = Random(7), random_answers()
    assert len(answers) == ANSWERS
    shown = {f"agent-{n}": answers[n::AGENTS] for n in range(AGENTS)}
    bodies = {who: [json.dumps(printed(a, rng.choice(SHAPES))).encode() for a in given] for who, given in shown.items()}
    gateway = Gateway(bodies)
    async with serving(gateway) as base_url:
        facts = await _watched(Lab(broker.bootstrap_servers, topics_prefix, tmp_path, base_url), gateway)
    assert facts.dead_letters == []
    assert len(facts.streams) == AGENTS
    for stream in facts.streams.values():
        agent_id = stream[0].record["agent_id"]
        assert_published(stream, shown[agent_id])


async def _watched(the_lab: Lab, gateway: Gateway) -> Facts:
    """Runs a bridge until it has read all the answers, and stops it cleanly. Returns what it published."""
    (the_lab.directory / "secrets").mkdir()
    names = [f"agent-{n}" for n in range(AGENTS)]
    (the_lab.directory / "secrets" / "sim-tokens.json").write_text(json.dumps({name: name for name in names}))

    async def all_shown() -> bool:
        return len(gateway.exhausted) == AGENTS

    async with opened(the_lab):
        await the_lab.bridge()
        await asyncio.gather(*(the_lab.register(name, interval=INTERVAL) for name in names))
        await until(all_shown, "all answers are shown")
        assert await the_lab.bridges["bridge"].stop() == 0
        return Facts(await read_topics(the_lab.bootstrap_servers, the_lab.prefix))


def assert_published(stream: list[Told], answers: Iterable[Any]) -> None:
    """The records, applied step by step, give each of the states that were shown, in order."""
    pictures = [_picture(answer.voice_status) for answer in answers]
    for before, picture in pairwise(pictures):
        picture["message"] = picture["message"] or before["message"]  # one that was told stays told
    changes = [picture for n, picture in enumerate(pictures) if n == 0 or picture != pictures[n - 1]]
    steps = list(_applied(told.record for told in stream))
    for number, (published, shown) in enumerate(zip(steps, changes, strict=False)):
        assert published == shown, f"picture {number} of {stream[0].record['agent_id']}"
    assert len(steps) == len(changes)
    assert "AgentObservationLost" not in [told.record["type"] for told in stream]


def _applied(records: Iterable[Record]) -> Iterator[Record]:
    """The state of a consumer after each step: the records of one observation."""
    view: Record = {"status": None, "calls": {}, "alert": None, "message": None}
    for _, step in groupby(records, key=lambda record: record["observed_at"]):
        for record in step:
            _apply(view, record)
        if view["status"] is not None:
            yield {**view, "calls": dict(view["calls"])}


def _apply(view: Record, record: Record) -> None:
    match record["type"]:
        case "AgentStatusChanged":
            view["status"] = {name: record[name] for name in STATUS_FIELDS}
        case "QueuedCallChanged" if record["change"] == "left":
            del view["calls"][record["list"], record["call_sid"]]
        case "QueuedCallChanged":
            assert (record["start_date_raw"], record["hold_date_raw"]) == (None, None)
            view["calls"][record["list"], record["call_sid"]] = {name: record[name] for name in CALL_FIELDS}
        case "AgentAlertRaised":
            assert record["timestamp_raw"] is None
            view["alert"] = {name: record[name] for name in ("kind", "alert_id", *ALERT_FIELDS)}
        case "AgentAlertCleared":
            view["alert"] = None
        case "AgentMessageReceived":
            view["message"] = record["message"], record["message_timestamp"]


def _picture(voice: Any) -> Record:
    """The expected records of an answer, by Google's protobuf."""
    value = _plain(voice)
    calls = {
        (name, call["call_sid"]): {field: call[field] for field in CALL_FIELDS}
        for name, of_list in LISTS.items()
        for call in (value["queued_calls"] or {}).get(of_list, ())
    }
    kind = voice.alert.WhichOneof("alert")
    alert = {**dict.fromkeys(ALERT_FIELDS), **value["alert"][kind]} if kind else None
    return {
        "status": {name: value[name] for name in STATUS_FIELDS},
        "calls": calls,
        "alert": alert and {"kind": kind, "alert_id": alert.pop("id"), **alert},
        "message": (value["message"], value["message_timestamp"]) if value["message"] else None,
    }


def _plain(message: Message) -> Record:
    """A message in the terms of the records, by its descriptor."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Message, field: Any) -> Any:
    if field.is_repeated:
        return [_value(item, field) for item in getattr(message, field.name)]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(getattr(message, field.name), field)


def _value(value: Any, field: Any) -> Any:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else str(value)
    if field.message_type is not None:
        return value.ToJsonString() if field.message_type.name == "Timestamp" else _plain(value)
    is_sid = field.cpp_type == field.CPPTYPE_INT64 and field.name not in COUNTS
    return str(value) if is_sid else value
