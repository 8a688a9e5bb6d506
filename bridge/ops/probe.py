"""``python -m bridge.ops.probe``: exits with 0 if the bridge in this container is alive, for the image's health check.

It asks where the bridge listens: by its settings, those on the command line of the container's first process included.
"""

import contextlib
import http.client
import sys
from collections.abc import Sequence
from pathlib import Path

from bridge.settings import SettingsError, load_settings

_TIMEOUT = 2.0
_OPTIONS = {"--config", "--ops.listen"}


def is_alive(arguments: Sequence[str]) -> bool:
    """Whether the bridge that was started with these arguments answers on ops.listen. Raises ``SettingsError``."""
    given = options(arguments)
    config = given.pop("--config", None)
    ops = load_settings(
        Path(config) if config else None, {name.removeprefix("--"): value for name, value in given.items()}
    ).ops
    connection = http.client.HTTPConnection(ops.local_host, ops.port, timeout=_TIMEOUT)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


def options(arguments: Sequence[str]) -> dict[str, str]:
    """The options among the arguments that say where the bridge listens; the last of two equal ones holds."""
    found = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in _OPTIONS:
            found[name] = value if equals else following
    return found


def _arguments_of_first_process() -> list[str]:
    try:
        return Path("/proc/1/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


if __name__ == "__main__":
    try:
        sys.exit(0 if is_alive(_arguments_of_first_process()) else 1)
    except SettingsError as error:
        sys.exit(str(error))
