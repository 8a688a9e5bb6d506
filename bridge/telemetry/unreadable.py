"""Unreadable fields of the service's answers: counted each time, logged once each."""

from collections import defaultdict

import structlog

from asm_bridge_schemas.protojson import ProtoJSONError
from bridge.telemetry.logs import RepeatFilter
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()


class UnreadableFields:
    """The observer for ``protojson.report_unreadable_to``."""

    def __init__(self) -> None:
        self._repeats: defaultdict[str, RepeatFilter] = defaultdict(RepeatFilter)

    def __call__(self, error: ProtoJSONError) -> None:
        """Counts and logs a field. Its value is not logged: ``error`` does not have it."""
        METRICS.unreadable_fields.labels(error.field).inc()
        if self._repeats[error.field].is_new(error):
            log.warning("asm.field_unreadable", field=error.field, error=error)
