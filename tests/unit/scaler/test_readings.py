from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import SECOND
from batcher.scaler.metrics import METRICS
from batcher.scaler.readings import MOST_VALUES, READINGS, Readings
from batcher.scaler.report import MAX_MODELS, read_report
from batcher.testing.replica import FakeReplica

LOAD, QUEUE = METRICS["desired_ratio"], METRICS["queue_requests"]


class Told:
    """The readings of a replica that reports at the seconds of a test."""

    def __init__(self, average_s=15):
        self.readings = Readings(average_s * SECOND)
        self.speaker = FakeReplica()
        self.at_s = 0

    def says(self, at_s, edit=lambda _: None, **attributes):
        for name, value in attributes.items():
            setattr(self.speaker, name, value)
        report = self.speaker.report()
        edit(report)
        self.readings.add(read_report(report.SerializeToString()), round(at_s * SECOND))

        self.at_s = at_s

    def mean(self, metric=LOAD, model="", at_s=None):
        """At a moment; when it reported last, if none is given."""
        found = self.readings.mean(metric, model, round((at_s or self.at_s) * SECOND))
        return None if found is None else found.value

    load = mean


@pytest.fixture
def told():
    return Told()


def test_without_a_report_there_is_no_value(told):
    assert told.load() is None


def test_a_load_that_is_steady_is_what_it_is(told):
    for at_s in range(40):
        told.says(at_s, ratio=0.7)
        assert told.load() == pytest.approx(0.7)


@pytest.mark.parametrize("interval_s", [0.1, 1, 3, 5])
def test_a_burst_between_two_looks_of_the_hpa_is_not_missed(told, interval_s):
    """Five seconds of a load of 4, which is over when it is asked."""
    for step in range(round(14.9 / interval_s) + 1):
        at_s = step * interval_s
        told.says(at_s, ratio=4.0 if 5 <= at_s < 10 else 0.4)
    assert 1.0 < told.load() < 2.5


def test_what_is_older_than_the_average_does_not_count(told):
    told.says(0, ratio=4.0)
    for at_s in range(1, 17):
        told.says(at_s, ratio=0.4)
    assert told.load() == pytest.approx(0.4)


def test_few_reports_are_kept_however_often_it_is_asked(told):
    for step in range(1000):
        told.says(step / 10, ratio=1.0)
        assert len(told.readings._kept) <= READINGS + 2


def test_large_reports_are_not_kept(told):
    def many(report):
        for number in range(MAX_MODELS - 1):
            report.models.add(model=f"m{number}")

    for at_s in range(0, 12, 3):
        told.says(at_s, many, ratio=at_s)
    assert len(told.readings._kept) == 1
    assert told.load() == 9


def test_without_an_average_the_last_report_counts():
    told = Told(average_s=0)
    for at_s, ratio in enumerate((4.0, 0.2)):
        told.says(at_s, ratio=ratio)
        assert told.load() == ratio


@pytest.mark.parametrize("change", [{"start_id": "another"}, {"ready": False}, {"draining": True}])
def test_reports_of_another_start_or_state_are_not_averaged(told, change):
    told.says(0, ratio=4.0)
    told.says(3, ratio=0.0, **change)
    assert told.load() == 0.0


def test_what_the_last_report_does_not_know_is_not_known(told):
    told.says(0, ratio=0.5)
    told.says(3, ratio=None, pending=3)
    assert told.load() is None
    told.says(6, ratio=0.7, pending=0)
    assert told.load() == pytest.approx(0.6)


def test_between_two_reports_it_changed_evenly(told):
    told.says(10, ratio=0.0)
    told.says(14, ratio=2.0)
    assert told.load() == pytest.approx(1.0)


@pytest.mark.parametrize("seconds", [range(21), [0, 1, 2, 9, 10, 11, 13, 20], [0, 4.9, 9.9, 20]])
def test_lost_and_uneven_polls_change_nothing_of_what_is_even(told, seconds):
    """The load grows by 0.1 a second: the mean of the last 15 s is what it was 7.5 s ago."""
    for at_s in seconds:
        told.says(at_s, ratio=at_s / 10)
    assert told.load() == pytest.approx(1.25)


def test_many_polls_of_a_moment_weigh_no_more_than_one(told):
    """Each tenth of a second for a second, and before that each second."""
    for at_s in (*range(14), *(14 + tenth / 10 for tenth in range(11))):
        told.says(at_s, ratio=3.0 if at_s > 14 else 1.0)
    assert 1 < told.load() <= 1 + 2 / 15


def test_a_replica_that_does_not_answer_goes_on_as_it_was_last(told):
    for at_s, ratio in ((0, 0.0), (10, 0.0), (11, 2.0)):
        told.says(at_s, ratio=ratio)
    assert told.load(at_s=12) == pytest.approx((1 + 2) / 12)
    assert told.load(at_s=21) == pytest.approx((1 + 2 * 10) / 15)
    assert told.load(at_s=26) == told.load(at_s=40) == 2.0


def test_nothing_is_known_of_a_gap_that_is_longer_than_the_average(told):
    told.says(0, ratio=4.0)
    told.says(16, ratio=1.0)
    assert told.load() == 1.0


def test_a_report_that_is_newer_than_the_answer_counts(told):
    told.says(0, ratio=1.0)
    told.says(3, ratio=2.0)
    assert told.load(at_s=2.9) == pytest.approx(1.5)


def test_two_reports_of_one_moment_are_one(told):
    told.says(1, ratio=4.0)
    told.says(1, ratio=1.0)
    assert told.load() == 1.0
    assert told.load(at_s=2) == 1.0


def test_a_replica_that_became_ready_is_averaged_over_the_time_since(told):
    for at_s in range(10):
        told.says(at_s, ratio=0.0, ready=False)
    told.says(10, ratio=1.0, ready=True)
    assert told.load() == told.load(at_s=11) == 1.0
    told.says(12, ratio=2.0)
    assert told.load() == pytest.approx(1.5)


@pytest.mark.parametrize("before", ["absent", "loading"])
def test_a_model_that_became_ready_is_averaged_over_the_time_since(told, before):
    def without(report):
        if before == "absent":
            del report.models[:]
        else:
            for model in report.models:
                model.state = "loading"

    told.says(0, without, ratio=0.9)
    told.says(5, without)
    told.says(6, pending=7)
    alone = told.mean(QUEUE, "ranker")
    assert alone == told.mean(QUEUE, "ranker", at_s=8)
    assert alone == 7


def test_after_a_restart_of_the_scaler_it_is_the_mean_of_what_there_is(told):
    told.says(1000, ratio=2.0)
    assert told.load() == told.load(at_s=1003) == 2.0
    told.says(1004, ratio=1.0)
    assert told.load() == pytest.approx(1.5)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_is_averaged(told, metric):
    """The age of the oldest request as well, as where signals were compared: of each replica, then the highest."""

    def gauges(factor):
        def fill(report):
            (model,), (device,) = report.models, report.devices
            model.executing_requests = factor
            model.offered_rows_per_second = model.recent.requests_per_second = factor
            model.target_seconds, model.oldest_request_target_ratio = 1.0, factor
            device.statistics.utilization_ratio = factor / 10

        return fill

    told.says(0, gauges(1), ratio=0.1, pending=1)
    first = told.mean(metric)
    told.says(5, gauges(3), ratio=0.3, pending=3)
    assert first > 0
    assert told.mean(metric) == pytest.approx(2 * first)


@given(
    steps=st.lists(st.tuples(st.floats(0, 40), st.floats(0, 1000)), min_size=1, max_size=60),
    later_s=st.floats(0, 40),
    average_s=st.sampled_from([0, 0.1, 1, 15, 300]),
)
def test_a_mean_is_within_what_was_reported(steps, later_s, average_s):
    told, at_s = Told(average_s), 0.0
    for step_s, ratio in steps:
        at_s += step_s
        told.says(at_s, ratio=ratio)
        assert len(told.readings._kept) <= READINGS + 2
    recent = [each.report.load for each in told.readings._kept]
    assert min(recent) - 1e-9 <= told.load(at_s=at_s + later_s) <= max(recent) + 1e-9


def test_it_is_as_where_signals_were_compared(told):
    """There it is the plain mean of readings each 5 s (`batcher simulate --autoscale`): a step counts as fast."""
    values = [0.4, 0.4, 0.4, 0.4, 2.0, 2.0, 2.0, 2.0]
    for number, ratio in enumerate(values):
        told.says(5 * number, ratio=ratio)
        plain = fmean(values[max(number - 3, 0) : number + 1])
        assert told.load() == pytest.approx(plain, abs=(2.0 - 0.4) / 6)
    assert told.load() == 2.0


def test_few_values_of_a_report_are_kept_whatever_is_asked(told):
    told.says(0, ratio=0.5, pending=3)
    for number in range(100):
        assert told.mean(QUEUE, f"m{number}") == 0
        assert told.mean(QUEUE, "ranker") == told.mean(QUEUE) == 3
    (reading,) = told.readings._kept
    assert len(reading._values) == MOST_VALUES
