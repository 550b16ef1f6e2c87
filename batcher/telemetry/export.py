"""Counts and histograms -> Prometheus metric families with samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.samples import Exemplar as SampleExemplar
from prometheus_client.samples import Sample, Timestamp

from batcher.telemetry.families import Family
from batcher.telemetry.histogram import Buckets, Exemplar, Histogram

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


class HistogramFamily(HistogramMetricFamily):
    """A histogram family whose samples are made when they are asked for, at once or in pieces.

    With dozens of models a family has thousands of samples; written a piece at a time, they do not
    block the event loop. Each piece is one whole histogram.
    """

    def __init__(self, family: Family, points: Iterable[tuple[Labels, Histogram]]) -> None:
        buckets = family.buckets
        if family.kind != "histogram" or buckets is None:
            raise TypeError(f"{family.name} is a {family.kind}")
        self._points: list[tuple[Labels, Histogram]] = []
        template = empty(family)
        super().__init__(family.name, family.help, labels=family.labels, unit=template.unit)
        self._points += points
        self._scale = buckets.scale
        self._limits = _limits(buckets)

    @property
    def samples(self) -> list[Sample]:
        """All samples, as they are now."""
        return [sample for piece in self.pieces() for sample in piece.samples]

    @samples.setter
    def samples(self, _: list[Sample]) -> None:
        """The base class begins with none."""

    def pieces(self) -> Iterator[Metric]:
        """The family as one histogram after the other; without any, as it is."""
        if not self._points:
            yield HistogramMetricFamily(self.name, self.documentation, unit=self.unit)
        for labels, histogram in self._points:
            piece = HistogramMetricFamily(
                self.name, self.documentation, labels=self._labelnames, unit=self.unit
            )
            counts = zip(self._limits, histogram.cumulative(), strict=True)
            exemplars = histogram.exemplars
            if exemplars is None:
                piece.add_metric(labels, list(counts), histogram.total / self._scale)
            else:
                buckets: list[tuple[str, float] | tuple[str, float, SampleExemplar]] = [
                    (*count, self._exemplar(exemplars[place])) if place in exemplars else count
                    for place, count in enumerate(counts)
                ]
                piece.add_metric(labels, buckets, histogram.total / self._scale)
            yield piece

    def _exemplar(self, exemplar: Exemplar) -> SampleExemplar:
        """The exemplar as OpenMetrics has it; the other text format leaves it out."""
        return SampleExemplar(
            {"trace_id": f"{exemplar.trace_id:032x}", "span_id": f"{exemplar.span_id:016x}"},
            exemplar.value / self._scale,
            Timestamp(*divmod(round(exemplar.timestamp_s * 1e9), 10**9)),
        )


class VerbatimFamily(Metric):
    """A family with another product's name, for programs that parse the text as that product writes it.

    A counter has no `_total`, and numbers are written as plain digits: some read no exponents. Where the
    client library writes it, and in OpenMetrics, which demands `_total`, a counter is of unknown type.
    """

    def __init__(self, family: Family, points: Iterable[Point]) -> None:
        kind = "unknown" if family.kind == "counter" else family.kind
        super().__init__(family.name, family.help, kind)
        self._kind = family.kind
        for labels, value in points:
            self.add_sample(family.name, dict(zip(family.labels, labels, strict=True)), value)

    def text(self, *, openmetrics: bool) -> Iterator[str]:
        """Its lines with the header, then each sample's."""
        kind = self.type if openmetrics else self._kind
        yield f"# HELP {self.name} {self.documentation}\n# TYPE {self.name} {kind}\n"
        for sample in self.samples:
            pairs = ",".join(f'{name}="{_escaped(v)}"' for name, v in sample.labels.items())
            labels = f"{{{pairs}}}" if pairs else ""
            yield f"{sample.name}{labels} {_digits(sample.value)}\n"


def _digits(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def histograms(family: Family, points: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """A histogram family with one histogram per point; labels in the family's order."""
    return HistogramFamily(family, points)


def _limits(buckets: Buckets) -> list[str]:
    return [*(str(float(limit)) for limit in buckets.limits()), "+Inf"]
