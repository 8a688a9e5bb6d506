"""The Schema Registry's client, and the schemas in the form that a registry checks."""

import asyncio
import json
import ssl
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest

from asm_bridge_schemas import records
from asm_bridge_schemas.frame import frame, schema_id, unframed
from asm_bridge_schemas.registry import export, registered_schemas, text
from bridge.check.finding import Finding
from bridge.check.schemas import subjects
from bridge.clock import Clock
from bridge.kafka.preflight import Preflight
from bridge.kafka.schema_registry import OutputFrames, SchemaRegistryClient, SchemaRegistryError, registered_texts
from bridge.settings import SchemaRegistrySettings, Settings, TopicsSettings
from tests.support.samples import sample

SCHEMAS = registered_schemas()
Handler = Callable[[httpx.Request], httpx.Response]


class Mocked(SchemaRegistrySettings):
    """Settings whose client talks to a function."""

    def client_arguments(self) -> dict[str, Any]:
        return super().client_arguments() | {"transport": httpx.MockTransport(HANDLERS[str(self.url)])}


HANDLERS: dict[str, Handler] = {}


def settings(handler: Handler, **more: Any) -> SchemaRegistrySettings:
    url = f"http://registry-{len(HANDLERS)}.example"
    HANDLERS[url] = handler
    return Mocked(url=url, **more)


class Registry:
    """What a registry does with schemas: they get ids as they come, each one only once."""

    def __init__(self, *, writable: bool = True) -> None:
        self.ids: dict[tuple[str, str], int] = {}
        self.writable = writable
        self.down = False
        self.compatible = True
        self.calls: list[tuple[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.down:
            raise httpx.ConnectError("All connection attempts failed")
        self.calls.append((request.method, request.url.path))
        if request.url.path == "/subjects":
            return httpx.Response(200, json=[])
        if request.url.path.startswith("/compatibility/"):
            return httpx.Response(200, json={"is_compatible": self.compatible})
        _, _, subject, *rest = request.url.path.split("/")
        body = json.loads(request.content)
        assert body["schemaType"] == "JSON"
        key = (subject, body["schema"])
        if not rest and key not in self.ids:
            return httpx.Response(404, json={"error_code": 40403, "message": "Schema not found"})
        if rest and not self.writable:
            return httpx.Response(403, json={"error_code": 40301, "message": "Forbidden"})
        return httpx.Response(200, json={"id": self.ids.setdefault(key, len(self.ids) + 1)})


def frames(registry: Handler, prefix: str = "asm.") -> OutputFrames:
    return OutputFrames(settings(registry), TopicsSettings(prefix=prefix))


def calls(handler: Handler, **more: Any) -> str:
    """What is said of an answer to a registration."""

    async def register() -> None:
        async with aclosing(SchemaRegistryClient(settings(handler, **more))) as client:
            await client.register("asm.conversations-value", "{}")

    with pytest.raises(SchemaRegistryError) as caught:
        asyncio.run(register())
    return str(caught.value)


def test_a_frame_is_confluents() -> None:
    """A zero byte and the id in four bytes, big-endian, stand before the value; a value without both stays as it is."""
    assert frame(258) == b"\0\0\0\1\2"
    assert unframed(frame(258) + b"{}") == b"{}"
    assert schema_id(frame(2**32 - 1) + b"{}") == 2**32 - 1
    for value in (b"{}", b"", b"\0", b"\0\0\0\0\1", b"\x81\xa1a\x01"):
        assert unframed(value) == value
        assert schema_id(value) is None


def test_every_output_topic_has_a_schema_that_is_closed() -> None:
    """Draft-07, nothing of 2020-12, and no object with named fields takes others; only the opaque ones are open."""
    assert set(SCHEMAS) == set(records.TOPICS.values())
    for schema in SCHEMAS.values():
        jsonschema.Draft7Validator.check_schema(schema)
        assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
        assert "$defs" not in text(schema)
        assert "prefixItems" not in text(schema)
        for one in _objects(schema):
            assert one["additionalProperties"] is False


def _objects(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [found for item in value for found in _objects(item)]
    if not isinstance(value, dict):
        return []
    own = [value] if value.get("type") == "object" and isinstance(value.get("properties"), dict) else []
    return own + [found for item in value.values() for found in _objects(item)]


@pytest.mark.parametrize("cls", records.TOPICS, ids=lambda cls: cls.__name__)
def test_a_record_fits_the_registered_schema_of_its_topic(cls: type[msgspec.Struct]) -> None:
    """What is published validates; with an unknown field, without a field, or as another type it does not."""
    validator = jsonschema.Draft7Validator(SCHEMAS[records.TOPICS[cls]])
    value = json.loads(msgspec.json.encode(sample(cls)))
    validator.validate(value)
    assert not validator.is_valid(value | {"unknown": 1})
    assert not validator.is_valid(value | {"type": "Another"})
    for name in value:
        assert not validator.is_valid({key: item for key, item in value.items() if key != name}), name


def test_the_export_is_what_is_registered(tmp_path: Path) -> None:
    """Another program can register the files as they are: the bridge then finds its schemas there."""
    files = {path.stem: path.read_text(encoding="utf-8") for path in export(tmp_path / "new")}
    assert files == registered_texts()


def test_every_schema_is_registered_under_its_topics_subject() -> None:
    """``<topic>-value``, the topic with its prefix; each has a frame then, and nothing is registered twice."""
    registry = Registry()
    first, second = frames(registry, "eu."), frames(registry, "eu.")
    asyncio.run(first.register())
    assert {subject for subject, _ in registry.ids} == {f"eu.{topic}-value" for topic in SCHEMAS}
    assert first.frames == {topic: frame(number) for number, topic in enumerate(SCHEMAS, 1)}
    asyncio.run(second.register())
    assert second.frames == first.frames
    assert len(registry.ids) == len(SCHEMAS)


def test_the_right_to_read_is_enough_for_schemas_that_are_there() -> None:
    """A bridge that may not register uses what somebody else has registered."""
    registry = Registry()
    asyncio.run(frames(registry).register())
    registry.writable = False
    mine = frames(registry)
    asyncio.run(mine.register())
    assert len(mine.frames) == len(SCHEMAS)


def test_what_is_known_is_not_asked_for_again() -> None:
    """After an outage in the middle only the missing ids are asked for; with all of them, nothing is."""
    registry = Registry()
    mine = frames(registry)
    mine.frames.update({topic: frame(9) for topic in SCHEMAS if topic != "conversations"})
    registry.down = True
    with pytest.raises(SchemaRegistryError, match="All connection attempts failed"):
        asyncio.run(mine.register())
    registry.down = False
    asyncio.run(mine.register())
    assert {subject for subject, _ in registry.ids} == {"asm.conversations-value"}
    registry.down = True
    asyncio.run(mine.register())


async def test_the_start_waits_for_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is down the preflight says so and does not pass; then it passes with every id known."""
    monkeypatch.setattr("bridge.kafka.preflight._RETRY_EVERY", 0.01)
    registry = Registry()
    registry.down = True
    mine = frames(registry)
    preflight = Preflight(None, TopicsSettings(), Clock(), mine)  # type: ignore[arg-type]
    monkeypatch.setattr(preflight, "_check", lambda: asyncio.sleep(0))
    running = asyncio.create_task(preflight.run())
    await asyncio.sleep(0.05)
    assert not running.done()
    reason = str(preflight.waiting_for)
    assert "registry-" in reason
    assert "check schema_registry.url" in reason
    registry.down = False
    await asyncio.wait_for(running, 5)
    assert preflight.waiting_for is None
    assert len(mine.frames) == len(SCHEMAS)


def test_a_refusal_says_what_to_do() -> None:
    """A login, a right, an incompatible schema, a wrong address and a foreign page each have their own advice."""

    def answers(status: int, **body: Any) -> Handler:
        return lambda request: httpx.Response(status, json=body)

    assert "check schema_registry.username and schema_registry.password" in calls(answers(401))
    assert "right to read and write" in calls(answers(403))
    said = calls(answers(409, error_code=409, message="OBJECT_TYPE_PROPERTY_SCHEMAS_NARROWED"))
    assert "OBJECT_TYPE_PROPERTY_SCHEMAS_NARROWED" in said
    assert "compatib" in said
    assert "/apis/ccompat/v7" in calls(answers(404))
    assert "HTTP 200" in calls(lambda request: httpx.Response(200, text="<html>sign in</html>"))
    assert "usable schema id" in calls(answers(200, id="7"))
    assert "see the registry's log" in calls(answers(500, message="x" * 1000))


def checked(handler: Handler, **more: Any) -> list[Finding]:
    """What `asm-bridge check` finds."""
    sections: dict[str, Any] = {"schema_registry": settings(handler, **more), "topics": TopicsSettings()}
    return asyncio.run(subjects(Settings.model_construct(**sections)))


def test_check_says_what_run_would_register() -> None:
    """`check` names the subjects that `run` will register, and registers nothing itself."""
    registry = Registry()
    (found,) = checked(registry)
    assert (found.check, found.result, found.advice) == ("schemas", "ok", "")
    assert "`run` registers asm.agent-status-value, " in found.found
    assert "right to write" in found.found
    assert registry.ids == {}
    asyncio.run(frames(registry).register())
    (found,) = checked(registry)
    assert found.result == "ok"
    assert found.found.endswith(f"has the schemas of all {len(SCHEMAS)} output topics")


def test_check_says_what_the_registry_would_refuse() -> None:
    """A subject whose last version is not compatible is a problem with its name, and so is a lacking right."""
    registry = Registry()
    asyncio.run(frames(registry).register())
    del registry.ids["asm.conversations-value", text(SCHEMAS["conversations"])]
    registry.compatible = False
    (found,) = checked(registry)
    assert found.result == "problem"
    assert found.found == "asm.conversations-value: the schema is not compatible with its last version"
    assert "BACKWARD" in found.advice

    def forbidden(request: httpx.Request) -> httpx.Response:
        return registry(request) if request.url.path == "/subjects" else httpx.Response(403, json={})

    found = checked(forbidden)[0]
    assert (found.result, "asm.agent-status-value: HTTP 403" in found.found) == ("problem", True)
    assert "right to read and write" in found.advice


def because(error: Exception, cause: Exception) -> Exception:
    """The error as httpx raises it."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("answer", "found", "advice"),
    [
        (because(httpx.ConnectError("All failed"), ConnectionRefusedError(111)), ": connection refused", "is running"),
        (because(httpx.ConnectTimeout(""), TimeoutError()), ": no answer in time", "firewall"),
        (httpx.Response(401, json={}), "/subjects: HTTP 401", "schema_registry.password"),
        (httpx.Response(404, text="<html>"), "/subjects: HTTP 404", "/apis/ccompat/v7"),
        (httpx.Response(200, text="<html>"), "/subjects: HTTP 200", "registry's log"),
        (httpx.Response(200, text="[" * 100_000), "/subjects: HTTP 200", "registry's log"),
    ],
    ids=["refused", "silent", "login", "elsewhere", "a page", "deep"],
)
def test_check_says_why_the_registry_cannot_be_used(
    answer: httpx.Response | Exception, found: str, advice: str
) -> None:
    """What is wrong with address, network or login is one problem, said once and not for each subject."""

    def respond(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    (one,) = checked(respond)
    assert one.result == "problem"
    assert found in one.found
    assert advice in one.advice


@pytest.mark.parametrize(
    ("certificate", "ca_file", "found", "advice"),
    [
        ("good", False, "signed by an authority that is not trusted", "set schema_registry.ca_file"),
        ("other", True, "the certificate is for another name", "a name that is in the certificate"),
        (None, False, "the server does not speak TLS", "it begins with http://"),
        ("good", True, "/subjects: HTTP 404", "/apis/ccompat/v7"),
    ],
)
async def test_check_names_a_registrys_certificate(
    authority: Path, certificate: str | None, ca_file: bool, found: str, advice: str
) -> None:
    """A certificate of an unknown authority, one for another name, and a port without TLS have their own advice."""
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(authority / f"{certificate}.pem", authority / f"{certificate}.key")

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        registry = SchemaRegistrySettings(url=url, ca_file=authority / "ca.pem" if ca_file else None)
        (one,) = await subjects(Settings(schema_registry=registry))
    assert one.result == "problem"
    assert found in one.found
    assert advice in one.advice


def test_the_login_is_sent_and_never_shown() -> None:
    """Basic authentication; no error text has the password."""
    sent: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["authorization"])
        return httpx.Response(401, json={})

    said = calls(refuse, username="bridge", password="s3cr3t-that-nobody-may-see")
    assert sent == [httpx.BasicAuth("bridge", "s3cr3t-that-nobody-may-see")._auth_header]
    assert "s3cr3t" not in said
