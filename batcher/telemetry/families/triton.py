"""Names of Triton, for its dashboards and tools: exported with `metrics.triton_names: true`.

Names, types, labels and units are Triton's (its user guide, `metrics.md`): counters have no `_total`, and
durations are in microseconds.
"""

from __future__ import annotations

from typing import Final, Literal

from batcher.telemetry.families.family import MODEL, Family, Values, one_of

GPU: Final = ("gpu_uuid",)
_VALUES: Final = {
    "gpu_uuid": Values(
        "UUIDs of the GPUs, or MIG instances, that devices belong to", bound="devices"
    )
}


def _family(
    name: str,
    kind: Literal["counter", "gauge"],
    unit: str,
    labels: tuple[str, ...],
    meaning: str,
    values: dict[str, Values] | None = None,
) -> Family:
    return Family(name, kind, unit, labels, meaning, values=values or {}, verbatim=True)


def _gpu(name: str, unit: str, meaning: str, kind: Literal["counter", "gauge"] = "gauge") -> Family:
    return _family(name, kind, unit, GPU, meaning, _VALUES)


def _duration(stage: str, meaning: str) -> Family:
    return _family(
        f"nv_inference_{stage}_duration_us",
        "counter",
        "microseconds",
        MODEL,
        f"{meaning}, summed over the requests that were answered.",
    )


FAILURES: Final = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
"""Triton's reasons of a failure."""

SUCCESS = _family(
    "nv_inference_request_success", "counter", "requests", MODEL, "Requests that were answered."
)
FAILURE = _family(
    "nv_inference_request_failure",
    "counter",
    "requests",
    (*MODEL, "reason"),
    "Requests that ended in another way, by reason: REJECTED (the queue was full, or they could not be "
    "answered in time), CANCELED (by the caller), BACKEND (the executor failed), OTHER.",
    {"reason": one_of(*FAILURES)},
)
COUNT = _family(
    "nv_inference_count", "counter", "rows", MODEL, "Rows of the requests that were answered."
)
EXECUTIONS = _family(
    "nv_inference_exec_count",
    "counter",
    "batches",
    MODEL,
    "Batches that were executed and succeeded.",
)
PENDING = _family(
    "nv_inference_pending_request_count",
    "gauge",
    "requests",
    MODEL,
    "Requests that wait in the queue.",
)
REQUEST_DURATION = _duration("request", "Time from arrival to the end of the reply")
QUEUE_DURATION = _duration("queue", "Time in the queue")
INPUT_DURATION = _duration("compute_input", "Time to gather inputs, until the device is free")
INFER_DURATION = _duration("compute_infer", "Time of execution")
OUTPUT_DURATION = _duration("compute_output", "Time to hand out outputs")
GPU_UTILIZATION = _gpu(
    "nv_gpu_utilization", "ratio", "Share of the time in which any kernel ran, 0 to 1."
)
GPU_MEMORY_TOTAL = _gpu("nv_gpu_memory_total_bytes", "bytes", "Memory of the GPU.")
GPU_MEMORY_USED = _gpu(
    "nv_gpu_memory_used_bytes", "bytes", "Memory of the GPU that is used, by all processes."
)
GPU_POWER = _gpu("nv_gpu_power_usage", "watts", "Power that the GPU draws.")
ENERGY = _gpu(
    "nv_energy_consumption",
    "joules",
    "Energy that the GPU has used since this server first read it.",
    "counter",
)
CPU_UTILIZATION = _family(
    "nv_cpu_utilization",
    "gauge",
    "ratio",
    (),
    "Share of the time of all cores of the machine in which they were not idle, since the scrape before, 0 to 1.",
)
CPU_MEMORY_TOTAL = _family(
    "nv_cpu_memory_total_bytes", "gauge", "bytes", (), "Memory of the machine."
)
CPU_MEMORY_USED = _family(
    "nv_cpu_memory_used_bytes", "gauge", "bytes", (), "Memory of the machine that is not available."
)

FAMILIES = (
    SUCCESS,
    FAILURE,
    COUNT,
    EXECUTIONS,
    REQUEST_DURATION,
    QUEUE_DURATION,
    INPUT_DURATION,
    INFER_DURATION,
    OUTPUT_DURATION,
    PENDING,
    GPU_UTILIZATION,
    GPU_MEMORY_TOTAL,
    GPU_MEMORY_USED,
    GPU_POWER,
    ENERGY,
    CPU_UTILIZATION,
    CPU_MEMORY_TOTAL,
    CPU_MEMORY_USED,
)
