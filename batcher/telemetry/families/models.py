"""Models are loaded, loaded again and replaced."""

from __future__ import annotations

from batcher.telemetry.families.family import LATENCY, LOAD, MODEL, Family

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
)
MODEL_GENERATION = Family(
    "batcher_model_generation",
    "gauge",
    "",
    MODEL,
    "Number of the generation that gets new requests: 1 after the first load, higher after each further "
    "one. A load that fails takes a number, too.",
)

FAMILIES = (
    MODEL_LOAD_DURATION,
    MODEL_WARMUP_DURATION,
    MODEL_FIRST_ANSWER_DURATION,
    MODEL_LOAD_FAILURES,
    MODEL_RELOADS,
    MODEL_GENERATION,
)
