"""How many replicas one metric asks for. Each row says the rule of Kubernetes' replica calculator that it stands for."""

import math

import pytest

from batcher.autoscaling import (
    ExternalAverage,
    ExternalValue,
    HpaSettings,
    Measured,
    Phase,
    Pod,
    PodsAverage,
    Utilization,
    default_scale_down,
    default_scale_up,
)
from batcher.autoscaling.metrics import MAX_REPLICAS, Fleet, Unavailable, replicas
from batcher.autoscaling.settings import ScalingRules
from batcher.clock import SECOND

NOW = 10_000 * SECOND


def running(count, **changes):
    return [Pod(f"p{index}", **changes) for index in range(count)]


def values(*each):
    return {
        f"p{index}": Measured(value, NOW) for index, value in enumerate(each) if value is not None
    }


def ask(metric, pods, current=None, settings=None, status=None):
    counted = sum(1 for pod in pods if pod.counts) if status is None else status
    return replicas(
        metric,
        Fleet(
            NOW, len(pods) if current is None else current, counted, pods, settings or HpaSettings()
        ),
    )


@pytest.mark.parametrize(
    ("used", "wanted", "rule"),
    [
        ([0.8, 0.8, 0.8], 3, "a ratio of 1 changes nothing"),
        ([0.88, 0.88, 0.88], 3, "1.1 is still within the tolerance"),
        ([0.89, 0.89, 0.89], 4, "above 1.1 the size is ceil(ratio x measured)"),
        ([0.72, 0.72, 0.72], 3, "0.9 is still within the tolerance"),
        ([0.71, 0.71, 0.71], 3, "below 0.9, but ceil(0.89 x 3) is 3"),
        ([0.4, 0.4, 0.4], 2, "half of the target halves, rounded up"),
        ([0.0, 0.0, 0.0], 0, "nothing used asks for nothing; the bounds come later"),
        ([1.6, 0.0, 0.8], 3, "the mean counts, not the highest"),
        ([9.0, 9.0, 9.0], 34, "nothing here bounds the size"),
        (
            [1.6, None, None],
            3,
            "up, missing pods count as idle: mean 0.53 of 0.8 turns it around, so it stays",
        ),
        ([2.4, 2.4, None], 6, "up, with a missing one idle: ceil(1.6 / 0.8 x 3)"),
        (
            [0.1, 0.1, None],
            2,
            "down, a missing one is at the target: ceil(0.333 / 0.8 x 3), without it 1",
        ),
    ],
)
def test_average_over_pods(used, wanted, rule):
    assert ask(PodsAverage(0.8, values(*used)), running(3)) == wanted, rule


def pending(name):
    return Pod(name, phase=Phase.PENDING, ready=False)


@pytest.mark.parametrize(
    ("pods", "used", "wanted", "rule"),
    [
        (
            [*running(2), pending("p2")],
            [1.6, 1.6],
            4,
            "up, a pending pod is idle: ceil(1.066 / 0.8 x 3)",
        ),
        ([*running(2), pending("p2")], [0.4, 0.4], 1, "down, pending pods are left out altogether"),
        (
            [*running(2), pending("p2")],
            [0.9, 0.9],
            3,
            "pending pods turn 1.125 into 0.75: the size stays",
        ),
        ([*running(1), pending("p1"), pending("p2")], [1.6], 3, "0.666 after 2: the size stays"),
        (
            [*running(2), Pod("p2", terminating=True)],
            [1.6, 1.6, 8.0],
            4,
            "a pod that is told to end is ignored with its value",
        ),
        (
            [*running(2), Pod("p2", phase=Phase.FAILED)],
            [0.8, 0.8, 8.0],
            3,
            "a failed pod is ignored: a ratio of 1 keeps the size that is set",
        ),
        (
            [*running(2), Pod("p2", ready=False)],
            [1.6, 1.6, 0.0],
            4,
            "a value that is not processor time counts, ready or not: mean 1.066",
        ),
    ],
)
def test_pods_that_start_and_end(pods, used, wanted, rule):
    assert ask(PodsAverage(0.8, values(*used)), pods, current=3) == wanted, rule


STARTED = NOW - 60 * SECOND
LONG_AGO = NOW - 3600 * SECOND


@pytest.mark.parametrize(
    ("pod", "at_ns", "counts", "rule"),
    [
        (Pod("p1", started_ns=LONG_AGO, ready_changed_ns=LONG_AGO), NOW, True, "ready for long"),
        (
            Pod("p1", ready=False, started_ns=STARTED, ready_changed_ns=STARTED),
            NOW,
            False,
            "unready within the CPU initialization period",
        ),
        (
            Pod("p1", started_ns=STARTED, ready_changed_ns=NOW - 10 * SECOND),
            NOW,
            False,
            "its window began before it was ready",
        ),
        (
            Pod("p1", started_ns=STARTED, ready_changed_ns=NOW - 40 * SECOND),
            NOW,
            True,
            "a whole window since it was ready",
        ),
        (
            Pod("p1", ready=False, started_ns=LONG_AGO, ready_changed_ns=LONG_AGO + 10 * SECOND),
            NOW,
            False,
            "after the period, but never ready: it changed within the initial readiness delay",
        ),
        (
            Pod("p1", ready=False, started_ns=LONG_AGO, ready_changed_ns=LONG_AGO + 40 * SECOND),
            NOW,
            True,
            "it was ready once, and became unready: its time counts",
        ),
    ],
)
def test_which_processor_times_count(pod, at_ns, counts, rule):
    used = {"p0": Measured(0.4, NOW, 30 * SECOND), "p1": Measured(0.0, at_ns, 30 * SECOND)}
    first = Pod("p0", started_ns=LONG_AGO, ready_changed_ns=LONG_AGO)
    # With p1 the mean is 0.2, a quarter of the target; without it 0.4, a half of one pod.
    wanted = ask(Utilization(80, used), [first, pod], current=8)
    assert wanted == 1
    busy = {"p0": Measured(8.0, NOW, 30 * SECOND), "p1": Measured(8.0, at_ns, 30 * SECOND)}
    # Both busy: 10 x 2 pods. p1 left out: mean 4 over two pods is 5 x 2.
    assert ask(Utilization(80, busy), [first, pod], current=2) == (20 if counts else 10), rule


@pytest.mark.parametrize(
    ("used", "requested", "percent", "wanted", "rule"),
    [
        ([1.0, 1.0], 1.0, 50, 4, "100 % of requests at a target of 50 doubles"),
        ([1.0, 0.5], 2.0, 50, 2, "sums are divided: 1.5 / 4 is 37 %, ceil(0.74 x 2)"),
        (
            [0.5, None],
            1.0,
            80,
            2,
            "down, a missing pod is at 100 %, not at the target: 75 %, within the tolerance",
        ),
        ([0.2, None], 1.0, 80, 2, "60 % with the missing one full: ceil(0.75 x 2)"),
        ([1.6, None], 1.0, 50, 4, "up, a missing pod is idle: 80 %, ceil(1.6 x 2)"),
        (
            [1.5, None],
            1.0,
            200,
            2,
            "above 100, the target stands for a missing pod: 175 % is 0.875, ceil 2",
        ),
    ],
)
def test_utilization(used, requested, percent, wanted, rule):
    pods = running(2, requested=requested)
    assert ask(Utilization(percent, values(*used), cpu=False), pods) == wanted, rule


@pytest.mark.parametrize(
    ("value", "status", "wanted", "rule"),
    [
        (2.4, 3, 3, "as much as the pods that there are should have"),
        (2.64, 3, 3, "1.1 times that is within the tolerance"),
        (2.7, 3, 4, "ceil(total / target)"),
        (2.1, 3, 3, "0.875 is beyond the tolerance, and ceil(2.625) is 3"),
        (1.6, 3, 2, "a total of 1.6 needs two"),
        (0.0, 3, 0, "nothing asks for nothing"),
        (0.8001, 1, 1, "the total is cut to thousandths"),
        (8.0, 0, 10, "with no pods that count the tolerance is left out"),
        (1e13, 3, MAX_REPLICAS, "sizes end at 32 bits"),
    ],
)
def test_external_average(value, status, wanted, rule):
    assert ask(ExternalAverage(0.8, value), running(status), status=status) == wanted, rule


@pytest.mark.parametrize(
    ("value", "current", "unready", "wanted", "rule"),
    [
        (0.8, 4, 0, 4, "a ratio of 1 changes nothing"),
        (0.87, 4, 0, 4, "within the tolerance"),
        (1.6, 4, 0, 8, "the ratio times the ready pods"),
        (1.6, 4, 2, 4, "pods that are not ready do not multiply"),
        (0.4, 4, 0, 2, "and down"),
        (1.6, 0, 0, 2, "from zero the ratio itself, rounded up"),
    ],
)
def test_external_value(value, current, unready, wanted, rule):
    pods = running(current - unready) + [Pod(f"u{index}", ready=False) for index in range(unready)]
    assert ask(ExternalValue(0.8, value), pods, current=current) == wanted, rule


@pytest.mark.parametrize(
    "metric",
    [
        ExternalAverage(0.8, None),
        ExternalAverage(0.8, math.nan),
        ExternalAverage(0.8, math.inf),
        ExternalValue(0.8, None),
        PodsAverage(0.8, None),
        PodsAverage(0.8, {}),
        PodsAverage(0.8, {"other": Measured(1.0)}),
        PodsAverage(0.8, {"p0": Measured(math.nan), "p1": Measured(math.inf)}),
        Utilization(80, None),
        Utilization(80, {}),
    ],
)
def test_what_is_not_known_is_no_size(metric):
    with pytest.raises(Unavailable):
        ask(metric, running(2))


def test_value_needs_pods():
    with pytest.raises(Unavailable, match="no pods"):
        ask(ExternalValue(0.8, 1.6), [], current=2)


def test_utilization_needs_requests():
    with pytest.raises(Unavailable, match="requests"):
        ask(Utilization(80, values(1.0), cpu=False), running(1, requested=0.0))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(1.01, 3), (1.03, 4), (0.85, 3), (0.6, 2)],
    ids=["up within", "up beyond", "down within", "down beyond"],
)
def test_each_direction_has_a_tolerance_of_its_own(value, wanted):
    up, down = default_scale_up(), default_scale_down()
    settings = HpaSettings(
        scale_up=ScalingRules(up.stabilization_ns, up.policies, tolerance=0.02),
        scale_down=ScalingRules(down.stabilization_ns, down.policies, tolerance=0.2),
    )
    assert (
        ask(PodsAverage(1.0, values(value, value, value)), running(3), settings=settings) == wanted
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: ExternalAverage(0.0, 1.0),
        lambda: ExternalAverage(0.0009, 1.0),
        lambda: ExternalValue(-1.0, 1.0),
        lambda: PodsAverage(math.nan, {}),
        lambda: Utilization(0, {}),
    ],
)
def test_targets_that_divide_by_nothing_are_refused(make):
    with pytest.raises(ValueError, match="a target must be at least"):
        make()
