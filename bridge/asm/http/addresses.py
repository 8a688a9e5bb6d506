"""Looks up the addresses of hosts, and connects to the first one that answers (RFC 8305)."""

import asyncio
import socket
import time
from functools import partial
from itertools import takewhile
from typing import cast

STAGGER = 0.25
"""Seconds after which the next address is tried beside the last one (section 5)."""
_BAD_FOR = 300.0
"""Seconds for which an address that failed is tried after the others."""

Address = tuple[socket.AddressFamily, tuple[str, int]]


def place(host: str, port: int) -> str:
    """Host and port as a URL has them, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Addresses:
    """Remembers the addresses that failed."""

    def __init__(self) -> None:
        self._lookups: dict[tuple[str, int], asyncio.Task[list[Address]]] = {}
        self._bad: dict[Address, float] = {}
        """Addresses that failed, and until when (monotonic) the others are tried before them."""

    def close(self) -> None:
        for task in self._lookups.values():
            task.cancel()

    async def look_up(self, host: str, port: int) -> list[Address]:
        """The addresses of a host, with alternating families (RFC 8305, section 4), the bad ones last. Raises
        ``OSError``."""
        task = self._lookups.get((host, port))
        if task is None:  # all connections that are being opened share it
            task = self._lookups[host, port] = asyncio.ensure_future(_addresses(host, port))
            task.add_done_callback(partial(self._looked_up, (host, port)))
        found = await asyncio.shield(task)
        now = time.monotonic()
        return sorted(found, key=lambda address: self._bad.get(address, 0) > now)

    def _looked_up(self, place: tuple[str, int], task: asyncio.Task[list[Address]]) -> None:
        del self._lookups[place]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: its waiters may have given up

    def mark(self, *bad: Address) -> None:
        self._bad |= dict.fromkeys(bad, time.monotonic() + _BAD_FOR)

    def unmark(self, good: Address) -> None:
        self._bad.pop(good, None)

    async def connect(self, addresses: list[Address]) -> tuple[socket.socket, Address]:
        """A socket to the first address that answers. Addresses that fail are removed from ``addresses`` and count as
        bad, as do those that were tried earlier and are slower.
        """
        tasks: dict[asyncio.Task[socket.socket], Address] = {}
        untried, error = [*addresses], None
        try:
            while untried or tasks:
                if untried:
                    address = untried.pop(0)
                    tasks[asyncio.ensure_future(_connect(address))] = address
                wait = STAGGER if untried else None
                done, _ = await asyncio.wait(tasks, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in tasks if task in done]:
                    if task.exception() is None:
                        self.mark(*takewhile(tasks[task].__ne__, tasks.values()))
                        return task.result(), tasks.pop(task)
                    error = error or task.exception()
                    self.mark(tasks[task])
                    addresses.remove(tasks.pop(task))
        except asyncio.CancelledError:  # it took too long
            self.mark(*tasks.values())
            raise
        finally:
            for task in tasks:
                task.add_done_callback(_discard)
                task.cancel()
        assert error is not None
        raise error


async def _addresses(host: str, port: int) -> list[Address]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families: dict[int, list[Address]] = {}
    for family, _, _, _, address in found:
        families.setdefault(family, []).append((family, cast("tuple[str, int]", address)))
    turns = [(turn, address) for same in families.values() for turn, address in enumerate(same)]
    return [address for _, address in sorted(turns, key=lambda one: one[0])]


async def _connect(address: Address) -> socket.socket:
    family, place = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


def _discard(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
