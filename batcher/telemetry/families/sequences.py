"""Open sequences, how they end, and the memory of their state; only for models with sequences."""

from __future__ import annotations

from batcher.telemetry.families.family import MODEL, Family, one_of
from batcher.telemetry.sequences import SequenceEnd

SEQUENCES_OPEN = Family(
    "batcher_sequences_open",
    "gauge",
    "sequences",
    MODEL,
    "Sequences that are open: started, and neither ended nor expired.",
)
SEQUENCE_STATE = Family(
    "batcher_sequence_state_bytes",
    "gauge",
    "bytes",
    MODEL,
    "Bytes of the state that open sequences keep; 0 where the executor keeps it.",
)
SEQUENCES_STARTED = Family(
    "batcher_sequences_started",
    "counter",
    "sequences",
    MODEL,
    "Sequences whose first step was admitted.",
)
SEQUENCES_ENDED = Family(
    "batcher_sequences_ended",
    "counter",
    "sequences",
    (*MODEL, "end"),
    "Sequences that are open no more, by how they ended: ended (the last step was answered), replaced "
    "(started again), expired (idle for too long) or lost (their first step was not answered, or their state "
    "is gone).",
    values={"end": one_of(*SequenceEnd)},
)
SEQUENCE_STEPS_HELD = Family(
    "batcher_sequence_steps_held",
    "gauge",
    "requests",
    MODEL,
    "Waiting requests that are steps of a sequence and wait for the step before them; they count in "
    "batcher_queue_requests, too.",
)

FAMILIES = (
    SEQUENCES_OPEN,
    SEQUENCE_STATE,
    SEQUENCES_STARTED,
    SEQUENCES_ENDED,
    SEQUENCE_STEPS_HELD,
)
