"""What a target alone brings: windows that follow the load, and early refusals."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome
from batcher.core.settings import Adaptive, FixedWindow

BEST_RATE = 32 / 0.037
"""Rows a second in full batches."""


@pytest.fixture
def busy(stage):
    """Plays streams; returns their ends and the part of the first seconds that the device was busy."""

    def play(*streams, seconds=5):
        busy_ns = 0

        def takes_ns(_, rows, now_ns):
            nonlocal busy_ns
            took_ns = stage.usual_ns(rows)
            busy_ns += took_ns
            return took_ns

        stage.takes_ns = takes_ns
        return stage.play(*streams), busy_ns / (seconds * SECOND)

    return play


@pytest.mark.parametrize(("load", "most"), [(0.1, 0.5), (0.3, 0.7), (0.5, 0.85)])
def test_busy_time_follows_load(stage, arrivals, in_time, busy, load, most):
    stage.model(target=100)
    stage.up()
    (ends,), part = busy(arrivals(load * BEST_RATE, 5, 1))
    assert part <= most
    assert in_time(ends, 100) >= 0.999


def test_a_lower_utilization_target_waits_for_larger_batches(stage, arrivals, in_time, busy):
    stage.model(target=100, policy=Adaptive(utilization_target=0.5))
    stage.up()
    (ends,), part = busy(arrivals(0.3 * BEST_RATE, 5, 1))
    assert part <= 0.6
    assert in_time(ends, 100) >= 0.999


def test_goodput_does_not_collapse_beyond_capacity(stage, arrivals, in_time):
    stage.model()
    stage.up()
    (ends,) = stage.play(arrivals(1.5 * BEST_RATE, 4, 1))
    assert in_time(ends) >= 0.95 / 1.5
    # The others are refused early, with a time to retry after.
    refused = [end for end in ends if end.outcome is Outcome.REJECTED]
    assert all(end.retry_ns for end in refused)
    assert max(end.took_ns for end in refused) < 50 * MILLISECOND


@pytest.mark.parametrize("limit_ns", [None, 50 * MILLISECOND])
def test_a_request_whose_deadline_is_before_its_answer_is_refused_on_arrival(stage, limit_ns):
    stage.model(policy=Adaptive(limit_ns=limit_ns))
    stage.up()
    soon = {"deadline_ns": 11 * MILLISECOND}
    (first, hasty, patient) = stage.play([(0, {})], [(MILLISECOND, soon)], [(2 * MILLISECOND, {})])
    # The device is free at 6 ms, and one row takes 6 ms.
    assert (hasty[0].outcome, hasty[0].took_ns) == (Outcome.REJECTED, 0)
    assert hasty[0].retry_ns
    assert first[0].outcome is patient[0].outcome is Outcome.OK


def test_with_a_target_that_one_row_cannot_meet_no_request_is_refused(stage, arrivals):
    stage.model(target=3, policy=Adaptive(limit_ns=SECOND))
    stage.up()
    (ends,) = stage.play(arrivals(200, 3, 1))
    assert {end.outcome for end in ends} == {Outcome.OK}
    assert not stage.scheduler.observe(0).models[0].reachable


def test_without_a_target_batches_are_greedy_and_no_request_is_refused(stage, arrivals):
    for name, policy in (("m", Adaptive()), ("greedy", FixedWindow())):
        stage.model(name, target=None, policy=policy, max_requests=10_000)
        stage.up(name, name)
    moments = arrivals(1.2 * BEST_RATE, 3, 1)
    ends, greedy = stage.play(moments, [(at_ns, {"model": "greedy"}) for at_ns, _ in moments])
    assert {end.outcome for end in ends} == {Outcome.OK}
    assert [end.took_ns for end in ends] == [end.took_ns for end in greedy]


def test_with_several_instances_more_are_in_time_than_with_greedy_batches(stage, arrivals, in_time):
    for name, policy in (("m", Adaptive()), ("greedy", FixedWindow())):
        stage.model(name, target=25, policy=policy, max_requests=10_000)
        for number in range(4):
            stage.up(name, f"{name}{number}", name=f"{name}#{number}")
    moments = arrivals(2400, 1, 1)
    ends, greedy = stage.play(moments, [(at_ns, {"model": "greedy"}) for at_ns, _ in moments])
    on_time = in_time(ends, 25), in_time(greedy, 25)
    assert on_time[0] >= 0.99
    assert on_time[1] < 0.9
