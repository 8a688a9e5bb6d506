"""The analytics example in parts: what its report makes of a status's times, and what is appended to its files."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from math import ceil, sqrt
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition

from tests.support import examples, truth
from tests.support.patience import patient

pytestmark = examples.opt_in

MIDNIGHT = datetime(2026, 11, 28, tzinfo=UTC).timestamp()
STATES = [("available", 9.5, 10.0), ("talking", 12.9, 13.0), ("wrap_up", 15.0, 16.0), ("break", 18.9, 19.0)]
"""Each status with when it began and when it was seen, in seconds after midnight."""
TO_PARQUET = """
import json, sys
from pathlib import Path
import to_parquet
to_parquet.PATIENCE = float(sys.argv[2])
print(json.dumps(to_parquet.append(Path(sys.argv[1]))))
"""


def record(kind: str, sequence: int, seen: float, agent_id: str = "agent-7", **fields: Any) -> dict[str, Any]:
    names = {"type": kind, "agent_id": agent_id, "stream_id": f"stream of {agent_id}", "asm_session_sid": None}
    return {
        **names,
        "reason": "registered",
        "sequence": sequence,
        "topic_sequence": sequence,
        "observed_at": text(seen),
        **fields,
    }


def text(seconds: float) -> str:
    """A time in seconds after midnight."""
    return datetime.fromtimestamp(MIDNIGHT + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def statuses(changed: Callable[[float], int]) -> list[dict[str, Any]]:
    """An agent's records; ``changed``: the ``last_status_change`` of a status that began then."""
    seen = [(state, changed(began), at) for state, began, at in STATES]
    return [
        record("AgentWatchStarted", 1, 0),
        *(
            record("AgentStatusChanged", number, at, status_group=state, last_status_change=change)
            for number, (state, change, at) in enumerate(seen, 2)
        ),
    ]


def times_in_state(data: Path, status: list[dict[str, Any]], until: float) -> dict[tuple[str, str], float]:
    """(agent_id, state) -> seconds, as the report has them of these records, which are complete up to that time."""
    heartbeat = {"partition": 0, "observed_until": text(until)}
    examples.write_parquet(data, {"heartbeats": [heartbeat], "agent-status": status, "queued-calls": []})
    (rows,) = examples.query_report(data, "FROM time_in_state")
    return {(row["agent_id"], row["state"]): row["seconds"] for row in rows}


def time_in_state(data: Path, status: list[dict[str, Any]]) -> dict[str, float]:
    """state -> seconds, of one agent up to 50 s after midnight."""
    return {state: round(seconds, 3) for (_, state), seconds in times_in_state(data, status, 50).items()}


@pytest.mark.parametrize("ahead", [0, 7200, -7200])
def test_a_status_begins_when_the_service_says(ahead: int, tmp_path: Path) -> None:
    """Time in state is that between the changes, not between the polls that showed them, however wrong the vendor's
    clock is.
    """
    found = time_in_state(tmp_path, statuses(lambda began: round(1000 * (MIDNIGHT + ahead + began))))
    assert {state: found[state] for state in ("available", "talking", "wrap_up")} == {
        "available": 3.4,
        "talking": 2.1,
        "wrap_up": 3.9,
    }


@pytest.mark.parametrize(
    "changed",
    [
        lambda _: 0,
        lambda began: round(MIDNIGHT + began),
        lambda began: round(1e6 * (MIDNIGHT + began)),
        lambda _: round(1000 * MIDNIGHT),
    ],
    ids=["zero", "seconds", "microseconds", "unchanged"],
)
def test_a_status_begins_when_it_was_seen_if_the_service_does_not_say(
    changed: Callable[[float], int], tmp_path: Path
) -> None:
    """A last_status_change that is not a time in milliseconds, or not that of the change, moves no status."""
    found = time_in_state(tmp_path, statuses(changed))
    assert found == {"logged out": 10.0, "available": 3.0, "talking": 3.0, "wrap_up": 3.0, "break": 31.0}


def test_a_change_before_the_last_answers_is_not_that_of_a_status(tmp_path: Path) -> None:
    """A last_status_change before the answers that showed another status moves nothing."""
    *before, last = statuses(lambda began: round(1000 * (MIDNIGHT + began)))
    later = last | {"observed_at": text(30), "last_status_change": round(1000 * (MIDNIGHT + 24))}
    found = time_in_state(tmp_path, [*before, later])
    assert (found["wrap_up"], found["break"]) == (14.9, 20.0)


def test_no_status_begins_while_the_agent_was_not_observed(tmp_path: Path) -> None:
    """A change in a time that is declared unobserved counts from its end, whatever the service says."""
    *before, last = statuses(lambda began: round(1000 * (MIDNIGHT + began)))
    loss = {"since": text(17), "reason": "bridge_down"}
    lost = record("AgentObservationLost", 5, 27, **loss)
    resumed = record("AgentObservationResumed", 6, 27, status_group="wrap_up", **loss)
    changed = last | {"sequence": 7, "topic_sequence": 7, "observed_at": text(27)}
    changed |= {"last_status_change": round(1000 * (MIDNIGHT + 25))}
    found = time_in_state(tmp_path, [*before, lost, resumed, changed])
    assert (found["unobserved"], found["break"]) == (10.0, 23.0)


def test_time_in_state_over_a_working_day(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over eight hours with a change of status in 50 s, an agent's time in each state is right to within 3 s by the
    service's times. By those of the polls alone each change is up to one interval late, at random: without bias, but
    over n stays the standard deviation is 0.4 intervals times the root of n.
    """
    day, rate, seed, names = 8 * 3600.0, 0.02, 10, [f"agent-{number}" for number in range(12)]
    lives = [truth.stays(number, seed, rate, 0.0, day, logouts=False) for number in range(len(names))]
    told = [one for name, life in zip(names, lives, strict=True) for one in polled(name, life, Random(name))]
    seen = [one | {"last_status_change": None} for one in told]
    figures = {}
    for way, records in (("service", told), ("polls", seen)):
        found = times_in_state(tmp_path / way, records, day)
        figures[way] = [
            (found[name, state] - sum(stay.ends - stay.begins for stay in own), len(own))
            for name, life in zip(names, lives, strict=True)
            for state in {stay.state for stay in life}
            if (own := [stay for stay in life if stay.state == state])
        ]
        worst, count = max(figures[way], key=lambda pair: abs(pair[0]))
        with capsys.disabled():
            sys.stdout.write(
                f"by the times of the {way}: {len(figures[way])} sums, {worst:.2f} s off at most, of {count} stays; "
            )
            sys.stdout.write(f"the standard deviation is {deviation(figures[way]):.2f} s for one stay\n")
    assert max(abs(error) for error, _ in figures["service"]) < 3
    assert 0.3 < deviation(figures["polls"]) < 0.5


def deviation(figures: list[tuple[float, int]]) -> float:
    """The standard deviation of a stay's error: that of a sum, over the root of how many stays it has."""
    return sqrt(sum(error**2 / count for error, count in figures) / len(figures))


def polled(agent_id: str, life: list[truth.Stay], random: Random) -> Iterator[dict[str, Any]]:
    """The records of an agent who is polled each second, and answered within 50 ms."""
    phase = random.random()
    yield record("AgentWatchStarted", 1, 0, agent_id)
    shown = {ceil(stay.begins - phase): stay for stay in life}  # the last that began before each poll
    for number, (poll, stay) in enumerate(sorted(shown.items()), 2):
        at, change = max(poll + phase, 0) + random.uniform(0, 0.05), round(1000 * (MIDNIGHT + stay.begins))
        fields = {"status_group": stay.state, "last_status_change": change}
        yield record("AgentStatusChanged", number, at, agent_id, **fields)


@pytest.mark.kafka
@pytest.mark.transactions
async def test_records_behind_an_open_transaction_are_waited_for(
    bootstrap_servers: str, topics_prefix: str, tmp_path: Path
) -> None:
    """What an open transaction holds back counts as written: without it a report would be wrong and say that it is
    complete. If the transaction stays open, nothing is appended, and the error says where it is.
    """
    await create_topics(bootstrap_servers, topics_prefix)
    topic = f"{topics_prefix}agent-status"
    environment = examples.environment(bootstrap_servers, topics_prefix)
    foreign = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, transactional_id=f"{topics_prefix}foreign")
    ours = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, transactional_id=f"{topics_prefix}ours")
    async with foreign, ours:
        await foreign.begin_transaction()
        await foreign.send_and_wait(topic, b"foreign")
        async with ours.transaction():
            await ours.send_and_wait(topic, json.dumps(record("AgentWatchStarted", 1, 0)).encode())
        code, _, error = await finished(append(tmp_path, environment, patience=2))
        assert code == 1
        assert f"NothingAddedError: {topic}/0 cannot be read to the end" in error
        assert not list(tmp_path.rglob("*.parquet"))
        process = append(tmp_path, environment, patience=60)
        with pytest.raises(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, 5)
        await foreign.abort_transaction()
        code, added, error = await finished(process)
    assert code == 0, error
    assert json.loads(added) == {"heartbeats": 0, "agent-status": 1, "queued-calls": 0}


@pytest.mark.kafka
async def test_what_retention_has_left_is_read(bootstrap_servers: str, topics_prefix: str, tmp_path: Path) -> None:
    """A topic whose beginning was deleted is read from where it begins now."""
    await create_topics(bootstrap_servers, topics_prefix)
    topic = f"{topics_prefix}agent-status"
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers) as producer:
        for number in range(1, 6):
            await producer.send_and_wait(topic, json.dumps(record("AgentProfileChanged", number, number)).encode())
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=3)})
    await admin.close()
    code, added, error = await finished(append(tmp_path, examples.environment(bootstrap_servers, topics_prefix), 30))
    assert code == 0, error
    assert json.loads(added)["agent-status"] == 2


@pytest.mark.kafka
@pytest.mark.parametrize("others", [0, 1, 2, 3, 4])
async def test_the_files_of_another_kafka_are_left_alone(
    bootstrap_servers: str, topics_prefix: str, tmp_path: Path, others: int
) -> None:
    """A report over the records of two Kafkas would be wrong: whether the other topic is shorter than the one in the
    files, as long or longer, nothing is appended."""
    for folder, count in (("", 3), ("other.", others)):
        await create_topics(bootstrap_servers, topics_prefix + folder)
        async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers) as producer:
            for number in range(count):
                value = json.dumps(record("AgentProfileChanged", number + 1, number + 10 * len(folder))).encode()
                await producer.send_and_wait(f"{topics_prefix}{folder}agent-status", value)
    for _ in range(2):
        own = examples.environment(bootstrap_servers, topics_prefix)
        code, added, error = await finished(append(tmp_path, own, 30))
        assert code == 0, error
    assert json.loads(added)["agent-status"] == 0
    other = examples.environment(bootstrap_servers, f"{topics_prefix}other.")
    code, _, error = await finished(append(tmp_path, other, 30))
    assert code == 1
    assert f"NothingAddedError: {topics_prefix}other.agent-status is not the topic of the files in" in error
    assert len(list(tmp_path.rglob("*.parquet"))) == 3


async def create_topics(bootstrap_servers: str, prefix: str) -> None:
    """Those that the report reads, with a partition each."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    topics = [NewTopic(prefix + name, 1, 1) for name in ("heartbeats", "agent-status", "queued-calls")]
    await admin.create_topics(topics)
    await admin.close()


def append(data: Path, environment: dict[str, str], patience: float) -> subprocess.Popen[str]:
    """Starts to append to the files what the topics hold beyond them."""
    path = f"{environment['PYTHONPATH']}:{examples.EXAMPLES / 'analytics'}"
    return subprocess.Popen(
        [examples.python("analytics"), "-c", TO_PARQUET, str(data), str(patience)],
        env={**environment, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """A process's exit code and what it wrote to stdout and stderr."""
    try:
        out, error = await asyncio.to_thread(process.communicate, timeout=patient(60))
    finally:
        process.kill()
    return process.returncode, out, error
