"""What ``at_least_once`` may write a second time."""

import dataclasses

from tests.support.chaos.facts import Facts, Message


def without_repetitions(facts: Facts) -> Facts:
    """The facts without repetitions: of each sequence number, the record that was observed last."""
    last: dict[tuple[str, int], Message] = {}
    for message, record in facts.told:
        key = record["stream_id"], record["sequence"]
        if key not in last or last[key].timestamp <= message.timestamp:
            last[key] = message
    kept = {message.place for message in last.values()}
    streamed = {told.message.place for told in facts.told}
    messages = [message for message in facts.messages if message.place not in streamed or message.place in kept]
    return dataclasses.replace(facts, messages=messages)
