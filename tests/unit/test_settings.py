"""Settings: their sources, and how invalid ones are refused."""

import os
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from bridge.settings import (
    KEYS,
    AsmSettings,
    KafkaSettings,
    SchemaRegistrySettings,
    Settings,
    SettingsError,
    load_settings,
    lookup,
    masked,
    secret_values,
    shown,
    sources,
)
from bridge.settings.load import env_name
from bridge.settings.model import SECRETS
from bridge.settings.types import duration, show_duration

SECRET = "s3cr3t-that-nobody-may-see"


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ASM_BRIDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def problems(config: Path | None = None, **overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(config, {key.replace("__", "."): value for key, value in overrides.items()})
    return str(caught.value)


def toml(text: str, name: str = "asm-bridge.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def test_the_documented_defaults() -> None:
    """Without any setting the documented defaults apply."""
    defaults = {
        "asm.base_url": "https://api.cbf.tcn.com",
        "asm.connect_timeout": 5,
        "asm.request_timeout": 10,
        "asm.max_connections": 512,
        "asm.max_connection_age": 300,
        "asm.max_retry_after": 60,
        "asm.http2": True,
        "asm.allow_http": False,
        "poll.interval": 1,
        "kafka.bootstrap_servers": "localhost:9092",
        "kafka.security_protocol": "PLAINTEXT",
        "kafka.group_id": "asm-bridge",
        "kafka.delivery": "exactly_once",
        "kafka.session_timeout": 10,
        "kafka.commit_interval": 0.2,
        "kafka.compression": "gzip",
        "topics.prefix": "asm.",
        "topics.partitions": 8,
        "topics.replication_factor": -1,
        "topics.retention": 7 * 86400,
        "topics.create": True,
        "records.encoding": "json",
        "records.heartbeat_interval": 10,
        "injection.ttl": 300,
        "injection.unknown_agent_grace": 10,
        "injection.max_attempts": 10,
        "injection.max_events_per_request": 20,
        "injection.max_pending": 1000,
        "ops.listen": "127.0.0.1:8080",
        "log.format": "auto",
        "log.level": "info",
        "drain_timeout": 20,
    }
    settings = load_settings()
    assert {key: lookup(settings, key) for key in KEYS} == dict.fromkeys(KEYS) | defaults
    assert set(sources(settings).values()) == {"default"}


def test_the_order_of_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first source with a key wins: command line, environment, secrets directory, TOML file, default."""
    kafka = '[kafka]\ngroup_id = "t"\nsasl_username = "t"\n'
    toml(kafka + '[asm]\ntoken = "t"\n[topics]\nprefix = "t"\n[ops]\nlisten = "t:1"')
    Path("secrets").mkdir()
    for key in ("kafka__group_id", "topics__prefix", "ops__listen"):
        Path(f"secrets/asm_bridge_{key}").write_text("s:2\n" if key == "ops__listen" else "s\n")
    monkeypatch.setenv("ASM_BRIDGE_SECRETS_DIR", "secrets")
    monkeypatch.setenv("ASM_BRIDGE_TOPICS__PREFIX", "e")
    monkeypatch.setenv("ASM_BRIDGE_OPS__LISTEN", "e:3")
    monkeypatch.setenv("ASM_BRIDGE_KAFKA__SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    settings = load_settings(None, {"ops.listen": "c:4", "kafka.sasl_password": SECRET})
    assert settings.asm.token == SecretStr("t")
    assert (settings.kafka.group_id, settings.topics.prefix, settings.ops.listen) == ("s", "e", "c:4")
    found = sources(settings)
    assert found["asm.token"] == "file asm-bridge.toml"
    assert found["kafka.group_id"] == "secrets directory"
    assert found["topics.prefix"] == "environment ASM_BRIDGE_TOPICS__PREFIX"
    assert found["ops.listen"] == "command line"
    assert found["poll.interval"] == "default"


def test_a_schema_registry_needs_json_and_its_own_address() -> None:
    """MessagePack with a registry, half a login, an address with a password: each is named, without the secret."""
    text = problems(schema_registry__url="http://registry.example", records__encoding="msgpack")
    assert text.startswith("--records.encoding: must be json with schema_registry.url")
    assert "missing" in problems(schema_registry__url="http://registry.example", schema_registry__username="bridge")
    assert "is not used without" in problems(schema_registry__password=SECRET)
    text = problems(schema_registry__url=f"https://bridge:{SECRET}@registry.example")
    assert "must not contain a user name or password" in text
    assert SECRET not in text
    toml("not PEM", "ca.pem")
    wrong = problems(schema_registry__url="https://registry.example", schema_registry__ca_file="ca.pem")
    assert wrong == "--schema_registry.ca_file: cannot be loaded: check that it is PEM"
    settings = load_settings(None, {"schema_registry.url": "http://registry.example:8081/apis/ccompat/v7/"})
    assert settings.schema_registry.url == "http://registry.example:8081/apis/ccompat/v7"


def test_mozillas_authorities_are_trusted_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without certificate authorities, those of certifi are trusted by every client that uses TLS."""
    none = ssl.get_default_verify_paths()._replace(cafile=None, capath=None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: none)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: None)
    registry = SchemaRegistrySettings(url="https://registry.example").client_arguments()["verify"]
    kafka = KafkaSettings(security_protocol="SSL", ssl_password=SecretStr("new")).login_arguments()["ssl_context"]
    service = AsmSettings().transport_arguments()["new_tls"](["h2"])
    assert all(context.cert_store_stats()["x509_ca"] > 50 for context in (registry, kafka, service))


def test_an_empty_value_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty value in any source leaves the next source in force."""
    toml('[kafka]\ngroup_id = "from-file"\nsasl_username = ""')
    monkeypatch.setenv("ASM_BRIDGE_KAFKA__GROUP_ID", "")
    settings = load_settings(None, {"kafka.group_id": ""})
    assert settings.kafka.group_id == "from-file"
    assert settings.kafka.sasl_username is None


@pytest.mark.parametrize("key", sorted(KEYS.keys() - SECRETS))
def test_every_key_has_its_environment_variable(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key has an environment variable: ASM_BRIDGE_ and the key in capitals, with __ for the dot."""
    monkeypatch.setenv(env_name(key), "\n")
    assert env_name(key) in problems()


def test_unknown_keys_are_errors_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt key is reported for every source, with the key that was probably meant and without its value."""
    toml(f'kafca = "{SECRET}"\n[kafka]\ngroupid = "{SECRET}"')
    Path("secrets").mkdir()
    Path("secrets/asm_bridge_kafka__sasl_pasword").write_text(SECRET)
    Path("secrets/agent-7").write_text(SECRET)
    monkeypatch.setenv("ASM_BRIDGE_SECRETS_DIR", "secrets")
    monkeypatch.setenv("ASM_BRIDGE_ASM__TOKEM", SECRET)
    monkeypatch.setenv("ASM_BRIDGE_ASM_TOKEN", SECRET)
    text = problems(log__levl=SECRET)
    assert sorted(line.partition(":")[0] for line in text.splitlines()) == [
        "--log.levl",
        "ASM_BRIDGE_ASM_TOKEN",
        "ASM_BRIDGE_ASM__TOKEM",
        "asm_bridge_kafka__sasl_pasword in the secrets directory",
        "kafca in asm-bridge.toml",
        "kafka.groupid in asm-bridge.toml",
    ]
    for meant in ("asm.token", "kafka.sasl_password", "kafka.group_id", "log.level"):
        assert f"did you mean {meant} " in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("kafka.nope", "`asm-bridge config` lists all settings"),
        ("nope.nope", "`asm-bridge config` lists all settings"),
        ("kafka.group", "did you mean kafka.group_id "),
        ("asm.interval", "did you mean poll.interval "),
        ("kafka-group-id", "did you mean kafka.group_id "),
        ("kafkas.delivry", "did you mean kafka.delivery "),
        ("secret_dir", "did you mean secrets_dir "),
    ],
)
def test_only_a_similar_setting_is_suggested(key: str, hint: str) -> None:
    """The suggestion for an unknown key is a similar one of its section, or the same name elsewhere."""
    toml(f'"{key}" = 1')
    assert f"{key} in asm-bridge.toml: no such setting; {hint}" in problems()


def test_service_links_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that an orchestrator adds for services whose names begin with asm-bridge are ignored."""
    for service in ("", "OPS_", "METRICS_2_"):
        for name in (
            "PORT",
            "PORT_8080_TCP",
            "PORT_8080_TCP_ADDR",
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_HTTP",
        ):
            monkeypatch.setenv(f"ASM_BRIDGE_{service}{name}", "tcp://10.0.0.1:8080")
    assert set(sources(load_settings()).values()) == {"default"}
    monkeypatch.setenv("ASM_BRIDGE_OPS_PORT", "9090")
    assert problems().startswith("ASM_BRIDGE_OPS_PORT: no such setting")


@pytest.mark.parametrize("key", sorted(SECRETS))
@pytest.mark.parametrize("value", [{SECRET: "x"}, {"x": {"y": SECRET}}, {"x": SECRET}, [SECRET], [{SECRET: SECRET}]])
def test_a_table_where_a_secret_should_be_is_not_shown(key: str, value: object) -> None:
    """Whatever stands in the file under a secret's name, the error names the setting, and shows nothing else of it."""
    section, _, name = key.rpartition(".")
    toml(f"[{section}]\n{name} = {inline(value)}\n")
    assert problems() == f"{key} in asm-bridge.toml: must be text (in TOML: in quotes)"


def inline(value: object) -> str:
    """The value as TOML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}" = {inline(inner)}' for name, inner in value.items()) + "}"
    return f"[{', '.join(map(inline, value))}]" if isinstance(value, list) else f'"{value}"'


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All wrong settings are reported together, as you wrote them, including those that only contradict each other."""
    monkeypatch.setenv("ASM_BRIDGE_POLL__INTERVAL", "soon")
    monkeypatch.setenv("ASM_BRIDGE_KAFKA", "{}")
    kafka = '[kafka]\ndelivery = "twice"\nsecurity_protocol = "SASL_SSL"\nssl_cafile = "missing.pem"\n'
    toml(kafka + "[topics]\npartitions = 0")
    lines = problems(ops__listen="8080").splitlines()
    told = {line.partition(":")[0]: line.partition(": ")[2] for line in lines}
    assert told.keys() == {
        "ASM_BRIDGE_KAFKA",
        "ASM_BRIDGE_POLL__INTERVAL",
        "kafka.delivery in asm-bridge.toml",
        "kafka.ssl_cafile in asm-bridge.toml",
        "kafka.sasl_username",
        "kafka.sasl_password",
        "topics.partitions in asm-bridge.toml",
        "--ops.listen",
    }
    assert told["kafka.delivery in asm-bridge.toml"] == "must be 'exactly_once' or 'at_least_once', not 'twice'"
    assert told["topics.partitions in asm-bridge.toml"] == "must be at least 1, not 0"
    assert told["--ops.listen"] == "must be HOST:PORT, e.g. 127.0.0.1:8080"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("asm.base_url", "http://api.example.com"),
        ("asm.base_url", "ftp://api.example.com"),
        ("asm.base_url", "https://user:pw@api.example.com"),
        ("asm.base_url", "https://api.example.com?x=1"),
        ("asm.base_url", "https://api.example.com/a/../b"),
        ("asm.base_url", "https://api.example.com/api/v1alpha1/asm/asmapi"),
        ("asm.base_url", "api.example.com"),
        ("asm.base_url", "https://api.example.com:port"),
        ("asm.proxy", "proxy:3128"),
        ("asm.proxy", "http://pro xy:3128"),
        ("asm.max_connections", "0"),
        ("asm.max_connections", "many"),
        ("asm.http2", "perhaps"),
        ("asm.rate_limit", "0"),
        ("asm.rate_limit", "inf"),
        ("poll.interval", "0"),
        ("poll.interval", "10 ms"),
        ("kafka.bootstrap_servers", "localhost"),
        ("kafka.bootstrap_servers", "a:9092,b"),
        ("kafka.sasl_mechanism", "GSSAPI"),
        ("kafka.sasl_mechanism", "PLAIN"),
        ("kafka.sasl_username", "u"),
        ("kafka.compression", "lz5"),
        ("kafka.session_timeout", "-5"),
        ("topics.prefix", "asm bridge."),
        ("topics.prefix", "x" * 240),
        ("topics.replication_factor", "0"),
        ("topics.retention", "0"),
        ("records.encoding", "avro"),
        ("injection.ttl", "0"),
        ("injection.max_attempts", "0"),
        ("ops.listen", "127.0.0.1:99999"),
        ("ops.listen", "::1:8080"),
        ("ops.listen", "a..b:8080"),
        ("kafka.bootstrap_servers", "a..b:9092"),
        ("asm.base_url", f"https://{'x' * 64}.example"),
        ("asm.base_url", "https://xn--"),
        ("asm.base_url", "https://[v1.a]"),
        ("asm.base_url", "https://1.2.3.999"),
        ("asm.proxy", "http://a..b:3128"),
        ("asm.proxy", "http://xn--a.example:3128"),
        ("schema_registry.url", "http://[v1.a]:8081"),
        ("log.format", "xml"),
        ("sessions_file", "missing.toml"),
        ("secrets_dir", "missing"),
        ("drain_timeout", "nan"),
    ],
)
def test_impossible_values_are_refused(key: str, value: str) -> None:
    """A value that cannot work is refused by name at start."""
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {key: value})
    assert [line.partition(":")[0] for line in caught.value.problems] == [f"--{key}"]


@pytest.mark.parametrize(
    ("key", "value", "parsed"),
    [
        ("asm.base_url", "https://api.example.com/", "https://api.example.com"),
        ("asm.base_url", "https://gateway.example.com/tcn/", "https://gateway.example.com/tcn"),
        ("asm.base_url", "http://127.0.0.1:8090", "http://127.0.0.1:8090"),
        ("asm.base_url", "http://[::1]:8090", "http://[::1]:8090"),
        ("asm.base_url", "http://localhost", "http://localhost"),
        ("asm.base_url", "https://bücher.example", "https://bücher.example"),
        ("poll.interval", "500ms", 0.5),
        ("topics.retention", "-1", -1),
        ("topics.retention", "36h", 129600),
        ("topics.create", "false", False),
        ("kafka.bootstrap_servers", "a:1, [::1]:2", "a:1,[::1]:2"),
        ("ops.listen", "[::]:0", "[::]:0"),
    ],
)
def test_values_are_read(key: str, value: str, parsed: object) -> None:
    """Values are accepted in each of the documented forms."""
    assert lookup(load_settings(None, {key: value}), key) == parsed


def test_plain_http_needs_leave() -> None:
    """Plain http to another machine is refused unless asm.allow_http is set."""
    settings = load_settings(None, {"asm.base_url": "http://gateway:8080", "asm.allow_http": "true"})
    assert settings.asm.base_url == "http://gateway:8080"


@given(st.one_of(st.floats(0.001, 1e7), st.integers(0, 10**7)))
def test_durations_are_shown_as_they_are_read(seconds: float) -> None:
    """A duration that `config` shows can be set again (to six digits)."""
    assert duration(show_duration(float(seconds))) == pytest.approx(seconds, rel=1e-5)


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    """A secret does not appear in any text made from settings, valid or not."""
    given = {
        "asm.token": SECRET,
        "asm.proxy": f"http://user:{SECRET}@proxy:3128",
        "kafka.security_protocol": "SASL_SSL",
        "kafka.sasl_username": "u",
        "kafka.sasl_password": SECRET,
        "kafka.ssl_password": SECRET,
    }
    settings = load_settings(None, given)
    visible = repr(settings.asm.token) + repr(settings.kafka) + "".join(shown(settings, key) for key in KEYS)
    assert SECRET not in visible
    assert masked(settings, "asm.token") == "********"
    assert masked(settings, "asm.proxy") == "http://user:********@proxy:3128"
    assert secret_values(settings) == [SECRET] * 4
    wrong = {**given, "asm.proxy": f"proxy:{SECRET}", "log.level": "loud", "asm.base_url": f"https://u:{SECRET}@x"}
    with pytest.raises(SettingsError) as caught:
        load_settings(None, wrong)
    assert SECRET not in str(caught.value)
    path = toml(f"[asm]\ntoken = ['{SECRET}']", "list.toml")
    assert SECRET not in problems(path)


def test_kafkas_clients_get_their_arguments() -> None:
    """Every Kafka client gets login and encryption, with PLAIN if no mechanism is set."""
    given = {
        "kafka.bootstrap_servers": "a:1,b:2",
        "kafka.security_protocol": "SASL_SSL",
        "kafka.sasl_username": "user",
        "kafka.sasl_password": SECRET,
    }
    kafka = load_settings(None, given).kafka
    arguments = kafka.client_arguments()
    assert arguments.pop("login") is kafka
    arguments |= kafka.login_arguments()
    context = arguments.pop("ssl_context")
    assert context.check_hostname
    assert arguments == {
        "bootstrap_servers": "a:1,b:2",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "user",
        "sasl_plain_password": SECRET,
    }


def test_a_file_that_is_no_certificate_is_told_at_start() -> None:
    """A certificate file that cannot be loaded is a wrong setting."""
    Path("ca.pem").write_text("no PEM")
    assert "--kafka.ssl_cafile: cannot be loaded" in problems(
        kafka__ssl_cafile="ca.pem", kafka__security_protocol="SSL"
    )


@pytest.mark.parametrize("name", ["missing.toml", "broken.toml"])
def test_a_bad_file_is_told(name: str) -> None:
    """A settings file that is missing or is not TOML is an error that names it."""
    Path("broken.toml").write_text("[kafka")
    assert name in problems(Path(name))


def test_a_file_may_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """ASM_BRIDGE_CONFIG names the TOML file if the command line does not."""
    toml('[kafka]\nbootstrap_servers = ["a:1", "b:2"]', "other.toml")
    monkeypatch.setenv("ASM_BRIDGE_CONFIG", "other.toml")
    settings = load_settings()
    assert settings.kafka.bootstrap_servers == "a:1,b:2"
    assert sources(settings)["kafka.bootstrap_servers"] == "file other.toml"


def test_settings_do_not_change() -> None:
    """Settings cannot be changed after they are parsed."""
    settings: Settings = load_settings()
    with pytest.raises(ValidationError):
        settings.kafka.group_id = "other"
    with pytest.raises(ValidationError):
        settings.drain_timeout = 1.0


@pytest.mark.parametrize(
    "text", ["topics.partitions = " + "9" * 5000, "asm.token = " + "[" * 2000, ".".join("a" * 2000) + " = 1", "\udcff"]
)
def test_a_file_that_cannot_be_read_is_named(text: str) -> None:
    """A file with a number of 5,000 digits, nesting 2,000 deep, or bytes that are not UTF-8, is a fault with its
    name.
    """
    path = Path("asm-bridge.toml")
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert problems().startswith("asm-bridge.toml")


@pytest.mark.parametrize("value", ["~nobody-of-that-name/x", "x" * 5000, "a\0b"])
@pytest.mark.parametrize("key", ["secrets_dir", "sessions_file", "asm.ca_file"])
def test_any_text_may_stand_where_a_path_is_expected(key: str, value: str) -> None:
    """A path that no file can have does not exist, and is named as any other that does not."""
    assert f"--{key}: " in problems(**{key.replace(".", "__"): value})


def test_a_variable_that_is_not_text_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable whose bytes are not UTF-8 is a fault with its name, and without its value."""
    monkeypatch.setenv("ASM_BRIDGE_KAFKA__GROUP_ID", os.fsdecode(b"gr\xf6sse"))
    assert problems() == "ASM_BRIDGE_KAFKA__GROUP_ID: is not UTF-8 text"
    monkeypatch.setenv("ASM_BRIDGE_KAFKA__GROUP_ID", "größe")
    assert load_settings().kafka.group_id == "größe"


def test_a_file_that_is_not_text_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret, or a file of settings, that is not UTF-8 is a fault with its name, and without its content."""
    Path("secrets").mkdir()
    Path("secrets/asm_bridge_asm__token").write_bytes(b"gr\xf6sse")
    Path("asm-bridge.toml").write_bytes(b"# gr\xf6sse")
    monkeypatch.setenv("ASM_BRIDGE_SECRETS_DIR", "secrets")
    assert problems().splitlines() == [
        "asm-bridge.toml: cannot be read: it is not UTF-8 text",
        "asm_bridge_asm__token in the secrets directory: cannot be read: it is not UTF-8 text",
    ]


@pytest.mark.parametrize("value", ["9" * 400, "1e999", "99999999999d", 10**400, float("inf")])
def test_a_duration_has_an_end(value: str | float) -> None:
    """A duration longer than any life is refused, also as text and as a number that no float holds."""
    with pytest.raises(ValueError, match="must be a duration"):
        duration(value)
