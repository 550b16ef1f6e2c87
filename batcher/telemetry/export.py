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
    if not isinstance(metric, CounterMetricFamily | GaugeMetricFamily):
        raise TypeError(f"{family.name} is a {family.kind}")
    for labels, value in points:
        metric.add_metric(labels, value)
    return metric


def histograms(family: Family, points: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """A histogram family with one histogram per point; labels in the family's order."""
    metric = empty(family)
    buckets = family.buckets
    if not isinstance(metric, HistogramMetricFamily) or buckets is None:
        raise TypeError(f"{family.name} is a {family.kind}")
    limits = _limits(buckets)
    for labels, histogram in points:
        counts = list(zip(limits, histogram.cumulative(), strict=True))
        metric.add_metric(labels, counts, histogram.total / buckets.scale)
    return metric


def _limits(buckets: Buckets) -> list[str]:
    return [*(str(float(limit)) for limit in buckets.limits()), "+Inf"]
