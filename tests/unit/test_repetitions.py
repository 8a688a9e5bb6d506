"""What tests of at_least_once leave out before they judge a run."""

import json

from tests.support.chaos.facts import Facts, Message
from tests.support.repetitions import without_repetitions


def written(topic: str, offset: int, number: int, second: int) -> Message:
    observed_at = f"2026-11-23T09:30:0{second}.000000Z"
    value = {"stream_id": "s1", "sequence": number, "observed_at": observed_at}
    return Message(topic, 0, offset, second * 1000, b"agent-7", json.dumps(value).encode(), ())


def test_a_shorter_step_replaces_a_longer_one() -> None:
    """The records of a step that was written again are left out, also those whose numbers the new step lacks."""
    kept = [
        written("agent-status", 0, 1, 1),
        written("agent-status", 3, 2, 5),
        written("inject-outcomes", 2, 3, 5),
        Message("agent-state", 0, 0, 1000, b"agent-7", b"{}", ()),
    ]
    replaced = [
        written("agent-status", 1, 2, 2),
        written("agent-status", 2, 3, 2),
        written("inject-outcomes", 1, 4, 2),
    ]
    assert without_repetitions(Facts([*replaced, *kept])).messages == kept
