"""The Schema Registry: whether it answers, and has or would accept the output topics' schemas. Registers nothing."""

import asyncio
from contextlib import aclosing

from bridge.check.finding import Finding, ok, problem
from bridge.kafka.schema_registry import (
    INCOMPATIBLE,
    SchemaRegistryClient,
    SchemaRegistryError,
    registered_texts,
    subject_of,
)
from bridge.settings import Settings


async def subjects(settings: Settings) -> list[Finding]:
    """The problems of all subjects, or what `run` would register; nothing without ``schema_registry.url``."""
    if settings.schema_registry.url is None:
        return []
    try:
        async with aclosing(SchemaRegistryClient(settings.schema_registry)) as registry:
            await registry.subjects()
            results = await asyncio.gather(
                *(
                    _one(registry, subject_of(settings.topics.name(topic)), schema)
                    for topic, schema in registered_texts().items()
                )
            )
    except SchemaRegistryError as error:
        return [problem("schemas", error.found, error.advice)]
    faults = [one for one in results if isinstance(one, Finding)]
    return list(dict.fromkeys(faults)) or [_all_well(settings, [one for one in results if isinstance(one, str)])]


async def _one(registry: SchemaRegistryClient, subject: str, schema: str) -> Finding | str | None:
    """A problem, the name of a subject that `run` would register, or None for one that has the schema."""
    try:
        if await registry.find(subject, schema) is not None:
            return None
        if await registry.is_compatible(subject, schema):
            return subject
    except SchemaRegistryError as error:
        return problem("schemas", error.found, error.advice)
    return problem("schemas", f"{subject}: the schema is not compatible with its last version", INCOMPATIBLE)


def _all_well(settings: Settings, missing: list[str]) -> Finding:
    url = settings.schema_registry.url
    if not missing:
        return ok("schemas", f"{url} has the schemas of all {len(registered_texts())} output topics")
    text = f"`run` registers {', '.join(missing)}, which needs the right to write; check does not write to find out"
    return ok("schemas", f"{url} answers; {text}")
