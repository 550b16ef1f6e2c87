"""What an autoscaler sets over time: bounds, windows, policies, and what it does without a metric."""

import pytest

from batcher.autoscaling import (
    ExternalAverage,
    Hpa,
    HpaSettings,
    Pod,
    Policy,
    PolicyKind,
    ScalingRules,
    SelectPolicy,
    default_scale_down,
    default_scale_up,
)
from batcher.clock import SECOND

PODS, PERCENT = PolicyKind.PODS, PolicyKind.PERCENT


def rules(window, *policies, select=SelectPolicy.MAX):
    return ScalingRules(
        window * SECOND,
        tuple(Policy(kind, value, period * SECOND) for kind, value, period in policies),
        select,
    )


AT_ONCE = rules(0, (PERCENT, 1000, 15))
ALL_DOWN = rules(0, (PERCENT, 100, 15))


class Run:
    """A workload whose pods are always as many as were set."""

    def __init__(self, current, **settings):
        self.hpa = Hpa(HpaSettings(**({"max_replicas": 100} | settings)))
        self.current = current
        self.reasons = []

    def at(self, seconds, *wanted):
        """Syncs with metrics that ask for `wanted` replicas each (None: cannot be had); returns the size that is set."""
        pods = [Pod(f"p{index}") for index in range(self.current)]
        metrics = [ExternalAverage(1.0, None if each is None else float(each)) for each in wanted]
        decision = self.hpa.sync(seconds * SECOND, self.current, pods, metrics)
        self.reasons.append(decision.reason)
        self.current = decision.desired
        return self.current


@pytest.mark.parametrize(
    ("current", "wanted", "after", "reason"),
    [
        (0, 5, 0, "at zero"),
        (30, 5, 20, "above maximum"),
        (1, 5, 2, "below minimum"),
        (5, 50, 20, "maximum"),
        (5, 0, 2, "minimum"),
        (5, 7, 7, "above target"),
        (7, 5, 5, "below target"),
        (5, 5, 5, "at target"),
    ],
)
def test_bounds(current, wanted, after, reason):
    run = Run(current, min_replicas=2, max_replicas=20, scale_up=AT_ONCE, scale_down=ALL_DOWN)
    assert run.at(1000, wanted) == after
    assert run.reasons == [reason]


def test_from_zero_with_a_minimum_of_zero():
    assert Run(0, min_replicas=0).at(1000, 3) == 3


def test_up_at_once_and_down_after_the_highest_recommendation_is_five_minutes_old():
    run = Run(4)
    assert run.at(0, 8) == 8
    assert [run.at(seconds, 2) for seconds in range(15, 300, 15)] == [8] * 19
    assert run.reasons[-1] == "stabilized"
    # The recommendation of 8 leaves the window when it is 300 s old.
    assert run.at(300, 2) == 2


def test_the_highest_recommendation_of_the_window_counts():
    run = Run(4)
    for seconds, wanted in ((0, 8), (15, 2), (30, 6), (45, 2)):
        run.at(seconds, wanted)
    assert run.at(300, 2) == 6
    assert run.at(330, 2) == 2


def test_a_new_controller_does_not_drop_at_once():
    run = Run(10)
    assert run.at(0, 1) == 10
    assert run.at(299, 1) == 10
    assert run.at(300, 1) == 1


def test_up_with_a_window_the_lowest_recommendation_counts():
    run = Run(4, scale_up=rules(60, (PERCENT, 1000, 15)))
    assert [run.at(seconds, 12) for seconds in (0, 15, 30, 45)] == [4] * 4
    assert run.at(60, 10) == 10


def test_between_both_windows_the_size_stays():
    run = Run(6, scale_up=rules(60, (PERCENT, 1000, 15)), scale_down=rules(60, (PERCENT, 100, 15)))
    assert [run.at(15 * index, 2 if index % 2 else 12) for index in range(12)] == [6] * 12


@pytest.mark.parametrize(
    ("policies", "select", "sizes"),
    [
        ([(PODS, 4, 15), (PERCENT, 100, 15)], SelectPolicy.MAX, [6, 12, 24, 48, 96]),
        ([(PODS, 4, 15), (PERCENT, 100, 15)], SelectPolicy.MIN, [4, 8, 12, 16, 20]),
        ([(PODS, 4, 60)], SelectPolicy.MAX, [6, 6, 6, 6, 10]),
        ([(PERCENT, 50, 15)], SelectPolicy.MAX, [3, 5, 8, 12, 18]),
        ([(PERCENT, 10, 15)], SelectPolicy.MAX, [3, 4, 5, 6, 7]),
        ([(PODS, 4, 15)], SelectPolicy.DISABLED, [2, 2, 2, 2, 2]),
    ],
    ids=["most", "least", "a longer period", "rounded up", "at least one", "disabled"],
)
def test_policies_up(policies, select, sizes):
    run = Run(2, scale_up=rules(0, *policies, select=select))
    assert [run.at(seconds, 100) for seconds in (0, 15, 30, 45, 60)] == sizes


@pytest.mark.parametrize(
    ("policies", "select", "sizes"),
    [
        ([(PERCENT, 100, 15)], SelectPolicy.MAX, [1, 1, 1, 1, 1]),
        ([(PERCENT, 50, 15)], SelectPolicy.MAX, [10, 5, 2, 1, 1]),
        ([(PODS, 2, 15), (PERCENT, 10, 15)], SelectPolicy.MAX, [18, 16, 14, 12, 10]),
        ([(PODS, 3, 15), (PERCENT, 10, 15)], SelectPolicy.MIN, [18, 16, 14, 12, 10]),
        ([(PODS, 5, 60)], SelectPolicy.MAX, [15, 15, 15, 15, 10]),
        ([(PODS, 5, 15)], SelectPolicy.DISABLED, [20, 20, 20, 20, 20]),
    ],
    ids=["all", "rounded down", "most", "least", "a longer period", "disabled"],
)
def test_policies_down(policies, select, sizes):
    run = Run(20, scale_down=rules(0, *policies, select=select))
    # The size that was found when the controller began counts as a recommendation at that moment alone.
    assert [run.at(seconds, 1) for seconds in (0, 15, 30, 45, 60)] == sizes


def test_what_was_taken_away_within_the_period_may_come_back():
    run = Run(10, scale_up=rules(0, (PODS, 2, 60)), scale_down=ALL_DOWN)
    assert run.at(0, 4) == 4
    # The period began with 10, so 12 are allowed, more than the 2 above what there is now.
    assert run.at(15, 20) == 12


def test_a_change_by_others_is_no_change_of_the_policies():
    run = Run(2, scale_up=rules(0, (PODS, 2, 60)))
    assert run.at(0, 100) == 4
    run.current = 10  # a person scaled the workload
    assert run.at(15, 100) == 10  # 10 - 2 + 2: what it added itself within the period still counts


@pytest.mark.parametrize(
    ("wanted", "after"),
    [
        ((3, 7), 7),
        ((7, 3), 7),
        ((None,), 5),
        ((None, None), 5),
        ((None, 8), 8),
        ((8, None), 8),
        ((None, 2), 5),
        ((None, 5), 5),
        ((), 5),
    ],
)
def test_of_several_metrics_the_highest_counts_and_one_that_fails_forbids_less(wanted, after):
    run = Run(5, scale_down=ALL_DOWN)
    assert run.at(0, *wanted) == after
    failed = not wanted or (None in wanted and after == 5 and wanted != (None, 5))
    assert run.reasons[0].startswith("metric unavailable") == failed


def test_a_failed_metric_is_no_recommendation():
    run = Run(5)
    run.at(0, 5)
    for seconds in range(15, 300, 15):
        assert run.at(seconds, None) == 5
    assert run.at(300, 1) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HpaSettings(min_replicas=5, max_replicas=4), "got 5 and 4"),
        (lambda: HpaSettings(min_replicas=-1), "got -1 and 10"),
        (lambda: HpaSettings(min_replicas=0, max_replicas=0), "got 0 and 0"),
        (lambda: HpaSettings(tolerance=-0.1), "tolerance"),
        (lambda: HpaSettings(sync_ns=0), "sync period"),
        (lambda: HpaSettings(cpu_initialization_ns=-1), "CPU initialization"),
        (lambda: default_scale_down(3601 * SECOND), "3600 s, got 3601 s"),
        (lambda: rules(0), "at least one policy"),
        (lambda: rules(0, (PODS, 0, 15)), "got 0"),
        (lambda: rules(0, (PODS, 1, 1801)), "1800 s, got 1801 s"),
        (lambda: ScalingRules(0, default_scale_up().policies, tolerance=-1.0), "tolerance"),
    ],
)
def test_what_the_api_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
