"""The command line, as far as it goes without Kafka."""

import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.records import TOPICS
from bridge.agents.step import DeadLetter
from bridge.cli import COMMANDS, main
from bridge.cli.dead_letters import _attempt, _object, _prepared, _row
from bridge.cli.errors import CliError
from bridge.cli.inject import _expires_at
from bridge.cli.kafka import run_async
from bridge.cli.output import print_json
from bridge.kafka.encoding import read_dead_letter
from bridge.kafka.show import _SUMMARIES, as_json, as_line
from bridge.record_id import RecordId
from bridge.registry.file import SessionsFileError, as_toml, changes, read_entries, read_sessions
from bridge.settings import KEYS, Settings
from bridge.telemetry.logs import setup_logging

PATHS = (
    "run",
    "demo",
    "simulate",
    "topics create",
    "sessions list",
    "sessions add",
    "sessions remove",
    "sessions import",
    "sessions export",
    "inject",
    "tail",
    "dead-letters list",
    "dead-letters resend",
    "check",
    "status",
    "config",
    "schemas export",
    "bench",
)


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ASM_BRIDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    return int(exit_.value.code or 0)


@pytest.mark.parametrize("command", PATHS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` works for each command."""
    assert code(*command.split(), "--help") == 0
    assert f"asm-bridge {command}" in capsys.readouterr().out


@pytest.mark.parametrize("group", sorted({path.partition(" ")[0] for path in PATHS if " " in path}))
def test_no_summary_is_cut(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of a group shows the whole first sentence of each of its commands, also on a terminal of 80 columns."""
    assert code(group, "--help") == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes(shell: str) -> None:
    """The shell completes commands, and options with a dot in them; a command's name is completed without loading heavy
    modules.
    """
    root = Path(__file__).parents[2]

    def completed(words: str) -> str:
        position = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_TYPER_COMPLETE_ARGS": words}
        action = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_ASM_BRIDGE_COMPLETE": f"complete_{shell}"}
        environment = os.environ | position | action
        done = subprocess.run(
            [sys.executable, "-m", "bridge"], cwd=root, env=environment, capture_output=True, check=True
        )
        return done.stdout.decode()

    assert "check" in completed("asm-bridge ch")
    assert "kafka.group_id" in completed("asm-bridge check --kafka.group_")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_completion_can_be_installed(tmp_path: Path) -> None:
    """`--install-completion` installs completion for the calling shell, and `--show-completion` prints it."""
    python = f"{shlex.quote(sys.executable)} -m bridge"
    script = f"{python} --install-completion && {python} --show-completion && . .bashrc && complete -p asm-bridge"
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.rstrip().endswith("-F _asm_bridge_completion asm-bridge")
    assert done.stdout.count("_ASM_BRIDGE_COMPLETE=complete_bash") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["frob"], "No such command 'frob'"),
        (["chek"], "Did you mean 'check'? See `asm-bridge --help`."),
        (["topics", "creat"], "Did you mean 'create'? See `asm-bridge topics --help`."),
        (["simulate", "--listen", "8090"], "--listen: must be HOST:PORT, e.g. 127.0.0.1:8080"),
        (["config", "--frob"], "No such option: --frob"),
        (["topics"], "Missing command"),
        (["inject"], "Missing argument"),
        (["tail", "--for", "soon"], "--for: must be a duration"),
        (["sessions", "add", "a", "--label", "x"], "--label: 'x' is not NAME=VALUE"),
        (["sessions", "add", "a", "--interval", "2h"], "--interval: must be from 50ms to 1h, not '2h'"),
        (["demo", "--broker", "a:b"], "--broker: must be HOST:PORT"),
        (["simulate", "--ended", "x"], "Invalid value for '--ended': 'x' is not one of"),
        (["inject", "a", "--expires-at", "tomorrow"], "--expires-at: must be an RFC 3339 time"),
        (["inject", "a", "missing.json", "--timeout", "soon"], "--timeout: must be a duration"),
        (["run", "--workers", "x"], "Invalid value for '--workers': must be a valid integer. See"),
        (["run", "--workers", "0"], "Invalid value for '--workers': must be greater than or equal to 1. See"),
    ],
)
def test_wrong_usage(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage prints one short text on standard error and exits with 2."""
    assert code(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("asm-bridge: ")
    assert told in err
    assert len(err.splitlines()) == 1


def test_wrong_settings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wrong setting is reported on a line of standard error, and the exit code is 2."""
    monkeypatch.setenv("ASM_BRIDGE_KAFKA__DELIVERY", "twice")
    assert code("tail", "--topics.partitions", "0") == 2
    head, *lines = capsys.readouterr().err.splitlines()
    assert head == "asm-bridge: wrong settings:"
    assert sorted(lines) == [
        "  --topics.partitions: must be at least 1, not '0'",
        "  ASM_BRIDGE_KAFKA__DELIVERY: must be 'exactly_once' or 'at_least_once', not 'twice'",
    ]


@pytest.mark.parametrize("option", ["--kafka.group_id", "--kafka.group-id"])
@pytest.mark.parametrize("equals", [True, False])
def test_settings_are_options(option: str, equals: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting is an option, with hyphens or underscores."""
    given_ = [f"{option}=my-group"] if equals else [option, "my-group"]
    assert code("config", "--json", *given_) == 0
    assert json.loads(capsys.readouterr().out)["kafka.group_id"] == {"value": "my-group", "source": "command line"}


def test_config_shows_all_settings_but_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    """`config` shows each setting, its value and its source; a secret is masked."""
    Path("asm-bridge.toml").write_text('[asm]\ntoken = "s3cr3t"\n[topics]\nretention = "36h"\n')
    assert code("config") == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines()]
    assert [row[0] for row in rows[1:]] == list(KEYS)
    assert ["asm.token", "********", "file", "asm-bridge.toml"] in rows
    assert ["topics.retention", "36h", "file", "asm-bridge.toml"] in rows
    assert code("config", "--json") == 0
    assert "s3cr3t" not in text + capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the name and the version."""
    assert code("--version") == 0
    assert capsys.readouterr().out.startswith("asm-bridge 0")


HEAVY = {
    "aiokafka", "asyncio", "httptools", "httpx", "importlib.metadata", "msgspec", "opentelemetry", "prometheus_client",
    "pydantic", "rich", "starlette", "structlog", "uvicorn", "uvloop",
}  # fmt: skip


def test_the_list_of_commands_needs_nothing_heavy() -> None:
    """`asm-bridge --help` imports no command, and none of the libraries that the commands use."""
    script = (
        "import sys\nfrom bridge.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.splitlines())
    assert loaded & HEAVY == set()
    own = {"bridge", "bridge.cli", "bridge.cli.errors", "bridge.cli.stdout"}
    assert {name for name in loaded if name.startswith("bridge")} == own


@pytest.mark.parametrize("command", ["config", "simulate", "schemas"])
def test_commands_without_kafka_do_not_load_its_client(command: str) -> None:
    """`config`, `simulate` and `schemas` do not load libraries that they do not use."""
    script = (
        f"import sys, bridge.cli.{command}\nprint(*sorted({{'aiokafka', 'httpx', 'structlog'}} & sys.modules.keys()))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_describes_each_as_it_describes_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The short help in `asm-bridge --help` begins the command's own help, which is only read when it is called."""
    assert code(name, "--help") == 0
    own = " ".join(capsys.readouterr().out.split("\n\n")[1].split())
    assert own.startswith(COMMANDS[name].removesuffix("."))


def test_every_module_of_a_command_is_listed() -> None:
    """Every module of a command is in the list of commands, so that it can be called."""
    folder = Path(__file__).parents[2] / "bridge" / "cli"
    modules = {file.stem for file in folder.glob("*.py") if "\napp = " in file.read_text()}
    assert modules == {name.replace("-", "_") for name in COMMANDS}


def test_the_help_has_a_section_for_each_kind_of_option(capsys: pytest.CaptureFixture[str]) -> None:
    """A command's own options come first, and --help is among them; settings and faults have sections of their own."""
    assert code("tail", "--help") == 0
    out = capsys.readouterr().out
    order = ("Arguments:", "--until-end", "  --help", "Settings:", "--kafka.group_id VALUE")
    assert sorted(order, key=out.index) == list(order)
    assert code("simulate", "--help") == 0
    out = capsys.readouterr().out
    assert out.index("--sessions") < out.index("Faults:") < out.index("--fault-429")


def test_kafka_out_of_reach(capsys: pytest.CaptureFixture[str]) -> None:
    """An unreachable Kafka is reported with its address, the cause and what to check; the exit code is 1."""
    assert code("topics", "create", "--kafka.bootstrap_servers", "127.0.0.1:1") == 1
    err = capsys.readouterr().err
    assert err == (
        "asm-bridge: Kafka cannot be reached at 127.0.0.1:1 (connection refused): "
        "check host and port in kafka.bootstrap_servers, and that the broker is running\n"
    )


@pytest.mark.parametrize("error", [TimeoutError("no answer from Kafka within 30 s"), TimeoutError()])
def test_a_kafka_that_stops_answering(error: TimeoutError) -> None:
    """A command during which Kafka stops answering says what it waited for, and what to do."""

    async def fails() -> None:
        raise error

    with pytest.raises(CliError) as caught:
        run_async(fails())
    text = f"Kafka failed before the command was done ({str(error) or 'no answer in time'}): try again"
    assert caught.value.message == text


def test_a_kafka_that_hangs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that accepts connections and answers nothing is reported as such; the exit code is 1."""
    monkeypatch.setattr("bridge.kafka.connection.CONNECT_DEADLINE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        assert code("topics", "create", "--kafka.bootstrap_servers", servers) == 1
    err = capsys.readouterr().err
    assert err.startswith(
        f"asm-bridge: Kafka cannot be reached at {servers} (no answer within 5 s): check the firewall"
    )
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "number", "code", "said"),
    [
        (["tail"], signal.SIGINT, 0, ""),
        (["tail"], signal.SIGTERM, 0, ""),
        (["sessions", "list"], signal.SIGINT, 130, "asm-bridge: interrupted\n"),
    ],
)
def test_a_signal_ends_a_command_before_kafka_has_answered(
    arguments: list[str], number: signal.Signals, code: int, said: str
) -> None:
    """A signal ends `tail` at once and with 0, even while Kafka accepts connections without answering; Ctrl-C ends the
    other commands with one line and 130.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-m", "bridge", *arguments, "--kafka.bootstrap_servers", servers]
        # A shell's background job, as which the tests may run, ignores SIGINT, and so would the command.
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, preexec_fn=heed) as process:  # noqa: PLW1509
            silent.settimeout(30)
            connection, _ = silent.accept()
            with connection:
                begin = time.monotonic()
                process.send_signal(number)
                assert process.communicate(timeout=30)[1].decode() == said
                assert (process.returncode, time.monotonic() - begin < 5) == (code, True)


@pytest.mark.parametrize("event", ["", "{}", "[", '{"pause_event": {}, "resume_event": {}}', '{"frob_event": {}}'])
def test_a_bad_event_is_not_sent(event: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`inject` validates the event before it connects to Kafka."""
    Path("event.json").write_text(event)
    assert code("inject", "agent-7", "event.json", "--kafka.bootstrap_servers", "127.0.0.1:1") == 1
    assert capsys.readouterr().err.startswith("asm-bridge: not sent: ")


def test_a_literal_token_is_refused_unseen(capsys: pytest.CaptureFixture[str]) -> None:
    """A literal token is refused, and is not repeated in the error."""
    assert code("sessions", "add", "agent-7", "--token", "eyJsecret") == 2
    err = capsys.readouterr().err
    assert "a literal token is refused" in err
    assert "eyJsecret" not in err


def test_schemas_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`schemas export DIR` writes JSON Schemas and the AsyncAPI document into a new directory."""
    assert code("schemas", "export", str(tmp_path / "new")) == 0
    files = {file.name: json.loads(file.read_text()) for file in (tmp_path / "new").iterdir()}
    assert f"{len(files)} files written" in capsys.readouterr().out
    assert files.pop("asyncapi.json")["asyncapi"].startswith("3.")
    assert files.pop("status-groups.json")
    assert all(schema["$schema"].endswith("2020-12/schema") for schema in files.values())


def test_kafka_connects_schemas_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`schemas export DIR --connect` writes a table for each output topic; with --registry it is a usage error."""
    assert code("schemas", "export", str(tmp_path / "new"), "--connect") == 0
    capsys.readouterr()
    tables = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "new").iterdir()}
    assert {table["type"] for table in tables.values()} == {"struct"}
    assert "queued-calls" in tables
    assert code("schemas", "export", str(tmp_path / "new"), "--connect", "--registry") == 2


def test_the_registrys_schemas_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`schemas export DIR --registry` writes those of the output topics alone, in draft-07."""
    assert code("schemas", "export", str(tmp_path / "new"), "--registry") == 0
    files = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "new").iterdir()}
    assert f"{len(files)} files written" in capsys.readouterr().out
    assert files.keys() == set(TOPICS.values())
    assert all(schema["$schema"].endswith("draft-07/schema#") for schema in files.values())


texts = st.text(max_size=20)
entries = st.dictionaries(
    st.text(st.characters(categories=("L", "N", "S", "P")), min_size=1, max_size=20),
    st.builds(
        SessionEntry,
        asm_session_sid=st.none() | st.integers(1, 2**63 - 1).map(str),
        token=st.none() | st.sampled_from(["file:agent-7", "file:tokens.json#a b", "env:TOKEN_7"]),
        interval=st.none() | st.floats(0.05, 3600),
        skills=st.lists(texts),
        get_messages=st.booleans(),
        keep_alive=st.booleans(),
        labels=st.dictionaries(texts, texts, max_size=3),
    ),
    max_size=4,
)


@given(entries)
def test_what_is_exported_can_be_imported(registry: dict[str, SessionEntry]) -> None:
    """The TOML that `export` writes reads back as the same registry."""
    assert read_sessions(as_toml(registry), "export.toml") == registry
    assert read_sessions("\ufeff" + as_toml(registry), "saved by an editor.toml") == registry
    assert read_sessions('\ufeff[{"agent_id": "a"}]', "list.json").keys() == {"a"}


def test_every_wrong_session_is_named() -> None:
    """Every wrong entry of a sessions file is reported with its position, and without its token."""
    text = """
        [[sessions]]
        agent_id = "a"
        token = "eyJsecret"
        [[sessions]]
        skills = ["x"]
        [[sessions]]
        agent_id = "b"
        colour = "red"
        [[sessions]]
        agent_id = "b"
    """
    with pytest.raises(SessionsFileError) as caught:
        read_sessions(text, "s.toml")
    positions = [problem.partition(": ")[2].partition(":")[0] for problem in caught.value.problems]
    assert positions == ["entry 1 (a)", "entry 2", "entry 3 (b)", "entry 3 (b)", "entry 4 (b)"]
    assert "eyJsecret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("[session]\nagent_id = 'a'", "sessions = 3", "[[sessions", '"a"', "3", "[1]"),
        *("[" * 5000, "a = " + "[" * 5000, "a = " + "9" * 5000),
    ],
    ids=lambda text: text[:12],
)
def test_a_file_of_something_else_is_refused(text: str) -> None:
    """A file without sessions is refused by name, so that --prune cannot take it for an empty one."""
    with pytest.raises(SessionsFileError, match=r"^s\.toml: "):
        read_sessions(text, "s.toml")


def test_only_what_differs_is_written() -> None:
    """Entries that mean the same are not written, and --prune removes those that the file lacks."""
    registry = {"same": b'{"interval": null}', "other": b'{"interval": 3}', "gone": b"{}", "broken": b"{"}
    wanted = {"same": SessionEntry(), "other": SessionEntry(), "new": SessionEntry(), "broken": SessionEntry()}
    assert changes(read_entries(registry), wanted).keys() == {"other", "new", "broken"}
    pruned = changes(read_entries(registry), wanted, prune=True)
    assert pruned.keys() == {"other", "new", "broken", "gone"}
    assert pruned["gone"] is None


def record(value: bytes | None, key: bytes | None = b"agent-7", **headers: str) -> ConsumerRecord:
    pairs = [(name.replace("_type", "-type"), text.encode()) for name, text in headers.items()]
    return ConsumerRecord("asm.agent-status", 3, 14, 1766500000123, 0, key, value, None, 0, 0, pairs)


def test_a_record_is_one_line() -> None:
    """`tail` shows the time, topic, agent and type of a record and what changed."""
    value = (
        b'{"type":"AgentStatusChanged","status_desc":"PAUSED","paused":true,"changed":["status_desc","paused"],'
        b'"previous_status_desc":"READY"}'
    )
    line = as_line(record(value), "asm.")
    assert line.split() == [
        "2025-12-23T14:26:40.123Z", "agent-status", "agent-7", "AgentStatusChanged",
        "READY", "->", "PAUSED", "(paused=True)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b'{"type":"AgentProfileChanged","labels":{"site":"manila"},"skills":["english"]}', "site=manila, english"),
        (b'{"type":"ConversationChanged","change":"left","conversation_sid":"5"}', "left 5"),
        (
            b'{"type":"PartitionHeartbeat","observed_until":"2026-11-23T09:30:00Z","agents":3,"in_session":2,"lost":1}',
            "until 2026-11-23T09:30:00Z: 3 agents, 2 in session, 1 lost",
        ),
        (
            b'{"type":"AgentState","status":{"status_desc":"READY"},"calls":[{}],"sequence":7}',
            "READY, 1 calls, sequence 7",
        ),
    ],
)
def test_a_line_says_what_is_in_the_record(value: bytes, shown: str) -> None:
    """`tail` summarises each type of record in a few words instead of its JSON."""
    assert as_line(record(value), "asm.").endswith(f" {shown}")


@pytest.mark.parametrize(
    "value",
    [
        {"type": "AgentStatusChanged", "changed": 5},
        {"type": "AgentState", "status": "x"},
        {"type": "AgentState", "calls": 7},
        {"type": "AgentProfileChanged", "labels": [1]},
        {"type": {"a": 1}},
    ],
)
def test_another_programs_record_under_our_type_is_shown(value: object) -> None:
    """A record that has our type and other fields is shown as it is, and ends no command."""
    assert as_line(record(json.dumps(value).encode()), "asm.").endswith(json.dumps(value, separators=(",", ":")))


def test_every_record_has_a_summary() -> None:
    """Every record has an entry in the table of summaries, so that `tail` does not print its JSON."""
    assert _SUMMARIES.keys() == {cls.__name__ for cls in TOPICS}


@pytest.mark.parametrize(
    ("value", "content_type", "shown"),
    [
        (None, "application/json", None),
        (b'{"a": 1}', "application/json", {"a": 1}),
        (b"\x81\xa1a\x01", "application/msgpack", {"a": 1}),
        (b'\0\0\0\0\7{"a": 1}', "application/json", {"a": 1}),
    ],
)
def test_records_are_decoded(value: bytes | None, content_type: str, shown: object) -> None:
    """`tail --json` prints one object per line, with the value decoded by its content type."""
    line = as_json(record(value, content_type=content_type))
    assert "\n" not in line
    assert json.loads(line) == {
        "topic": "asm.agent-status",
        "partition": 3,
        "offset": 14,
        "timestamp": "2025-12-23T14:26:40.123Z",
        "key": "agent-7",
        "headers": {"content-type": content_type},
        "value": shown,
    }


def test_json_holds_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    """Control sequences and changes of direction in foreign text are escaped in JSON, and are the same text there."""
    text = "a\x1b[2J\x9b2J\x85\u202egnol\u2066 ä 漢"
    print_json({text: text})
    line = as_json(record(json.dumps({"x": text}).encode(), key=text.encode()))
    for shown in (capsys.readouterr().out.replace("\n", ""), line):
        assert shown.isprintable()
        assert text in (json.loads(shown).get("key"), json.loads(shown).get(text))
    assert json.loads(line)["key"] == text


@given(
    st.none() | st.binary(), st.none() | st.binary(), st.sampled_from(["application/json", "application/msgpack", ""])
)
def test_any_record_can_be_shown(value: bytes | None, key: bytes | None, content_type: str) -> None:
    """`tail` prints one line without control characters for any record, and continues."""
    message = record(value, key, content_type=content_type, asm_error="\x1b[2J")
    assert as_line(message, "asm.").isprintable()
    assert json.loads(as_json(message))["offset"] == 14


FIELDS = sorted({name for cls in TOPICS for name in cls.__struct_fields__} | {"type", "bridge", "calls"})
FOREIGN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(FIELDS), FOREIGN, max_size=6),
    st.sampled_from(sorted(_SUMMARIES)) | FOREIGN,
    st.sampled_from([json.dumps, msgspec.msgpack.encode]),
)
def test_a_record_under_a_name_of_ours_can_be_shown(
    value: dict[str, object], kind: object, encode: Callable[[object], str | bytes]
) -> None:
    """A record of another program that looks like one of the bridge's, but for the types of its fields, is printed."""
    try:
        encoded = encode(value | {"type": kind})
    except OverflowError:  # an integer that MessagePack lacks
        encoded = json.dumps(value | {"type": kind})
    content_type = "application/json" if isinstance(encoded, str) else "application/msgpack"
    message = record(encoded.encode() if isinstance(encoded, str) else encoded, content_type=content_type)
    assert as_line(message, "asm.").isprintable()
    assert json.loads(as_json(message))["offset"] == 14


HEADER_NAMES = (
    "asm_error",
    "asm_error_code",
    "asm_origin",
    "content-type",
    "ce_id",
    "ce_source",
    "expires_at",
    "gr\\xf6",
)


@given(
    st.none() | st.binary(),
    st.none() | st.binary(max_size=10),
    st.lists(st.tuples(st.sampled_from(HEADER_NAMES), st.none() | st.binary(max_size=10))),
    st.integers(-1, 2**63 - 1),
)
def test_any_dead_letter_can_be_listed_and_prepared(
    value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes | None]], timestamp: int
) -> None:
    """`dead-letters list` and `resend` take any record of the topic, of any program, and say of each what it is, or
    why it cannot be sent again."""
    message = ConsumerRecord("asm.dead-letters", 3, 14, timestamp, 0, key, value, None, 0, 0, headers)
    letter = read_dead_letter(message)
    assert len(_row(letter)) == 6
    assert json.loads(json.dumps(_object(letter)))["origin"]
    prepared = _attempt(letter, 1.7e9)
    assert (prepared.resend is None) == bool(prepared.problem)
    assert json.loads(json.dumps(prepared.as_object()))["origin"]


@pytest.mark.parametrize(("at", "within"), [(8_200.0, None), (None, 7_200.0)])
async def test_more_than_an_hour_is_announced(
    at: float | None, within: float | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`inject` says that more than an hour does not count, whether it was given as a time or as a duration."""

    async def now(_: Settings) -> float:
        return 1_000.0

    monkeypatch.setattr("bridge.cli.inject.kafka_now", now)
    assert await _expires_at(Settings(), at, within) == "1970-01-01T02:16:40.000000Z"
    assert "in an hour" in capsys.readouterr().err
    assert await _expires_at(Settings(), None, 60.0) == "1970-01-01T00:17:40.000000Z"
    assert capsys.readouterr().err == ""


def test_a_short_origin_names_an_entry_of_the_inbox() -> None:
    """`dead-letters resend 3/17` sends the event at 3/17 of the inbox, not another topic's record at that position."""
    letters = [
        DeadLetter(key=b"a", value=b"{}", code="unknown_agent", text="why", origin=RecordId(topic, 3, 17))
        for topic in ("asm.inject", "asm.sessions")
    ]
    for named in ("3/17", "asm.inject/3/17"):
        assert [one.origin for one in _prepared(letters, [named], "asm.inject", 1.7e9)] == ["asm.inject/3/17"]
    (registry,) = _prepared(letters, ["asm.sessions/3/17"], "asm.inject", 1.7e9)
    assert registry.origin == "asm.sessions/3/17"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
@pytest.mark.parametrize("arguments", [("config",), ("--help",), ("schemas", "export", "DIR")], ids=" ".join)
def test_a_full_disk_is_reported(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """A command whose output cannot be written says so in one line, and exits with 1."""
    command = [sys.executable, "-m", "bridge", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "asm-bridge: the output cannot be written: No space left on device\n")


def test_output_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    """A closed pipe ends a command silently, and a stream that was closed before the start is not missed."""
    command = f"{shlex.quote(sys.executable)} -m bridge config"
    for line, code in ((f"{command} | true; exit ${{PIPESTATUS[0]}}", 1), (f"{command} >&-", 0)):
        done = subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("format_", ["json", "console"])
def test_logs_hold_no_secret(format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The log masks secrets in messages, fields and tracebacks, in the bridge's lines and the libraries'."""
    import structlog

    root, before = logging.getLogger(), logging.getLogger().handlers
    try:
        setup_logging(format_, "info", ["s3cr3t"])  # type: ignore[arg-type]
        structlog.get_logger().info("one s3cr3t", field={"deep": ["s3cr3t"]}, error=ValueError("s3cr3t"))
        logging.getLogger("lib").warning("two %s", "s3cr3t")
        try:
            raise ValueError("three s3cr3t")
        except ValueError:
            structlog.get_logger().exception("four")
        logging.getLogger("aiokafka.x").error("Unable to update metadata from [0]")
        logging.getLogger("uvicorn.error").info("Unable to update interest")
    finally:
        root.handlers = before
        structlog.reset_defaults()
    err = capsys.readouterr().err
    assert all(word in err for word in ("one", "two", "three", "four"))
    assert "s3cr3t" not in err
    assert "Unable to update" not in err
    if format_ == "json":
        assert [json.loads(line)["level"] for line in err.splitlines()] == ["info", "warning", "error"]
