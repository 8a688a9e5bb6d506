"""`make release` refuses what must not be released, and keeps the baseline of the schemas."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not on this machine")
VERSION = "0.1.0"
BASELINE = "schemas/released/1.0.0"


class Repository:
    """A repository with what the script looks at, ready to be released."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in (".ci/release.py", "pyproject.toml", "schemas/pyproject.toml"):
            (root / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        shutil.copytree(ROOT / "schemas/json", root / "schemas/json")
        shutil.copy(ROOT / "schemas/asyncapi.json", root / "schemas/asyncapi.json")
        shutil.copytree(ROOT / BASELINE, root / BASELINE)
        (root / "CHANGELOG.md").write_text(f"## [Unreleased]\n\n## [{VERSION}] - 2026-12-01\n\n- A bridge.\n")
        self.git("init", "-q")
        self.commit()

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "a change")

    def edit(self, name: str, change: Callable[[Any], object]) -> None:
        """Changes a JSON file."""
        path = self.root / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content, indent=2) + "\n")

    def release(self, *arguments: str) -> tuple[int, str]:
        """The exit code, and all that it says."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "schemas")}
        command = [sys.executable, str(self.root / ".ci/release.py"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_a_good_commit_is_released(repository: Repository) -> None:
    """A clean tree with its changes and its baseline passes, on the commit of the tag, too."""
    repository.git("tag", f"v{VERSION}")
    assert repository.release("--tag", f"v{VERSION}") == (0, f"release: {VERSION} with schemas 1.0.0\n")


def test_everything_that_is_wrong_is_named(repository: Repository) -> None:
    """A dirty tree, a changelog without the version and a tag of another one are refused, all in one go."""
    (repository.root / "CHANGELOG.md").write_text("## [Unreleased]\n\n- A bridge.\n")
    code, said = repository.release("--tag", "v9.9.9")
    assert code == 1
    assert "uncommitted changes (CHANGELOG.md)" in said
    assert f"CHANGELOG.md has no entries for {VERSION}" in said
    assert f"the tag is v9.9.9, the version {VERSION}" in said


def test_the_baseline_is_kept(repository: Repository) -> None:
    """While its version has not been released, the baseline becomes that of today's schemas, and is to be committed."""
    repository.edit(f"{BASELINE}/AgentStatusChanged.json", lambda schema: schema["properties"].update(gone={}))
    (repository.root / BASELINE / "Old.json").write_text("{}")
    repository.commit()
    code, said = repository.release()
    assert (code, said) == (1, f"release: wrote {BASELINE}: commit it, and run this again\n")
    repository.commit()
    assert repository.release()[0] == 0
    assert not (repository.root / BASELINE / "Old.json").exists()


def test_a_breaking_change_needs_a_new_major_version(repository: Repository) -> None:
    """What would break readers of released schemas is refused, and named."""
    repository.edit(f"{BASELINE}/AgentStatusChanged.json", lambda schema: schema["properties"].update(gone={}))
    repository.commit()
    repository.git("tag", "v0.0.9")
    repository.commit()
    code, said = repository.release()
    assert code == 1
    assert "schemas 1.0.0 are broken for readers: AgentStatusChanged.gone is not written" in said
    assert "new major version" in said


def test_a_topics_key_and_headers_are_released_too(repository: Repository) -> None:
    """The baseline holds the AsyncAPI document: another key, and a header that is no longer written, are refused; so is
    a document that the code would not generate."""
    repository.edit(f"{BASELINE}/asyncapi.json", _with_another_key_and_header)
    repository.commit()
    repository.git("tag", "v0.0.9")
    repository.edit("schemas/asyncapi.json", lambda document: document.update(id="urn:else"))
    repository.commit()
    code, said = repository.release()
    assert code == 1
    assert "schemas 1.0.0 are broken for readers: AgentState has the key ('string', 'agent_id')" in said
    assert "schemas 1.0.0 are broken for readers: DeadLetter.headers.asm_why is not written" in said
    assert "is not what the code generates: run `make schemas`" in said


def _with_another_key_and_header(document: Any) -> None:
    messages = document["components"]["messages"]
    messages["AgentState"]["bindings"]["kafka"]["key"]["title"] = "call_sid"
    messages["DeadLetter"]["headers"]["properties"]["asm_why"] = {"type": "string"}


def test_another_change_needs_a_new_minor_version(repository: Repository) -> None:
    """A change that breaks no reader is refused under a version of the schemas that has been released."""
    repository.edit(f"{BASELINE}/AgentStatusChanged.json", lambda schema: schema.update(description="Another text."))
    repository.commit()
    repository.git("tag", "v0.0.9")
    repository.commit()
    code, said = repository.release()
    assert code == 1
    assert said.count("release:") == 1
    assert "schemas 1.0.0 have been released and these differ" in said
