"""Carries requests to the service: the pool of connections, or, for tests, any transport of httpx
(``bridge.testing.httpx_transport``).
"""

import asyncio
from typing import Protocol

import httpx

from bridge.asm.http.pool import ForwardingPool, Pool
from bridge.asm.http.request import PreparedRequest
from bridge.asm.http.response import Failure, OnResponse, Response
from bridge.settings import AsmSettings


class Transport(Protocol):
    """Sends prepared requests to one service. Every request is bounded by the transport's own deadline."""

    def send(self, request: PreparedRequest, on_response: OnResponse) -> None:
        """Sends a request; ``on_response`` is called once, later, with the response or the failure. Raises nothing.

        The request may be sent again, even while it is in flight.
        """

    async def aclose(self) -> None:
        """Closes all connections; requests in flight fail, and so do later ones."""


def build_transport(asm: AsmSettings) -> Transport:
    """Builds the transport to ``asm.base_url`` according to the settings."""
    url = httpx.URL(asm.base_url)
    forwarded = url.scheme == "http" and asm.proxy is not None and asm.proxy.startswith("http")
    return (ForwardingPool if forwarded else Pool)(url, **asm.transport_arguments())


async def fetch(transport: Transport, request: PreparedRequest) -> Response | Failure:
    """Sends a request and waits for the result."""
    response: asyncio.Future[Response | Failure] = asyncio.get_running_loop().create_future()

    def on_response(result: Response | Failure) -> None:
        if not response.done():  # it is, where the caller was cancelled
            response.set_result(result)

    transport.send(request, on_response)
    return await response
