"""Secrets planted wherever one can be set, and searched for in all that the bridge and its commands put out."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.kafka.topics import TOPICS
from bridge.ops.http import answering, listen
from bridge.testing.brokers import Broker
from tests.support.chaos.facts import read_topics
from tests.support.chaos.harness import Child, Lab, opened

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

MARK = "pl4nted"
"""In every secret, so that whatever part of one is shown is found, too."""
DEFAULT, OPS = f"{MARK}-default-token", f"{MARK}-ops-token"
ECHOES = {
    "refused": (401, '{{"code": 16, "message": "Bearer {0} is not known, {0}"}}'),
    "bad-request": (400, '{{"code": 3, "message": "header: {0}", "details": []}}'),
    "page": (502, "<html><b>{0}</b> <a href='?t={0}'>again</a> Authorization: Bearer {0}</html>"),
    "text": (200, "{0}"),
    "wrong-field": (200, '{{"asm_session_sid": "{0}"}}'),
    "wrong-type": (200, '{{"asm_session_sid": {{"{0}": 1}}}}'),
    "headers": (503, '{{"code": 14, "message": "{0}", "details": [{{"{0}": 1}}]}}'),
}
"""By agent: how the service repeats the token that it was given. The agent ``works`` has a session, and its events are
refused in the same way."""
DELIVERED_LATE = 60


async def echo(request: Request) -> Response:
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    body = await request.json()
    if token.endswith("works"):
        if request.url.path.endswith("getcurrentsession"):
            return Response('{"asm_session_sid": "7", "voice_session_sid": "8"}', media_type="application/json")
        if not body.get("events"):
            return Response('{"voice_status": {}}', media_type="application/json")
    name = next((name for name in ECHOES if token.endswith(name)), "bad-request")
    status, text = ECHOES[name]
    return Response(text.format(token), status, {"Proxy-Status": token, "X-Token": token})


@asynccontextmanager
async def echoing() -> AsyncIterator[str]:
    """A service that repeats each token in its errors. Yields its address."""
    listener = listen("127.0.0.1", 0)
    app = Starlette(routes=[Route("/{rest:path}", echo, methods=["GET", "POST"])])
    async with answering(listener, app):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def plant(directory: Path) -> Mapping[str, str]:
    """Writes the agents' tokens. Returns the settings with a secret that a working bridge can have."""
    secrets = directory / "secrets"
    secrets.mkdir(exist_ok=True)
    for name in (*ECHOES, "works"):
        (secrets / name).write_text(f"{MARK}-{name}")
    (secrets / "tokens.json").write_text(json.dumps({"one": f"{MARK}-text"}))
    return {"ASM__TOKEN": DEFAULT, "OPS__TOKEN": OPS, "LOG__LEVEL": "debug"}


def misplaced(directory: Path) -> Mapping[str, str]:
    """Settings with a secret of every kind, each of them refused, or of no use."""
    key = directory / "key.pem"
    made = ("openssl", "genpkey", "-algorithm", "RSA", "-aes256", "-pass", f"pass:{MARK}-right", "-out", str(key))
    subprocess.run(made, check=True, capture_output=True)
    return {
        "ASM__TOKEN": DEFAULT,
        "ASM__PROXY": f"http://user:{MARK}-proxy@127.0.0.1:1",
        "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA__SASL_MECHANISM": "SCRAM-SHA-256",
        "KAFKA__SASL_USERNAME": "user",
        "KAFKA__SASL_PASSWORD": f"{MARK}-sasl",
        "SCHEMA_REGISTRY__URL": "http://127.0.0.1:1",
        "SCHEMA_REGISTRY__USERNAME": "user",
        "SCHEMA_REGISTRY__PASSWORD": f"{MARK}-registry",
        "OPS__TOKEN": OPS,
        "LOG__LEVEL": "debug",
    }


async def test_no_secret_is_ever_shown(
    broker: Broker, topics_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the log at debug, metrics, pages, records, dead letters, process arguments nor any command shows a token
    that the service repeats, or a secret of the settings, also where it is wrong.
    """
    monkeypatch.setenv("PLANTED_TOKEN", f"{MARK}-page")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    shown: dict[str, str] = {}
    async with echoing() as url, opened(Lab(broker.bootstrap_servers, topics_prefix, tmp_path, url)) as lab:
        settings = plant(tmp_path)
        bridge = await lab.bridge(**settings)
        entries = {name: {"token": f"file:{name}", "interval": 0.2} for name in (*ECHOES, "works")}
        entries |= {"by-default": {"token": None}, "by-name": {"token": "env:PLANTED_TOKEN"}}
        entries["by-key"] = {"token": "file:tokens.json#one"}
        for name, entry in entries.items():
            await lab.register(name, **entry)
        await lab.inject("works", "771")
        await lab.completed(DELIVERED_LATE)
        await asyncio.sleep(1)
        for path in ("", "metrics", "api/status", "api/sessions?limit=500", "readyz", "page.js"):
            shown[path] = await get(lab, path)
        assert "unauthorized" in shown["api/sessions?limit=500"]
        arguments = Path(f"/proc/{bridge.process.pid}/cmdline") if bridge.process else None
        shown["arguments"] = arguments.read_text() if arguments and arguments.exists() else ""
        shown |= await outputs(lab, tmp_path, COMMANDS, settings)
        topics = [topic.name for topic in TOPICS]
        shown["records"] = repr(await read_topics(lab.bootstrap_servers, lab.prefix, topics, 1))
        shown["records"] += repr(await read_topics(lab.bootstrap_servers, lab.prefix, set(topics) - {"sessions"}))
        assert "rejected" in shown["records"]
        wrong = misplaced(tmp_path)
        assert MARK in "".join(wrong.values())
        late = lab.launch("wrong", **wrong)
        shown |= await outputs(lab, tmp_path, WRONG, wrong)
        key = str(tmp_path / "key.pem")
        tls = {"KAFKA__SECURITY_PROTOCOL": "SSL", "KAFKA__SSL_CERTFILE": key, "KAFKA__SSL_KEYFILE": key}
        shown |= await outputs(lab, tmp_path, [("topics", "create")], {**tls, "KAFKA__SSL_PASSWORD": f"{MARK}-wrong"})
        assert "cannot be loaded" in shown["topics create"]
        for child in (bridge, late):
            await child.stop()
            shown[child.log.name] = child.log.read_text()
    found = {place: re.findall(rf".{{0,80}}{MARK}.{{0,30}}", text)[:3] for place, text in shown.items()}
    assert {place: lines for place, lines in found.items() if lines} == {}
    assert all(shown.values()), [place for place, text in shown.items() if not text]


COMMANDS = (
    *(("check",), ("config",), ("status",), ("sessions", "list"), ("sessions", "export"), ("dead-letters", "list")),
    *(("tail", "--until-end"), ("tail", "--until-end", "--json", "sessions")),
)
WRONG = (("check", "--json"), ("config", "--json"), ("sessions", "list", "--json"), ("inject", "works", os.devnull))


async def get(lab: Lab, path: str) -> str:
    """An operations endpoint's answer, headers included."""
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"http://127.0.0.1:{lab.ops['bridge']}/{path}"
        answer = await client.get(url, headers={"Authorization": f"Bearer {OPS}"})
    return f"{answer.headers} {answer.text}"


async def outputs(
    lab: Lab, directory: Path, commands: Sequence[tuple[str, ...]], settings: Mapping[str, str]
) -> dict[str, str]:
    """What the commands print, all at a time."""
    children = {
        " ".join(command): Child(f"command-{number}", command, lab.settings(**settings), directory)
        for number, command in enumerate(commands)
    }
    for child in children.values():
        child.log.unlink(missing_ok=True)
        child.start()
    await asyncio.gather(*(child.ended() for child in children.values()))
    return {name: child.log.read_text() for name, child in children.items()}
