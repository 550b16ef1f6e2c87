"""Families write what the client library writes of them, and faster."""

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from batcher.telemetry.export import histograms, single_values
from batcher.telemetry.families import LATENCY, Family
from batcher.telemetry.histogram import Histogram

VALUES = [
    *(
        0,
        1,
        -1,
        7,
        999_999,
        1_000_000,
        1_000_001,
        -5_000_000,
        2**53,
        10**15,
        10**17,
        123_456_789_012,
    ),
    *(0.1, 1e-9, 1.5, 1e6, 1234567.25, 1e22, True, math.inf, -math.inf, math.nan),
]
ODD = ["plain", "", 'quo"te', "back\\slash", "new\nline", "naïve 日本", "\\n"]


class One(Collector):
    def __init__(self, metric):
        self.metric = metric

    def collect(self):
        yield self.metric


def written(metric, *, openmetrics):
    return "".join(metric.text(openmetrics=openmetrics)) + ("# EOF\n" if openmetrics else "")


def of_library(metric, *, openmetrics):
    registry = CollectorRegistry()
    registry.register(One(metric))
    return (generate_openmetrics if openmetrics else generate_latest)(registry).decode()


both = pytest.mark.parametrize("openmetrics", [False, True])


@both
@pytest.mark.parametrize("kind", ["counter", "gauge"])
def test_numbers_are_written_as_the_library_does(kind, openmetrics):
    family = Family("batcher_x", kind, "rows", ("place",), "Some help.")
    metric = single_values(family, [((str(n),), value) for n, value in enumerate(VALUES)])
    assert written(metric, openmetrics=openmetrics) == of_library(metric, openmetrics=openmetrics)


@both
def test_labels_are_written_as_the_library_does(openmetrics):
    family = Family("batcher_x_seconds", "gauge", "seconds", ("version", "le_", "a"), "Help.")
    metric = single_values(family, [((odd, odd, odd), 1) for odd in ODD])
    assert written(metric, openmetrics=openmetrics) == of_library(metric, openmetrics=openmetrics)


@both
@pytest.mark.parametrize("labels", [(), ("a",), ("model",), ("model", "version", "device")])
def test_histograms_are_written_as_the_library_does(labels, openmetrics):
    histogram = Histogram(LATENCY)
    for value in (5e4, 1e6, 3.3e6, 1e12):
        histogram.observe(value)
    histogram.exemplify(3.3e6, 2**100 + 1, 2**60 + 3, 1_700_000_000.25)
    histogram.exemplify(1e12, 1, 1, 1_700_000_000.0)
    family = Family("batcher_x_seconds", "histogram", "seconds", labels, "Help.", LATENCY)
    metric = histograms(family, [(tuple(odd for _ in labels), histogram) for odd in ODD])
    text = written(metric, openmetrics=openmetrics)
    assert text == of_library(metric, openmetrics=openmetrics)
    assert ("trace_id" in text) == openmetrics


@both
@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_a_family_without_samples_is_named(kind, openmetrics):
    family = Family(
        "batcher_x", kind, "", ("a",), "Help.", LATENCY if kind == "histogram" else None
    )
    metric = (histograms if kind == "histogram" else single_values)(family, ())
    text = written(metric, openmetrics=openmetrics)
    assert text == of_library(metric, openmetrics=openmetrics)
    assert "# TYPE" in text


def test_too_few_labels_are_an_error():
    family = Family("batcher_x", "gauge", "", ("a", "b"), "Help.")
    with pytest.raises(IndexError):
        written(single_values(family, [(("1",), 1)]), openmetrics=False)


def test_a_histogram_is_no_single_value():
    family = Family("batcher_x", "histogram", "", (), "Help.", LATENCY)
    with pytest.raises(TypeError, match="batcher_x is a histogram"):
        single_values(family, ())
    with pytest.raises(TypeError, match="batcher_y is a gauge"):
        histograms(Family("batcher_y", "gauge", "", (), "Help."), ())
