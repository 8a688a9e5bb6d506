"""The project's files work on any machine and agree with each other."""

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.licences import licences

ROOT = Path(__file__).parents[2]
MADE_BY_HAND = ["pyproject.toml", "Makefile", "Dockerfile", "docker-compose.yml", ".ci/run", ".dockerignore"]
LOCKS = ["requirements.txt", *(f"requirements-{name}.txt" for name in ("audit", "build", "dev", "docs", "fuzz"))]
REGISTRIES = (
    r"pypi\.org|pythonhosted|registry\.npmjs|crates\.io|repo1?\.maven|proxy\.golang|docker\.io|deb\.debian|ghcr\.io"
)
MACHINE = r"/work/|/root/|/home/|/tmp/lab|/Users/"
INDEX = r"^\s*(-i|--index-url|--extra-index-url|--find-links|-f)\b|@\s*(https?|file):"


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def normal(name: str) -> str:
    """Normalises a distribution's name for comparison (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[><=!~;@ ]", line, maxsplit=1)[0]) for line in requirements}


def locked(file: str) -> dict[str, str]:
    """The locked version of each name, as written in the lock file."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / file).read_text(), re.MULTILINE)
    return {normal(name): version for name, version in found}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git work tree: its files cannot be told from others")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("file", MADE_BY_HAND + LOCKS)
def test_no_file_names_a_registry_or_a_machine(file: str) -> None:
    """No packaging file names a registry or a folder of the author's machine."""
    text = (ROOT / file).read_text()
    assert not re.findall(f"{REGISTRIES}|{MACHINE}", text)
    assert not re.findall(INDEX, text, re.MULTILINE)


def test_no_tracked_file_names_a_registry() -> None:
    """No tracked file names a registry or a folder of the author's machine."""
    texts = {path: path.read_text(errors="replace") for path in tracked() if path != Path(__file__)}
    assert len(texts) > len(MADE_BY_HAND)
    assert [str(path.relative_to(ROOT)) for path, text in texts.items() if re.search(REGISTRIES, text)] == []


def test_everything_required_is_locked() -> None:
    """The lock files contain every requirement of pyproject.toml."""
    own = {project()["name"], "asm-kafka-bridge-schemas"}
    runtime = names(project()["dependencies"]) - own
    extras = {name: names(lines) - own for name, lines in project()["optional-dependencies"].items()}
    assert runtime <= locked("requirements.txt").keys()
    assert runtime | extras["demo"] | extras["dev"] <= locked("requirements-dev.txt").keys()
    assert not (extras["demo"] | extras["dev"]) - runtime & locked("requirements.txt").keys()
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert [
        name for name, lines in groups.items() if not names(lines) <= locked(f"requirements-{name}.txt").keys()
    ] == []


def test_every_lock_is_checked() -> None:
    """These tests cover every lock file there is."""
    assert sorted(LOCKS) == sorted(path.name for path in ROOT.glob("requirements*.txt"))


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_no_requirement_is_under_the_gpl(file: str) -> None:
    """Every requirement states its licence, and none is under the GPL or one of its kin."""
    found = {name: licence for name, _, licence in licences(ROOT / file)}
    assert len(found) > len(locked(file)) / 2
    wrong = {name: licence for name, licence in found.items() if re.search(r"GPL|General Public|unknown", licence)}
    assert wrong == {}


def test_only_locked_requirements_are_installed() -> None:
    """The image, the environments and CI install with --require-hashes, and nothing else from an index."""
    files = [ROOT / "Dockerfile", ROOT / "Makefile", *WORKFLOWS]
    lines = [line for path in files for line in re.sub(r"\\\n\s*", " ", path.read_text()).splitlines()]
    installing = [line for line in lines if re.search(r"pip['\"]? .*\binstall\b", line)]
    assert len(installing) > 4
    allowed = r"--require-hashes|--no-deps --no-(index|build-isolation)|install -q uv\b"  # uv compiles the lock files
    assert [line for line in installing if not re.search(allowed, line)] == []


def test_the_image_can_be_built_on_a_digest() -> None:
    """Each stage of the image has the base that BASE names: a tag, or with BASE=pinned the same tag with a digest."""
    text, base = (ROOT / "Dockerfile").read_text(), (ROOT / ".ci/base/Dockerfile").read_text()
    (default,) = re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    assert re.findall(r"^FROM (.+)$", text, re.MULTILINE) == ["${BASE} AS build", "${BASE}"]
    (pinned,) = re.findall(r"^FROM (\S+)$", base, re.MULTILINE)
    assert re.fullmatch(rf"{default}@sha256:[0-9a-f]{{64}}", pinned)
    assert "BASE=pinned" in (ROOT / ".github/workflows/image.yml").read_text()
    asked = subprocess.run(
        ["make", "-n", "image", "BASE=pinned"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert f"--build-arg BASE={pinned} " in asked.stdout


def test_the_image_runs_what_was_tested() -> None:
    """Each version in the image's lock file is the one in that of the tests."""
    tested = locked("requirements-dev.txt")
    assert {name: tested.get(name) for name in locked("requirements.txt")} == locked("requirements.txt")


@pytest.mark.parametrize("file", LOCKS)
def test_every_locked_version_has_its_hash(file: str) -> None:
    """Every locked version has a hash."""
    entries = re.split(r"\n(?=\S)", (ROOT / file).read_text().strip())
    assert len(entries) == len(locked(file))
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def imported(path: Path) -> set[str]:
    """The modules that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_tests_import_only_the_helpers_of_tests() -> None:
    """A test imports no other test; shared helpers are in tests/support."""
    wrong = {
        str(path.relative_to(ROOT)): sorted(modules)
        for path in (ROOT / "tests").rglob("*.py")
        if (modules := {name for name in imported(path) if re.match(r"tests\b(?!\.support\b)", name)})
    }
    assert wrong == {}


def test_unit_tests_need_no_broker() -> None:
    """Unit tests do not need Kafka; tests that do are in tests/integration."""
    asked = re.compile(r"mark\.(kafka|transactions)\b|\bbroker: Broker\b|\bbootstrap_servers: str\b")
    unit = (ROOT / "tests/unit").glob("*.py")
    assert [path.name for path in unit if path.name != Path(__file__).name and asked.search(path.read_text())] == []


def test_what_is_installed_imports_no_tests() -> None:
    """Installed code imports neither the tests nor pytest."""
    code = [*(ROOT / "bridge").rglob("*.py"), *(ROOT / "schemas").rglob("*.py")]
    wrong = [str(path.relative_to(ROOT)) for path in code if imported(path) & {"pytest", "tests"}]
    wrong += [str(path) for path in code if any(name.startswith("tests.") for name in imported(path))]
    assert wrong == []


def test_ci_runs_what_everyone_runs() -> None:
    """CI calls only make test, and the Makefile has the targets that the README names."""
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("exec make test")
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets == {
        "help",
        "demo",
        "test",
        "unit",
        "interop",
        "generators",
        "sinks",
        "examples",
        "fuzz",
        "docs",
        "asyncapi",
        "chaos",
        "lint",
        "fmt",
        "build",
        "release",
        "image",
        "manifests",
        "audit",
        "sbom",
        "licences",
        "schemas",
        "lock",
        "clean",
    }


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not on this machine")
def test_make_lists_its_targets() -> None:
    """`make help` names each target, so that the Makefile can be read by make."""
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "  make asyncapi   schemas/asyncapi.json as HTML" in done.stdout


WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_the_makefile(path: Path) -> None:
    """Each step of a workflow that tests or builds calls a target of the Makefile."""
    commands = re.findall(r"^\s*- run: (.+)$", path.read_text(), re.MULTILINE)
    assert [line for line in commands if line.startswith("make ")]
    assert [line for line in commands if not line.startswith(("make ", "docker compose ", "test "))] == []


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not on this machine")
def test_workflows_are_sound() -> None:
    """actionlint finds nothing wrong in the workflows."""
    done = subprocess.run(["actionlint"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_distributions_have_one_version_and_licence() -> None:
    """Both distributions have the same version and licence, and the bridge requires records of its own
    minor version.
    """
    schemas = tomllib.loads((ROOT / "schemas/pyproject.toml").read_text())["project"]
    assert schemas["version"] == project()["version"]
    major, minor, _ = schemas["version"].split(".")
    assert f"{schemas['name']}~={major}.{minor}.0" in project()["dependencies"]
    assert (ROOT / "schemas/LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_contributors_guide_names_what_there_is() -> None:
    """Each file and each make target that CONTRIBUTING.md names exists."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets
    named = re.findall(r"`((?:bridge|schemas|tests|deploy|\.github)/[^`:\s]*)`", text)
    assert len(named) > 10
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []
