"""`LoadReport` and its parts. The fields have the names of the metrics that they equal, without `batcher_`.

None means that something is not known, or does not exist (a target). Times are in seconds, ages are those of
the moment of the report, counts only grow until the process ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batcher.telemetry.devices import DeviceStatistics


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """The server as a whole."""

    replica: str
    """Its name: `server.replica`, else that of its pod or its host."""
    start_id: str
    """A random text that is another one after each start: then every count began at 0."""
    version: str
    """Of batcher."""
    uptime_seconds: float
    """On a clock that never jumps: rates are differences of counts over differences of this."""
    ready: bool
    draining: bool
    reason: str
    """Why it is not ready; empty if it is."""
    desired_ratio: float | None = None
    """The work offered in the recent past over what this replica can serve in time: the highest of its
    devices. Above 1 it takes more replicas."""
    buffered_bytes: int = 0
    buffered_limit_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RequestCount:
    """Requests that ended with this outcome and reason, since the start."""

    outcome: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class RecentLoad:
    """Rates and latencies of the last seconds."""

    window_seconds: float
    requests_per_second: float
    """That ended, however they did."""
    answers_per_second: float
    refusals_per_second: float
    """Outcome `rejected`."""
    errors_per_second: float
    """Outcomes `expired` and `failed`."""
    caller_errors_per_second: float
    """Those of both that are the caller's fault: requests that are wrong, too large, or ask for the impossible."""
    latency_p50_seconds: float | None = None
    """Of the answers; None without any."""
    latency_p99_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ModelDeviceLoad:
    """One model's share of one device."""

    device: str
    executor_busy_seconds: float | None = None
    """Time during which at least one batch of the model ran there, since the start."""
    load_ratio: float | None = None
    """The model's part of the device's `load_ratio`."""


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """One model, all its generations."""

    model: str
    version: str
    state: str
    """`loading`, `ready`, `unready`, `failed` or `unloaded`."""
    reason: str = ""
    """Why it is not ready."""
    generation: int | None = None
    target_seconds: float | None = None
    oldest_waiting_age_seconds: float | None = None
    """Age of the oldest request that waits; 0: none does."""
    oldest_executing_age_seconds: float | None = None
    oldest_request_target_ratio: float | None = None
    queue_requests: int | None = None
    queue_rows: int | None = None
    queue_bytes: int | None = None
    queue_backlog_seconds: float | None = None
    executing_requests: int | None = None
    batches_in_flight: int | None = None
    latency_target_reachable: bool | None = None
    offered_rows_per_second: float | None = None
    """Rows of the recent past, those refused or expired for want of capacity included."""
    capacity_rows_per_second: float | None = None
    """Rows that this replica could serve inside the target, had the model its devices to itself."""
    recent: RecentLoad | None = None
    requests: tuple[RequestCount, ...] = ()
    """Every way in which requests of it have ended so far."""
    latency_target_missed: int = 0
    """Answers that came after the target."""
    batches: int = 0
    """Executed batches, and the rows in them."""
    batch_rows: int = 0
    instances: Mapping[str, int] | None = None
    """How many instances are in each state that one is in."""
    devices: tuple[ModelDeviceLoad, ...] = ()
    late_answers: Mapping[str, int] | None = None
    """Hop -> late answers that it is to blame for, up to the last time that answers were counted together: a
    second ago at most."""
    budget_exceeded: Mapping[str, int] | None = None
    """Hop with a share in `budget` -> answers in which it took longer; as old."""


@dataclass(frozen=True, slots=True)
class DeviceLoad:
    """One device, with all models on it."""

    device: str
    slots: int | None = None
    """Batches that may run on it at once."""
    batches_in_flight: int = 0
    busy_seconds: float | None = None
    """Time during which at least one batch of any model ran, since the start."""
    duty_cycle_ratio: float | None = None
    """Part of the last seconds that it was busy."""
    batch_fill_ratio: float | None = None
    """Rows of its recent batches over what they could have held."""
    load_ratio: float | None = None
    """Work offered in the recent past over what the device can serve in time."""
    headroom_ratio: float | None = None
    """What it could serve in time over what is offered."""
    statistics: DeviceStatistics | None = None
    """What NVML says of its GPU, with its state and age."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Everything at one moment. The same object for all who ask within 100 ms."""

    number: int
    """1 for the first report after a start, more for each later one."""
    timestamp_seconds: float
    """Unix time at which it was computed."""
    replica: ReplicaLoad
    models: tuple[ModelLoad, ...]
    """In the order in which they became known."""
    devices: tuple[DeviceLoad, ...]
    """By name."""
