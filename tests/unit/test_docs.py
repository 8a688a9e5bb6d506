"""The documents: each command of ours, make target and link in them exists. docs/subscribe.md is run, too, by
tests/integration/test_subscribe.py.
"""

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from asm_bridge_schemas.records import TOPICS
from bridge.cli import COMMANDS, _group
from bridge.telemetry.metrics import METRICS
from tests.support import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in DOCUMENTS}
SHELL = re.compile(r"^(?:    |```sh\n)(.+?)$|^(asm-bridge .+)$", re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The arguments of each `asm-bridge ...`, in blocks and within lines."""
    lines = [re.sub(r"\s#.*", "", "".join(found)) for found in SHELL.findall(text)]
    lines += re.findall(r"`(asm-bridge [^`\n]+)`", text)
    parts = [part.strip() for line in lines for part in re.split(r"\||&&|;|--(?= asm-bridge)|<|>", line)]
    parts = [re.sub(r"^(?:[A-Z_]+=\S* )+", "", part) for part in parts]
    return [shlex.split(part)[1:] for part in parts if part.startswith("asm-bridge ")]


COMMAND_LINES = sorted({(name, *words) for name, text in TEXTS.items() for words in commands(text)})


def test_the_documents_show_every_command() -> None:
    """Each command, but those that only developers need, stands in an example."""
    shown = {line[1] for line in COMMAND_LINES}
    assert shown >= COMMANDS.keys() - {"simulate", "demo"}


def first_column(text: str) -> list[str]:
    """The first cells of the tables in a text, as far as they are code."""
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


def test_the_readme_lists_every_command() -> None:
    """The README's table of commands has a row for each."""
    assert {cell.split()[0] for cell in first_column(TEXTS["README.md"])} == COMMANDS.keys()


def test_every_record_is_explained() -> None:
    """docs/subscribe.md names each record."""
    assert [cls.__name__ for cls in TOPICS if f"`{cls.__name__}`" not in TEXTS["subscribe.md"]] == []


def test_every_metric_is_listed() -> None:
    """The table in docs/operations.md lists exactly the metrics that the bridge has."""
    table = TEXTS["operations.md"].partition("\n## Metrics\n")[2].partition("\n## ")[0]
    listed = re.findall(r"`(\w+?)(?:_total|_info)?(?:\{[\w,]+\})?`", table)
    families = [family.name.removeprefix("asm_bridge_") for family in METRICS.registry.collect()]
    assert sorted(listed) == sorted(name for name in families if not name.startswith("process_"))


@pytest.mark.parametrize("line", COMMAND_LINES, ids=" ".join)
def test_a_documents_command_exists(line: tuple[str, ...]) -> None:
    """Each `asm-bridge` command line in the documents has a command and options that exist."""
    _, *words = line
    command: Any = _group()
    if words[0] in COMMANDS:
        command = typer.main.get_command(import_module(f"bridge.cli.{words.pop(0).replace('-', '_')}").app)
        if isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
            command = command.commands[words.pop(0)]
    elif words[0] == "COMMAND":
        words.pop(0)
    else:
        assert words[0].startswith("-"), f"no command {words[0]}"
    context = command.context_class(command, info_name="asm-bridge")
    command.make_parser(context).parse_args(words)


@pytest.mark.parametrize("name", TEXTS)
def test_a_documents_make_targets_exist(name: str) -> None:
    """Each `make TARGET` in a document is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z]+)", TEXTS[name], re.MULTILINE)) <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_documents_links_lead_somewhere(path: Path) -> None:
    """Each link to a file exists, and each to a heading of a document names one of it."""
    text = re.sub(r"```.*?```", "", TEXTS[path.name], flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)", text):
        file = path.parent / target if target else path
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor[1:] in slugs, f"{target}{anchor}"
