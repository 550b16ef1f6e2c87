"""`LoadReporter`: the one place in which a `LoadReport` is computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from batcher import __version__
from batcher.buffers import Buffers
from batcher.clock import MILLISECOND, SECOND, Clock, monotonic_ns
from batcher.core.observation import ModelObservation, Observation
from batcher.telemetry.counted import CountedModels
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
"""The least time between two reports: whoever asks in between gets the last one. Load balancers and
autoscalers act on seconds, so a longer interval would only make ages coarser; at half of it, many askers
would cost twice as much of the event loop."""


_GONE: Final = "unloaded"
"""The state of a model that is not served any more, but is counted still."""


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


def _nothing_recent(_model: Labels) -> RecentLoad | None:
    return None


def _no_duty_cycle(_device: str) -> float | None:
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
    duty_cycle: Callable[[str], float | None] = _no_duty_cycle


class LoadReporter:
    """Computes load reports; the last one serves everybody who asks within `REPORT_INTERVAL_NS`.

    Call every method on the event loop's thread.
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

    def report(self) -> LoadReport:
        """The report of this moment, or one that is at most `REPORT_INTERVAL_NS` old."""
        now_ns = self._clock()
        last = self._last
        if last is not None and now_ns - self._computed_ns < REPORT_INTERVAL_NS:
            return last
        report = self._compute(1 if last is None else last.number + 1)
        self._last, self._computed_ns = report, now_ns
        return report

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
            self._model(
                labels,
                statuses.get(labels),
                counted.get(labels),
                observed.get(labels),
                in_flight.get(labels, 0),
                now_ns,
            )
            for labels in dict.fromkeys((*statuses, *counted, *observed))
        )

    def _model(
        self,
        labels: Labels,
        status: ModelStatus | None,
        counts: ModelTelemetry | None,
        seen: ModelObservation | None,
        in_flight: int,
        now_ns: int,
    ) -> ModelLoad:
        name, version = labels
        load = ModelLoad(
            model=name,
            version=version,
            state=_GONE if status is None else str(status.state),
            reason="" if status is None else status.reason,
            batches_in_flight=in_flight,
            recent=self.sources.recent(labels),
            instances=_instances(() if status is None else status.instances),
        )
        if seen is not None:
            load = _with_queue(load, seen)
        return load if counts is None else _with_counts(load, counts, now_ns)

    def _devices(self, observation: Observation) -> tuple[DeviceLoad, ...]:
        in_flight: dict[str, int] = {}
        for instance in observation.instances:
            in_flight[instance.device] = in_flight.get(instance.device, 0) + instance.in_flight
        return tuple(
            DeviceLoad(
                device=device,
                batches_in_flight=in_flight[device],
                duty_cycle_ratio=self.sources.duty_cycle(device),
            )
            for device in sorted(in_flight)
        )


def _instances(instances: Sequence[InstanceStatus]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for instance in instances:
        state = str(instance.state)
        found[state] = found.get(state, 0) + 1
    return found


def _with_queue(load: ModelLoad, seen: ModelObservation) -> ModelLoad:
    """The same with what the scheduler shows of its queue and running batches."""
    oldest_ns = max(seen.oldest_waiting_ns or 0, seen.oldest_executing_ns or 0)
    target_ns = seen.target_ns
    return replace(
        load,
        target_seconds=None if target_ns is None else target_ns / SECOND,
        oldest_waiting_age_seconds=(seen.oldest_waiting_ns or 0) / SECOND,
        oldest_executing_age_seconds=(seen.oldest_executing_ns or 0) / SECOND,
        oldest_request_target_ratio=oldest_ns / target_ns if target_ns else None,
        queue_requests=seen.waiting_requests,
        queue_rows=seen.waiting_rows,
        queue_bytes=seen.waiting_bytes,
        queue_backlog_seconds=seen.backlog_ns / SECOND,
        executing_requests=seen.executing_requests,
        latency_target_reachable=seen.reachable if target_ns else None,
    )


def _with_counts(load: ModelLoad, counts: ModelTelemetry, now_ns: int) -> ModelLoad:
    """The same with what was counted of it since the start."""
    return replace(
        load,
        generation=counts.generation,
        requests=tuple(
            RequestCount(str(outcome), str(reason), count)
            for (outcome, reason), count in counts.requests.items()
            if count
        ),
        latency_target_missed=counts.target_missed,
        batches=counts.batch_rows.cumulative()[-1],
        batch_rows=int(counts.batch_rows.total),
        devices=tuple(
            ModelDeviceLoad(device, busy_ns / SECOND)
            for device, busy_ns in counts.busy_ns(now_ns).items()
        ),
    )
