"""What files, the environment and callers bring: settings, sessions files, tokens, requests to the ops endpoints."""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote, unquote

from pydantic import SecretStr
from starlette.types import ASGIApp

from bridge.asm.errors import Unauthorized
from bridge.asm.http.request import PreparedRequest, Target
from bridge.asm.tokens import Tokens
from bridge.ops.monitor import Monitor
from bridge.ops.server import application
from bridge.registry.file import SessionsFileError, as_toml, read_sessions
from bridge.settings import KEYS, Settings, SettingsError, load_settings, secret_values, shown, sources
from bridge.settings.load import env_name
from bridge.settings.model import SECRETS, OpsSettings
from tests.support.fuzz.data import Data
from tests.support.ops import Pictured

_SECRET = "s3cr3t-v4lue"
_PLAIN = [key for key in KEYS if key not in SECRETS]
_directory = Path(tempfile.mkdtemp(prefix="asm-bridge-fuzz-"))
_BESIDE = _directory / "beside"
_BESIDE.write_text("good")


def settings_file(data: bytes) -> None:
    """Any file of settings is accepted, or every fault in it is named; what is accepted can be shown and used."""
    path = _directory / "asm-bridge.toml"
    path.write_bytes(data)
    with patch.dict(os.environ, {}, clear=True):
        _load(path)


def settings_environment(data: bytes) -> None:
    """The same for variables of the environment, whose bytes may be no text."""
    given, variables = Data(data), {}
    for _ in range(1 + given.byte() % 4):
        name = env_name(given.choice(_PLAIN)) if given.byte() % 8 else "ASM_BRIDGE_" + _variable(given.part())
        variables[name.replace("=", "") or "X"] = _variable(given.part())
    secret = given.choice(sorted(SECRETS))
    with patch.dict(os.environ, variables | {env_name(secret): _SECRET}, clear=True):
        assert _SECRET not in _load(None)


def _variable(value: bytes) -> str:
    return os.fsdecode(value.replace(b"\0", b""))


def _load(path: Path | None) -> str:
    """All that is said of the settings."""
    try:
        settings = load_settings(path)
    except SettingsError as error:
        return str(error)
    _use(settings)
    return "\n".join([*(shown(settings, key) for key in KEYS), *sources(settings).values()])


def _use(settings: Settings) -> None:
    """What ``run`` makes of them before it does anything."""
    secret_values(settings)
    settings.asm.transport_arguments()
    assert settings.topics.retention_ms
    assert settings.topics.name("inject")
    assert settings.ops.host
    assert 0 <= settings.ops.port < 65536
    for seconds in (
        settings.drain_timeout,
        settings.poll.interval,
        settings.injection.ttl,
        settings.asm.request_timeout,
    ):
        round(seconds * 1000)


def sessions_file(data: bytes) -> None:
    """Any sessions file is read, or every wrong entry is named; what is read is written and read again."""
    given = Data(data)
    name = given.choice(("sessions.toml", "sessions.json", "standard input"))
    text = given.rest().decode(errors="replace")
    try:
        entries = read_sessions(text, name)
    except SessionsFileError:
        return
    assert read_sessions(as_toml(entries), "again.toml") == entries


def token_file(data: bytes) -> None:
    """The token in any file can stand in a request's header, or ``Unauthorized`` says what is wrong; the file beside it
    is read all the same.
    """
    given = Data(data)
    key, name = given.part().decode(errors="replace"), given.choice(("t", "missing", ""))
    (_directory / "t").write_bytes(given.rest())
    tokens = Tokens(_directory, None)
    for reference in (f"file:{name}", f"file:{name}#{key}"):
        try:
            token = tokens.get(reference)
        except Unauthorized:
            continue
        request = PreparedRequest(_TARGET, {"authorization": f"Bearer {token}"}, b"{}")
        assert request.http1.count(b"\r\n") == 6
        assert request.http2
    assert tokens.get("file:beside") == "good"


_TARGET = Target("https", "asm.test", "/getstatus")
_TOKEN = SecretStr("t0ken")
_pictured = Pictured(3)
_applications = [
    application(_pictured.snapshot, Monitor(_pictured.snapshot), OpsSettings(token=token)) for token in (None, _TOKEN)
]
_runner = asyncio.Runner()


def ops_request(data: bytes) -> None:
    """Any request to the ops endpoints is answered within its time, never with an error of ours, always with the
    headers that protect the page, and changes nothing.
    """
    given = Data(data)
    method = given.choice(("GET", "GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT"))
    app, path, query = given.choice(_applications), given.part(), given.part()
    headers = [(given.part().lower(), given.part()) for _ in range(given.byte() % 4)]
    if given.byte() % 8:
        headers.append((b"host", b"127.0.0.1:8080"))
    status, answered = _runner.run(asyncio.wait_for(_ask(app, method, path, query, headers, given.rest()), 10))
    assert status < 500
    assert answered.get(b"x-content-type-options") == b"nosniff"
    assert b"default-src 'self'" in answered.get(b"content-security-policy", b"")
    assert status != 200 or method in ("GET", "HEAD")
    if (
        app is _applications[1]
        and status == 200
        and unquote(path.decode(errors="replace")) not in ("healthz", "readyz")
    ):
        assert any(name == b"authorization" for name, _ in headers)


async def _ask(
    app: ASGIApp, method: str, path: bytes, query_string: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> tuple[int, dict[bytes, bytes]]:
    target, query = (
        quote(part, safe="/%?:@!$&'()*+,;=~") for part in (b"/" + path, query_string)
    )  # a server refuses the rest
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "root_path": "",
        "path": unquote(target),
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "headers": headers,
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8080),
    }
    received = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return received.pop() if received else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


SETTINGS_SEEDS = [
    b'[kafka]\nbootstrap_servers = ["a:9092", "b:9092"]\nsession_timeout = "10s"\ngroup_id = "g"\n',
    b'[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_username = "u"\nsasl_password = "s3cr3t"\n',
    b'[asm]\nbase_url = "https://asm.test"\ntoken = "s3cr3t"\nproxy = "http://u:s3cr3t@p:3128"\nrate_limit = 5.5\n',
    b'secrets_dir = "/tmp"\nsessions_file = "~/x"\ndrain_timeout = 5\nops.listen = "[::1]:8080"\n',
    b'[topics]\nprefix = "asm."\npartitions = 8\nretention = "7d"\nreplication_factor = -1\n[log]\nlevel = "debug"\n',
    b'[schema_registry]\nurl = "https://r:8081"\nusername = "u"\n[records]\nencoding = "msgpack"\n',
]
ENVIRONMENT_SEEDS = [
    bytes([0, _PLAIN.index(key), 1]) + value + b"\xfe\x00"
    for key, value in (
        ("asm.base_url", b"https://asm.test"),
        ("kafka.bootstrap_servers", b"a:1,b:2"),
        ("topics.retention", b"7d"),
        ("asm.rate_limit", b"5"),
        ("asm.proxy", b"socks5://u:p@h:1"),
        ("ops.listen", b"[::]:80"),
        ("secrets_dir", b"~/x"),
        ("topics.partitions", b"8"),
        ("records.source", b"/a"),
    )
] + [b"\x02\x00\x00KAFKA\xfe\x01\x00\x00PORT\xfetcp://1\xfe", b"\x01\x05\x01x\xfe\x06\x01\xff\xfe"]
SESSIONS_SEEDS = [
    b'\x00[[sessions]]\nagent_id = "a"\ntoken = "file:a#b"\ninterval = 0.5\nskills = ["x"]\nlabels = { site = "m" }\n',
    b'\x00[[sessions]]\nagent_id = "a"\n[[sessions]]\nagent_id = "a"\nasm_session_sid = "7"\n',
    b'\x01[{"agent_id": "a", "asm_session_sid": 7, "labels": {"x": "y"}}, {"agent_id": "b", "interval": 1e0}]',
    b'\x02{"sessions": [{"agent_id": "\\u0061"}]}',
]
TOKEN_SEEDS = [b"\xfe\x00t0ken\n", b'a\xfe\x00{"a": "t0ken", "b": 1}', b"k\xfe\x01x", b"\xfe\x00\xef\xbb\xbft0ken"]
OPS_SEEDS = [
    b"\x00\x00healthz\xfe\xfe\x00\x01",
    b"\x00\x00readyz\xfe\xfe\x01host\xfelocalhost\xfe\x00",
    b"\x00\x00metrics\xfe\xfe\x01accept-encoding\xfegzip\xfe\x01",
    b"\x00\x01api/status\xfe\xfe\x01authorization\xfeBearer t0ken\xfe\x01",
    b"\x00\x01api/sessions\xfe\xfe\x01authorization\xfeBasic dTp0MGtlbg==\xfe\x01",
    b"\x00\x00api/sessions\xfesearch=a&condition=sick&limit=50&offset=0\xfe\x00\x01",
    b"\x00\x00api/events\xfe\xfe\x00\x01",
    b'\x00\x00\xfe\xfe\x01if-none-match\xfe"x"\xfe\x01',
    b"\x04\x00page.js\xfe\xfe\x02range\xfebytes=0-5\xfeif-range\xfex\xfe\x01",
    b"\x00\x00../server.py\xfe\xfe\x01host\xfe[::1]:8080\xfe\x00",
]
