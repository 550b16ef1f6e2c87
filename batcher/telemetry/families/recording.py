"""The journal and the flight recorder."""

from __future__ import annotations

from batcher.journal import IncidentReason
from batcher.telemetry.families.family import Family, one_of

JOURNAL_BYTES = Family(
    "batcher_journal_written_bytes",
    "counter",
    "bytes",
    (),
    "Bytes of the event log written to the journal's files.",
)
JOURNAL_LOST_SEGMENTS = Family(
    "batcher_journal_lost_segments",
    "counter",
    "segments",
    (),
    "Segments of the event log that are missing or incomplete, because the disk failed, or the disk "
    "or the recorder was too slow.",
)
FLIGHT_RECORDER_MEMORY = Family(
    "batcher_flight_recorder_memory_bytes",
    "gauge",
    "bytes",
    (),
    "Memory that the flight recorder uses for events.",
)
INCIDENTS = Family(
    "batcher_incidents",
    "counter",
    "incidents",
    ("reason",),
    "Flight records written, by what caused them: target_missed, executor_failure, signal, request, "
    "internal or crash.",
    values={"reason": one_of(*IncidentReason)},
)

FAMILIES = (
    JOURNAL_BYTES,
    JOURNAL_LOST_SEGMENTS,
    FLIGHT_RECORDER_MEMORY,
    INCIDENTS,
)
