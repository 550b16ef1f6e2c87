"""What waits and what executes now: read from the scheduler at each scrape."""

from __future__ import annotations

from batcher.telemetry.families.family import MODEL, Family, one_of

OLDEST_REQUEST_AGE = Family(
    "batcher_oldest_request_age_seconds",
    "gauge",
    "seconds",
    (*MODEL, "state"),
    "Age of the oldest unanswered request in each state (waiting, executing) at the moment of the "
    "scrape; 0 when there is none.",
    values={"state": one_of("waiting", "executing")},
)
OLDEST_REQUEST_TARGET_RATIO = Family(
    "batcher_oldest_request_target_ratio",
    "gauge",
    "ratio",
    MODEL,
    "Age of the oldest unanswered request divided by the model's latency target; absent for a model "
    "without a target.",
)
QUEUE_REQUESTS = Family(
    "batcher_queue_requests", "gauge", "requests", MODEL, "Requests that wait in the queue."
)
QUEUE_ROWS = Family(
    "batcher_queue_rows", "gauge", "rows", MODEL, "Rows of the requests that wait in the queue."
)
QUEUE_BYTES = Family(
    "batcher_queue_bytes",
    "gauge",
    "bytes",
    MODEL,
    "Input bytes of the requests that wait in the queue.",
)
QUEUE_BACKLOG = Family(
    "batcher_queue_backlog_seconds",
    "gauge",
    "seconds",
    MODEL,
    "Predicted time that one instance needs to serve the rows that wait, in batches of the most "
    "efficient size; 0 until a batch was measured.",
)
LATENCY_TARGET = Family(
    "batcher_latency_target_seconds",
    "gauge",
    "seconds",
    MODEL,
    "The model's latency target that is in force: what answers are late by; absent for a model without a target.",
)
LATENCY_TARGET_REACHABLE = Family(
    "batcher_latency_target_reachable",
    "gauge",
    "",
    MODEL,
    "1 while a batch of one row fits the model's latency target, else 0: all requests are late then, and "
    "served in order of arrival up to batching.limit; absent for a model without a target.",
)
PREDICTION_MARGIN = Family(
    "batcher_prediction_margin_ratio",
    "gauge",
    "ratio",
    MODEL,
    "How many times longer than expected a batch is planned to take: the margin for batches that take "
    "longer than predicted; 1 is none. Of the padding bucket that was used last.",
)
PREDICTION_DRIFT = Family(
    "batcher_prediction_drift_ratio",
    "gauge",
    "ratio",
    MODEL,
    "How many times slower the device is than when its batches were first measured; below 1, faster. Of "
    "the padding bucket that was used last.",
)
PREDICTION_HANDLING = Family(
    "batcher_prediction_handling_seconds",
    "gauge",
    "seconds",
    MODEL,
    "Usual time of a batch beyond the device's own: handing it to its instance and hearing of its end. Of "
    "the padding bucket that was used last.",
)
PREDICTION_COPY = Family(
    "batcher_prediction_copy_seconds",
    "gauge",
    "seconds",
    MODEL,
    "Usual time to gather a full batch and copy it to its device, where batches are pipelined; else 0. Of "
    "the padding bucket that was used last.",
)
EXECUTING_REQUESTS = Family(
    "batcher_executing_requests",
    "gauge",
    "requests",
    MODEL,
    "Requests in batches that an instance is running or has prefetched.",
)
INSTANCES = Family(
    "batcher_instances",
    "gauge",
    "instances",
    (*MODEL, "state"),
    "Loaded executor instances by state: up (takes batches) or draining (finishes its last batch).",
    values={"state": one_of("up", "draining")},
)
BATCHES_IN_FLIGHT = Family(
    "batcher_batches_in_flight",
    "gauge",
    "batches",
    MODEL,
    "Batches that instances are running or have prefetched.",
)

FAMILIES = (
    OLDEST_REQUEST_AGE,
    OLDEST_REQUEST_TARGET_RATIO,
    QUEUE_REQUESTS,
    QUEUE_ROWS,
    QUEUE_BYTES,
    QUEUE_BACKLOG,
    LATENCY_TARGET,
    LATENCY_TARGET_REACHABLE,
    PREDICTION_MARGIN,
    PREDICTION_DRIFT,
    PREDICTION_HANDLING,
    PREDICTION_COPY,
    EXECUTING_REQUESTS,
    INSTANCES,
    BATCHES_IN_FLIGHT,
)
