"""The layers of the code: which part may import which. ``docs/architecture.md`` draws them; this keeps the picture
true.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = (
    ("cli", "__main__"),
    ("testing",),
    ("app",),
    ("supervisor",),
    ("check",),
    ("polling",),
    ("ops",),
    ("partitions",),
    ("registry",),
    ("kafka",),
    ("telemetry",),
    ("agents",),
    ("asm",),
    ("settings", "clock", "backoff", "signals", "headers", "printable", "record_id", "json_object", "__init__"),
)
"""The parts of ``bridge``, top to bottom: each imports only itself, its neighbours and what stands below it."""

LONGEST = 400
"""Lines of a file in the core. ``cli`` and ``testing`` are not part of it."""

KAFKA = ("bridge/kafka/", "bridge/testing/")
"""Who may import aiokafka. The programs in ``testing`` watch the bridge from outside: a demo, a benchmark or a broker's
probe that used the bridge's own clients would be wrong in the same way as they are."""


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_module(path): path for path in sorted((ROOT / "bridge").rglob("*.py"))}


def _imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, at the top, within functions and for the type checker."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in FILES else str(node.module)


IMPORTS = {module: sorted(set(_imports(path))) for module, path in FILES.items()}
INTERNAL = {module: [name for name in names if name in FILES] for module, names in IMPORTS.items()}


def _layer(module: str) -> int:
    part = module.split(".")[1] if "." in module else "__init__"
    return next(number for number, names in enumerate(LAYERS) if part in names)


def _circle() -> list[str]:
    """A path of imports that returns to its beginning, or an empty list."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for name in INTERNAL[module]:
                if found := visit(name, [*path, module]):
                    return found
            done.add(module)
        return []

    return next(filter(None, (visit(module, []) for module in FILES)), [])


def _importers(library: str) -> set[str]:
    """The files that import a library or any part of it."""
    return {
        str(FILES[module].relative_to(ROOT))
        for module, names in IMPORTS.items()
        if any(name.split(".")[0] == library for name in names)
    }


def test_every_part_has_a_layer() -> None:
    """Each file and folder of ``bridge`` is in the list of layers."""
    parts = {module.split(".")[1] for module in FILES if "." in module}
    assert parts <= {part for layer in LAYERS for part in layer}


def test_no_import_runs_upward() -> None:
    """A file imports only from its own layer or below, also within functions and under TYPE_CHECKING."""
    upward = {
        f"{module} -> {name}" for module, names in INTERNAL.items() for name in names if _layer(name) < _layer(module)
    }
    assert upward == set()


def test_no_imports_run_in_circles() -> None:
    """No chain of imports leads back to the file in which it begins."""
    assert " -> ".join(_circle()) == ""


def test_files_of_the_core_are_short() -> None:
    """No file of the core has more than 400 lines."""
    long = {
        str(path.relative_to(ROOT))
        for module, path in FILES.items()
        if not module.startswith(("bridge.cli", "bridge.testing")) and len(path.read_text().splitlines()) > LONGEST
    }
    assert long == set()


def test_only_one_part_knows_the_client_of_kafka() -> None:
    """Only ``bridge/kafka`` imports aiokafka in the core."""
    assert {file for file in _importers("aiokafka") if not file.startswith(KAFKA)} == set()


def test_http_is_a_package_of_its_own() -> None:
    """``bridge/asm/http`` imports nothing else of the bridge."""
    known = {name for module, names in INTERNAL.items() if module.startswith("bridge.asm.http") for name in names}
    assert {name for name in known if not name.startswith("bridge.asm.http")} == set()


def test_the_decisions_about_an_agent_load_no_library() -> None:
    """``bridge.agents`` loads no library for I/O, tracing or logging."""
    modules = [name for name in FILES if name.startswith("bridge.agents.")]
    heavy = {
        "httpx",
        "hpack",
        "ssl",
        "asyncio",
        "aiokafka",
        "structlog",
        "opentelemetry",
        "prometheus_client",
        "pydantic",
    }
    script = f"import sys, {', '.join(modules)}; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_bridge_does_not_import_its_tests() -> None:
    """Nothing in ``bridge`` imports the tests, which no wheel contains."""
    assert _importers("tests") == set()


def test_the_maps_of_the_code_name_files_that_exist() -> None:
    """Each file in the tables of docs/architecture.md and CONTRIBUTING.md is where they say."""
    _, _, answers = (ROOT / "docs/architecture.md").read_text().partition('| "where is ... done?"')
    named = {ROOT / "bridge" / file for file in re.findall(r"[\w/]+\.py", answers.partition("\n\n")[0])}
    to_add = (ROOT / "CONTRIBUTING.md").read_text().partition("| to add |")[2].partition("\n\n")[0]
    named |= {ROOT / file for file in re.findall(r"`((?:bridge|schemas|tests|docs)/[\w/]+\.\w+)`", to_add)}
    assert len(named) > 20
    assert {str(path) for path in named if not path.is_file()} == {str(ROOT / "bridge/cli/NAME.py")}
