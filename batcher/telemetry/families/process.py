"""The process: readiness, event loop, settings."""

from __future__ import annotations

from batcher.telemetry.families.family import LATENCY, MODEL, Family, Values, one_of
from batcher.telemetry.settings import ChangeResult, ChangeSource

BUILD_INFO = Family(
    "batcher_build_info",
    "gauge",
    "",
    ("version", "python"),
    "Always 1; the labels say what is running.",
    values={
        "version": Values("the version of batcher", bound="the build"),
        "python": Values("the version of Python", bound="the build"),
    },
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
    (*MODEL, "state"),
    "1 for the state that the model is in, 0 for the others: loading, ready, unready (no instance of "
    "it is healthy), failed, unloaded.",
    values={"state": one_of("loading", "ready", "unready", "failed", "unloaded")},
)
EVENT_LOOP_LAG = Family(
    "batcher_event_loop_lag_seconds",
    "histogram",
    "seconds",
    (),
    "How much later than scheduled the event loop ran a timer: high values mean that the sidecar is slow, "
    "not the model.",
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
    values={"source": one_of(*ChangeSource), "result": one_of(*ChangeResult)},
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
)
