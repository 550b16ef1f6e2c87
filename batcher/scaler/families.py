"""The external scaler: fleets, replicas, and the answers to KEDA."""

from __future__ import annotations

from typing import Final

from batcher.scaler.replica import PollResult, State
from batcher.scaler.report import Cause
from batcher.scaler.service import METHODS
from batcher.telemetry.families import LATENCY, Family, Values, one_of, process

_FLEET: Final = Values("configured names: `fleets[].name`", bound="fleets")
_CODES: Final = (
    "OK",
    "CANCELLED",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "INTERNAL",
    "UNAVAILABLE",
    "UNAUTHENTICATED",
)

ACTIVE = Family(
    "batcher_scaler_active",
    "gauge",
    "",
    ("fleet",),
    "1 while the fleet is active, 0 while it may be scaled to zero; absent while that is not known.",
    values={"fleet": _FLEET},
)
LOAD = Family(
    "batcher_scaler_desired_ratio",
    "gauge",
    "ratio",
    ("fleet",),
    "The load of the fleet in replicas, as GetMetrics answers it for desired_ratio; absent while it is not known.",
    values={"fleet": _FLEET},
)
REPLICAS = Family(
    "batcher_scaler_replicas",
    "gauge",
    "replicas",
    ("fleet", "state"),
    "Replicas that are listed: known (its report is of now), not_ready (it starts or drains), kept (it does not "
    "answer, its last report still counts), unknown.",
    values={"fleet": _FLEET, "state": one_of(*State)},
)
REPORT_AGE = Family(
    "batcher_scaler_report_age_seconds",
    "gauge",
    "seconds",
    ("fleet",),
    "Age of the oldest report that counts; absent where none does.",
    values={"fleet": _FLEET},
)
POLLS = Family(
    "batcher_scaler_polls",
    "counter",
    "polls",
    ("fleet", "result"),
    "Times that a replica was asked for its load report, by how that ended.",
    values={"fleet": _FLEET, "result": one_of(*PollResult)},
)
POLL_DURATION = Family(
    "batcher_scaler_poll_duration_seconds",
    "histogram",
    "seconds",
    ("fleet",),
    "Time that asking a replica took, however it ended.",
    LATENCY,
    values={"fleet": _FLEET},
)
UNBELIEVED = Family(
    "batcher_scaler_unbelieved_reports",
    "counter",
    "reports",
    ("fleet", "cause"),
    "Load reports that were not believed, by cause.",
    values={"fleet": _FLEET, "cause": one_of(*Cause)},
)
LISTED = Family(
    "batcher_scaler_discovery_ok",
    "gauge",
    "",
    ("fleet",),
    "1 if the list of replicas could be read the last time, else 0; absent before the first.",
    values={"fleet": _FLEET},
)
LISTINGS = Family(
    "batcher_scaler_discoveries",
    "counter",
    "looks",
    ("fleet", "result"),
    "Looks at the list of replicas, by result.",
    values={"fleet": _FLEET, "result": one_of("ok", "failed")},
)
LIST_AGE = Family(
    "batcher_scaler_discovery_age_seconds",
    "gauge",
    "seconds",
    ("fleet",),
    "Time since the last look at the list of replicas.",
    values={"fleet": _FLEET},
)
WAKES = Family(
    "batcher_scaler_wakes",
    "counter",
    "wakes",
    ("fleet", "result"),
    "Calls that would wake the fleet, by result: woken, refused (no or a wrong token), off (wake_for is 0).",
    values={"fleet": _FLEET, "result": one_of("woken", "refused", "off")},
)
CALLS = Family(
    "batcher_scaler_calls",
    "counter",
    "calls",
    ("method", "code"),
    "gRPC calls of KEDA, and of Wake, that have ended, by the name of their status. CANCELLED: its caller "
    "has left.",
    values={"method": one_of(*METHODS), "code": one_of(*_CODES)},
)
STREAMS = Family(
    "batcher_scaler_streams",
    "gauge",
    "streams",
    (),
    "Calls of StreamIsActive that are open.",
)

OWN: Final = (
    ACTIVE,
    LOAD,
    REPLICAS,
    REPORT_AGE,
    POLLS,
    POLL_DURATION,
    UNBELIEVED,
    LISTED,
    LISTINGS,
    LIST_AGE,
    WAKES,
    CALLS,
    STREAMS,
)

FAMILIES: Final = (
    process.BUILD_INFO,
    process.READY,
    process.EVENT_LOOP_LAG,
    process.EVENT_LOOP_STALLS,
    *OWN,
)
"""All that the scaler exports, those that every server of batcher has first."""
