"""``python -m tests.support.fuzz.run``: many inputs for each target, made by coverage where atheris is installed.

Each target runs in a process of its own. Inputs that reach something new are kept in ``.fuzz/TARGET`` and are where the
next run begins; one that breaks a promise is written beside them.
"""

import argparse
import importlib
import logging
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import structlog

ROOT = Path(__file__).parents[3]
KEPT = ROOT / ".fuzz"
LONGEST = 8192
"""Bytes of an input."""
_SECONDS, _MEMORY = 20, 1024
"""What one input may take, and a process in MiB; libFuzzer ends it beyond that."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="all of them unless named")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=0, help="for inputs made at random; 0: another one each time")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _run(options.targets[0], options.runs, options.seed)
        return 0
    from tests.support.fuzz.targets import TARGETS

    return max(_outside(name, options.runs, options.seed) for name in options.targets or TARGETS)


def _outside(name: str, runs: int, seed: int) -> int:
    """Runs one target in a process of its own, and says in a line how it went. Returns its exit code."""
    command = [sys.executable, "-m", __spec__.name, name, "--inside", "--runs", str(runs), "--seed", str(seed)]
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    took = time.monotonic() - begun
    words = done.stdout.strip().splitlines()[-1:] if done.returncode == 0 else ["\n", done.stdout[-6000:]]
    sys.stdout.write(
        f"{name}: {runs:,} inputs, {took:.0f} s, {'good' if done.returncode == 0 else 'BAD'} {' '.join(words)}\n"
    )
    sys.stdout.flush()
    return min(1, abs(done.returncode))


def _run(name: str, runs: int, seed: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    folder = KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import atheris
    except ImportError:
        _at_random(name, runs, seed or time.time_ns())
        return
    with atheris.instrument_imports(include=["bridge", "asm_bridge_schemas", "hpack"]):
        target = importlib.import_module("tests.support.fuzz.targets").TARGETS[name]
    for number, data in enumerate(target.seeds):
        (folder / f"seed-{number}").write_bytes(data)
    limits = [
        f"-runs={runs}",
        f"-max_len={LONGEST}",
        f"-timeout={_SECONDS}",
        f"-rss_limit_mb={_MEMORY}",
        f"-seed={seed}",
    ]
    atheris.Setup([name, *limits, f"-artifact_prefix={KEPT}/{name}-", "-print_final_stats=1", str(folder)], target.read)
    atheris.Fuzz()


def _at_random(name: str, runs: int, seed: int) -> None:
    from tests.support.fuzz.data import mutated
    from tests.support.fuzz.targets import TARGETS

    target, chance, begun = TARGETS[name], random.Random(seed), 0
    for number in range(runs):
        data = target.seeds[number] if number < len(target.seeds) else mutated(target.seeds, chance, LONGEST)
        try:
            target.read(data)
        except BaseException:
            (KEPT / f"{name}-crash").write_bytes(data)
            raise
        if number == runs // 10:
            begun = _memory()
    sys.stdout.write(f"at random, seed {seed}; {_memory() - begun} MiB more than after a tenth\n")


def _memory() -> int:
    """The most that the process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "linux" else 1024 * 1024)


if __name__ == "__main__":
    sys.exit(main())
