"""Counts and histograms -> Prometheus metric families, which write themselves.

The client library makes a sample of every number and looks at every character of it: some 20 µs a sample, half
a second for fifty models. These families keep the numbers, write the same text at a few tenths of a
microsecond a line, and make samples only for those who ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import isfinite
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar as SampleExemplar
from prometheus_client.samples import Sample, Timestamp
from prometheus_client.utils import floatToGoString

from batcher.telemetry.families import Family
from batcher.telemetry.histogram import Buckets, Exemplar, Histogram

Labels = tuple[str, ...]
Point = tuple[Labels, float]

_of_library: Final[Callable[[float], str]] = floatToGoString

_PLAIN: Final = 1_000_000
"""From here on numbers are written with an exponent."""


class WrittenFamily(Metric):
    """A family that can write itself in both text formats, equal to what the client library writes of it."""

    def __init__(self, family: Family) -> None:
        # OpenMetrics lets a unit be declared only where the name ends with it.
        unit = family.unit if family.name.endswith(f"_{family.unit}") else ""
        super().__init__(family.name, family.help, family.kind, unit)
        self._family = family
        names = sorted((name, place) for place, name in enumerate(family.labels))
        self._before = [each for each in names if each[0] < "le"]
        self._after = [each for each in names if each[0] >= "le"]

    @property
    def samples(self) -> list[Sample]:
        """All samples, as they are now."""
        return list(self._samples())

    @samples.setter
    def samples(self, _: list[Sample]) -> None:
        """The base class begins with none."""

    def text(self, *, openmetrics: bool) -> Iterator[str]:
        """The header, then the lines, in pieces of a few dozen lines at most."""
        name = self.name
        if not openmetrics and self.type == "counter":
            name = f"{name}_total"
        help_ = _escaped(self.documentation) if openmetrics else self.documentation
        header = f"# HELP {name} {help_}\n# TYPE {name} {self.type}\n"
        if openmetrics and self.unit:
            header = f"{header}# UNIT {name} {self.unit}\n"
        yield header
        yield from self._lines(openmetrics=openmetrics)

    def _samples(self) -> Iterator[Sample]:
        raise NotImplementedError

    def _lines(self, *, openmetrics: bool) -> Iterator[str]:
        raise NotImplementedError

    def _pairs(self, labels: Labels) -> dict[str, str]:
        return dict(zip(self._family.labels, labels, strict=True))


class ValuesFamily(WrittenFamily):
    """A gauge or counter with one sample for each point."""

    def __init__(self, family: Family, points: Iterable[Point]) -> None:
        if family.kind == "histogram":
            raise TypeError(f"{family.name} is a {family.kind}")
        super().__init__(family)
        self._points = list(points)

    def _samples(self) -> Iterator[Sample]:
        name = self._family.exported_name
        for labels, value in self._points:
            yield Sample(name, self._pairs(labels), value)

    def _lines(self, *, openmetrics: bool) -> Iterator[str]:  # noqa: ARG002 - both are equal
        name, names = self._family.exported_name, (*self._before, *self._after)
        for labels, value in self._points:
            pairs = _text_of(names, labels)
            yield f"{name}{{{pairs}}} {_number(value)}\n" if pairs else f"{name} {_number(value)}\n"


class HistogramFamily(WrittenFamily):
    """A histogram family with one histogram for each point, read when it is written."""

    def __init__(self, family: Family, points: Iterable[tuple[Labels, Histogram]]) -> None:
        buckets = family.buckets
        if family.kind != "histogram" or buckets is None:
            raise TypeError(f"{family.name} is a {family.kind}")
        super().__init__(family)
        self._points = list(points)
        self._scale = buckets.scale
        self._limits = _limits(buckets)

    def _samples(self) -> Iterator[Sample]:
        name = self.name
        for labels, histogram in self._points:
            pairs = self._pairs(labels)
            counts, exemplars = histogram.cumulative(), histogram.exemplars or {}
            for place, (limit, count) in enumerate(zip(self._limits, counts, strict=True)):
                exemplar = self._exemplar(exemplars[place]) if place in exemplars else None
                yield Sample(f"{name}_bucket", pairs | {"le": limit}, count, None, exemplar)
            yield Sample(f"{name}_count", pairs, counts[-1])
            yield Sample(f"{name}_sum", pairs, histogram.total / self._scale)

    def _lines(self, *, openmetrics: bool) -> Iterator[str]:
        name = self.name
        for labels, histogram in self._points:
            before, after = _text_of(self._before, labels), _text_of(self._after, labels)
            head = f'{name}_bucket{{{before}{"," if before else ""}le="'
            tail = f'"{"," if after else ""}{after}}} '
            counts = histogram.cumulative()
            numbers = map(_number, counts)
            lines = [
                f"{head}{limit}{tail}{number}\n"
                for limit, number in zip(self._limits, numbers, strict=True)
            ]
            if openmetrics and histogram.exemplars is not None:
                for place, exemplar in histogram.exemplars.items():
                    lines[place] = f"{lines[place][:-1]}{self._exemplar_text(exemplar)}\n"
            pairs = ",".join(filter(None, (before, after)))
            braces = f"{{{pairs}}}" if pairs else ""
            total = _number(histogram.total / self._scale)
            yield (
                f"{''.join(lines)}{name}_count{braces} {_number(counts[-1])}\n"
                f"{name}_sum{braces} {total}\n"
            )

    def _exemplar(self, exemplar: Exemplar) -> SampleExemplar:
        """The exemplar as OpenMetrics has it; the other text format leaves it out."""
        return SampleExemplar(
            {"trace_id": f"{exemplar.trace_id:032x}", "span_id": f"{exemplar.span_id:016x}"},
            exemplar.value / self._scale,
            Timestamp(*divmod(round(exemplar.timestamp_s * 1e9), 10**9)),
        )

    def _exemplar_text(self, exemplar: Exemplar) -> str:
        labels, value, timestamp = self._exemplar(exemplar)
        pairs = ",".join(f'{name}="{text}"' for name, text in sorted(labels.items()))
        return f" # {{{pairs}}} {_of_library(value)} {timestamp}"


class VerbatimFamily(ValuesFamily):
    """A family with another product's name, for programs that parse the text as that product writes it.

    A counter has no `_total`, and numbers are written as plain digits: some read no exponents. Where the
    client library writes it, and in OpenMetrics, which demands `_total`, a counter is of unknown type.
    """

    def __init__(self, family: Family, points: Iterable[Point]) -> None:
        super().__init__(family, points)
        self.unit = ""
        self._named = [(name, place) for place, name in enumerate(family.labels)]
        if family.kind == "counter":
            self.type = "unknown"

    def text(self, *, openmetrics: bool) -> Iterator[str]:
        """The header, then each line."""
        kind = self.type if openmetrics else self._family.kind
        yield f"# HELP {self.name} {self.documentation}\n# TYPE {self.name} {kind}\n"
        yield from self._lines(openmetrics=openmetrics)

    def _lines(self, *, openmetrics: bool) -> Iterator[str]:  # noqa: ARG002 - both are equal
        for labels, value in self._points:
            pairs = _text_of(self._named, labels)
            braces = f"{{{pairs}}}" if pairs else ""
            yield f"{self.name}{braces} {_digits(value)}\n"


def empty(family: Family) -> Metric:
    """The family without samples."""
    return histograms(family, ()) if family.kind == "histogram" else single_values(family, ())


def single_values(family: Family, points: Iterable[Point]) -> Metric:
    """A gauge or counter with one sample per point; labels in the family's order."""
    return ValuesFamily(family, points)


def histograms(family: Family, points: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """A histogram family with one histogram per point; labels in the family's order."""
    return HistogramFamily(family, points)


def _text_of(names: Iterable[tuple[str, int]], labels: Labels) -> str:
    """These labels as text; a name comes with its place in `labels`."""
    return ",".join([f'{name}="{_escaped(labels[place])}"' for name, place in names])


def _number(value: float) -> str:
    """The number as the client library writes it."""
    if type(value) is int and -_PLAIN < value < _PLAIN:
        return f"{value}.0"
    return _of_library(value)


def _digits(value: float) -> str:
    if not isfinite(value):
        return _of_library(value)
    return str(int(value)) if value == int(value) else f"{value:.6f}"


def _escaped(text: str) -> str:
    if "\\" not in text and "\n" not in text and '"' not in text:
        return text
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _limits(buckets: Buckets) -> list[str]:
    return [*(str(float(limit)) for limit in buckets.limits()), "+Inf"]
