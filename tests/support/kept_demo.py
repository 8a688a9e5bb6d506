"""``asm-bridge demo --keep`` for tests of what others run against it: documents and examples."""

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tests.support import ROOT, SOURCES

_STARTS_WITHIN = 60.0


@dataclass(frozen=True)
class KeptDemo:
    """Where the broker and the simulated service are, and the environment of a program that finds them."""

    brokers: str
    service: str
    environment: dict[str, str]

    def run(self, command: list[str], cwd: Path = ROOT, timeout: float = 60.0) -> str:
        """What a program printed that ended with 0."""
        done = subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def simulator(self, path: str, body: Any = None) -> Any:
        """What the simulator answers under /sim/; a body is posted."""
        data = None if body is None else msgspec.json.encode(body)
        with urllib.request.urlopen(f"{self.service}/sim/{path}", data, timeout=10) as answer:
            return msgspec.json.decode(answer.read())


@contextmanager
def kept_demo(folder: Path, agents: int = 8) -> Iterator[KeptDemo]:
    """Runs within the block. ``folder`` gets ``asm-bridge``, the command of this tree, which programs find first."""
    script = folder / "asm-bridge"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bridge "$@"\n')
    script.chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": SOURCES, "PATH": path}
    command = [sys.executable, "-m", "bridge", "demo", "--keep", "--sessions", str(agents)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    stopper = threading.Timer(_STARTS_WITHIN, process.kill)
    stopper.start()
    try:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line.startswith("ready"):
                break
        stopper.cancel()
        variables = dict(re.findall(r"(ASM_BRIDGE_\w+)=(\S+)", text))
        service = re.search(r"^service +(\S+)/sim/", text, re.MULTILINE)
        assert service is not None, text
        assert "topics     asm.*" in text
        threading.Thread(target=process.stdout.read, daemon=True).start()
        brokers = variables["ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS"]
        yield KeptDemo(brokers, service[1], {**environment, **variables})
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        stopper.cancel()
        process.kill()
        process.wait()
