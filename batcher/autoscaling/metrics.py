"""The metrics of a HorizontalPodAutoscaler with what was measured, and the replicas that each of them asks for.

Values travel through Kubernetes' metric APIs as integers of thousandths, and sums are divided as integers: so they
are here. A metric that cannot be had is `None` or has no values: `Unavailable` is raised, never a size of 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batcher.autoscaling.pods import Groups, Measured, Phase, Pod, group

if TYPE_CHECKING:
    from batcher.autoscaling.settings import HpaSettings

MILLI = 1000
MAX_REPLICAS = 2**31 - 1
"""Sizes are 32-bit integers: what is larger counts as this."""


def _target(value: float) -> None:
    """Refuses a target that is no whole thousandth, as the API server does: a quotient by it says nothing.

    Raises:
        ValueError: it is below 0.001, or no number.
    """
    if not (math.isfinite(value) and value * MILLI >= 1):
        message = f"a target must be at least 0.001, got {value}"
        raise ValueError(message)


class Unavailable(Exception):
    """A metric could not be had; the message says why."""


@dataclass(frozen=True, slots=True)
class PodsAverage:
    """A `Pods` metric, or a `Resource` metric with `averageValue`: the mean over pods should be `target`.

    `cpu`: the values are processor time, so pods that start are told apart from those that run.
    """

    target: float
    values: Mapping[str, Measured] | None
    cpu: bool = False

    def __post_init__(self) -> None:
        _target(self.target)


@dataclass(frozen=True, slots=True)
class Utilization:
    """A `Resource` metric with `averageUtilization`: use over requests should be `target_percent`."""

    target_percent: int
    values: Mapping[str, Measured] | None
    cpu: bool = True

    def __post_init__(self) -> None:
        if self.target_percent < 1:
            message = f"a target must be at least 1 %, got {self.target_percent}"
            raise ValueError(message)


@dataclass(frozen=True, slots=True)
class ExternalValue:
    """An `External` metric with `value`: the size is multiplied by what it is over `target`."""

    target: float
    value: float | None

    def __post_init__(self) -> None:
        _target(self.target)


@dataclass(frozen=True, slots=True)
class ExternalAverage:
    """An `External` metric with `averageValue` (KEDA's default): `value` is a total, `target` one replica's part."""

    target: float
    value: float | None

    def __post_init__(self) -> None:
        _target(self.target)


_Ratio = Callable[[Mapping[str, int]], float]
"""What is used by pod, in thousandths -> what that is over the target."""

Metric = PodsAverage | Utilization | ExternalValue | ExternalAverage


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the calculations know of the workload. `status_replicas` is how many pods it counts now."""

    now_ns: int
    current: int
    status_replicas: int
    pods: Sequence[Pod]
    settings: HpaSettings


def replicas(metric: Metric, fleet: Fleet) -> int:
    """Returns how many replicas `metric` asks for, before windows, policies and bounds.

    Raises:
        Unavailable: it has no value, or the values are of no pod that counts.
    """
    match metric:
        case PodsAverage():
            return _pods_average(metric, fleet)
        case Utilization():
            return _utilization(metric, fleet)
        case ExternalValue():
            return _external_value(metric, fleet)
        case ExternalAverage():
            return _external_average(metric, fleet)


def thousandths(value: float | None, what: str) -> int:
    """Returns `value` as metric APIs carry it, cut to whole thousandths.

    Raises:
        Unavailable: there is none, or it is no number.
    """
    if value is None or not math.isfinite(value):
        message = f"{what} could not be had" if value is None else f"{what} is {value}"
        raise Unavailable(message)
    return int(value * MILLI)


def _ceil(size: float) -> int:
    return MAX_REPLICAS if size > MAX_REPLICAS else math.ceil(size)


def _external_average(metric: ExternalAverage, fleet: Fleet) -> int:
    value = thousandths(metric.value, "the external metric")
    target = thousandths(metric.target, "the target")
    wanted = value / target
    if fleet.status_replicas and fleet.settings.within_tolerance(wanted / fleet.status_replicas):
        return fleet.status_replicas
    return _ceil(wanted)


def _external_value(metric: ExternalValue, fleet: Fleet) -> int:
    value = thousandths(metric.value, "the external metric")
    ratio = value / thousandths(metric.target, "the target")
    if fleet.current == 0:
        return _ceil(ratio)
    if fleet.settings.within_tolerance(ratio):
        return fleet.current
    if not fleet.pods:
        message = "there are no pods"
        raise Unavailable(message)
    ready = sum(1 for pod in fleet.pods if pod.phase is Phase.RUNNING and pod.ready)
    return _ceil(ratio * ready)


def _pods_average(metric: PodsAverage, fleet: Fleet) -> int:
    target = thousandths(metric.target, "the target")

    def ratio(used: Mapping[str, int]) -> float:
        return (sum(used.values()) // len(used)) / target

    groups, used = _counted(metric.values, fleet, cpu=metric.cpu)
    return _from_pods(fleet, groups, used, ratio, dict.fromkeys(groups.missing, target))


def _utilization(metric: Utilization, fleet: Fleet) -> int:
    requests = {pod.name: thousandths(pod.requested, "a request") for pod in fleet.pods}

    def ratio(used: Mapping[str, int]) -> float:
        requested = sum(requests[name] for name in used)
        if not requested:
            message = "no pod with a value requests anything of the resource"
            raise Unavailable(message)
        return (sum(used.values()) * 100 // requested) / metric.target_percent

    groups, used = _counted(metric.values, fleet, cpu=metric.cpu)
    assumed = max(100, metric.target_percent)
    full = {name: requests[name] * assumed // 100 for name in groups.missing}
    return _from_pods(fleet, groups, used, ratio, full)


def _counted(
    values: Mapping[str, Measured] | None, fleet: Fleet, *, cpu: bool
) -> tuple[Groups, dict[str, int]]:
    if values is None:
        message = "the metric of the pods could not be had"
        raise Unavailable(message)
    known = {name: measured for name, measured in values.items() if math.isfinite(measured.value)}
    groups = group(fleet.pods, known, fleet.settings, fleet.now_ns, cpu=cpu)
    if not groups.measured:
        message = "no pod that counts has a value"
        raise Unavailable(message)
    return groups, {name: int(known[name].value * MILLI) for name in groups.measured}


def _from_pods(
    fleet: Fleet,
    groups: Groups,
    used: dict[str, int],
    ratio: _Ratio,
    full: Mapping[str, int],
) -> int:
    """Returns the replicas for an average over pods.

    Missing pods are taken for `full` when the others call for fewer, and for idle when they call for more; unready
    ones for idle when they call for more. A result that this turns around changes nothing.
    """
    settings, current = fleet.settings, fleet.current
    first = ratio(used)
    fill_unready = bool(groups.unready) and first > 1.0
    if not fill_unready and not groups.missing:
        return current if settings.within_tolerance(first) else _ceil(first * len(groups.measured))
    if first < 1.0:
        used |= full
    elif first > 1.0:
        used |= dict.fromkeys(groups.missing, 0)
    if fill_unready:
        used |= dict.fromkeys(groups.unready, 0)
    second = ratio(used)
    turned = (first < 1.0 < second) or (second < 1.0 < first)
    if turned or settings.within_tolerance(second):
        return current
    wanted = _ceil(second * len(used))
    if (second < 1.0 and wanted > current) or (second > 1.0 and wanted < current):
        return current
    return wanted
