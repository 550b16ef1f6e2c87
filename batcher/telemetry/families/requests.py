"""How requests ended, and where their time went."""

from __future__ import annotations

from batcher.telemetry.families.family import LATENCY, MODEL, Family

REQUESTS = Family(
    "batcher_requests",
    "counter",
    "requests",
    (*MODEL, "outcome", "reason"),
    "Requests that ended, by outcome (ok, rejected, expired, cancelled, failed) and reason. Requests "
    "that were refused before their model was known have empty model and version.",
)
REQUEST_DURATION = Family(
    "batcher_request_duration_seconds",
    "histogram",
    "seconds",
    (*MODEL, "outcome"),
    "Time from the arrival of a request to the end of its reply.",
    LATENCY,
)
STAGE_DURATION = Family(
    "batcher_stage_duration_seconds",
    "histogram",
    "seconds",
    (*MODEL, "stage"),
    "Time that a request spent in each stage: admission, queue, gather, execute, scatter, reply. A "
    "request that expires or is cancelled in the queue counts there with the time it waited.",
    LATENCY,
)
LATENCY_TARGET_MISSED = Family(
    "batcher_latency_target_missed",
    "counter",
    "requests",
    MODEL,
    "Requests that were answered, but after the latency target; those that were not answered count "
    "in batcher_requests_total alone.",
)

FAMILIES = (
    REQUESTS,
    REQUEST_DURATION,
    STAGE_DURATION,
    LATENCY_TARGET_MISSED,
)
