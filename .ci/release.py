"""Whether this commit may be released: prints what is wrong and fails, or keeps the baseline of its schemas.

The tag of a release holds the baseline of its schemas in ``schemas/released/``: all that ``make schemas`` generates.
One that is missing is written, to be committed; one that an earlier tag holds never changes.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from asm_bridge_schemas.asyncapi import VERSION
from asm_bridge_schemas.compatibility import breaks, read
from asm_bridge_schemas.export import export

ROOT = Path(__file__).parents[1]
RELEASED = ROOT / "schemas" / "released"
GENERATED = (ROOT / "schemas" / "json", ROOT / "schemas")
_IN_CODE = "VERSION in schemas/asm_bridge_schemas/asyncapi.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tag", help="the tag that is being released, vX.Y.Z")
    problems = [*_tree(), *_version(parser.parse_args().tag), *_schemas()]
    for problem in problems:
        print(f"release: {problem}", file=sys.stderr)
    if problems:
        return 1
    baseline = RELEASED / VERSION
    if _texts(baseline) != _texts(*GENERATED):
        shutil.rmtree(baseline, ignore_errors=True)
        baseline.mkdir()
        for name, text in _texts(*GENERATED).items():
            (baseline / name).write_text(text, encoding="utf-8")
        print(f"release: wrote {baseline.relative_to(ROOT)}: commit it, and run this again", file=sys.stderr)
        return 1
    print(f"release: {_project('pyproject.toml')['version']} with schemas {VERSION}")
    return 0


def _tree() -> Iterator[str]:
    changed = _git("status", "--porcelain").splitlines()
    if changed:
        yield f"the tree has uncommitted changes ({', '.join(line[3:] for line in changed[:3])}): commit or remove them"


def _version(tag: str | None) -> Iterator[str]:
    version = _project("pyproject.toml")["version"]
    of_schemas = _project("schemas/pyproject.toml")["version"]
    if of_schemas != version:
        yield f"pyproject.toml has version {version}, schemas/pyproject.toml {of_schemas}: set the same in both"
    if tag and tag != f"v{version}":
        yield f"the tag is {tag}, the version {version}: tag v{version}, or set the version"
    heading = rf"^## \[{re.escape(version)}\].*\n+(?!## )\S"
    if not re.search(heading, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE):
        yield f"CHANGELOG.md has no entries for {version}: move those under Unreleased to a heading ## [{version}]"


def _schemas() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder))
        if _texts(Path(folder)) != _texts(*GENERATED):
            yield "schemas/json or schemas/asyncapi.json is not what the code generates: run `make schemas`"
        today = read(Path(folder))
    released = _released()
    for version in released:
        if _number(version) > _number(VERSION):
            yield f"schemas {version} have been released: set {_IN_CODE} to a later one than {VERSION}"
        if _number(version)[0] != _number(VERSION)[0]:
            continue
        broken = breaks(read(RELEASED / version), today)
        for one in broken:
            yield f"schemas {version} are broken for {one}: undo it, or set {_IN_CODE} to a new major version"
        if version == VERSION and not broken and _texts(RELEASED / version) != _texts(*GENERATED):
            yield f"schemas {version} have been released and these differ: set {_IN_CODE} to a new minor version"


def _released() -> list[str]:
    """The versions of the schemas that the tag of an earlier commit holds."""
    now = _git("tag", "--points-at", "HEAD").split()
    held: set[str] = set()
    for tag in _git("tag", "--list", "v*").split():
        if tag not in now:
            held.update(_git("ls-tree", "-d", "--name-only", f"{tag}:schemas/released").split())
    return sorted(held, key=_number)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _texts(*folders: Path) -> dict[str, str]:
    """The documents in folders, by name."""
    return {path.name: path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("*.json")}


def _project(file: str) -> dict[str, str]:
    table: dict[str, str] = tomllib.loads((ROOT / file).read_text(encoding="utf-8"))["project"]
    return table


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode:
        sys.exit(f"release: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
