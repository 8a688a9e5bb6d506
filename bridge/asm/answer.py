"""An answer of the ASM service, as the client returns it."""

from typing import NamedTuple

from asm_bridge_schemas.asm import AsmSession, GetStatusRes, ListConversationsRes


class Answer(NamedTuple):
    """A decoded 2xx answer, and the ``body`` from which it was decoded.

    ``message`` is None for an answer that is byte for byte the one that the caller knows already (``UNCHANGED``).
    """

    status: int
    message: GetStatusRes | AsmSession | ListConversationsRes | None
    body: bytes = b""


UNCHANGED = Answer(200, None)
