"""Models are loaded, loaded again and replaced."""

from __future__ import annotations

from batcher.telemetry.families.family import LATENCY, LOAD, MODEL, Family, one_of
from batcher.telemetry.reasons import LossReason, ReloadResult

MODEL_LOAD_DURATION = Family(
    "batcher_model_load_duration_seconds",
    "histogram",
    "seconds",
    MODEL,
    "Time that an instance took to load and warm up.",
    LOAD,
)
MODEL_WARMUP_DURATION = Family(
    "batcher_model_warmup_duration_seconds",
    "histogram",
    "seconds",
    MODEL,
    "Time that the warm-up of an instance took, which is part of its load.",
    LOAD,
)
MODEL_FIRST_ANSWER_DURATION = Family(
    "batcher_model_first_answer_duration_seconds",
    "histogram",
    "seconds",
    MODEL,
    "Time of the first request that a generation of the model answered, from its arrival to its reply. "
    "Longer than other requests take: the warm-up leaves something to do.",
    LATENCY,
)
MODEL_LOAD_FAILURES = Family(
    "batcher_model_load_failures",
    "counter",
    "loads",
    MODEL,
    "Attempts to load an instance that failed.",
)
MODEL_RELOADS = Family(
    "batcher_model_reloads",
    "counter",
    "reloads",
    (*MODEL, "result"),
    "Loads of the model while it was served, by result: succeeded (a new generation serves), failed (what "
    "served before serves on), cancelled (an unload, a newer load or the shutdown ended it).",
    values={"result": one_of(*ReloadResult)},
)
MODEL_GENERATION = Family(
    "batcher_model_generation",
    "gauge",
    "",
    MODEL,
    "Number of the generation that gets new requests: 1 after the first load, higher after each further "
    "one. A load that fails takes a number, too.",
)
INSTANCE_STATE = Family(
    "batcher_instance_state",
    "gauge",
    "",
    (*MODEL, "number", "state"),
    "1 for the state that the instance with this number is in, 0 for the others: loading, up, unhealthy (it "
    "runs batches, but is not well), restarting (it was lost, and a replacement is loaded, or will be after a "
    "pause), failed (it was lost, and stays down), stopped.",
    values={"state": one_of("loading", "up", "unhealthy", "restarting", "failed", "stopped")},
)
INSTANCE_LOSSES = Family(
    "batcher_instance_losses",
    "counter",
    "instances",
    (*MODEL, "reason"),
    "Instances that were lost, each of which is loaded again unless it has used up its restarts, by reason: "
    "killed (a signal ended the child process), exited (the child process ended by itself), broken (the child "
    "process closed its connection, or sent what cannot be), hung (a batch or a health check did not end in "
    "time), unhealthy (it was so for health.restart_after checks in a row).",
    values={"reason": one_of(*LossReason)},
)
ABANDONED_THREADS = Family(
    "batcher_abandoned_threads",
    "gauge",
    "threads",
    MODEL,
    "Threads of lost instances that are still in a call of the executor. Above max_abandoned_threads no "
    "replacement is loaded.",
)
REPEATED_REQUESTS = Family(
    "batcher_repeated_requests",
    "counter",
    "requests",
    MODEL,
    "Requests that wait to be executed once more because their instance was lost, each counted when that"
    " happens; only with idempotent: true.",
)

FAMILIES = (
    MODEL_LOAD_DURATION,
    MODEL_WARMUP_DURATION,
    MODEL_FIRST_ANSWER_DURATION,
    MODEL_LOAD_FAILURES,
    MODEL_RELOADS,
    MODEL_GENERATION,
    INSTANCE_STATE,
    INSTANCE_LOSSES,
    ABANDONED_THREADS,
    REPEATED_REQUESTS,
)
