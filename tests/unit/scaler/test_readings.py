import pytest

from batcher.clock import SECOND
from batcher.scaler.metrics import METRICS
from batcher.scaler.readings import READINGS, Readings
from batcher.scaler.report import MAX_MODELS, read_report
from batcher.testing.replica import FakeReplica

LOAD = METRICS["desired_ratio"]


class Told:
    """The readings of a replica that reports at the seconds of a test."""

    def __init__(self, average_s=15):
        self.readings = Readings(average_s * SECOND)
        self.speaker = FakeReplica()

    def says(self, at_s, edit=lambda _: None, **attributes):
        for name, value in attributes.items():
            setattr(self.speaker, name, value)
        report = self.speaker.report()
        edit(report)
        self.readings.add(read_report(report.SerializeToString()), round(at_s * SECOND))

    def load(self):
        found = self.readings.mean(LOAD)
        return None if found is None else found.value


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
