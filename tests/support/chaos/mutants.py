"""Broken builds, to see the harness catch them: ``python -m tests.support.chaos.mutants NAME run ...``.

By hand, as each must end with 1 and say which promise was broken; without ``--mutant`` each ends with 0:

    make chaos ARGS="--mutant producer_per_process --seed 41 --minutes 1.5 --faults pauses,inbox --pace 0.3"
    make chaos ARGS="--mutant state_before_fence --seed 41 --minutes 2.5 --faults pauses,inbox --pace 0.3"
    make chaos ARGS="--mutant offset_outside --seed 41 --faults kills,kafka,inbox --pace 0.2 --injections 50"
    make chaos ARGS="--mutant inbox_offset_ignored --seed 1"
"""

import inspect
import os
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from bridge.kafka.clients import Clients
from bridge.partitions.journal import Journal
from bridge.partitions.watcher import PartitionAgents


def rewritten(cls: type, method: str, *changes: tuple[str, str]) -> None:
    """Replaces pieces of a method's source. Raises ``ValueError`` if one is missing: update the mutant."""
    function: Any = inspect.unwrap(cls.__dict__[method])
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{cls.__name__}.{method} does not have {old!r} once")
        source = source.replace(old, new)
    names: dict[str, Any] = {}
    exec(compile(source, f"<mutant {method}>", "exec"), function.__globals__, names)
    setattr(cls, method, names[method])


def state_before_fence() -> None:
    """The states are read while the last owner, or its last transaction, may still write.

    The second between stands for the reading of a long topic.
    """
    fence = "self._producer = await PartitionProducer.start(self._clients, self.partition)"
    read = "self.offsets = OffsetTracker(offset or 0)"
    late = f"{read}; await asyncio.sleep(1); {fence}"
    rewritten(Journal, "recover", (fence, "pass"), (read, late))


def offset_outside() -> None:
    """The inbox's offset is committed separately, before the transaction."""
    within = "await self._producer.add_offset(*offset)"
    begin = "    await self._producer.begin()"
    outside = "    if offset is not None:\n        await self._commit_offset(self.partition, *offset)\n"
    rewritten(Journal, "_transaction", (within, "pass"), (begin, outside + begin))


def producer_per_process() -> None:
    """The transactional id names the process: two owners of a partition do not fence each other."""
    name = 'f"{self.group_id}-{partition}"'
    rewritten(Clients, "_start_transactional", (name, f'{name} + "-{os.getpid()}"'))


def inbox_offset_ignored() -> None:
    """The state's completed entries are ignored, so these are handled again when they are read again."""
    known = "if injection.offset <= state.bridge.inbox_offset and injection.offset not in state.bridge.inbox_open:"
    rewritten(PartitionAgents, "_take", (known, "if False:"))


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (state_before_fence, offset_outside, producer_per_process, inbox_offset_ignored)
}


def main() -> None:
    from bridge.cli import main as bridge

    MUTANTS[sys.argv.pop(1)]()
    bridge()


if __name__ == "__main__":
    main()
