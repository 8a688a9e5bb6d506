"""The types of settings: durations, addresses, files."""

import ipaddress
import math
import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import certifi
from pydantic import AfterValidator, BeforeValidator, Field

from asm_bridge_schemas.asm import OMITTABLE

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|s|m|h|d)?", re.IGNORECASE)
FOR_EVER = -1.0
_LONGEST = 1e10
"""Seconds, some 300 years: in milliseconds, Kafka still accepts it."""


def duration(value: Any) -> float:
    """Seconds from a number, or text: ``10``, ``500ms``, ``10s``, ``5m``, ``1h``, ``7d``. Raises ``ValueError``."""
    found = math.inf
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value) if abs(value) <= _LONGEST else math.inf
    elif isinstance(value, str):
        if match := _DURATION.fullmatch(value.strip()):
            found = float(match[1]) * _UNITS[(match[2] or "s").lower()]
        elif value.strip() == "-1":
            found = FOR_EVER
    if abs(found) <= _LONGEST:
        return found
    raise ValueError("must be a duration: a number of seconds, or e.g. 500ms, 10s, 5m, 1h, 7d")


def is_duration(metadata: Any) -> bool:
    """Whether this entry of a field's metadata makes it a duration."""
    return isinstance(metadata, BeforeValidator) and metadata.func is duration


def show_duration(seconds: float) -> str:
    """The shortest text that ``duration`` reads back: 604800.0 -> ``7d``."""
    for unit in ("d", "h", "m", "s"):
        if seconds >= _UNITS[unit] and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return "-1" if seconds == FOR_EVER else f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def _retention(seconds: float) -> float:
    if seconds <= 0 and seconds != FOR_EVER:
        raise ValueError("must be longer than 0, or -1 to keep records forever")
    return seconds


def host_port(value: str) -> tuple[str, int]:
    """("127.0.0.1", 8080) from ``127.0.0.1:8080``; IPv6 as ``[::1]:8080``. Raises ``ValueError``."""
    host, colon, port = value.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    numeric = port.isascii() and port.isdigit() and int(port) <= 65535
    if not colon or not numeric or " " in host or not _is_host(host):
        raise ValueError("must be HOST:PORT, e.g. 127.0.0.1:8080")
    if ":" in host and not value.strip().startswith("["):
        raise ValueError("must have the IPv6 address in brackets, e.g. [::1]:8080")
    return host, int(port)


def _is_host(host: str) -> bool:
    """Whether a look-up can be tried: no part of a name is empty, or longer than 63 characters (RFC 1035)."""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def show_host_port(host: str, port: int) -> str:
    """The text that ``host_port`` reads back, which is also what a URL has."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(value: str) -> str:
    host_port(value)
    return value.strip()


def _omitted(value: str) -> str:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        raise ValueError("must name a field, or be left out")
    if wrong := [name for name in names if name not in OMITTABLE]:
        raise ValueError(f"must be among {', '.join(sorted(OMITTABLE))}, which {', '.join(wrong)} is not")
    return ",".join(names)


def _bootstrap(value: Any) -> Any:
    """One text with commas, also from a TOML list."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    return value


def servers(value: str) -> str:
    """Brokers as ``HOST:PORT,...``, without spaces. Raises ``ValueError``."""
    found = [server.strip() for server in value.split(",") if server.strip()]
    try:
        ports = [host_port(server)[1] for server in found]
    except ValueError:
        ports = []
    if not found or 0 in (ports or [0]):
        raise ValueError("must be HOST:PORT, or several separated by commas, e.g. kafka-1:9092,kafka-2:9092")
    return ",".join(found)


def is_loopback(host: str) -> bool:
    """Whether the host is this machine by its name alone (no look-up)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_address(value: str, *schemes: str) -> bool:
    """Whether the text is a URL with one of the schemes, a host, a usable port, if any, and no white space; and whether
    the HTTP client can use it, which is stricter about hosts."""
    import httpx

    try:
        url, usable = urlsplit(value.strip()), httpx.URL(value.strip())
        known = url.scheme in schemes and _is_host(url.hostname or "") and usable.host
        return bool(known) and url.port != 0 and not re.search(r"\s", value.strip())
    except (ValueError, httpx.InvalidURL):
        return False


def _base_url(value: str) -> str:
    url = urlsplit(value.strip())
    if not _is_address(value, "http", "https"):
        raise ValueError("must be an address such as https://api.cbf.tcn.com")
    if url.username is not None or url.password is not None:
        raise ValueError("must not contain a user name or password; tokens go into asm.token or the sessions")
    if url.query or url.fragment or "?" in value or "#" in value:
        raise ValueError("must not contain ? or #")
    if "/asm/asmapi" in url.path:
        raise ValueError("must be the address alone, without /api/v1alpha1/asm/asmapi")
    if re.search(r"//|(^|/)\.{1,2}(/|$)|%|\\", url.path.rstrip("/")):
        raise ValueError("has an ambiguous path (//, . or .., %, \\): use a plain one")
    return value.strip().rstrip("/")


def _web_address(example: str, keys: str, *, query: bool = False) -> AfterValidator:
    """An address, perhaps with a query, whose user name and password have their own settings (``keys``)."""

    def checked(value: str) -> str:
        url = urlsplit(value := value.strip())
        if url.fragment or (url.query and not query) or not _is_address(value, "http", "https"):
            raise ValueError(f"must be an address such as {example}")
        if url.username is not None or url.password is not None:
            raise ValueError(f"must not contain a user name or password: set {keys}")
        return value if query else value.rstrip("/")

    return AfterValidator(checked)


def _proxy(value: str) -> str:
    if not _is_address(value, "http", "https", "socks5", "socks5h"):
        raise ValueError("must be an address such as http://proxy.example.com:3128")
    return value.strip()


def proxy_password(proxy: str | None) -> list[str]:
    """The password in a proxy's address, if there is one."""
    password = urlsplit(proxy).password if proxy else None
    return [password] if password else []


def expanded(path: Path) -> Path:
    """The path with the home directory for ``~``, where there is one."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def exists(path: Path, kind: Callable[[Path], bool]) -> bool:
    """Whether there is a file or directory (``Path.is_file``, ``Path.is_dir``). The path may be any text."""
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


def ssl_context(ca_file: Path | None, alpn: list[str] | None = None, *, system: bool = True) -> ssl.SSLContext:
    """Trusts the authorities of ``ca_file`` and, unless ``system`` is false, the system's (or Mozilla's, if it has
    none). ``alpn``: the protocols to offer. Raises ``OSError`` (``ssl.SSLError`` is one).
    """
    context = ssl.create_default_context(cafile=None if system else ca_file)
    paths = ssl.get_default_verify_paths()
    if system and not (paths.cafile or paths.capath):  # python.org's Python for macOS, or an image without any
        context.load_verify_locations(certifi.where())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # from Python 3.13 on it refuses many a company's own authority
    if ca_file:
        context.load_verify_locations(ca_file)
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def _readable(kind: Callable[[Path], bool], name: str, mode: int) -> AfterValidator:
    def checked(path: Path) -> Path:
        path = expanded(path)
        if not exists(path, kind):
            raise ValueError(f"{path} does not exist or is not a {name}")
        if not os.access(path, mode):
            raise ValueError(f"{path} cannot be read: check its owner and mode")
        return path

    return AfterValidator(checked)


def _prefix(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
        raise ValueError("must contain only letters, digits, . _ and - (Kafka's rule for topic names)")
    if len(value) > 200:
        raise ValueError("must be at most 200 characters long (Kafka allows 249 for a topic's name)")
    return value


def _source(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._~:/-]+", value) or value.endswith("/"):
        raise ValueError("must be the beginning of a URI, such as /acme/eu, without a / at its end")
    return value


Seconds = Annotated[float, BeforeValidator(duration)]
Positive = Annotated[Seconds, Field(gt=0)]
NotNegative = Annotated[Seconds, Field(ge=0)]
Interval = Annotated[Seconds, Field(ge=0.05, le=3600)]
CommitInterval = Annotated[Seconds, Field(ge=0.001, le=10)]
Retention = Annotated[Seconds, AfterValidator(_retention)]
Count = Annotated[int, Field(ge=1)]
Listen = Annotated[str, AfterValidator(_listen)]
Omitted = Annotated[str, BeforeValidator(_bootstrap), AfterValidator(_omitted)]
Servers = Annotated[str, BeforeValidator(_bootstrap), AfterValidator(servers)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
ProxyUrl = Annotated[str, AfterValidator(_proxy)]
TokenUrl = Annotated[
    str,
    _web_address(
        "https://login.example.com/oauth2/token", "kafka.oauth_client_id and kafka.oauth_client_secret", query=True
    ),
]
RegistryUrl = Annotated[
    str,
    _web_address("https://registry.example.com:8081", "schema_registry.username and schema_registry.password"),
]
File = Annotated[Path, _readable(Path.is_file, "file", os.R_OK)]
Directory = Annotated[Path, _readable(Path.is_dir, "directory", os.R_OK | os.X_OK)]
Prefix = Annotated[str, AfterValidator(_prefix)]
Source = Annotated[str, AfterValidator(_source)]
