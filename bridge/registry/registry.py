"""The registry of watched agents: the compacted topic ``asm.sessions``, read whole and live by every process."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from asm_bridge_schemas.commands import CommandError, SessionEntry, read_session_entry
from bridge.agents.bounds import MAX_HEADER_BYTES, MAX_ID_BYTES
from bridge.agents.health import Unpollable
from bridge.agents.injection import KafkaRecord, is_utf8
from bridge.kafka.partitioner import key_hash
from bridge.record_id import RecordId
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Registered:
    """The last valid entry of an agent, its offset, and the ``hash`` of its key, which gives its partition."""

    offset: int
    entry: SessionEntry
    hash: int


@dataclass(frozen=True, slots=True)
class InvalidEntry:
    """The last entry of a key, if it is invalid. Its value is not kept, since it may be a token. ``registry_id``: the
    id of the topic that it is in, if known."""

    key: bytes
    code: str
    text: str
    origin: RecordId
    registry_id: str | None = None


class Registry:
    """The registry as read so far. ``changed(agent_id)`` and ``refused(entry)`` are called as records come in.

    An invalid entry leaves the last good one in force.
    """

    def __init__(
        self, changed: Callable[[str], None] = lambda _: None, refused: Callable[[InvalidEntry], None] = lambda _: None
    ) -> None:
        self._entries: dict[str, Registered] = {}
        self._invalid: dict[bytes, InvalidEntry] = {}
        self._sharing: defaultdict[str | None, dict[str, int]] = defaultdict(dict)
        self._changed = changed
        self._refused = refused
        self.topic_id: str | None = None
        """The id of the topic that is read, if known."""

    def get(self, agent_id: str) -> Registered | None:
        return self._entries.get(agent_id)

    def in_force(self) -> dict[str, SessionEntry]:
        """The last valid entry of each agent."""
        return {agent_id: one.entry for agent_id, one in self._entries.items()}

    def entries(self) -> dict[str, SessionEntry]:
        """Agents whose last record is valid."""
        invalid = {key.decode(errors="replace") for key in self._invalid}
        return {agent_id: entry for agent_id, entry in self.in_force().items() if agent_id not in invalid}

    def agents_of_partition(self, partition: int, partitions: int) -> Iterable[str]:
        """The agents that belong to a partition."""
        return [agent_id for agent_id, one in self._entries.items() if one.hash % partitions == partition]

    def invalid_entries(self) -> list[InvalidEntry]:
        return sorted(self._invalid.values(), key=lambda invalid: invalid.origin)

    def __len__(self) -> int:
        return len(self._entries)

    def unpollable(self, agent_id: str) -> Unpollable | None:
        """Why an agent must not be polled. Of agents that share a session, only the one registered first is polled."""
        registered = self._entries[agent_id]
        if registered.entry.asm_session_sid is not None:
            return None
        (first,) = _first(self._sharing[registered.entry.token])
        if first == agent_id:
            return None
        return Unpollable(
            "session_shared", f"agent {first!r} has the same token: give this one its own, or an asm_session_sid"
        )

    def read(self, message: KafkaRecord) -> None:
        """Applies one record of the topic."""
        self.put(RecordId.of(message), message.key or b"", message.value)

    def put(self, record_id: RecordId, key: bytes, value: bytes | None) -> None:
        """Applies the record of this key and value."""
        if value is None:  # it removes an entry whose key is invalid, too
            self._invalid.pop(key, None)
            if is_utf8(key):
                self._put(key.decode(), None)
            return
        try:
            agent_id = key.decode()
            if not agent_id:
                raise CommandError("malformed_entry", "the key is empty; it must be the agent_id")
            if len(key) > MAX_ID_BYTES or len(value) > MAX_HEADER_BYTES:
                text = f"a key has at most {MAX_ID_BYTES} bytes, and an entry {MAX_HEADER_BYTES}"
                raise CommandError("malformed_entry", text)
            registered = Registered(record_id.offset, read_session_entry(value), key_hash(agent_id))
        except UnicodeDecodeError:
            self._refuse(record_id, key, "malformed_entry", "the key is not UTF-8; it must be the agent_id")
        except CommandError as error:
            self._refuse(record_id, key, error.code, str(error))
        else:
            self._invalid.pop(key, None)
            self._put(agent_id, registered)

    def begin_again(self) -> set[bytes]:
        """The topic was recreated: its entries stay in force until ``forget``. Returns their keys."""
        self._invalid.clear()
        return {agent_id.encode() for agent_id in self._entries}

    def forget(self, keys: Iterable[bytes]) -> None:
        """Removes entries, as tombstones do."""
        for key in keys:
            self._put(key.decode(), None)

    def _put(self, agent_id: str, registered: Registered | None) -> None:
        touched = {agent_id}
        old = self._entries.pop(agent_id, None)
        for entry in (old.entry if old else None, registered.entry if registered else None):
            if entry is not None and entry.asm_session_sid is None:
                sharing = self._sharing[entry.token]
                touched.update(_first(sharing))
                sharing.pop(agent_id, None)
                if registered is not None and entry is registered.entry:
                    sharing[agent_id] = registered.offset
                touched.update(_first(sharing))
        if registered is not None:
            self._entries[agent_id] = registered
        for name in touched:
            self._changed(name)

    def _refuse(self, origin: RecordId, key: bytes, code: str, text: str) -> None:
        METRICS.registry_errors.inc()
        invalid = self._invalid[key] = InvalidEntry(key, code, text, origin, self.topic_id)
        log.warning("registry.entry_refused", key=key.decode(errors="backslashreplace"), code=code, error=text)
        self._refused(invalid)


def _first(sharing: dict[str, int]) -> list[str]:
    """The agent registered first, if any."""
    return [min(sharing, key=sharing.__getitem__)] if sharing else []
