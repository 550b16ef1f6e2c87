from __future__ import annotations

from batcher.telemetry.families import FILL, LATENCY
from batcher.telemetry.histogram import Buckets, Histogram


def test_a_value_on_a_bound_belongs_below_it():
    histogram = Histogram(Buckets((1, 2, 5)))
    for value in (0, 1, 1.5, 2, 5, 6):
        histogram.observe(value)
    assert histogram.cumulative() == (2, 4, 5, 6)
    assert histogram.total == 15.5


def test_a_fresh_histogram_counts_nothing():
    assert Histogram(Buckets((1, 2))).cumulative() == (0, 0, 0)


def test_latencies_resolve_a_tenth_of_a_millisecond_to_a_minute():
    limits = LATENCY.limits()
    assert limits[0] == 0.0001
    assert limits[-1] == 60.0
    assert list(limits) == sorted(set(limits))


def test_a_full_batch_is_in_the_bucket_of_one():
    histogram = Histogram(FILL)
    histogram.observe(32 / 32)
    assert histogram.cumulative()[-2] == 1
