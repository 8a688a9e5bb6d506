"""What the chaos runs make of a process that ends by itself."""

import json
import math
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.chaos.faults import TINY, Trial
from tests.support.chaos.harness import Child, Lab

REFUSAL = f"t.heartbeats max.message.bytes is {TINY}, and must be at least 1048576: set it with kafka-configs.sh"


class OneProcess:
    """In place of a lab: one process, which has ended by itself, and how often it was launched again."""

    def __init__(self, directory: Path, event: str, error: str, code: int) -> None:
        self.directory = directory
        line = json.dumps({"event": event, "error.message": error})
        (directory / "ends.py").write_text(f"import os\nprint({line!r}, flush=True)\nos._exit({code})\n")
        self.bridges = {"bridge-0": Child("bridge-0", [], {}, directory, ("ends",))}
        self.launched = 0

    def launch(self, name: str) -> None:
        self.launched += 1


@pytest.mark.parametrize(
    ("event", "error", "code", "unusable_until", "kept"),
    [
        ("run.failed", REFUSAL, 1, math.inf, True),
        ("run.failed", "t.sessions does not exist: run `asm-bridge topics create`", 1, math.inf, True),
        ("run.failed", REFUSAL, 1, 0.0, False),
        ("run.failed", REFUSAL, 2, math.inf, False),
        ("run.failed", "cannot listen on 127.0.0.1:8080", 1, math.inf, False),
        ("topic.limited", REFUSAL, 1, math.inf, False),
        ("run.stopped", "", 0, math.inf, False),
    ],
    ids=[
        "refused",
        "missing",
        "the topic took records",
        "another code",
        "another reason",
        "not a refusal",
        "no reason",
    ],
)
async def test_only_a_topic_that_cannot_be_used_is_a_reason_to_end(
    tmp_path: Path, event: str, error: str, code: int, unusable_until: float, kept: bool
) -> None:
    """A process that ends by itself is restarted and is a broken promise, unless it refused a topic that took nothing,
    or was missing, since the process was started.
    """
    lab = OneProcess(tmp_path, event, error, code)
    child = lab.bridges["bridge-0"]
    child.start()
    await child.ended()
    arguments: dict[str, Any] = {"brokers": [], "processes": ["bridge-0"], "skills": {}, "tokens": {}, "ends": 0.0}
    trial = Trial(cast("Lab", lab), unusable_until=unusable_until, **arguments)
    trial.see_to("bridge-0")
    assert lab.launched == 1
    assert trial.broken == ([] if kept else [f"bridge-0 ended by itself with {code}"])
    assert trial.survived.total() == int(kept)
