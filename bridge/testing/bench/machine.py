"""The machine: its cores, the resources that a tree of processes uses, and its description."""

import contextlib
import os
import platform
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bridge.testing.bench.figures import Moment

_PROC = Path("/proc")


class Process(NamedTuple):
    """CPU in seconds, including that of ended children; ``rss`` in bytes."""

    parent: int
    cpu: float
    rss: int


def parse_stat(text: str, ticks: int, page: int) -> Process:
    """A line of ``/proc/PID/stat`` (proc(5)); the name in it may contain anything, so fields count from its end."""
    fields = text.rpartition(")")[2].split()
    return Process(int(fields[1]), sum(map(int, fields[11:15])) / ticks, int(fields[21]) * page)


def parse_ps(text: str) -> dict[int, Process]:
    """Parses ``ps -A -o pid=,ppid=,time=,rss=``, for systems without /proc: times as ``[[DD-]HH:]MM:SS[.hh]``."""
    found = {}
    for line in text.splitlines():
        pid, parent, cpu, kilobytes = line.split()
        found[int(pid)] = Process(int(parent), _clock(cpu), int(kilobytes) * 1024)
    return found


def _clock(text: str) -> float:
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + 86400 * int(days or 0)


def tree(root: int, processes: Mapping[int, Process]) -> list[int]:
    """``root`` and all that descend from it."""
    children = defaultdict(list)
    for pid, process in processes.items():
        children[process.parent].append(pid)
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def usage(root: int) -> Moment:
    """The resources that a process and all its descendants have used so far."""
    processes = _processes()
    members = [processes[pid] for pid in tree(root, processes) if pid in processes]
    return Moment(sum(member.cpu for member in members), sum(member.rss for member in members))


def _processes() -> dict[int, Process]:
    if not _PROC.is_dir():
        command = ["/bin/ps", "-A", "-o", "pid=,ppid=,time=,rss="]
        return parse_ps(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                found[int(entry.name)] = parse_stat((entry / "stat").read_text(), ticks, page)
    return found


class Cores(NamedTuple):
    """The client has one core for itself, two processes of it a ``pair``; None: this system cannot pin, or has too few
    cores."""

    client: set[int] | None
    pair: set[int] | None
    others: set[int] | None


def deal() -> Cores:
    """The last core that we may use for the client, or of four and more the last two; the rest for all others."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(allowed) < 2:
        return Cores(None, None, None)
    own = 2 if len(allowed) >= 4 else 1
    return Cores({allowed[-1]}, set(allowed[-2:]) if own == 2 else None, set(allowed[:-own]))


@contextlib.contextmanager
def pinned(cores: set[int] | None) -> Iterator[None]:
    """Processes and threads started within the block run on ``cores``, from their first instruction."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def describe() -> dict[str, str]:
    """The machine in words, to print beside the figures."""
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    return {
        "cores": str(os.cpu_count()),
        "cpu": _cpu_model(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": load,
    }


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", (_PROC / "cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
