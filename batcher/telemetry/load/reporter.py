"""`LoadReporter`: the one place in which a `LoadReport` is computed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from batcher import __version__
from batcher.buffers import Buffers
from batcher.clock import MILLISECOND, SECOND, Clock, monotonic_ns
from batcher.core.observation import DeviceObservation, ModelObservation, Observation
from batcher.telemetry.counted import CountedModels
from batcher.telemetry.devices import DeviceStatistics
from batcher.telemetry.export import Labels
from batcher.telemetry.load.identity import Identity
from batcher.telemetry.load.report import (
    DeviceLoad,
    LoadReport,
    ModelDeviceLoad,
    ModelLoad,
    RecentLoad,
    ReplicaLoad,
    RequestCount,
)
from batcher.telemetry.model import ModelTelemetry

REPORT_INTERVAL_NS: Final = 100 * MILLISECOND
"""The least time between two reports: who asks in between gets the last one. Load balancers and
autoscalers act on seconds, so a longer interval would only make ages coarser; at half of it, many askers
would cost twice as much of the event loop."""


class InstanceStatus(Protocol):
    """What a report needs of an instance's health."""

    @property
    def state(self) -> str:
        """The state that it is in."""
        ...


class ModelStatus(Protocol):
    """What a report needs of a model's health."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def version(self) -> str:
        """Its version."""
        ...

    @property
    def state(self) -> str:
        """The state that it is in."""
        ...

    @property
    def reason(self) -> str:
        """Why it is not ready."""
        ...

    @property
    def instances(self) -> Sequence[InstanceStatus]:
        """Its instances."""
        ...


class ReplicaStatus(Protocol):
    """What a report needs of the server's health."""

    @property
    def ready(self) -> bool:
        """Whether it is ready for traffic."""
        ...

    @property
    def reason(self) -> str:
        """Why it is not."""
        ...

    @property
    def models(self) -> Sequence[ModelStatus]:
        """Every model that the server knows."""
        ...


@dataclass(frozen=True, slots=True)
class _Gone:
    """The status of a model that is not served any more, but is counted still."""

    name: str = ""
    version: str = ""
    state: str = "unloaded"
    reason: str = ""
    instances: tuple[InstanceStatus, ...] = ()


_GONE: Final = _Gone()


def _nothing_recent(_model: Labels) -> RecentLoad | None:
    return None


def _no_statistics(_device: str) -> DeviceStatistics | None:
    return None


@dataclass(slots=True)
class LoadSources:
    """Where a report's numbers come from. Functions are called once a report, on the event loop's thread."""

    observe: Callable[[], Observation]
    models: CountedModels
    draining: Callable[[], bool]
    health: Callable[[], ReplicaStatus]
    buffers: Buffers
    recent: Callable[[Labels], RecentLoad | None] = _nothing_recent
    """The last seconds of a model."""
    statistics: Callable[[str], DeviceStatistics | None] = _no_statistics
    """What is known of the GPU behind a device."""


class LoadReporter:
    """Computes load reports; the last one serves all who ask within `REPORT_INTERVAL_NS`.

    After a change of the server's health the next report is a new one. Call every method on the event
    loop's thread.
    """

    def __init__(
        self,
        identity: Identity,
        sources: LoadSources,
        *,
        clock: Clock = monotonic_ns,
        epoch_clock: Clock = time.time_ns,
    ) -> None:
        self.sources = sources
        self._identity = identity
        self._clock = clock
        self._epoch_clock = epoch_clock
        self._started_ns = clock()
        self._computed_ns = 0
        self._last: LoadReport | None = None
        self._health_changed = False

    def report(self) -> LoadReport:
        """The report of this moment, or one that is at most `REPORT_INTERVAL_NS` old."""
        now_ns = self._clock()
        last = self._last
        fresh = not self._health_changed and now_ns - self._computed_ns < REPORT_INTERVAL_NS
        if last is not None and fresh:
            return last
        report = self._compute(1 if last is None else last.number + 1)
        self._last, self._computed_ns, self._health_changed = report, now_ns, False
        return report

    def health_changed(self) -> None:
        """Note that the server's health has changed: who asks next must not be told what it was."""
        self._health_changed = True

    def _compute(self, number: int) -> LoadReport:
        sources = self.sources
        observation, health = sources.observe(), sources.health()
        now_ns = self._clock()
        replica = ReplicaLoad(
            replica=self._identity.replica,
            start_id=self._identity.start_id,
            version=__version__,
            uptime_seconds=(now_ns - self._started_ns) / SECOND,
            ready=health.ready,
            draining=sources.draining(),
            reason=health.reason,
            desired_ratio=observation.desired_ratio,
            buffered_bytes=sources.buffers.used,
            buffered_limit_bytes=sources.buffers.limit,
        )
        return LoadReport(
            number=number,
            timestamp_seconds=self._epoch_clock() / SECOND,
            replica=replica,
            models=self._models(observation, health, now_ns),
            devices=self._devices(observation),
        )

    def _models(
        self, observation: Observation, health: ReplicaStatus, now_ns: int
    ) -> tuple[ModelLoad, ...]:
        models = self.sources.models
        counted: dict[Labels, ModelTelemetry] = {model.labels: model for model in models}
        observed = dict(models.observed(observation))
        statuses: dict[Labels, ModelStatus] = {
            (status.name, status.version): status for status in health.models
        }
        in_flight: dict[Labels, int] = {}
        for instance in observation.instances:
            labels = models.labels(instance.model)
            if labels is not None:
                in_flight[labels] = in_flight.get(labels, 0) + instance.in_flight
        return tuple(
            _model(
                labels,
                statuses.get(labels, _GONE),
                counted.get(labels),
                observed.get(labels),
                in_flight.get(labels, 0),
                self.sources.recent(labels),
                now_ns,
            )
            for labels in dict.fromkeys((*statuses, *counted, *observed))
        )

    def _devices(self, observation: Observation) -> tuple[DeviceLoad, ...]:
        in_flight: dict[str, int] = {}
        for instance in observation.instances:
            in_flight[instance.device] = in_flight.get(instance.device, 0) + instance.in_flight
        seen = {device.device: device for device in observation.devices}
        return tuple(
            _device(name, in_flight.get(name, 0), seen.get(name), self.sources.statistics(name))
            for name in sorted(in_flight.keys() | seen.keys())
        )


def _device(
    name: str, in_flight: int, seen: DeviceObservation | None, statistics: DeviceStatistics | None
) -> DeviceLoad:
    load = seen.load if seen else None
    return DeviceLoad(
        device=name,
        slots=seen.slots if seen else None,
        batches_in_flight=in_flight,
        load_ratio=load,
        headroom_ratio=1 / load if load else None,
        statistics=statistics,
    )


def _model(
    labels: Labels,
    status: ModelStatus,
    counts: ModelTelemetry | None,
    seen: ModelObservation | None,
    in_flight: int,
    recent: RecentLoad | None,
    now_ns: int,
) -> ModelLoad:
    model, version = labels
    target_ns = seen.target_ns if seen else None
    waiting_ns = (seen.oldest_waiting_ns or 0) if seen else None
    executing_ns = (seen.oldest_executing_ns or 0) if seen else None
    oldest_ns = max(waiting_ns or 0, executing_ns or 0)
    return ModelLoad(
        model=model,
        version=version,
        state=str(status.state),
        reason=status.reason,
        generation=counts.generation if counts else None,
        target_seconds=_seconds(target_ns),
        oldest_waiting_age_seconds=_seconds(waiting_ns),
        oldest_executing_age_seconds=_seconds(executing_ns),
        oldest_request_target_ratio=oldest_ns / target_ns if target_ns else None,
        queue_requests=seen.waiting_requests if seen else None,
        queue_rows=seen.waiting_rows if seen else None,
        queue_bytes=seen.waiting_bytes if seen else None,
        queue_backlog_seconds=seen.backlog_ns / SECOND if seen else None,
        executing_requests=seen.executing_requests if seen else None,
        batches_in_flight=in_flight,
        latency_target_reachable=seen.reachable if seen and target_ns else None,
        offered_rows_per_second=seen.offered_rows_per_s if seen else None,
        capacity_rows_per_second=seen.capacity_rows_per_s if seen else None,
        recent=recent,
        requests=_ended(counts) if counts else (),
        latency_target_missed=counts.target_missed if counts else 0,
        batches=counts.batch_rows.cumulative()[-1] if counts else 0,
        batch_rows=int(counts.batch_rows.total) if counts else 0,
        instances=dict(Counter([str(instance.state) for instance in status.instances])),
        devices=_on_devices(counts, seen, now_ns),
    )


def _ended(counts: ModelTelemetry) -> tuple[RequestCount, ...]:
    return tuple(
        [
            RequestCount(str(outcome), str(reason), count)
            for (outcome, reason), count in counts.requests.items()
            if count
        ]
    )


def _on_devices(
    counts: ModelTelemetry | None, seen: ModelObservation | None, now_ns: int
) -> tuple[ModelDeviceLoad, ...]:
    busy_ns = counts.busy_ns(now_ns) if counts else {}
    loads = dict(seen.device_loads) if seen else {}
    return tuple(
        [
            ModelDeviceLoad(device, _seconds(busy_ns.get(device)), loads.get(device))
            for device in dict.fromkeys((*busy_ns, *loads))
        ]
    )


def _seconds(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / SECOND
