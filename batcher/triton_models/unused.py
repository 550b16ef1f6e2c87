"""Fields of a model's configuration that have no effect here, each with the reason."""

from __future__ import annotations

from typing import Final

from batcher.config.section import KeyPath
from batcher.triton_models.model import TritonModel
from batcher.triton_models.reading import TritonConfig

_ALWAYS: Final[dict[KeyPath, str]] = {
    ("cc_model_filenames",): "name the file in `options`",
    ("metric_tags",): "metrics have the labels model and version",
    ("response_cache", "enable"): "there is no cache",
    ("model_repository_agents",): "files are loaded as they are",
    ("model_metrics",): "docs/metrics.md has the metrics that there are",
    ("model_operations",): "libraries of operators are not loaded",
    ("runtime",): "the executor is chosen by `backend`",
    (
        "dynamic_batching",
        "preserve_ordering",
    ): "answers of a stream are in order, other calls end as they are done",
    ("dynamic_batching", "priority_queue_policy"): "default_queue_policy holds for all levels",
    (
        "sequence_batching",
        "oldest",
        "max_candidate_sequences",
    ): "all open sequences may share batches",
    ("sequence_batching", "oldest", "preserve_ordering"): "the steps of a sequence are in order",
    ("sequence_batching", "direct", "minimum_slot_utilization"): "a batch is what waits",
    ("sequence_batching", "iterative_sequence"): "a request has one answer",
}
"""Field -> why it has no effect, whatever the executor."""

_RUNTIME: Final[dict[KeyPath, str]] = {
    ("optimization",): "use the executor's `options`",
    ("batch_output",): "outputs have the rows of their requests",
    ("model_warmup",): "every batch size is warmed up; `warmup` in batcher.yaml says otherwise",
}
"""The same for a model that runs in this process, not behind a Triton which reads them itself."""

_GROUP: Final = {
    "profile": "profiles belong to TensorRT",
    "passive": "instances serve",
    "secondary_devices": "all instances of a model are on one device",
    "host_policy": "instances run where the process does",
    "rate_limiter": "use `devices` in the configuration",
}


def unused_fields(
    config: TritonConfig, model: TritonModel, *, forwarded: bool
) -> list[tuple[KeyPath, str]]:
    """Path and reason of each field that has no effect.

    `forwarded`: an executor is named for the model, so that what the backend itself would do is up to it.
    """
    found = [
        (path, why)
        for path, why in (_ALWAYS if forwarded else _ALWAYS | _RUNTIME).items()
        if path in config.lines
    ]
    states = () if model.sequences is None else model.sequences.states
    for place, _ in enumerate(states):
        for key in ("use_same_buffer_for_input_output", "use_growable_memory"):
            here: KeyPath = ("sequence_batching", "state", place, key)
            if here in config.lines:
                found.append((here, "state is kept by the server"))
    for place, _ in enumerate(model.instances):
        for key, why in _GROUP.items():
            if ("instance_group", place, key) in config.lines:
                found.append((("instance_group", place, key), why))
    batching = model.batching
    if batching is not None and batching.queue.delay_on_timeout:
        path = ("dynamic_batching", "default_queue_policy", "timeout_action")
        found.append((path, "what has waited too long is refused"))
    if not forwarded:
        for place, tensor in enumerate(model.inputs):
            if tensor.ragged:
                why = "requests of different lengths are batched apart; see `padding`"
                found.append((("input", place, "allow_ragged_batch"), why))
            if ("input", place, "format") in config.lines:
                found.append((("input", place, "format"), "the model's own shape counts"))
    return found
