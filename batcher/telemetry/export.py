"""From recorded numbers to Prometheus metric families."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from batcher.telemetry.families import Family
from batcher.telemetry.histogram import Buckets, Histogram

Labels = tuple[str, ...]
Point = tuple[Labels, float]

_TYPES: Final[dict[str, Callable[..., Metric]]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def empty(family: Family) -> Metric:
    """The family without samples."""
    # OpenMetrics lets a unit be declared only where the name ends with it.
    unit = family.unit if family.name.endswith(f"_{family.unit}") else ""
    return _TYPES[family.kind](family.name, family.help, labels=family.labels, unit=unit)


def single_values(family: Family, points: Iterable[Point]) -> Metric:
    """A gauge or counter with one sample per point; labels in the family's order."""
    metric = empty(family)
    suffix = family.exported_name
    for values, value in points:
        metric.add_sample(suffix, dict(zip(family.labels, values, strict=True)), value)
    return metric


def histograms(family: Family, points: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """A histogram family with one histogram per point; labels in the family's order."""
    metric = empty(family)
    buckets = family.buckets
    if buckets is None:
        raise TypeError(f"{family.name} has no buckets")
    limits = _limits(buckets)
    for values, histogram in points:
        labels = dict(zip(family.labels, values, strict=True))
        cumulative = histogram.cumulative()
        for limit, count in zip(limits, cumulative, strict=True):
            metric.add_sample(f"{family.name}_bucket", {**labels, "le": limit}, count)
        metric.add_sample(f"{family.name}_count", labels, cumulative[-1])
        metric.add_sample(f"{family.name}_sum", labels, histogram.total / buckets.scale)
    return metric


def _limits(buckets: Buckets) -> list[str]:
    return [*(str(float(limit)) for limit in buckets.limits()), "+Inf"]
