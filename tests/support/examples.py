"""What tests of examples/ need: the examples' own environments, which `make examples` makes."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support import ROOT

EXAMPLES = ROOT / "examples"
opt_in = pytest.mark.skipif(
    os.environ.get("EXAMPLES") != "1", reason="`make examples` runs it, in environments of the examples' own"
)


def python(example: str) -> str:
    """The Python of an example's environment; skips the test if `make examples` could not make it."""
    path = EXAMPLES / example / ".venv" / "bin" / "python"
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} is not there: `make examples` makes it")
    return str(path)


def npm() -> str:
    """npm; skips the test if it, or the example's packages, are not there."""
    path = shutil.which("npm")
    if path is None or not (EXAMPLES / "typescript" / "node_modules").exists():
        pytest.skip("npm is not on this machine, or `make examples` has not installed examples/typescript")
    return path


def flink() -> list[str]:
    """The command that runs Flink SQL; skips the test if Java, or the jars, are not there."""
    java, folder = shutil.which("java"), EXAMPLES / "analytics" / "flink"
    if java is None or not (folder / "lib").exists():
        pytest.skip("Java is not on this machine, or `make examples` has not fetched Flink with Maven")
    return [java, "-cp", f"{folder}/lib/*", str(folder / "RunSql.java")]


def environment(brokers: str, prefix: str) -> dict[str, str]:
    """The environment of an example: where Kafka is, and the records' package in place of this process's Python."""
    inherited = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    return {
        **inherited,
        "PYTHONPATH": str(ROOT / "schemas"),
        "ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS": brokers,
        "ASM_BRIDGE_TOPICS__PREFIX": prefix,
        "PYTHONUNBUFFERED": "1",
    }


class _Registry(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"id": 7}')


@contextmanager
def schema_registry() -> Iterator[str]:
    """The address of a registry that has every schema, all of them under one id."""
    with HTTPServer(("127.0.0.1", 0), _Registry) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def run(command: list[str], env: Mapping[str, str], cwd: Path = ROOT, timeout: float = 60) -> str:
    """What a program printed that ended with 0."""
    done = subprocess.run(command, cwd=cwd, env=dict(env), capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


_ROWS = """
import json, sys, tempfile
from pathlib import Path
import to_parquet
for topic, rows in json.loads(Path(sys.argv[2]).read_bytes()).items():
    with tempfile.NamedTemporaryFile("w", suffix=".json") as lines:
        lines.writelines(json.dumps({"_partition": 0, **row}) + "\\n" for row in rows)
        lines.flush()
        to_parquet.write(to_parquet.Found(Path(lines.name), len(rows), 0), Path(sys.argv[1]) / topic)
"""
_QUERIES = """
import json, sys
from pathlib import Path
import report
database = report.tables(Path(sys.argv[1]))
for query in sys.argv[2:]:
    cursor = database.execute(query)
    columns = [column[0] for column in cursor.description]
    rows = [dict(zip(columns, row)) for row in cursor.fetchall()]
    print(json.dumps(rows, default=lambda time: time.isoformat()))
"""


def write_parquet(data: Path, topics: Mapping[str, list[dict[str, Any]]]) -> None:
    """The files that the report reads, with these records of partition 0, by topic."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(msgspec.json.encode(topics))
        file.flush()
        _run_analytics(_ROWS, str(data), file.name)


def query_report(data: Path, *queries: str) -> list[list[dict[str, Any]]]:
    """What DuckDB answers to each query of the report's tables over a folder of Parquet files: a dict per row."""
    said = _run_analytics(_QUERIES, str(data), *queries)
    return [msgspec.json.decode(line) for line in said.splitlines()]


def _run_analytics(program: str, *arguments: str) -> str:
    """Runs a program that imports the example's modules."""
    path = os.pathsep.join(map(str, (ROOT / "schemas", EXAMPLES / "analytics")))
    return run([python("analytics"), "-c", program, *arguments], {**os.environ, "PYTHONPATH": path})
