"""What ``at_least_once`` may write a second time."""

import dataclasses

from tests.support.chaos.facts import Facts, Told


def without_repetitions(facts: Facts) -> Facts:
    """The facts without what a later record replaces: one goes back to its number in the stream, so it replaces those
    observed before it from that number on. The new step may be shorter: a number may have no other record yet.
    """
    replaced = set()
    for stream in facts.streams.values():
        lowest: int | None = None
        for told in sorted(stream, key=_observed, reverse=True):
            number = told.record["sequence"]
            if lowest is not None and number >= lowest:
                replaced.add(told.message.place)
            else:
                lowest = number
    messages = [message for message in facts.messages if message.place not in replaced]
    return dataclasses.replace(facts, messages=messages)


def _observed(told: Told) -> tuple[str, int, int]:
    """Records of a step have the same time."""
    return told.record["observed_at"], told.record["sequence"], told.message.offset
