"""Fronts, and what the same on-time fraction costs with each signal."""

from math import isclose

from batcher.simulation.autoscale.front import extra_hours, front, hours_at, set_point_at
from batcher.simulation.autoscale.points import Point, pooled
from batcher.simulation.fleet import Signal

RATIO, CPU = Signal.DESIRED_RATIO, Signal.CPU


def point(hours, missed, signal=RATIO, set_point=1.0):
    return Point(signal, set_point, 1000, 1000 - missed, missed, 0, 0, hours, hours, hours, 0)


def test_the_front_has_no_point_that_another_is_better_than():
    a, b, worse, c = point(2, 100), point(4, 10), point(5, 10), point(8, 1)
    dearer_and_later = point(3, 200)
    assert front([c, worse, dearer_and_later, a, b]) == [a, b, c]


def test_of_equal_hours_the_one_with_more_on_time_counts():
    assert front([point(2, 100), point(2, 10)]) == [point(2, 10)]


def test_hours_are_interpolated_over_the_logarithm_of_what_is_not_on_time():
    found = front([point(2, 100, set_point=1.2), point(4, 10, set_point=0.8), point(8, 1)])
    assert hours_at(found, 0.9) == 2
    assert isclose(hours_at(found, 1 - 10**-1.5), 3)
    assert isclose(set_point_at(found, 1 - 10**-1.5), 1.0)
    assert hours_at(found, 0.99) == 4
    assert hours_at(found, 0.5) == 2
    assert set_point_at(found, 0.5) == 1.2
    assert hours_at(found, 0.9999) is None


def test_everything_on_time_is_a_point_too():
    found = front([point(2, 100), point(4, 0)])
    assert 3 < hours_at(found, 0.9999) < 4
    assert hours_at(found, 1.0) == 4


def test_what_a_signal_costs_more_than_the_best():
    found = extra_hours(
        [point(2, 100), point(4, 10), point(3, 100, CPU), point(5, 10, CPU)], (0.9, 0.99, 0.999)
    )
    assert found[RATIO] == {0.9: 0.0, 0.99: 0.0, 0.999: None}
    assert found[CPU] == {0.9: 0.5, 0.99: 0.25, 0.999: None}


def test_runs_of_several_seeds_are_pooled():
    both = pooled([point(2, 100), point(4, 300)])
    assert (both.replica_hours, both.on_time_fraction) == (3, 0.8)


def test_more_on_time_for_fewer_hours_than_asked_for_counts():
    turned = front([point(3, 5, set_point=1.6), point(4, 60, set_point=6.0)])
    assert hours_at(turned, 0.95) == 3
    assert set_point_at(turned, 0.95) == 1.6


def test_without_points_nothing_is_known():
    assert hours_at(front([]), 0.9) is None
    assert hours_at(front([point(2, 100)]), 0.95) is None
