"""The Schema Registry, which assigns the ids in the frames of values to the schemas of the output topics.

It uses Confluent's API, which Apicurio also offers, at ``/apis/ccompat/v7``. An id never changes: once all are known,
the bridge no longer needs the registry.
"""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import httpx

from asm_bridge_schemas.frame import frame
from asm_bridge_schemas.registry import registered_schemas, text
from bridge.asm.http.connect_error import Cause, explain
from bridge.settings import SchemaRegistrySettings, TopicsSettings

_NOT_FOUND = (40401, 40402, 40403)
"""The error codes of a subject, a version and a schema that do not exist."""


class SchemaRegistryError(Exception):
    """The registry is unreachable, or refuses a request: what was ``found``, with its address, and what to do."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(f"{found}: {advice}")
        self.found = found
        self.advice = advice


class SchemaRegistryClient:
    """Every method raises ``SchemaRegistryError``, and may be repeated."""

    def __init__(self, settings: SchemaRegistrySettings) -> None:
        self._url = settings.url
        self._http = httpx.AsyncClient(**settings.client_arguments())

    async def aclose(self) -> None:
        await self._http.aclose()

    async def subjects(self) -> None:
        """Makes a request that every registry answers, to see whether this is one."""
        await self._call("GET", "/subjects")

    async def find(self, subject: str, schema: str) -> int | None:
        """The id of a subject's version with this schema, or None."""
        found = await self._call("POST", f"/subjects/{subject}", schema)
        return None if found is None else _id(found)

    async def register(self, subject: str, schema: str) -> int:
        """Makes the schema a version of the subject, if it is not one. Returns the id."""
        registered = await self._call("POST", f"/subjects/{subject}/versions", schema)
        if registered is None:
            raise SchemaRegistryError(f"{self._url} does not know how to register a schema", _WHERE)
        return _id(registered)

    async def is_compatible(self, subject: str, schema: str) -> bool:
        """Whether the schema may become the subject's next version."""
        found = await self._call("POST", f"/compatibility/subjects/{subject}/versions/latest", schema)
        return found is None or found.get("is_compatible") is True

    async def _call(self, method: str, path: str, schema: str | None = None) -> dict[str, Any] | None:
        """The answer, or None if it says that the subject, version or schema does not exist."""
        body = None if schema is None else {"schemaType": "JSON", "schema": schema}
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            cause, text = explain(error)
            raise SchemaRegistryError(f"{self._url}: {text}", _UNREACHABLE.get(cause, _RUNNING)) from error
        try:
            answer = response.json()
        except (ValueError, RecursionError):
            answer = None
        known = answer if isinstance(answer, dict) else {}
        if response.status_code == 200 and answer is not None:
            return known
        if response.status_code == 404 and known.get("error_code") in _NOT_FOUND:
            return None
        said = str(known.get("message") or "")[:300]
        found = f"{self._url}{path}: HTTP {response.status_code}" + (f" ({said})" if said else "")
        raise SchemaRegistryError(found, _ADVICE.get(response.status_code, "see the registry's log"))


class OutputFrames:
    """Frames the values of the output topics; ``register`` fills ``frames`` (by topic, without its prefix)."""

    def __init__(self, settings: SchemaRegistrySettings, topics: TopicsSettings) -> None:
        self.frames: dict[str, bytes] = {}
        self._settings = settings
        self._topics = topics

    def framed(self, topic: str, value: bytes) -> bytes:
        """The value in Confluent's wire format. Raises ``KeyError`` while the topic's id is unknown."""
        return self.frames[topic] + value

    async def register(self) -> None:
        """Finds the ids that are not known yet. Raises ``SchemaRegistryError``; ids found until then are kept.

        A schema is registered only if the registry does not have it, so that the right to read is enough for a bridge
        whose schemas are registered in another way (``asm-bridge schemas export --registry``).
        """
        async with aclosing(SchemaRegistryClient(self._settings)) as registry:
            for topic, schema in registered_texts().items():
                if topic not in self.frames:
                    subject = subject_of(self._topics.name(topic))
                    schema_id = await registry.find(subject, schema)
                    if schema_id is None:
                        schema_id = await registry.register(subject, schema)
                    self.frames[topic] = frame(schema_id)


def registered_texts() -> Mapping[str, str]:
    """Topic, without its prefix -> its schema, in the registered form."""
    return {topic: text(schema) for topic, schema in registered_schemas().items()}


def subject_of(topic: str) -> str:
    """The subject of a topic's values, by Confluent's TopicNameStrategy. ``topic``: the full name."""
    return f"{topic}-value"


INCOMPATIBLE = "relax the subject's compatibility to BACKWARD, or use another topics.prefix"
_RUNNING = "check schema_registry.url, and that the registry is running"
_WHERE = "check schema_registry.url (Apicurio's ends with /apis/ccompat/v7)"
_ADVICE = {
    401: "check schema_registry.username and schema_registry.password",
    403: "give schema_registry.username the right to read and write this subject",
    404: _WHERE,
    405: _WHERE,
    409: f"the schema is not compatible with the subject's last version: {INCOMPATIBLE}",
    422: "the registry does not accept this schema: check that it supports JSON Schema",
}


_UNREACHABLE: dict[Cause, str] = {
    "name": "check schema_registry.url, and the resolver of this machine",
    "timeout": f"{_RUNNING}, and the firewall",
    "no_tls": "check schema_registry.url: without TLS it begins with http://",
    "untrusted": "set schema_registry.ca_file to the PEM file of its authority",
    "wrong_name": "use a name that is in the certificate in schema_registry.url",
    "expired": "renew the certificate, or check this machine's clock",
}


def _id(answer: Mapping[str, Any]) -> int:
    schema_id = answer.get("id")
    if type(schema_id) is not int or not 0 <= schema_id < 2**32:
        raise SchemaRegistryError("the answer has no usable schema id", _WHERE)
    return schema_id
