"""Each kind of proxy, to a service with and without TLS, and the errors when one fails."""

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from h2.events import RequestReceived

from bridge.asm.client import AsmClient
from bridge.asm.errors import AsmError, Unreachable
from bridge.asm.http.http1 import Http1
from bridge.asm.http.http2 import Http2
from bridge.asm.http.pool import Pool
from bridge.asm.http.proxy import Proxy
from bridge.asm.transport import build_transport, fetch
from bridge.check import service as check
from bridge.ops.http import free_port
from bridge.settings import AsmSettings
from bridge.testing.httpx_transport import TransportForHttpx
from bridge.testing.simulator import Options, Simulator, serve
from tests.support.http2 import Server, at_request
from tests.support.proxy import LOGIN, proxy, relay

TOKEN = "sim-token-agent-0"


@contextlib.asynccontextmanager
async def service(authority: Path, secure: bool) -> AsyncIterator[str]:
    """A simulated service at the host name in its certificate."""
    files = {"ssl_certfile": str(authority / "good.pem"), "ssl_keyfile": str(authority / "good.key")} if secure else {}
    async with serve(Simulator(Options(agents=1, change_rate=0.0, logouts=False)), **files) as base_url:
        yield base_url


def server_context(authority: Path, name: str = "good") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / f"{name}.pem", authority / f"{name}.key")
    return context


@contextlib.asynccontextmanager
async def client(base_url: str, address: str, authority: Path, **options: Any) -> AsyncIterator[tuple[AsmClient, Pool]]:
    settings = AsmSettings(base_url=base_url, proxy=address, ca_file=authority / "ca.pem", **options)
    transport = build_transport(settings)
    assert isinstance(transport, Pool)
    asm = AsmClient(transport, base_url)
    try:
        yield asm, transport
    finally:
        await asm.aclose()


async def error_of(base_url: str, address: str, authority: Path) -> AsmError:
    async with client(base_url, address, authority) as (asm, _):
        with pytest.raises(AsmError) as caught:
            await asm.current_session(TOKEN)
    assert "p/w" not in str(caught.value)
    assert "p%2Fw" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("login", [False, True])
@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
@pytest.mark.parametrize("secure", [True, False])
async def test_answers_come_through_every_kind_of_proxy(
    authority: Path, scheme: str, login: bool, secure: bool
) -> None:
    """Polls through each kind of proxy are answered, with and without TLS, with and without a login."""
    context = server_context(authority) if scheme == "https" else None
    async with (
        service(authority, secure) as base_url,
        proxy(context, socks=scheme.startswith("socks"), login=login) as (server, place),
        client(base_url, f"{scheme}://{f'{LOGIN}@' if login else ''}{place}", authority) as (asm, _),
    ):
        for _ in range(3):
            assert (await asm.current_session(TOKEN)).asm_session_sid != "0"
    target = base_url.partition("//")[2]
    absolute = not secure and scheme.startswith("http")
    assert server.asked == [f"{base_url}/api/v1alpha1/asm/asmapi/getcurrentsession" if absolute else target]


@pytest.mark.parametrize("http2", [True, False])
async def test_the_service_chooses_the_version_of_http_behind_a_proxy(authority: Path, http2: bool) -> None:
    """HTTP/2 is used through a proxy if the service offers it, unless the setting turns it off."""
    context = server_context(authority)
    context.set_alpn_protocols(["h2"])
    script = at_request(lambda server, stream: server.answer(stream))
    loop, seen = asyncio.get_running_loop(), list[Server]()

    def accept() -> asyncio.Protocol:
        seen.append(Server(script))
        return seen[-1]

    async with service(authority, secure=True) as base_url, proxy() as (_, place):
        if http2:
            listening = await loop.create_server(accept, "127.0.0.1", 0, ssl=context)
            base_url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with client(base_url, f"http://{place}", authority, http2=http2) as (asm, pool):
            for _ in range(3):
                assert (await fetch(pool, asm.request("getcurrentsession", TOKEN, b"{}"))).status == 200  # type: ignore[union-attr]
            assert {type(one) for one in pool._connections} == {Http2 if http2 else Http1}
    assert sum(len(server.saw(RequestReceived)) for server in seen) == (3 if http2 else 0)


async def test_socks5h_leaves_the_name_to_the_proxy() -> None:
    """With socks5h the proxy resolves the name; with socks5 the bridge does."""
    async with serve(Simulator(Options(agents=1, change_rate=0.0, logouts=False))) as base_url:
        port = base_url.rpartition(":")[2]
        async with proxy(socks=True) as (server, place):
            for scheme, host, found in (("socks5h", "asm.invalid", True), ("socks5", "localhost", True)):
                settings = AsmSettings(base_url=f"http://{host}:{port}", allow_http=True, proxy=f"{scheme}://{place}")
                asm = AsmClient(build_transport(settings), settings.base_url)
                assert ((await asm.current_session(TOKEN)).asm_session_sid != "0") is found
                await asm.aclose()
    assert server.asked[0] == f"asm.invalid:{port}"
    assert "localhost" not in server.asked[1]


@pytest.mark.parametrize(
    ("address", "options", "found"),
    [
        ("http://{place}", {"login": True}, "it requires a user name and password, or other ones (HTTP 407)"),
        ("http://u:p%2Fw@{place}", {"login": True}, "it requires a user name and password, or other ones (HTTP 407)"),
        (
            "http://{place}",
            {"refusal": 403},
            "it refused to connect to 127.0.0.1:{port} (HTTP 403): allow it in",
        ),
        ("http://{place}", {"refusal": 502}, "it cannot reach 127.0.0.1:{port} (HTTP 502)"),
        ("socks5://{place}", {"socks": True, "login": True}, "it requires a user name and password, or other ones: "),
        ("socks5://u:p%2Fw@{place}", {"socks": True, "login": True}, "it rejected the user name or password"),
        (
            "socks5://{place}",
            {"socks": True, "refusal": 2},
            "it refused to connect to 127.0.0.1:{port} (forbidden by its rules): check its rules",
        ),
        ("socks5://{place}", {"socks": False}, "it does not speak SOCKS5"),
        ("https://{place}", {}, "the server does not speak TLS"),
        ("http://proxy.invalid:3128", {}, "the name cannot be resolved (DNS)"),
        ("http://127.0.0.1:1", {}, "connection refused"),
        ("http://[::1]:1", {}, "connection refused"),
    ],
)
async def test_what_is_wrong_with_a_proxy_is_told(
    authority: Path, address: str, options: dict[str, Any], found: str
) -> None:
    """A failure of the proxy names the proxy and what to do, never shows the password, and counts as not sent; `check`
    uses the same words.
    """
    async with service(authority, secure=True) as base_url, proxy(**options) as (_, place):
        address = address.format(place=place)
        error = await error_of(base_url, address, authority)
        finding, _ = await check.address(AsmSettings(base_url=base_url, proxy=address, ca_file=authority / "ca.pem"))
    assert finding.result == "problem"
    assert finding.found.removeprefix(f"{base_url}: the proxy: ") in str(error)
    assert isinstance(error, Unreachable)
    assert not error.possibly_processed
    port = base_url.rpartition(":")[2]
    server = address.rpartition("@")[2].rpartition("/")[2]
    assert f"cannot connect to 127.0.0.1:{port}: the proxy {server}: " in str(error)
    assert found.format(port=port) in str(error)


async def test_the_services_fault_is_not_the_proxys(authority: Path) -> None:
    """An untrusted certificate of the service is distinguished from one of the proxy."""
    async with serve(
        Simulator(Options(agents=1)),
        ssl_certfile=str(authority / "old.pem"),
        ssl_keyfile=str(authority / "old.key"),
    ) as base_url:
        async with proxy() as (_, place):
            text = str(await error_of(base_url, f"http://{place}", authority))
            assert f"through the proxy {place}: the certificate has expired" in text
        async with proxy(server_context(authority, "other")) as (_, place):
            text = str(await error_of(base_url, f"https://{place}", authority))
            assert f": the proxy {place}: the certificate is for another name" in text


@contextlib.asynccontextmanager
async def answering(*answers: bytes, to: str = "") -> AsyncIterator[str]:
    """The address of a proxy that gives these answers to CONNECT, and then connects with the service, if any."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for answer in answers:
            writer.write(answer)
            await writer.drain()
        if to:
            await relay((reader, writer), await asyncio.open_connection("127.0.0.1", int(to.rpartition(":")[2])))
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_interim_answers_come_before_the_tunnel(authority: Path) -> None:
    """A proxy may answer CONNECT with 1xx first, and its 2xx may have fields for a body, which does not come."""
    answers = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with (
        service(authority, secure=True) as base_url,
        answering(*answers, to=base_url) as address,
        client(base_url, address, authority) as (asm, _),
    ):
        assert (await asm.current_session(TOKEN)).asm_session_sid != "0"


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([], ": the proxy {place}: no connection within 0.3 s"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], ": the proxy {place}: no connection within 0.3 s"),
        ([b"HTTP/1.1 200 OK\r\n\r\n"], " through the proxy {place}: no connection within 0.3 s"),
    ],
)
async def test_a_time_out_names_the_one_that_hangs(authority: Path, answers: list[bytes], found: str) -> None:
    """Until it has connected, the proxy is the one that hangs; after that it is the service."""
    async with answering(*answers) as address:
        options = {"connect_timeout": 0.3}
        async with client("https://127.0.0.1:1", address, authority, **options) as (asm, _):
            with pytest.raises(Unreachable) as caught:
                await asm.current_session(TOKEN)
    assert f"cannot connect to 127.0.0.1:1{found.format(place=address.partition('//')[2])}" in str(caught.value)


async def test_httpx_gets_its_own_errors() -> None:
    """A client of httpx over the pool gets the errors that httpx has for a refusing proxy, and for a time-out."""
    base_url = "https://127.0.0.1:1"
    async with proxy(refusal=403) as (_, refusing), answering(b"HTTP/1.1 200 OK\r\n\r\n") as hanging:
        for address, error in ((f"http://{refusing}", httpx.ProxyError), (hanging, httpx.ConnectTimeout)):
            settings = AsmSettings(base_url=base_url, proxy=address, connect_timeout=0.3)
            async with httpx.AsyncClient(transport=TransportForHttpx(build_transport(settings))) as http:
                with pytest.raises(error):
                    await http.post(base_url, json={})


async def test_a_proxy_that_wants_a_login_for_plain_http_is_told(authority: Path) -> None:
    """Without TLS a 407 is reported as the proxy's, in the same words, and the request counts as not sent."""
    async with service(authority, secure=False) as base_url, proxy(login=True) as (_, place):
        error = await error_of(base_url, f"http://{place}", authority)
        finding, _ = await check.address(AsmSettings(base_url=base_url, proxy=f"http://{place}"))
    assert (finding.result, f"{finding.found}: {finding.advice}") == ("problem", str(error))
    assert isinstance(error, Unreachable)
    assert not error.possibly_processed
    assert "the proxy: it requires a user name and password, or other ones (HTTP 407)" in str(error)


@pytest.mark.skipif(shutil.which("tinyproxy") is None, reason="tinyproxy is not installed")
async def test_tinyproxy(authority: Path, tmp_path: Path) -> None:
    """Debian's tinyproxy, with a login, carries polls with and without TLS."""
    port = free_port()
    config = tmp_path / "tinyproxy.conf"
    config.write_text(f"Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nBasicAuth user s3cret\n")
    process = await asyncio.create_subprocess_exec("tinyproxy", "-d", "-c", config, stdout=subprocess.DEVNULL)
    try:
        await listening(port)
        for secure in (True, False):
            async with (
                service(authority, secure) as base_url,
                client(base_url, f"http://user:s3cret@127.0.0.1:{port}", authority) as (asm, _),
            ):
                for _ in range(3):
                    assert (await asm.current_session(TOKEN)).asm_session_sid != "0"
        async with service(authority, secure=True) as base_url:
            error = await error_of(base_url, f"http://user:wr0ng@127.0.0.1:{port}", authority)
            assert "it requires a user name and password, or other ones" in str(error)
    finally:
        process.terminate()
        await process.wait()


async def listening(port: int) -> None:
    """Waits until a server listens at the address."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


def test_a_proxys_address_hides_its_password() -> None:
    """A proxy's user and password may have any percent-encoded characters, and its text hides the password."""
    parsed = Proxy.parse(f"socks5h://{LOGIN}@[::1]")
    assert (parsed.host, parsed.port, parsed.user, parsed.password) == ("::1", 1080, "us@er", "p/w")
    assert "p/w" not in repr(parsed)
