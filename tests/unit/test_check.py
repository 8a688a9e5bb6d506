"""The findings of ``asm-bridge check``, as far as they need neither Kafka nor a service."""

import asyncio
import time
from dataclasses import replace
from email.utils import formatdate

import pytest
from aiokafka.errors import InvalidTransactionTimeout, RequestTimedOutError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from bridge import check
from bridge.asm.http.frames import ErrorCode, error_name
from bridge.asm.http.response import Failure, Response
from bridge.check import agents, failed, kafka, service
from bridge.check.finding import Finding, ok, problem, skipped, warning
from bridge.kafka.admin import READ, WRITE, Members, Rights
from bridge.kafka.errors import KafkaUnavailableError
from bridge.kafka.kafka_clock import Reading
from bridge.kafka.topics import TOPICS
from bridge.registry.registry import Registry
from bridge.settings import AsmSettings, KafkaSettings, OpsSettings, Settings, TopicsSettings


@given(st.integers(0, 2**32), st.floats(-4, 4), st.floats(0, 3))
def test_a_clock_that_is_right_is_never_blamed(now: int, skew: float, took: float) -> None:
    """A clock that differs by less than 5 s gives no warning, however slow the answer is."""
    date = formatdate(int(now - skew + took / 2), usegmt=True)
    assert service.clock(date, now, now + took).result == "ok"


@given(st.integers(10**6, 2**32), st.floats(6, 10**5), st.booleans(), st.floats(0, 0.5))
def test_a_clock_that_is_wrong_is_told(now: int, skew: float, ahead: bool, took: float) -> None:
    """A clock that differs by more than 5 s is reported as a warning, with the direction."""
    date = formatdate(int(now - skew if ahead else now + skew + 1), usegmt=True)
    found = service.clock(date, now, now + took)
    assert found.result == "warning"
    assert ("ahead of" if ahead else "behind") in found.found


@pytest.mark.parametrize(
    ("ahead", "result", "found"),
    [
        (600, "warning", "this machine's clock is 600 s ahead of Kafka's"),
        (-600, "warning", "this machine's clock is 600 s behind Kafka's"),
        (2, "ok", "this machine's clock agrees with Kafka's"),
    ],
)
def test_a_clock_that_differs_from_kafkas_is_a_warning(ahead: float, result: str, found: str) -> None:
    """A clock that differs from Kafka's by more than 5 s is reported with the direction and with what to do."""
    finding = kafka._clock(Reading(time.time() - ahead, time.monotonic()))
    assert finding.result == result
    assert finding.found.startswith(found)
    assert ("NTP" in finding.advice) is (result == "warning")


@pytest.mark.parametrize("date", [None, "", "yesterday", "Wed, 21 Oct 2015 07:28:00 +99999999999999999"])
def test_no_date_is_no_fault(date: str | None) -> None:
    """A service that sends no Date, or an invalid one, gives no finding about the clock."""
    assert service.clock(date, 0, 0).result == "skipped"


@pytest.mark.parametrize(
    ("status", "body", "result"),
    [
        (401, b'{"code":16,"message":"no token"}', "ok"),
        (403, b'{"code":7,"message":"no token"}', "ok"),
        (401, b"", "warning"),
        (403, b"<html>blocked</html>", "warning"),
        (200, b"{}", "warning"),
        (200, b'{"mood":"good"}', "problem"),
        (200, b"<html>", "problem"),
        (429, b"", "warning"),
        (503, b'{"code":14,"message":"overloaded"}', "warning"),
        (404, b'{"code":5,"message":"Not Found"}', "problem"),
        (302, b"", "problem"),
        (407, b"", "problem"),
    ],
)
def test_what_a_call_without_a_token_shows(status: int, body: bytes, result: str) -> None:
    """Only a service that refuses a call without a token, in the form that `run` reads, is certain to be ASM."""
    assert service._answered(AsmSettings(), Response(status, body)).result == result


def members(count: int, protocol: str = "sticky", operations: int | None = READ) -> Members:
    return Members(Rights(seen=True, refused=False, operations=operations), count, protocol)


@pytest.mark.parametrize(
    ("count", "protocol", "delivery", "result"),
    [
        (0, "", "exactly_once", "ok"),
        (7, "sticky", "exactly_once", "ok"),
        (8, "sticky", "exactly_once", "warning"),
        (9, "sticky", "exactly_once", "warning"),
        (1, "range", "exactly_once", "problem"),
        (1, "sticky", "at_least_once", "warning"),
        (1, "", "exactly_once", "ok"),
    ],
)
def test_membership(count: int, protocol: str, delivery: str, result: str) -> None:
    """A full group, a group that allows only one process, and a group of another program are reported."""
    settings = Settings(kafka=KafkaSettings(delivery=delivery))  # type: ignore[arg-type]
    assert kafka._membership(settings, members(count, protocol)).result == result


def test_members_that_are_not_bridges_are_a_problem() -> None:
    """Another program, or the bridges of another topics.prefix, in the group: nothing watches the agents of the
    partitions that it gets, though all members agree upon an assignor."""
    stranger = replace(members(2), strangers=("aiokafka-0.14.0 at 127.0.0.1",))
    finding = kafka._membership(Settings(), stranger)
    assert finding.result == "problem"
    assert "aiokafka-0.14.0 at 127.0.0.1" in finding.found


def rights(operations: int | None, settings: Settings) -> dict[str, Rights]:
    return {settings.topics.name(topic.name): Rights(True, False, operations) for topic in TOPICS}


def test_rights_that_are_not_told_are_not_judged() -> None:
    """A broker that does not report rights gives no finding about them."""
    settings = Settings()
    for untold in (None, rights(None, settings)):
        assert [one.result for one in kafka._rights(settings, untold)] == ["skipped"]
    assert [one.result for one in kafka._rights(settings, rights(READ | WRITE, settings))] == ["ok"]


def test_the_registry_is_written_only_with_a_sessions_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The right to write asm.sessions is required only if `run` has entries to add."""
    file = tmp_path_factory.mktemp("s") / "s.toml"
    file.touch()
    for settings, needed in ((Settings(), False), (Settings(sessions_file=file), True)):
        lacking = dict(kafka._lacking(settings, rights(READ, settings)))
        assert ("asm.sessions" in lacking) is needed
        assert lacking["asm.inject"] == ["Write"]


async def test_nothing_raises_and_all_ends() -> None:
    """A check turns any error into a finding, and ends anything that does not end."""

    async def fail(error: Exception) -> list[Finding]:
        raise error

    async def hang() -> list[Finding]:
        await asyncio.sleep(60)
        return []

    for error in (RequestTimedOutError(), OSError("gone"), KafkaUnavailableError("lost: look there")):
        (found,) = await check._within("x", 1, fail(error))
        assert (found.check, found.result) == ("x", "problem")
    (found,) = await check._within("x", 1, fail(InvalidTransactionTimeout()))
    assert found.advice == "set the brokers' transaction.max.timeout.ms to at least 20000"
    (found,) = await check._within("x", 0.01, hang())
    assert found.found == "no answer within 0.01 s"
    assert check._CONNECT + check._LOOK + check._ASK <= 30
    assert agents.SAMPLE / agents.PER_SECOND + service.REQUEST < check._ASK


def test_no_secret_is_shown() -> None:
    """A finding never shows a secret, even if a library puts it into an error."""
    asm = AsmSettings(token=SecretStr("t0ken"), proxy="http://me:pr0xy@proxy:3128")
    kafka_ = KafkaSettings(sasl_password=SecretStr("p4ss"), sasl_username="u", security_protocol="SASL_SSL")
    found = [problem("x", "t0ken p4ss pr0xy", "do not show p4ss")]
    (masked,) = check._masked(Settings(asm=asm, kafka=kafka_), found)
    assert (masked.found, masked.advice) == ("******** ******** ********", "do not show ********")


def test_only_problems_fail() -> None:
    """The exit code is 0 if there are only warnings and skipped checks."""
    well = [ok("a", "x"), warning("b", "x", "y"), skipped("c", "x")]
    assert not failed(well)
    assert failed([*well, problem("d", "x", "y")])


def test_many_names_fill_no_screen() -> None:
    """A fault of a thousand agents names five of them."""
    assert agents._named(["a"]) == "agent a"
    assert agents._named([f"a{n}" for n in range(1000)]) == "agents a0, a1, a2, a3, a4 and 995 more"


def test_an_empty_registry_is_told() -> None:
    """An empty registry is reported as a warning, since nothing would be watched."""
    assert [one.result for one in agents.sharing(Registry())] == ["warning"]


def test_an_address_that_does_not_exist_is_a_problem() -> None:
    """A host name that cannot be resolved is a problem."""
    (found,) = check.ops(Settings(ops=OpsSettings(listen="no-such-host.invalid:80"), topics=TopicsSettings()))
    assert found.result == "problem"
    assert "set ops.listen" in found.advice


def test_a_service_that_wants_http1_is_told_by_a_setting() -> None:
    """``check`` names the setting for a service that agrees on HTTP/2 but wants HTTP/1.1."""
    text = f"the service broke the request off: {error_name(ErrorCode.HTTP_1_1_REQUIRED)}"
    assert service.explained(Failure(text, sent=True)) == (text, "set asm.http2 to false")
