"""Every metric family, defined once: name, kind, unit, labels, buckets and meaning.

Names are Prometheus names in base units; a counter's name is written here without the `_total`
that both text formats add. No label ever holds anything of a single request.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from batcher.clock import SECOND
from batcher.telemetry.histogram import Buckets

_MODEL = ("model", "version")

LATENCY = Buckets(
    tuple(
        round(milliseconds * 1_000_000)
        for milliseconds in (
            *(0.1, 0.2, 0.5, 1, 2, 3, 5, 7.5),
            *(10, 15, 20, 30, 50, 75),
            *(100, 150, 200, 300, 500, 750),
            *(1_000, 2_000, 5_000, 10_000, 30_000, 60_000),
        )
    ),
    scale=SECOND,
)
"""Recorded in nanoseconds, exported in seconds, 0.1 ms to 60 s; finest where targets lie."""

LOAD = Buckets((0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600))
ROWS = Buckets(tuple(2**power for power in range(13)))
FILL = Buckets(tuple(tenth / 10 for tenth in range(1, 11)))


class Stage(StrEnum):
    """One hop of a request's latency budget; their boundaries are the `Stamps`."""

    ADMISSION = "admission"
    QUEUE = "queue"
    GATHER = "gather"
    EXECUTE = "execute"
    SCATTER = "scatter"
    REPLY = "reply"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. `buckets` is given for histograms alone."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    help: str
    buckets: Buckets | None = None

    @property
    def exported_name(self) -> str:
        """The name that queries use (of a histogram, the name before `_bucket`)."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


BUILD_INFO = Family(
    "batcher_build_info",
    "gauge",
    "",
    ("version", "python"),
    "Always 1; the labels say what is running.",
)
DRAINING = Family(
    "batcher_draining",
    "gauge",
    "",
    (),
    "1 from the start of the shutdown (server.drain_delay included), else 0.",
)
READY = Family(
    "batcher_ready",
    "gauge",
    "",
    (),
    "1 while the server is ready for traffic, else 0; the same as /readyz and the gRPC health service.",
)
MODEL_STATE = Family(
    "batcher_model_state",
    "gauge",
    "",
    (*_MODEL, "state"),
    "1 for the state that the model is in, 0 for the others: loading, ready, unready (no instance of "
    "it is healthy), failed, unloaded.",
)
EVENT_LOOP_LAG = Family(
    "batcher_event_loop_lag_seconds",
    "histogram",
    "seconds",
    (),
    "How much later than scheduled the event loop ran a timer. It tells a slow sidecar from a slow "
    "model.",
    LATENCY,
)
EVENT_LOOP_STALLS = Family(
    "batcher_event_loop_stalls",
    "counter",
    "stalls",
    (),
    "Times that the event loop was blocked for more than 50 ms, which delays every request. The log "
    "names the function.",
)
SETTINGS_CHANGES = Family(
    "batcher_settings_changes",
    "counter",
    "changes",
    ("source", "result"),
    "Attempts to change settings, by source (file: the configuration file changed; signal: SIGHUP; "
    "rpc: an admin call) and result (applied; unchanged; rejected: invalid, or needs a restart; "
    "failed: valid, but could not be applied).",
)
SETTINGS_GENERATION = Family(
    "batcher_settings_generation",
    "gauge",
    "",
    (),
    "Number of the settings in force: 1 at the start, one more for each change that was applied.",
)
SETTINGS_CHANGED_AT = Family(
    "batcher_settings_last_change_timestamp_seconds",
    "gauge",
    "seconds",
    (),
    "Unix time at which the settings in force were applied.",
)
OLDEST_REQUEST_AGE = Family(
    "batcher_oldest_request_age_seconds",
    "gauge",
    "seconds",
    (*_MODEL, "state"),
    "Age of the oldest unanswered request in each state (waiting, executing) at the moment of the "
    "scrape; 0 when there is none.",
)
OLDEST_REQUEST_TARGET_RATIO = Family(
    "batcher_oldest_request_target_ratio",
    "gauge",
    "ratio",
    _MODEL,
    "Age of the oldest unanswered request divided by the model's latency target; absent for a model "
    "without a target.",
)
QUEUE_REQUESTS = Family(
    "batcher_queue_requests", "gauge", "requests", _MODEL, "Requests that wait in the queue."
)
QUEUE_ROWS = Family(
    "batcher_queue_rows", "gauge", "rows", _MODEL, "Rows of the requests that wait in the queue."
)
QUEUE_BYTES = Family(
    "batcher_queue_bytes",
    "gauge",
    "bytes",
    _MODEL,
    "Input bytes of the requests that wait in the queue.",
)
QUEUE_BACKLOG = Family(
    "batcher_queue_backlog_seconds",
    "gauge",
    "seconds",
    _MODEL,
    "Predicted time that one instance needs to serve the rows that wait, in batches of the most "
    "efficient size; 0 until a batch was measured.",
)
LATENCY_TARGET_REACHABLE = Family(
    "batcher_latency_target_reachable",
    "gauge",
    "",
    _MODEL,
    "1 while a batch of one row fits the model's latency target, else 0: requests are then served "
    "after the target instead of being refused; absent for a model without a target.",
)
EXECUTING_REQUESTS = Family(
    "batcher_executing_requests",
    "gauge",
    "requests",
    _MODEL,
    "Requests in batches that an instance is running or has prefetched.",
)
INSTANCES = Family(
    "batcher_instances",
    "gauge",
    "instances",
    (*_MODEL, "state"),
    "Loaded executor instances by state: up (takes batches) or draining (finishes its last batch).",
)
BATCHES_IN_FLIGHT = Family(
    "batcher_batches_in_flight",
    "gauge",
    "batches",
    _MODEL,
    "Batches that instances are running or have prefetched.",
)
REQUESTS = Family(
    "batcher_requests",
    "counter",
    "requests",
    (*_MODEL, "outcome", "reason"),
    "Requests that ended, by outcome (ok, rejected, expired, cancelled, failed) and reason. Requests "
    "that were refused before their model was known have empty model and version.",
)
REQUEST_DURATION = Family(
    "batcher_request_duration_seconds",
    "histogram",
    "seconds",
    (*_MODEL, "outcome"),
    "Time from the arrival of a request to the end of its reply.",
    LATENCY,
)
STAGE_DURATION = Family(
    "batcher_stage_duration_seconds",
    "histogram",
    "seconds",
    (*_MODEL, "stage"),
    "Time that a request spent in each stage: admission, queue, gather, execute, scatter, reply. A "
    "request that expires or is cancelled in the queue counts there with the time it waited.",
    LATENCY,
)
LATENCY_TARGET_MISSED = Family(
    "batcher_latency_target_missed",
    "counter",
    "requests",
    _MODEL,
    "Requests that were answered, but after the latency target; those that were not answered count "
    "in batcher_requests_total alone.",
)
BATCH_ROWS = Family(
    "batcher_batch_rows", "histogram", "rows", _MODEL, "Rows of an executed batch.", ROWS
)
BATCH_REQUESTS = Family(
    "batcher_batch_requests",
    "histogram",
    "requests",
    _MODEL,
    "Requests in an executed batch.",
    ROWS,
)
BATCH_FILL_RATIO = Family(
    "batcher_batch_fill_ratio",
    "histogram",
    "ratio",
    _MODEL,
    "Rows of an executed batch divided by the model's maximum batch size.",
    FILL,
)
BATCH_ELEMENTS = Family(
    "batcher_batch_elements",
    "counter",
    "elements",
    (*_MODEL, "kind"),
    "Elements of the padded inputs of executed batches, by kind: sent by callers (request) or added "
    "to fill a bucket (padding); absent for a model without padding.",
)
EXECUTOR_BUSY = Family(
    "batcher_executor_busy_seconds",
    "counter",
    "seconds",
    (*_MODEL, "device"),
    "Time during which at least one batch of the model was running on the device. Batches that "
    "overlap count once, and a running batch counts up to the scrape: the rate is the duty cycle.",
)
MODEL_LOAD_DURATION = Family(
    "batcher_model_load_duration_seconds",
    "histogram",
    "seconds",
    _MODEL,
    "Time that an instance took to load and warm up.",
    LOAD,
)
MODEL_LOAD_FAILURES = Family(
    "batcher_model_load_failures",
    "counter",
    "loads",
    _MODEL,
    "Attempts to load an instance that failed.",
)
POLICY_FAILURES = Family(
    "batcher_policy_failures",
    "counter",
    "failures",
    _MODEL,
    "Times that the batching policy of the model raised an error or returned an invalid decision; "
    "batches are then formed greedily.",
)

BISECTIONS = Family(
    "batcher_bisections",
    "counter",
    "batches",
    _MODEL,
    "Batches that failed and were executed again in parts, to find the requests that made them fail.",
)
BISECTION_EXECUTIONS = Family(
    "batcher_bisection_executions",
    "counter",
    "executions",
    _MODEL,
    "Executions of such parts: the extra load that failing requests cause.",
)
FAILURE_STORM = Family(
    "batcher_failure_storm",
    "gauge",
    "",
    _MODEL,
    "1 while so many batches fail that no batch is bisected any more and all requests of a failed "
    "batch fail, else 0.",
)
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
)
CONNECTIONS = Family(
    "batcher_connections",
    "gauge",
    "",
    (),
    "Open gRPC connections, those still in a handshake included (transport builtin).",
)
CONNECTION_EVENTS = Family(
    "batcher_connection_events",
    "counter",
    "connections",
    ("event",),
    "Connections that were accepted, refused at server.max_connections, or evicted (closed to make "
    "room for a new one, being idle or silent) (transport builtin).",
)
CONNECTION_ERRORS = Family(
    "batcher_connection_errors",
    "counter",
    "connections",
    ("reason",),
    "Connections that the server closed because of an error: a name of an HTTP/2 error code, or "
    "handshake, no_preface, headers_timeout, write_timeout, internal (transport builtin).",
)
STREAM_EVENTS = Family(
    "batcher_stream_events",
    "counter",
    "calls",
    ("event",),
    "Calls that ended without an answer: reset_by_client, reset_by_server, malformed, refused (beyond "
    "server.max_concurrent_streams, or while draining), stalled, answer_lost (while it was written) (transport "
    "builtin).",
)
GOAWAYS = Family(
    "batcher_goaways",
    "counter",
    "frames",
    ("direction",),
    "GOAWAY frames by direction: sent or received (transport builtin).",
)
BUFFERED = Family(
    "batcher_buffered_bytes",
    "gauge",
    "bytes",
    (),
    "Bytes of requests and answers in memory, including what large messages that are still being "
    "received have reserved.",
)
BUFFERED_LIMIT = Family(
    "batcher_buffered_limit_bytes",
    "gauge",
    "bytes",
    (),
    "The limit of batcher_buffered_bytes: server.max_buffered, or its default on this machine.",
)
BUFFERED_PEAK = Family(
    "batcher_buffered_peak_bytes",
    "gauge",
    "bytes",
    (),
    "Highest value of batcher_buffered_bytes since the start.",
)
BUFFER_REFUSALS = Family(
    "batcher_buffer_refusals",
    "counter",
    "calls",
    (),
    "Requests and answers that were refused because server.max_buffered was reached.",
)

FAMILIES = (
    BUILD_INFO,
    DRAINING,
    READY,
    MODEL_STATE,
    EVENT_LOOP_LAG,
    EVENT_LOOP_STALLS,
    SETTINGS_CHANGES,
    SETTINGS_GENERATION,
    SETTINGS_CHANGED_AT,
    OLDEST_REQUEST_AGE,
    OLDEST_REQUEST_TARGET_RATIO,
    QUEUE_REQUESTS,
    QUEUE_ROWS,
    QUEUE_BYTES,
    QUEUE_BACKLOG,
    LATENCY_TARGET_REACHABLE,
    EXECUTING_REQUESTS,
    INSTANCES,
    BATCHES_IN_FLIGHT,
    REQUESTS,
    REQUEST_DURATION,
    STAGE_DURATION,
    LATENCY_TARGET_MISSED,
    BATCH_ROWS,
    BATCH_REQUESTS,
    BATCH_FILL_RATIO,
    BATCH_ELEMENTS,
    EXECUTOR_BUSY,
    MODEL_LOAD_DURATION,
    MODEL_LOAD_FAILURES,
    POLICY_FAILURES,
    BISECTIONS,
    BISECTION_EXECUTIONS,
    FAILURE_STORM,
    JOURNAL_BYTES,
    JOURNAL_LOST_SEGMENTS,
    FLIGHT_RECORDER_MEMORY,
    INCIDENTS,
    CONNECTIONS,
    CONNECTION_EVENTS,
    CONNECTION_ERRORS,
    STREAM_EVENTS,
    GOAWAYS,
    BUFFERED,
    BUFFERED_LIMIT,
    BUFFERED_PEAK,
    BUFFER_REFUSALS,
)
"""All of them, in the order in which they are exported and documented."""
