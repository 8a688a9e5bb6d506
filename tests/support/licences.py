"""The licences of the locked requirements, as they state them; ``make licences`` prints a table."""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def licences(lock: Path) -> Iterator[tuple[str, str, str]]:
    """Name, version and licence of each requirement of a lock file that is installed here; those for other systems are
    left out.
    """
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE):
        try:
            yield name, version, _licence(metadata(name))
        except PackageNotFoundError:
            continue


def _licence(of: PackageMetadata) -> str:
    """The licence expression (PEP 639), else the classifiers, else the first line of the older free text."""
    expression, text = of.get_all("License-Expression"), of.get_all("License")
    classifiers = [one.split(" :: ")[-1] for one in of.get_all("Classifier") or () if one.startswith("License ::")]
    return ", ".join(expression or classifiers) or (text or ["unknown"])[0].strip().split("\n")[0]


if __name__ == "__main__":
    runtime = {name for name, _, _ in licences(ROOT / "requirements.txt")}
    rows = [("requirement", "version", "licence", "used by"), ("---",) * 4]
    rows += [
        (*row, "the bridge" if row[0] in runtime else "development") for row in licences(ROOT / "requirements-dev.txt")
    ]
    sys.stdout.writelines(f"| {' | '.join(row)} |\n" for row in rows)
