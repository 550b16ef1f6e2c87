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
    "1 while the server shuts down, server.drain_delay included, else 0.",
)
READY = Family(
    "batcher_ready",
    "gauge",
    "",
    (),
    "1 while the server wants traffic, else 0: what /readyz and the health service say.",
)
MODEL_STATE = Family(
    "batcher_model_state",
    "gauge",
    "",
    (*_MODEL, "state"),
    "1 for the state that the model is in, 0 for the others: loading, ready, unready (its instances "
    "are down or not well), failed, unloaded.",
)
EVENT_LOOP_LAG = Family(
    "batcher_event_loop_lag_seconds",
    "histogram",
    "seconds",
    (),
    "How late the event loop ran a timer: the sidecar's own health.",
    LATENCY,
)
EVENT_LOOP_STALLS = Family(
    "batcher_event_loop_stalls",
    "counter",
    "stalls",
    (),
    "Turns of the event loop that took longer than 50 ms: everybody waited. The log says where.",
)
SETTINGS_CHANGES = Family(
    "batcher_settings_changes",
    "counter",
    "changes",
    ("source", "result"),
    "Changes of settings that were asked for: by the configuration file (file, signal) or an admin "
    "call (rpc), and whether they were applied, unchanged, rejected (wrong, or needing a restart) or "
    "failed (right, and could not be applied).",
)
SETTINGS_GENERATION = Family(
    "batcher_settings_generation",
    "gauge",
    "",
    (),
    "Which settings are in force: 1 at the start, one more for each change that was applied.",
)
SETTINGS_CHANGED_AT = Family(
    "batcher_settings_last_change_timestamp_seconds",
    "gauge",
    "seconds",
    (),
    "When the settings in force were applied, as seconds of Unix time.",
)
QUEUE_OLDEST_AGE = Family(
    "batcher_queue_oldest_age_seconds",
    "gauge",
    "seconds",
    (*_MODEL, "stage"),
    "Age of the oldest unanswered request that is waiting or executing, at the moment of the "
    "scrape; 0 when there is none.",
)
QUEUE_AGE_TARGET_RATIO = Family(
    "batcher_queue_age_target_ratio",
    "gauge",
    "ratio",
    _MODEL,
    "Age of the oldest unanswered request, waiting or executing, over the model's latency target; "
    "absent for a model without a target.",
)
QUEUE_REQUESTS = Family(
    "batcher_queue_requests", "gauge", "requests", _MODEL, "Requests that wait for an instance."
)
QUEUE_ROWS = Family(
    "batcher_queue_rows", "gauge", "rows", _MODEL, "Rows of the requests that wait."
)
QUEUE_BYTES = Family(
    "batcher_queue_bytes", "gauge", "bytes", _MODEL, "Payload bytes of the requests that wait."
)
QUEUE_WORK = Family(
    "batcher_queue_work_seconds",
    "gauge",
    "seconds",
    _MODEL,
    "Predicted time that one instance needs for the rows that wait, in the batches that serve most; "
    "0 while nothing was measured.",
)
TARGET_REACHABLE = Family(
    "batcher_target_reachable",
    "gauge",
    "",
    _MODEL,
    "1 while one row alone can be done inside the model's latency target, else 0: then requests are "
    "served late rather than refused; absent for a model without a target.",
)
EXECUTING_REQUESTS = Family(
    "batcher_executing_requests",
    "gauge",
    "requests",
    _MODEL,
    "Requests in batches that an instance is running, or has in hand to run next.",
)
INSTANCES = Family(
    "batcher_instances",
    "gauge",
    "instances",
    (*_MODEL, "state"),
    "Executor instances that are loaded: up (takes batches) or draining (finishes what it runs).",
)
BATCHES_IN_FLIGHT = Family(
    "batcher_batches_in_flight",
    "gauge",
    "batches",
    _MODEL,
    "Batches that instances are running.",
)
REQUESTS = Family(
    "batcher_requests",
    "counter",
    "requests",
    (*_MODEL, "outcome", "reason"),
    "Requests that ended: ok, rejected, expired, cancelled or failed, and why. What was "
    "refused before its model was known, or names none that is served, has empty model and version.",
)
REQUEST_DURATION = Family(
    "batcher_request_duration_seconds",
    "histogram",
    "seconds",
    (*_MODEL, "outcome"),
    "From a request's arrival to the end of its reply.",
    LATENCY,
)
STAGE_DURATION = Family(
    "batcher_stage_duration_seconds",
    "histogram",
    "seconds",
    (*_MODEL, "stage"),
    "One hop of a request: admission, queue, gather, execute, scatter, reply. A request that expires or "
    "is cancelled while it waits counts in queue with the time it waited.",
    LATENCY,
)
DEADLINE_MISSED = Family(
    "batcher_deadline_missed",
    "counter",
    "requests",
    _MODEL,
    "Requests answered after they were due; those that expired unanswered are not among them.",
)
BATCH_ROWS = Family(
    "batcher_batch_rows", "histogram", "rows", _MODEL, "Rows of an executed batch.", ROWS
)
BATCH_REQUESTS = Family(
    "batcher_batch_requests",
    "histogram",
    "requests",
    _MODEL,
    "Requests that shared an executed batch.",
    ROWS,
)
BATCH_FILL_RATIO = Family(
    "batcher_batch_fill_ratio",
    "histogram",
    "ratio",
    _MODEL,
    "Rows of an executed batch over the model's maximum batch size.",
    FILL,
)
BATCH_ELEMENTS = Family(
    "batcher_batch_elements",
    "counter",
    "elements",
    (*_MODEL, "kind"),
    "Elements of the padded inputs of executed batches: the requests' own (request) and what filled "
    "them up (padding); absent for a model without padding.",
)
EXECUTOR_BUSY = Family(
    "batcher_executor_busy_seconds",
    "counter",
    "seconds",
    (*_MODEL, "device"),
    "Time during which at least one batch of the model was in hand on the device; overlaps count "
    "once and a running batch counts up to the scrape. Its rate is the duty cycle.",
)
MODEL_LOAD_DURATION = Family(
    "batcher_model_load_duration_seconds",
    "histogram",
    "seconds",
    _MODEL,
    "How long an instance took to load and warm up.",
    LOAD,
)
MODEL_LOAD_FAILURES = Family(
    "batcher_model_load_failures",
    "counter",
    "loads",
    _MODEL,
    "Loads of an instance that failed.",
)
POLICY_FAILURES = Family(
    "batcher_policy_failures",
    "counter",
    "failures",
    _MODEL,
    "Times the model's batching policy broke its contract; the model then runs without batching.",
)

BISECTED_BATCHES = Family(
    "batcher_bisected_batches",
    "counter",
    "batches",
    _MODEL,
    "Batches that failed as a whole and were run again in parts, to find the requests at fault.",
)
BISECT_EXECUTIONS = Family(
    "batcher_bisect_executions",
    "counter",
    "executions",
    _MODEL,
    "Executions of such parts: the extra work that failing requests make.",
)
FAILURE_STORM = Family(
    "batcher_failure_storm",
    "gauge",
    "",
    _MODEL,
    "1 while so many batches fail that they fail as a whole, without a search for the requests at "
    "fault, else 0.",
)
JOURNAL_BYTES = Family(
    "batcher_journal_written_bytes",
    "counter",
    "bytes",
    (),
    "Bytes of the event log that were written to the journal's files.",
)
JOURNAL_LOST_SEGMENTS = Family(
    "batcher_journal_lost_segments",
    "counter",
    "segments",
    (),
    "Segments of the event log that were lost, in part or as a whole, because the disk failed or "
    "did not keep up, or the recorder itself did not.",
)
FLIGHT_RECORDER_MEMORY = Family(
    "batcher_flight_recorder_memory_bytes",
    "gauge",
    "bytes",
    (),
    "What the flight recorder holds in memory.",
)
INCIDENTS = Family(
    "batcher_incidents",
    "counter",
    "incidents",
    ("reason",),
    "Flight records that were written: on_time, executor_failure, signal, request, internal or crash.",
)
CONNECTIONS = Family(
    "batcher_connections",
    "gauge",
    "",
    (),
    "Open connections of gRPC, handshakes among them (transport builtin).",
)
CONNECTION_EVENTS = Family(
    "batcher_connection_events",
    "counter",
    "connections",
    ("event",),
    "Connections that were accepted, refused at max_connections, or evicted there because they were "
    "idle or silent (transport builtin).",
)
CONNECTION_ERRORS = Family(
    "batcher_connection_errors",
    "counter",
    "connections",
    ("reason",),
    "Connections that ended early, by the error of HTTP/2 or by handshake, no_preface, "
    "headers_timeout, write_timeout, internal (transport builtin).",
)
STREAM_EVENTS = Family(
    "batcher_stream_events",
    "counter",
    "calls",
    ("event",),
    "Calls that ended without an answer: reset_by_client, reset_by_server, malformed, refused (beyond "
    "max_streams, or while draining), stalled, answer_lost (while it was written) (transport builtin).",
)
GOAWAYS = Family(
    "batcher_goaways",
    "counter",
    "frames",
    ("direction",),
    "GOAWAY frames, sent and received (transport builtin).",
)
BUFFERED = Family(
    "batcher_buffered_bytes",
    "gauge",
    "bytes",
    (),
    "Bytes of requests and answers that are held now, large messages that were admitted and are "
    "still coming among them.",
)
BUFFERED_LIMIT = Family(
    "batcher_buffered_limit_bytes",
    "gauge",
    "bytes",
    (),
    "How many may be held: server.max_buffered, or what it is by default.",
)
BUFFERED_PEAK = Family(
    "batcher_buffered_peak_bytes",
    "gauge",
    "bytes",
    (),
    "The most that were held since the start.",
)
BUFFER_REFUSALS = Family(
    "batcher_buffer_refusals",
    "counter",
    "calls",
    (),
    "Requests and answers for which there was no room in server.max_buffered.",
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
    QUEUE_OLDEST_AGE,
    QUEUE_AGE_TARGET_RATIO,
    QUEUE_REQUESTS,
    QUEUE_ROWS,
    QUEUE_BYTES,
    QUEUE_WORK,
    TARGET_REACHABLE,
    EXECUTING_REQUESTS,
    INSTANCES,
    BATCHES_IN_FLIGHT,
    REQUESTS,
    REQUEST_DURATION,
    STAGE_DURATION,
    DEADLINE_MISSED,
    BATCH_ROWS,
    BATCH_REQUESTS,
    BATCH_FILL_RATIO,
    BATCH_ELEMENTS,
    EXECUTOR_BUSY,
    MODEL_LOAD_DURATION,
    MODEL_LOAD_FAILURES,
    POLICY_FAILURES,
    BISECTED_BATCHES,
    BISECT_EXECUTIONS,
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
