"""Who may read the operations endpoints: host names, the token, and what browsers may do with them."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr

from bridge.ops.http import listen
from bridge.settings import OpsSettings
from tests.support.ops import Pictured, served

TOKEN = "ops-t0ken-7f3a"
PATHS = ("/", "/page.js", "/metrics", "/api/status", "/api/sessions", "/nothing")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with served(Pictured(3)) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


@pytest.fixture
async def guarded() -> AsyncIterator[httpx.AsyncClient]:
    ops = OpsSettings(token=SecretStr(TOKEN))
    async with served(Pictured(3), ops) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


OURS = (
    *("127.0.0.1:8080", "[::1]:8080", "10.1.2.3", "localhost:8080", "LOCALHOST", "bridge:8080", "x.localhost"),
    *("asm-bridge.prod.svc.cluster.local:8080", "ip-10-0-0-1.eu.compute.internal", f"{socket.gethostname()}:8080"),
)


@pytest.mark.parametrize("host", OURS)
async def test_a_name_that_nobody_else_can_have_is_answered(client: httpx.AsyncClient, host: str) -> None:
    """Addresses, names without a dot, names in private domains, and the machine's own are served."""
    for path in ("/", "/metrics", "/api/status"):
        assert (await client.get(path, headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "rebind.network.", "1.2.3"],
)
async def test_a_strangers_name_is_refused(client: httpx.AsyncClient, host: str) -> None:
    """A web page whose name resolves to the bridge's address (DNS rebinding) reads nothing; probes are answered."""
    for path in PATHS:
        answer = await client.get(path, headers={"host": host})
        assert answer.status_code == 421
        assert "agent-" not in answer.text
    for path in ("/healthz", "/readyz"):
        assert (await client.get(path, headers={"host": host})).status_code == 200


async def test_further_names_can_be_given() -> None:
    """The names in ops.hosts, for example that of a proxy, are served; others are not."""
    async with served(Pictured(), OpsSettings(hosts="ops.example.com, Watch.example")) as url:
        for host, status in (("ops.example.com", 200), ("watch.example:443", 200), ("example.com", 421)):
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"{url}/metrics", headers={"host": host})).status_code == status


async def test_without_the_token_nothing_is_shown(guarded: httpx.AsyncClient) -> None:
    """With ops.token every path but the probes requires it; a wrong one, or none, is answered with 401 alone."""
    basic = base64.b64encode(b"me:wrong").decode()
    for given in (
        "",
        "Bearer",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Basic {basic}",
        "Basic ???",
        b"Basic \xff",
        f"Token {TOKEN}",
    ):
        for path in PATHS:
            answer = await guarded.get(path, headers={"authorization": given} if given else {})
            assert answer.status_code == 401, (given, path)
            assert [one.partition(" ")[0] for one in answer.headers.get_list("www-authenticate")] == ["Basic", "Bearer"]
            assert TOKEN not in answer.text
    for path in ("/healthz", "/readyz"):
        assert (await guarded.get(path)).status_code == 200


async def test_the_token_opens_everything(guarded: httpx.AsyncClient) -> None:
    """The token is taken as a bearer token, or as the password of any user, and then under every name."""
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    for given in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
        for path in PATHS[:-1]:
            headers = {"authorization": given, "host": "ops.example.com"}
            assert (await guarded.get(path, headers=headers)).status_code == 200, (given, path)


@pytest.mark.parametrize("path", [*PATHS, "/healthz", "/readyz"])
async def test_nothing_can_be_changed(client: httpx.AsyncClient, path: str) -> None:
    """No endpoint takes a method that changes something."""
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert (await client.request(method, path)).status_code in (404, 405)


@pytest.mark.parametrize("path", [*PATHS, "/healthz", "/readyz", "/../../etc/passwd", "/%2e%2e/agents.py"])
async def test_every_answer_binds_the_browser(client: httpx.AsyncClient, path: str) -> None:
    """Every answer, errors included, forbids framing, other origins, and guessing of its type."""
    answer = await client.get(path)
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; ")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in answer.headers


async def test_slow_clients_cost_nothing() -> None:
    """200 clients that never finish their request, or never read the stream, delay no other one."""
    async with served(Pictured(50)) as url:
        host, port = url.removeprefix("http://").split(":")
        clients = [await asyncio.open_connection(host, int(port), limit=1024) for _ in range(200)]
        for number, (_, writer) in enumerate(clients):
            end = "" if number % 2 else "\r\n"
            writer.write(f"GET /api/events HTTP/1.1\r\nhost: {host}\r\n{end}".encode())
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as quick:
            for path in ("/healthz", "/readyz", "/metrics", "/api/status"):
                assert (await quick.get(path)).status_code == 200
        for _, writer in clients:
            writer.close()


async def test_the_default_is_loopback() -> None:
    """Unless the operator says otherwise only this machine reaches the endpoints."""
    assert OpsSettings().host == "127.0.0.1"
    with listen(OpsSettings().host, 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
