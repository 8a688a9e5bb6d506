"""The AsyncAPI 3.1 document: topics, keys, headers and records, for generators and for readers in any language."""

import json
from typing import Any

from asm_bridge_schemas.commands import DEAD_LETTER_CODES
from asm_bridge_schemas.definitions import (
    canonical_event,
    record_definitions,
    records_by_topic,
    referred,
    session_entry,
)
from asm_bridge_schemas.guide import GUIDE
from asm_bridge_schemas.records import TOPICS as TOPIC_OF
from asm_bridge_schemas.records import ce_type
from asm_bridge_schemas.topics import TOPICS, Topic

Part = dict[str, Any]

VERSION = "1.0.0"
"""The version of the published contract: a change that would break a reader needs a new major version."""

_INJECTION = {
    "InjectionCompleted": "$message.payload#/injection_id",
    "ConversationEventDelivered": "$message.payload#/injection_id",
    "CanonicalEvent": "$message.header#/ce_id",
}
"""The location of an event's id in each message."""


def document() -> Part:
    """The document, as JSON. Its schemas are those of ``definitions``, without what JSON Schema draft 7 lacks."""
    definitions = {**record_definitions(), **canonical_event(), **session_entry()}
    messages = {
        cls.__name__: _message(cls.__name__, ce_type(cls), topic, definitions[cls.__name__])
        for cls, topic in TOPIC_OF.items()
    }
    messages |= {topic.taken: _taken(name, topic.taken) for name, topic in TOPICS.items() if topic.taken}
    messages["DeadLetter"] = _dead_letter()
    messages["Tombstone"] = _tombstone()
    by_topic = records_by_topic()
    return {
        "asyncapi": "3.1.0",
        "id": "urn:asm-kafka-bridge",
        "info": {
            "title": "asm-kafka-bridge",
            "version": VERSION,
            "description": GUIDE,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": {"host": "localhost:9092", "protocol": "kafka", "description": "Your Kafka."}},
        "channels": {
            name: _channel(name, topic, by_topic.get(name, [topic.taken or "DeadLetter"]))
            for name, topic in TOPICS.items()
        },
        "operations": dict(_operation(name, topic) for name, topic in TOPICS.items()),
        "components": {
            "messages": messages,
            "messageTraits": {"cloudEvent": {"headers": _headers()}},
            "schemas": {name: _rewritten(schema) for name, schema in _needed(messages, definitions).items()},
        },
    }


def _needed(messages: Part, definitions: dict[str, Part]) -> dict[str, Part]:
    """The definitions of the messages' payloads, and those that these refer to."""
    payloads = {name: definitions[name] for name in messages if name in definitions}
    return dict(sorted({**payloads, **referred({"of": [*payloads.values()]}, definitions)}.items()))


def _channel(name: str, topic: Topic, messages: list[str]) -> Part:
    messages = [*messages, "Tombstone"] if topic.cleanup == "compact" else messages
    return {
        "address": f"asm.{name}",
        "summary": topic.description.partition(". ")[0].rstrip(".") + ".",
        "description": f"{topic.description}\n\n{topic.facts}",
        "messages": {one: {"$ref": f"#/components/messages/{one}"} for one in messages},
        "bindings": {
            "kafka": {
                "partitions": topic.partitions,
                "topicConfiguration": topic.config,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _operation(name: str, topic: Topic) -> tuple[str, Part]:
    """An operation of the bridge: it sends what others read, and receives what they write."""
    operation: Part = {
        "action": "receive" if topic.taken else "send",
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": f"You {'write' if topic.taken else 'read'} asm.{name}, and the bridge "
        f"{'reads' if topic.taken else 'writes'} it.",
    }
    if name == "inject":
        operation["reply"] = {
            "channel": {"$ref": "#/channels/inject-outcomes"},
            "messages": [{"$ref": "#/channels/inject-outcomes/messages/InjectionCompleted"}],
        }
    return ("take-" if topic.taken else "publish-") + name, operation


def _binding(topic: str) -> Part:
    """AsyncAPI's Kafka binding: what the key of a message is."""
    key = TOPICS[topic].key
    schema = {"title": TOPICS[topic].keyed_by, "type": "string", "description": f"{key[0].upper()}{key[1:]}."}
    return {"kafka": {"key": schema, "bindingVersion": "0.5.0"}}


def _correlation(name: str) -> Part:
    if name not in _INJECTION:
        return {}
    text = "The id of the event: the ce_id that its sender chose, or else its partition/offset on asm.inject."
    return {"correlationId": {"description": text, "location": _INJECTION[name]}}


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
        **_correlation(name),
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "bindings": _binding(topic),
    }


def _header(description: str, example: str, **schema: Any) -> Part:
    return {"type": "string", "description": description, "examples": [example], **schema}


def _headers(*, traced: bool = False, state: bool = False) -> Part:
    """CloudEvents 1.0 in Kafka's binary mode; ``traced``: and the W3C trace of an injection's sender; ``state``:
    those of an ``AgentState``."""
    properties: Part = {
        "ce_specversion": _header("The version of CloudEvents.", "1.0", const="1.0"),
        "ce_id": _header(
            "Unique with ce_source: stream_id:sequence; of an AgentState state:stream_id:sequence, which repeats if "
            "only the bridge's books have changed; of a heartbeat partition:observed_until; of an outcome without a "
            "stream asm.inject/partition/offset.",
            "0a1b2c3d4e5f60718293a4b5c6d7e8f9:17",
        ),
        "ce_type": _header(
            "Which record it is: `com.tcn.asm.`, its `type` in snake_case, and `.v1`.",
            "com.tcn.asm.agent_status_changed.v1",
        ),
        "ce_source": _header(
            "The setting records.source, empty by default, then /asm/agents/ and the agent_id (percent-encoded); of a "
            "heartbeat /asm/partitions/ and its partition.",
            "/asm/agents/agent-7",
        ),
        "ce_subject": _header("The agent_id; of a heartbeat the number of the partition.", "agent-7"),
        "ce_time": _header(
            "observed_at; of a heartbeat observed_until. Missing in an AgentState without a stream. Clock: bridge.",
            "2026-11-23T09:30:00.000250Z",
            format="date-time",
        ),
        "ce_dataschema": _header(
            "The `$id` of the record's JSON Schema: a name, not an address.",
            "urn:asm-kafka-bridge:schema:AgentStatusChanged:v1",
        ),
        "content-type": _header(
            "application/json, or application/msgpack (setting records.encoding) with the same fields.",
            "application/json",
        ),
    }
    required = ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_subject", "ce_dataschema", "content-type"]
    if state:
        properties["asm_inbox"] = _header(
            "For the bridge only: the asm.inject to which its offsets belong.", "d41ALo2TSQu3r5m7yBvJ0Q"
        )
    return {"type": "object", "properties": properties | (_trace("from") if traced else {}), "required": required}


def _trace(way: str) -> Part:
    """The headers of W3C Trace Context, ``from`` an injection's sender or ``to`` its outcome."""
    carried = f"W3C Trace Context, carried {way} the {'event' if way == 'from' else 'outcome'}. Missing without one."
    return {
        "traceparent": _header(carried, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        "tracestate": _header(carried, "vendor=value"),
    }


def _taken(topic: str, name: str) -> Part:
    properties = {
        "ce_id": _header(
            "The event's id, of at most 1 KiB: if one with the same ce_source and ce_id is among the agent's last 100 "
            "that were delivered, it is a `duplicate`. Without it the event has no identity.",
            "demo-1",
        ),
        "ce_source": _header("Makes the event unique, together with ce_id; at most 1 KiB.", "/routing"),
        "expires_at": _header(
            "Not sent after this time, at most an hour after it arrived. Without it: after 5 minutes (setting "
            "injection.ttl). Clock: broker.",
            "2026-11-23T09:35:00Z",
            format="date-time",
        ),
        **_trace("to"),
        "content-type": _header(
            "application/json, the default; application/msgpack; or application/cloudevents+json for a CloudEvent in "
            "structured mode: its data, id and source are the value, ce_id and ce_source.",
            "application/json",
        ),
    }
    return {
        "name": name,
        "title": name,
        "contentType": "application/json",
        **({"headers": {"type": "object", "properties": properties}} if topic == "inject" else {}),
        **_correlation(name),
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "bindings": _binding(topic),
    }


def _dead_letter() -> Part:
    codes = " ".join(f"{code}: {meaning}." for code, meaning in DEAD_LETTER_CODES.items())
    properties = {
        "asm_error_code": _header(f"Why it is a dead letter. {codes} A later release may add some.", "unknown_agent"),
        "asm_error": _header(
            "The reason as a text, with what to do; at most 10,000 characters.",
            "no agent 'agent-99' is registered in the sessions topic",
        ),
        "asm_origin": _header(
            "The original's first position: topic/partition/offset. Absent for an unwritable record, which has none.",
            "asm.inject/3/17",
        ),
    }
    return {
        "name": "DeadLetter",
        "title": "DeadLetter",
        "summary": "The original value, unchanged, with up to 64 KiB of its headers.",
        "contentType": "application/octet-stream",
        "headers": {"type": "object", "properties": properties, "required": ["asm_error_code", "asm_error"]},
        "payload": {
            "description": "The original value, whatever it is; its content-type is that of the original, if any."
        },
        "bindings": _binding("dead-letters"),
    }


def _tombstone() -> Part:
    return {
        "name": "Tombstone",
        "title": "Tombstone",
        "summary": "A record with a key, a null value and no headers: the key no longer has a value.",
        "payload": {"type": "null", "description": "Kafka's null, not JSON's: there is no value at all."},
        "bindings": _binding("agent-state"),
    }


def _rewritten(schema: Part) -> Part:
    """References as the document has them."""
    text = json.dumps(schema).replace('"#/$defs/', '"#/components/schemas/')
    rewritten: Part = json.loads(text)
    return rewritten
