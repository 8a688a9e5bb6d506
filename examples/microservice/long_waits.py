"""Sees a call that waits for long, puts a conversation about it on the screen of an agent who could take it, and awaits
the outcome.

    LONG_WAIT=20    seconds after which a wait is long
"""

import asyncio
import logging
import os
import sys
from datetime import datetime
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from faststream import FastStream
from faststream.kafka import KafkaBroker, KafkaMessage

from asm_bridge_schemas.consume import decode
from asm_bridge_schemas.records import AgentState, CallInView, InjectionCompleted, PartitionHeartbeat

BROKERS = os.environ.get("ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS", "localhost:9092")
PREFIX = os.environ.get("ASM_BRIDGE_TOPICS__PREFIX", "asm.")
LONG_WAIT = float(os.environ.get("LONG_WAIT", "20"))
OUTCOME_WITHIN = 60.0  # an event that cannot be sent expires after 5 minutes (injection.ttl): an alert is useless then

logger = logging.getLogger("long-waits")
broker = KafkaBroker(BROKERS, logger=None)  # else a line for each record
app = FastStream(broker)

agents: dict[str, AgentState] = {}
told: set[str] = set()
outcomes: dict[str, asyncio.Future[InjectionCompleted]] = {}
conversations: set[asyncio.Task[None]] = set()


async def record(message: KafkaMessage) -> Any:
    """The record in a message; None for a tombstone."""
    return decode(message.raw_message.value, message.raw_message.headers)


@broker.subscriber(
    f"{PREFIX}agent-state", auto_offset_reset="earliest", isolation_level="read_committed", decoder=record
)
async def agent_changed(state: Any, message: KafkaMessage) -> None:
    """Keeps the latest picture of each agent. The topic is compacted, so its beginning is where to join late."""
    if isinstance(state, AgentState):
        agents[state.agent_id] = state
    else:
        agents.pop(message.raw_message.key.decode(), None)


@broker.subscriber(f"{PREFIX}heartbeats", isolation_level="read_committed", decoder=record)
async def time_passed(beat: Any) -> None:
    """Looks for long waits up to the time for which the bridge vouches: with the bridge down, no call seems to wait."""
    if not isinstance(beat, PartitionHeartbeat):
        return
    now = seconds(beat.observed_until)
    for state in list(agents.values()):
        if state.lost is not None or state.status_group != "available":
            continue
        for call in state.calls:
            if call.list == "agent_queue" and call.start_date and call.call_sid not in told:
                waited = now - seconds(call.start_date)
                if waited >= LONG_WAIT:
                    told.add(call.call_sid)
                    task = asyncio.create_task(tell(state.agent_id, call, waited))
                    conversations.add(task)
                    task.add_done_callback(conversations.discard)


async def tell(agent_id: str, call: CallInView, waited: float) -> None:
    """Injects a conversation and awaits what became of it."""
    injection_id = f"long-wait-{call.call_sid}"  # after a restart the same id: the bridge drops what it has delivered
    outcome = outcomes[injection_id] = asyncio.get_running_loop().create_future()
    conversation = {"conversation_sid": call.call_sid, "channel_type": "CHANNEL_TYPE_CHAT"}
    try:
        await broker.publish(
            {"activated_conversation_event": {"conversation": conversation}},
            f"{PREFIX}inject",
            key=agent_id.encode(),
            headers={"ce_id": injection_id, "ce_source": "/examples/long-waits"},
        )
        done = await asyncio.wait_for(outcome, OUTCOME_WITHIN)
    except TimeoutError:
        logger.warning("call %s: no outcome within %.0f s", call.call_sid, OUTCOME_WITHIN)
        return
    finally:
        del outcomes[injection_id]
    took = seconds(done.completed_at) - seconds(done.received_at)
    why = f" ({done.reason})" if done.reason else ""
    logger.info(
        "call %s has waited %.0f s: conversation for %s %s%s after %.2f s, HTTP %s",
        *(call.call_sid, waited, agent_id, done.outcome, why, took, done.http_status),
    )


@broker.subscriber(f"{PREFIX}inject-outcomes", isolation_level="read_committed", decoder=record)
async def completed(outcome: Any) -> None:
    """Hands an outcome to whom it concerns."""
    if isinstance(outcome, InjectionCompleted):
        waiting = outcomes.get(outcome.injection_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)


def seconds(time: str) -> float:
    """RFC 3339 as seconds since 1970."""
    return datetime.fromisoformat(time).timestamp()


async def main() -> None:
    """Runs until a signal; ends with what is wrong if there is nothing to read: a consumer would create the topics."""
    wanted = [f"{PREFIX}{name}" for name in ("agent-state", "heartbeats", "inject", "inject-outcomes")]
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKERS)
    try:
        await admin.start()
        missing = sorted(set(wanted) - set(await admin.list_topics()))
    except KafkaError as error:
        sys.exit(f"Kafka at {BROKERS} does not answer: {error}")
    finally:
        await admin.close()
    if missing:
        sys.exit(f"there is no topic {missing[0]} at {BROKERS}: does a bridge run, with this prefix (topics.prefix)?")
    await app.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    asyncio.run(main())
