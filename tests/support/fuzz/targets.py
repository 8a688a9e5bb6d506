"""Each target by name: what reads an input, and the inputs to begin with."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.support.fuzz import local, records, wire


class Target(NamedTuple):
    """``read`` raises for an input that breaks a promise; ``inputs``: how many a short run takes."""

    read: Callable[[bytes], None]
    seeds: Sequence[bytes]
    inputs: int


TARGETS = {
    "answers": Target(records.answers, records.ANSWER_SEEDS, 300),
    "http1": Target(wire.http1, wire.HTTP1_SEEDS, 2000),
    "http2": Target(wire.http2, wire.HTTP2_SEEDS, 2000),
    "header_blocks": Target(wire.header_blocks, wire.HEADER_SEEDS, 1000),
    "coded_body": Target(wire.coded_body, wire.CODED_SEEDS, 1000),
    "proxy": Target(wire.proxy, wire.PROXY_SEEDS, 1000),
    "inbox": Target(records.inbox, records.INBOX_SEEDS, 500),
    "registry": Target(records.registry, records.REGISTRY_SEEDS, 500),
    "states": Target(records.states, records.STATE_SEEDS, 300),
    "shown": Target(records.shown, records.SHOWN_SEEDS, 500),
    "settings_file": Target(local.settings_file, local.SETTINGS_SEEDS, 150),
    "settings_environment": Target(local.settings_environment, local.ENVIRONMENT_SEEDS, 150),
    "sessions_file": Target(local.sessions_file, local.SESSIONS_SEEDS, 500),
    "token_file": Target(local.token_file, local.TOKEN_SEEDS, 500),
    "ops_request": Target(local.ops_request, local.OPS_SEEDS, 300),
}
