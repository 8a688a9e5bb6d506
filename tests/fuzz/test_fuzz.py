"""A short run of each fuzz target: its seeds, and a few hundred inputs made of them. ``make fuzz`` runs millions."""

import random
import time

import pytest

from tests.support.fuzz.data import mutated
from tests.support.fuzz.targets import TARGETS

SLOWEST = 2.0
"""Seconds of CPU for one input of at most 8 KiB."""


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_input(name: str) -> None:
    """Whatever comes from outside raises only the declared errors, in bounded time, and spoils nothing beside it."""
    target, chance = TARGETS[name], random.Random(name)
    for data in [*target.seeds, *(mutated(target.seeds, chance) for _ in range(target.inputs))]:
        begun = time.process_time()
        try:
            target.read(data)
        except BaseException as error:
            error.add_note(f"{name} with {data!r}")
            raise
        assert time.process_time() - begun < SLOWEST, data
