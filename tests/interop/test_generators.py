"""Types that docs/subscribe.md's commands make of schemas/json compile, have good names, and read records.

`make generators` runs these; they download the generators into the cache, and are skipped in `make test`.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asm_bridge_schemas import records
from bridge.testing.brokers import maven
from tests.support import ROOT
from tests.support.generators import installed, run
from tests.support.samples import sample

pytestmark = [
    pytest.mark.skipif(not os.environ.get("GENERATORS"), reason="downloads code generators: run `make generators`"),
    pytest.mark.timeout(600),
]
DOCUMENT = (ROOT / "docs" / "subscribe.md").read_text(encoding="utf-8").replace("\\\n", "")
NPM = ("json-schema-to-typescript@15.0.4", "quicktype@23.2.6", "typescript@5.9.3")
PIP = "datamodel-code-generator==0.89.0"

RECORDS = [cls for cls in records.TOPICS if cls.__name__ not in ("AgentState", "PartitionHeartbeat")]
VALUES = {cls.__name__: msgspec.to_builtins(sample(cls)) for cls in RECORDS}
LATER = {
    "AgentObservationLost": {**VALUES["AgentObservationLost"], "reason": "asleep", "new": 1},
    "AgentStatusChanged": {**VALUES["AgentStatusChanged"], "status_desc": "4711"},
}
"""What a later release may write: values that grow, and a new field."""
NAMES = {"StatusGroup", "Outcome", "CallList", "CallLeftReason", "EventKind", "TransferMember", "CallerRef", *VALUES}
"""Types that each language should have under these names."""
NAMED_BY_NUMBER = re.compile(r"\b(?!AgentState\b)[A-Z][A-Za-z]*\d\b|\b(Purple|Fluffy|Tentacled|Sticky)[A-Z]\w+")
"""What generators call a type for which the schema has no name."""


def generate(programs: Path, folder: Path, options: str, schema: str = "Published") -> None:
    """Runs the document's command with these options as it stands there, but for the schema, in a folder with
    schemas/ in it."""
    (command,) = re.findall(rf"^.*{re.escape(options)} .*$", DOCUMENT, re.MULTILINE)
    if not (folder / "schemas").exists():
        (folder / "schemas").symlink_to(ROOT / "schemas")
    command = command.replace("Published", schema).replace("published", schema)
    run(["bash", "-euc", command], folder, PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="module")
def npm() -> Path:
    """The folder of the programs from npm."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("no npm and node on this machine")

    def install(folder: Path) -> None:
        (folder / "package.json").write_text('{"private": true}')
        run(["npm", "install", "--silent", "--no-audit", "--no-fund", *NPM], folder)

    return installed("npm-" + "-".join(NPM), install) / "node_modules" / ".bin"


def test_typescript_compiles(npm: Path, tmp_path: Path) -> None:
    """json-schema-to-typescript: the compiler takes each record, and those of a later release, as what they are."""
    for name in ("Published", "AgentState", "PartitionHeartbeat", "CanonicalEvent", "SessionEntry"):
        generate(npm, tmp_path, "json2ts", name)
    types = (tmp_path / "Published.ts").read_text()
    assert set(re.findall(r"^export (?:type|interface) (\w+)", types, re.MULTILINE)) >= NAMES
    assert not NAMED_BY_NUMBER.findall("".join(path.read_text() for path in tmp_path.glob("*.ts")))
    values = [*VALUES.items(), *LATER.items()]
    program = [
        'import * as p from "./Published";\nimport { CanonicalEvent } from "./CanonicalEvent";',
        'export const event: CanonicalEvent = { activated_conversation_event: { conversation: { task_sid: "1" } } };',
        *(f"export const r{n}: p.{name} = {json.dumps(value)};" for n, (name, value) in enumerate(values)),
        "export function minutes(record: p.Published): number | null {",
        '  return record.type === "AgentStatusChanged" ? (record.previous_duration_ms ?? 0) / 60000 : null;\n}',
    ]
    (tmp_path / "program.ts").write_text("\n".join(program))
    options = ("--noEmit", "--strict", "--target", "es2022", "--moduleResolution", "node10")
    run([str(npm / "tsc"), *options, "program.ts"], tmp_path)


GO = """
package main

import ("encoding/json"; "fmt"; "os"; "example.com/records/records")

func main() {
	all := map[string]func([]byte) (any, error){%s}
	var values [][2]json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&values); err != nil { panic(err) }
	for _, pair := range values {
		var name string
		json.Unmarshal(pair[0], &name)
		record, err := all[name](pair[1])
		if err != nil { panic(err) }
		text, _ := json.Marshal(record)
		fmt.Println(string(text))
	}
}
"""


@pytest.mark.skipif(shutil.which("go") is None, reason="no go on this machine")
def test_go_compiles(npm: Path, tmp_path: Path) -> None:
    """quicktype for Go: the package compiles, and what it reads it writes again, unknown values included."""
    (tmp_path / "records").mkdir()
    generate(npm, tmp_path / "records", "-l go")
    types = (tmp_path / "records" / "records.go").read_text()
    assert set(re.findall(r"^type (\w+) ", types, re.MULTILINE)) >= NAMES
    assert not NAMED_BY_NUMBER.findall(types)
    readers = ", ".join(
        f'"{name}": func(b []byte) (any, error) {{ r, err := records.Unmarshal{name}(b); return r, err }}'
        for name in VALUES
    )
    (tmp_path / "go.mod").write_text("module example.com/records\n\ngo 1.21\n")
    (tmp_path / "main.go").write_text(GO % readers)
    run(["go", "build", "-o", "program", "."], tmp_path, GOFLAGS="-mod=mod")
    values = [*VALUES.items(), *LATER.items()]
    done = subprocess.run(
        ["./program"], cwd=tmp_path, input=json.dumps(values), capture_output=True, text=True, check=True
    )
    for (_, value), line in zip(values, done.stdout.splitlines(), strict=True):
        written = json.loads(line)
        for name in ("agent_id", "sequence", "asm_session_sid", "reason", "status_desc", "changed", "call_sid"):
            assert written.get(name) == value.get(name)


JAVA = """
import records.*;
import com.fasterxml.jackson.databind.*;
import java.nio.file.*;

public class Main {
    public static void main(String[] files) throws Exception {
        var mapper = new ObjectMapper().findAndRegisterModules()
            .configure(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES, false);
        mapper.registerModule(new com.fasterxml.jackson.databind.module.SimpleModule().addDeserializer(
            java.time.OffsetDateTime.class, new JsonDeserializer<java.time.OffsetDateTime>() {
                public java.time.OffsetDateTime deserialize(com.fasterxml.jackson.core.JsonParser p,
                        DeserializationContext c) throws java.io.IOException {
                    return java.time.OffsetDateTime.parse(p.getText());
                }
            }));
        for (var file : files) {
            var name = Path.of(file).getFileName().toString().replaceAll("[-.].*", "");
            var record = mapper.readValue(Path.of(file).toFile(), Class.forName("records." + name));
            System.out.println(record.getClass().getMethod("getAgentID").invoke(record));
        }
    }
}
"""


@pytest.mark.skipif(shutil.which("javac") is None, reason="no javac on this machine")
@pytest.mark.skipif(maven.why_not() is not None, reason=f"Jackson comes with Kafka's jars: {maven.why_not()}")
def test_java_compiles(npm: Path, tmp_path: Path) -> None:
    """quicktype for Java: the classes compile with Jackson and read records, those of a later release included."""
    generate(npm, tmp_path, "-l java")
    types = {path.stem for path in (tmp_path / "records").glob("*.java")}
    assert types >= NAMES
    assert not NAMED_BY_NUMBER.findall(" ".join(types))
    (tmp_path / "Main.java").write_text(JAVA)
    classpath = f"{maven.classpath()}{os.pathsep}."
    run(["javac", "-cp", classpath, "Main.java", *(f"records/{name}.java" for name in types)], tmp_path)
    files = []
    for number, (name, value) in enumerate([*VALUES.items(), *LATER.items()]):
        files.append(tmp_path / f"{name}-{number}.json")
        files[-1].write_text(json.dumps(value))
    printed = run([maven.java(), "-cp", classpath, "Main", *map(str, files)], tmp_path)
    assert printed.split() == ["agent-7"] * len(files)


def test_python_reads_records(tmp_path: Path) -> None:
    """datamodel-code-generator: pydantic's models read each record, those of a later release included."""

    def install(folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        run([str(folder / "venv/bin/python"), "-m", "pip", "install", "-q", PIP], folder)

    programs = installed(f"pip-{PIP}", install) / "venv/bin"
    for name in ("Published", "CanonicalEvent"):
        generate(programs, tmp_path, "datamodel-codegen", name)
    types = (tmp_path / "Published.py").read_text()
    assert set(re.findall(r"^class (\w+)\(", types, re.MULTILINE)) >= NAMES
    assert not NAMED_BY_NUMBER.findall(types)
    models = imported(tmp_path / "Published.py")
    for name, value in [*VALUES.items(), *LATER.items()]:
        record = models.Published.model_validate(value).root
        assert type(record).__name__ == name
        assert record.agent_id == "agent-7"
    event = {"pause_event": {}, "state": "IDLE"}
    read = imported(tmp_path / "CanonicalEvent.py").CanonicalEvent.model_validate(event)
    assert read.model_dump(exclude_none=True, mode="json") == event


def imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
