"""Apache Kafka Connect's own converter and transform make rows of the records.

`make generators` runs this; it downloads Kafka Connect's jars into the cache, and is skipped in `make test`.
"""

import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from asm_bridge_schemas.connect import connect_schemas
from asm_bridge_schemas.records import TOPICS
from bridge.testing.brokers import maven
from tests.support.generators import run
from tests.support.samples import sample
from tests.support.sinks import JSON_CONVERTER, connect

pytestmark = [
    pytest.mark.skipif(not os.environ.get("GENERATORS"), reason="downloads Kafka Connect: run `make generators`"),
    pytest.mark.skipif(not (shutil.which("mvn") and shutil.which("javac")), reason="no mvn and javac on this machine"),
    pytest.mark.timeout(600),
]
JAVA = """
import java.nio.file.*;
import java.util.*;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.sink.SinkRecord;
import org.apache.kafka.connect.transforms.Flatten;

public class Main {
    public static void main(String[] names) throws Exception {
        for (var name : names) {
            var converter = new JsonConverter();
            var table = Files.readString(Path.of(name + ".table"));
            converter.configure(Map.of("schemas.enable", "true", "schema.content", table), false);
            if (converter.toConnectData("topic", null).value() != null) throw new Exception("a tombstone");
            var read = converter.toConnectData("topic", Files.readAllBytes(Path.of(name + ".json")));
            var record = new SinkRecord("topic", 0, null, null, read.schema(), read.value(), 0);
            var flat = new Flatten.Value<SinkRecord>();
            flat.configure(Map.of("delimiter", "_"));
            System.out.println((name.startsWith("AgentAlert") ? flat.apply(record) : record).value());
        }
    }
}
"""


def test_every_record_is_a_row(tmp_path: Path) -> None:
    """JsonConverter with the exported table makes a Struct of each record, with a field that a later release adds, too,
    and null of a tombstone; nested objects become columns."""
    libraries = connect(JSON_CONVERTER)
    tables = connect_schemas()
    for cls, topic in TOPICS.items():
        value = {**msgspec.to_builtins(sample(cls)), "newer": {"a": [1]}}
        (tmp_path / f"{cls.__name__}.json").write_text(json.dumps(value))
        (tmp_path / f"{cls.__name__}.table").write_text(json.dumps(tables[topic]))
    (tmp_path / "Main.java").write_text(JAVA)
    classpath = f"{libraries}/*{os.pathsep}."
    run(["javac", "-cp", classpath, "Main.java"], tmp_path)
    names = [cls.__name__ for cls in TOPICS]
    rows = run([maven.java(), "-cp", classpath, "Main", *names], tmp_path).splitlines()
    for name, row in zip(names, rows, strict=True):
        assert row.startswith(f"Struct{{type={name},") or f",type={name}," in row
        assert name == "PartitionHeartbeat" or "agent_id=agent-7" in row
        assert "newer" not in row
    by_name = dict(zip(names, rows, strict=True))
    assert "call_sid=7" in by_name["QueuedCallChanged"]
    assert "skills=[english]" in by_name["QueuedCallChanged"]
    assert "target_agent_session_asm_session_sid=9007199254740993" in by_name["AgentAlertRaised"]
