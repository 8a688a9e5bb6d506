"""The AsyncAPI 3.1 document: topics, keys, headers and records, for generators and for readers in any language."""

import json
from typing import Any

from asm_bridge_schemas.commands import DEAD_LETTER_CODES
from asm_bridge_schemas.definitions import canonical_event, record_definitions, records_by_topic, session_entry
from asm_bridge_schemas.records import TOPICS, ce_type

Part = dict[str, Any]

VERSION = "1.0.0"
"""Of the published contract: a new major version where a reader would break."""

_INTRODUCTION = """\
Records that asm-kafka-bridge publishes to Apache Kafka, and those that it takes.

**Read with `isolation.level=read_committed`**, which is not Kafka's default: the bridge writes in transactions, and a
reader without it sees records of transactions that were aborted. With it you see each record exactly once.

Each agent's records form a stream (`stream_id`). `sequence` numbers them over all topics, `topic_sequence` within one
topic, both 1, 2, 3, ... without gaps: a consumer that has seen 1..n has missed nothing. Keys are the agent_id in UTF-8;
what concerns one agent is in the same partition of every topic: murmur2 of the key, modulo the number of partitions, as
Java's default partitioner has it. Topic names begin with a prefix that operators may change (`asm.`).
"""

_TOPICS: dict[str, tuple[str, str]] = {
    "agent-status": ("delete", "What an agent does: statuses, sessions, and whether it is watched and observed."),
    "queued-calls": ("delete", "Calls in the lists that an agent sees. Several agents may see the same call."),
    "agent-messages": ("delete", "Messages and alerts for an agent."),
    "conversations": ("delete", "An agent's conversations, and the conversation events that were delivered for it."),
    "agent-state": ("compact", "The latest picture of each agent, for a reader that joins late."),
    "heartbeats": ("delete", "One per partition and interval: silence on the other topics is not an outage."),
    "inject-outcomes": ("delete", "What became of each record of asm.inject that has a key."),
    "dead-letters": (
        "delete",
        "What could not be handled: the original key and value, with the reason in the headers.",
    ),
    "inject": (
        "delete",
        "Events for an agent's next request. You write here. Without a key: a dead letter, no outcome.",
    ),
    "sessions": ("compact", "The registry of watched agents; a tombstone removes one. One partition. You write here."),
}
_TAKEN = {"inject": "CanonicalEvent", "sessions": "SessionEntry"}


def document() -> Part:
    """The document, as JSON. Its schemas are those of ``definitions``, without what JSON Schema draft 7 lacks."""
    definitions = {**record_definitions(), **canonical_event(), **session_entry()}
    messages = {
        cls.__name__: _message(cls.__name__, ce_type(cls), topic, definitions[cls.__name__])
        for cls, topic in TOPICS.items()
    }
    messages |= {name: _taken(name, topic) for topic, name in _TAKEN.items()}
    messages["DeadLetter"] = _dead_letter()
    by_topic = {**records_by_topic(), "dead-letters": ["DeadLetter"], **{t: [n] for t, n in _TAKEN.items()}}
    return {
        "asyncapi": "3.1.0",
        "id": "urn:asm-kafka-bridge",
        "info": {
            "title": "asm-kafka-bridge",
            "version": VERSION,
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": {"host": "localhost:9092", "protocol": "kafka", "description": "Your Kafka."}},
        "channels": {topic: _channel(topic, names) for topic, names in by_topic.items()},
        "operations": {
            ("take" if topic in _TAKEN else "publish") + "-" + topic: {
                "action": "receive" if topic in _TAKEN else "send",
                "channel": {"$ref": f"#/channels/{topic}"},
                "summary": _TOPICS[topic][1],
            }
            for topic in by_topic
        },
        "components": {
            "messages": messages,
            "messageTraits": {"cloudEvent": {"headers": _headers()}},
            "schemas": {name: _rewritten(schema) for name, schema in sorted(definitions.items())},
        },
    }


def _channel(topic: str, names: list[str]) -> Part:
    policy, description = _TOPICS[topic]
    binding = {
        "partitions": 1 if topic == "sessions" else 8,
        "topicConfiguration": {"cleanup.policy": [policy]},
        "bindingVersion": "0.5.0",
    }
    return {
        "address": f"asm.{topic}",
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {"kafka": binding},
    }


def _key(topic: str) -> Part:
    """AsyncAPI's Kafka binding: what the key of a message is."""
    described = {
        "heartbeats": "The number of the partition.",
        "dead-letters": "The key of the original.",
    }
    key = {"type": "string", "description": described.get(topic, "The agent_id, in UTF-8.")}
    return {"kafka": {"key": key, "bindingVersion": "0.5.0"}}


def _message(name: str, ce_type: str, topic: str, schema: Part) -> Part:
    headers: Part = {"traits": [{"$ref": "#/components/messageTraits/cloudEvent"}]}
    if name in ("InjectionCompleted", "ConversationEventDelivered"):
        headers = {"headers": _headers(traced=True)}
    elif name == "AgentState":
        headers = {"headers": _headers(state=True)}
    return {
        "name": ce_type,
        "title": name,
        "summary": schema["description"].split("\n")[0],
        "contentType": "application/json",
        **headers,
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "bindings": _key(topic),
    }


def _headers(*, traced: bool = False, state: bool = False) -> Part:
    """CloudEvents 1.0 in Kafka's binary mode; ``traced``: and the W3C trace of an injection's sender; ``state``:
    those of an ``AgentState``."""
    text = {"type": "string"}
    properties: Part = {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {
            **text,
            "description": "Unique with ce_source: stream_id:sequence; of an AgentState state:stream_id:sequence, of a "
            "heartbeat partition:observed_until.",
            "examples": ["0a1b2c:17"],
        },
        "ce_type": {**text, "examples": ["com.tcn.asm.agent_status_changed.v1"]},
        "ce_source": {
            **text,
            "description": "The setting records.source, empty by default, then /asm/agents/ and the agent_id; of a "
            "heartbeat /asm/partitions/ and its partition.",
            "examples": ["/asm/agents/agent-7"],
        },
        "ce_subject": {**text, "description": "The agent_id, or the number of the partition."},
        "ce_time": {**text, "format": "date-time", "description": "observed_at; of a heartbeat observed_until."},
        "ce_dataschema": {**text, "examples": ["urn:asm-kafka-bridge:schema:AgentStatusChanged:v1"]},
        "content-type": {**text, "examples": ["application/json"]},
    }
    required = ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_subject", "ce_dataschema", "content-type"]
    if state:
        properties["asm_inbox"] = {**text, "description": "The bridge's own: which asm.inject its offsets are of."}
    if traced:
        properties |= {
            "traceparent": {**text, "description": "W3C Trace Context, of an injection that had one."},
            "tracestate": {**text, "description": "W3C Trace Context, of an injection that had one."},
        }
    return {"type": "object", "properties": properties, "required": required}


def _taken(name: str, topic: str) -> Part:
    text = {"type": "string"}
    properties = {
        "ce_id": {**text, "description": "The event's id: one that was delivered is not sent again."},
        "ce_source": {**text, "description": "With ce_id, what makes the event unique."},
        "expires_at": {
            **text,
            "format": "date-time",
            "description": "Not sent after this; at most an hour ahead.",
        },
        "traceparent": {**text, "description": "W3C Trace Context: carried on to the outcome."},
        "content-type": {
            **text,
            "description": "application/json; application/msgpack; or application/cloudevents+json for a CloudEvent in "
            "structured mode: its data, id and source are the value, ce_id and ce_source.",
        },
    }
    return {
        "name": name,
        "title": name,
        "contentType": "application/json",
        **({"headers": {"type": "object", "properties": properties}} if topic == "inject" else {}),
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "bindings": _key(topic),
    }


def _dead_letter() -> Part:
    text = {"type": "string"}
    properties = {
        "asm_error_code": {
            **text,
            "description": "Why it is a dead letter. "
            + " ".join(f"{code}: {meaning}." for code, meaning in DEAD_LETTER_CODES.items()),
            "examples": ["unknown_agent"],
        },
        "asm_error": {**text, "description": "The same as a text, with what to do."},
        "asm_origin": {
            **text,
            "description": "Where the original stood; an unwritable record of the bridge stood nowhere.",
            "examples": ["asm.inject/3/17"],
        },
    }
    return {
        "name": "DeadLetter",
        "title": "DeadLetter",
        "summary": "The value as it was; null if it was longer than 512 KiB, and for a registry entry.",
        "contentType": "application/octet-stream",
        "headers": {"type": "object", "properties": properties, "required": ["asm_error_code", "asm_error"]},
        "payload": {"description": "The original value, whatever it is."},
        "bindings": _key("dead-letters"),
    }


def _rewritten(schema: Part) -> Part:
    """References as the document has them."""
    text = json.dumps(schema).replace('"#/$defs/', '"#/components/schemas/')
    rewritten: Part = json.loads(text)
    return rewritten
