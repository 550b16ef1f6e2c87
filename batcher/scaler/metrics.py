"""The metrics that a ScaledObject may ask for: what each is of one replica, and how replicas are put together.

A value of a replica is None where it is not known. `metricType` is chosen in the ScaledObject, and KEDA does not
tell it: a sum is meant for `AverageValue` (the HPA divides by the target to get replicas), a mean or a maximum
for `Value` (the HPA multiplies the replicas that are ready by the value over the target).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from batcher.scaler.report import DeviceSignals, ModelSignals, Report


class How(StrEnum):
    """How the values of replicas become one."""

    SUM = "sum"
    MAXIMUM = "maximum"
    MEAN = "mean"
    """Weighted: each replica by how many things its own mean is of."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value of one replica, and its weight in a mean."""

    value: float
    weight: float = 1.0


Read: TypeAlias = Callable[[Report, str], Value | None]
"""From a report and the name of a model, empty for all, to a value. None: not known."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One that may be asked for."""

    name: str
    how: How
    read: Read
    meaning: str
    """For docs/scaler.md."""
    target: float | None = None
    """Where the metadata has none; None: it must."""

    @property
    def metric_type(self) -> str:
        """The `metricType` with which it makes sense."""
        return "AverageValue" if self.how is How.SUM else "Value"


def _models(report: Report, model: str) -> Iterator[ModelSignals]:
    return (each for (name, _), each in report.models.items() if not model or name == model)


def _over_models(
    get: Callable[[ModelSignals], float | None],
    join: Callable[[Iterable[float]], float],
    exists: Callable[[ModelSignals], bool] = lambda _: True,
) -> Read:
    """What `get` gives of each model, joined. Where `exists` says so, what is absent of a model is not missed."""

    def read(report: Report, model: str) -> Value | None:
        known: list[float] = []
        for each in _models(report, model):
            value = get(each)
            if value is not None:
                known.append(value)
            elif each.serves and exists(each):
                return None
        return Value(join(known))

    return read


def _highest(values: Iterable[float]) -> float:
    return max(values, default=0.0)


def _load(report: Report, model: str) -> Value | None:
    if not model:
        if report.load is not None:
            return Value(report.load)
        # Not known, but of replicas of which nothing is asked.
        return Value(0.0) if all(each.quiet for each in report.models.values()) else None
    loads = [
        0.0 if each.load is None and each.quiet else each.load for each in _models(report, model)
    ]
    known = [load for load in loads if load is not None]
    return Value(_highest(known)) if len(known) == len(loads) else None


def _over_devices(get: Callable[[DeviceSignals], float | None]) -> Read:
    def read(report: Report, model: str) -> Value | None:
        used = {name for each in _models(report, model) for name in each.devices}
        devices = [device for name, device in report.devices.items() if not model or name in used]
        known = [value for device in devices if (value := get(device)) is not None]
        return Value(sum(known) / len(known), len(known)) if known else None

    return read


METRICS: Final[Mapping[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(
            "desired_ratio",
            How.SUM,
            _load,
            "the load of the fleet in replicas: what is offered over what one can serve in time, summed."
            " With `model`, the model's part",
            target=0.8,
        ),
        Metric(
            "queue_requests",
            How.SUM,
            _over_models(lambda model: model.queue_requests, sum),
            "requests that wait",
        ),
        Metric(
            "queue_rows",
            How.SUM,
            _over_models(lambda model: model.queue_rows, sum),
            "their rows",
        ),
        Metric(
            "queue_backlog_seconds",
            How.SUM,
            _over_models(lambda model: model.backlog_s, sum),
            "predicted time that one instance needs for what waits",
        ),
        Metric(
            "executing_requests",
            How.SUM,
            _over_models(lambda model: model.executing, sum),
            "requests in batches that run or are prefetched",
        ),
        Metric(
            "requests_per_second",
            How.SUM,
            _over_models(lambda model: model.requests_per_s, sum),
            "requests that ended in the last seconds, in whatever way",
        ),
        Metric(
            "offered_rows_per_second",
            How.SUM,
            _over_models(lambda model: model.offered_rows_per_s, sum),
            "rows that were offered in the last seconds, refused and expired ones included",
        ),
        Metric(
            "oldest_request_age_seconds",
            How.MAXIMUM,
            _over_models(lambda model: model.oldest_s, _highest),
            "age of the oldest request that waits or executes",
        ),
        Metric(
            "oldest_request_target_ratio",
            How.MAXIMUM,
            _over_models(
                lambda model: model.oldest_ratio, _highest, lambda model: model.has_target
            ),
            "the same over the target of its model",
        ),
        Metric(
            "duty_cycle_ratio",
            How.MEAN,
            _over_devices(lambda device: device.duty_cycle),
            "the part of the last seconds that a device was busy, the mean of all devices",
        ),
        Metric(
            "gpu_utilization_ratio",
            How.MEAN,
            _over_devices(lambda device: device.utilization),
            "the part of the time in which any kernel ran, as NVML says it, the mean of all GPUs",
        ),
    )
}
"""By name: the order is that of docs/scaler.md."""
