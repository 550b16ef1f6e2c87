"""What a load report is computed from, and how: in slices, so that the event loop is not held for long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from batcher.buffers import Buffers
from batcher.clock import SECOND
from batcher.core.observation import DeviceObservation, ModelObservation, Observation
from batcher.telemetry.budget import Hop
from batcher.telemetry.counted import CountedModels
from batcher.telemetry.devices import DeviceStatistics
from batcher.telemetry.export import Labels
from batcher.telemetry.load.report import (
    DeviceLoad,
    ModelDeviceLoad,
    ModelLoad,
    RecentLoad,
    RequestCount,
)
from batcher.telemetry.model import ModelTelemetry
from batcher.telemetry.reasons import End

SLICE_MODELS: Final = 16
"""Models that are computed or encoded in one iteration of the event loop: about 0.3 ms each. With twice as many
the loop would be held for twice as long; with half as many a report would come some iterations later."""


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
_NONE_ENDED: Final[Mapping[End, int]] = {}


def _nothing_recent(_model: Labels) -> RecentLoad | None:
    return None


def _no_duty_cycle(_device: str) -> float | None:
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
    duty_cycle: Callable[[str], float | None] = _no_duty_cycle
    """The part of the last seconds that a device was busy."""
    statistics: Callable[[str], DeviceStatistics | None] = _no_statistics
    """What is known of the GPU behind a device."""


class Slices:
    """The parts of one report, computed from one look at the scheduler."""

    def __init__(self, sources: LoadSources, observation: Observation, now_ns: int) -> None:
        self.observation = observation
        self.health = sources.health()
        self.models: list[ModelLoad] = []
        self._sources = sources
        self._now_ns = now_ns

    def compute_models(self) -> Iterator[None]:
        """Fill `models`; yields after each slice."""
        models, observation = self._sources.models, self.observation
        counted: dict[Labels, ModelTelemetry] = {model.labels: model for model in models}
        observed = dict(models.observed(observation))
        statuses: dict[Labels, ModelStatus] = {
            (status.name, status.version): status for status in self.health.models
        }
        in_flight: dict[Labels, int] = {}
        for instance in observation.instances:
            labels = models.labels(instance.model)
            if labels is not None:
                in_flight[labels] = in_flight.get(labels, 0) + instance.in_flight
        for number, labels in enumerate(dict.fromkeys((*statuses, *counted, *observed))):
            if number % SLICE_MODELS == 0:
                yield
            load = _model(
                labels,
                statuses.get(labels, _GONE),
                counted.get(labels),
                observed.get(labels),
                in_flight.get(labels, 0),
                self._sources.recent(labels),
                self._now_ns,
            )
            self.models.append(load)

    def devices(self) -> tuple[DeviceLoad, ...]:
        """Every device that an instance or a model is on, by name."""
        in_flight: dict[str, int] = {}
        for instance in self.observation.instances:
            in_flight[instance.device] = in_flight.get(instance.device, 0) + instance.in_flight
        seen = {device.device: device for device in self.observation.devices}
        uses = self._sources.models.devices
        return tuple(
            self._device(name, in_flight.get(name, 0), seen.get(name))
            for name in sorted(in_flight.keys() | seen.keys() | uses.keys())
        )

    def _device(self, name: str, in_flight: int, seen: DeviceObservation | None) -> DeviceLoad:
        sources, now_ns = self._sources, self._now_ns
        load = seen.load if seen else None
        use = sources.models.devices.get(name)
        return DeviceLoad(
            device=name,
            slots=seen.slots if seen else None,
            batches_in_flight=in_flight,
            busy_seconds=use.busy.read(now_ns) / SECOND if use else None,
            duty_cycle_ratio=sources.duty_cycle(name),
            batch_fill_ratio=use.fill(now_ns) if use else None,
            load_ratio=load,
            headroom_ratio=1 / load if load else None,
            statistics=sources.statistics(name),
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
    ended, late = counts.ended_so_far() if counts else (_NONE_ENDED, 0)
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
        requests=_counts(ended),
        latency_target_missed=late,
        batches=counts.batch_rows.cumulative()[-1] if counts else 0,
        batch_rows=int(counts.batch_rows.total) if counts else 0,
        instances=dict(Counter([str(instance.state) for instance in status.instances])),
        devices=_on_devices(counts, seen, now_ns),
        late_answers=_by_hop(counts.budget.late) if counts else {},
        budget_exceeded=_by_hop(counts.budget.exceeded) if counts else {},
    )


def _counts(ended: Mapping[End, int]) -> tuple[RequestCount, ...]:
    return tuple(
        [
            RequestCount(str(outcome), str(reason), count)
            for (outcome, reason), count in ended.items()
            if count
        ]
    )


def _by_hop(counts: Mapping[Hop, int]) -> dict[str, int]:
    return {str(hop): count for hop, count in counts.items()}


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
