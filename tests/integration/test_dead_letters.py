"""`dead-letters` with a running bridge: dead letters are listed and sent again."""

import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bridge.testing.brokers import Broker
from tests.support.chaos.harness import TOKENS, Lab, lab, until

pytestmark = pytest.mark.transactions
EVENT = b'{"pause_event": {}}'


@pytest.fixture(scope="module")
async def the_lab(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    prefix, directory = f"t{secrets.token_hex(4)}.", tmp_path_factory.mktemp("lab")
    async with lab(broker.bootstrap_servers, prefix, directory, "--sessions", "2") as the_lab:
        await the_lab.bridge(INJECTION__UNKNOWN_AGENT_GRACE="1s")
        yield the_lab


async def listed(the_lab: Lab, *arguments: str) -> list[dict[str, Any]]:
    code, out, err = await the_lab.command("dead-letters", "list", "--json", *arguments)
    assert code == 0, err
    found: list[dict[str, Any]] = json.loads(out)
    return found


async def dead_letter(the_lab: Lab, count: int) -> list[dict[str, Any]]:
    """Waits for so many dead letters in all."""

    async def all_there() -> list[dict[str, Any]] | None:
        found = await listed(the_lab)
        return found if len(found) >= count else None

    found: list[dict[str, Any]] = await until(all_there, f"{count} dead letters")
    return found


async def test_dead_letters_are_listed_and_sent_again(the_lab: Lab) -> None:
    """Events of an unregistered agent become dead letters, and once it is registered are sent again, in order, and
    delivered under their ids; a second time they are duplicates, and what cannot be sent says why.
    """
    first = await the_lab.inject_raw(b"late", EVENT, ce_id="one", headers=[("ce_source", b"crm")])
    second = await the_lab.inject_raw(b"late", EVENT)
    await the_lab.inject_raw(b"late", b"x" * 600_000)
    await the_lab.inject_raw(None, EVENT, partition=0)
    found = {letter["origin"]: letter for letter in await dead_letter(the_lab, 4)}
    origin = f"{the_lab.prefix}inject/{first.entry}"
    assert {key: found[origin][key] for key in ("key", "code", "bytes")} == {
        "key": "late",
        "code": "unknown_agent",
        "bytes": len(EVENT),
    }
    assert sorted(letter["code"] for letter in found.values()) == [
        "malformed_event",
        "too_large",
        "unknown_agent",
        "unknown_agent",
    ]
    assert [one["code"] for one in await listed(the_lab, "--agent", "late", "--code", "too_large")] == ["too_large"]
    assert len(await listed(the_lab, "--limit", "1", "--since", "1h")) == 1

    await the_lab.register("late", token=f"file:{TOKENS}#agent-0")
    code, out, err = await the_lab.command("dead-letters", "resend", "--all", "--wait", "--json")
    assert code == 0, err
    sent = [one for one in json.loads(out) if one["cannot_be_sent"] is None]
    assert [one["origin"] for one in sent] == [f"{the_lab.prefix}inject/{one.entry}" for one in (first, second)]
    assert [one["outcome"]["outcome"] for one in sent] == ["delivered", "delivered"]
    assert [(one["outcome"]["injection_id"], one["outcome"]["source"]) for one in sent] == [
        ("one", "crm"),
        (second.entry, None),
    ]
    assert len(json.loads(out)) == 4

    code, out, err = await the_lab.command("dead-letters", "resend", "--agent", "late", "--wait")
    assert (code, out.count(": duplicate")) == (0, 2)
    assert "cannot be sent again: its value was longer than 512 KiB" in err
    assert len(await the_lab.sim.get("events")) == 2


async def test_what_was_not_sent_is_told_by_the_exit_code(the_lab: Lab) -> None:
    """A dry run sends nothing, and the exit code is 1 if a named origin does not exist, cannot be sent, or
    fails again.
    """
    before = len(await listed(the_lab))
    entry = (await the_lab.inject_raw(b"nobody", EVENT)).entry
    broken = (await the_lab.inject_raw(b"nobody", b"not json")).entry
    await dead_letter(the_lab, before + 2)
    assert (await the_lab.command("dead-letters", "resend"))[0] == 2
    code, out, _ = await the_lab.command("dead-letters", "resend", entry, "--dry-run")
    assert (code, out) == (0, f"{the_lab.prefix}inject/{entry} of nobody: would be sent\n")
    code, _, err = await the_lab.command("dead-letters", "resend", entry, "7/99999")
    assert (code, "no such dead letter: 7/99999" in err) == (1, True)
    code, _, err = await the_lab.command("dead-letters", "resend", broken)
    assert (code, "its value is not an event" in err) == (1, True)
    code, out, _ = await the_lab.command("dead-letters", "resend", entry, "--wait")
    assert (code, "undeliverable, reason unknown_agent" in out) == (1, True)
    assert len(await listed(the_lab, "--agent", "nobody", "--code", "unknown_agent")) == 2
