"""Batch groups and models that share a device: none is starved by one that asks for more."""

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.devices.sharing import (
    DeviceUse,
    charge,
    longest_wait_ns,
)
from batcher.core.events import DeviceConfigured
from batcher.core.times import LATELY_NS


@pytest.fixture
def shared(stage):
    """Models on one device, by target in milliseconds; few sizes are warmed up."""

    def models(**targets):
        stage.begin.append(DeviceConfigured("d", 1))
        for model, target in targets.items():
            stage.model(model, target=target)
            stage.up(model, sizes=(1, 8, 32))
        return stage

    return models


def test_a_small_group_is_served_beside_an_overloaded_one(shared, arrivals, in_time):
    small, _ = shared(m=50).play(
        arrivals(80, 4, 1, batch_key="small"), arrivals(1200, 4, 11, batch_key="large")
    )
    assert in_time(small) >= 0.85


def test_a_better_priority_level_goes_first_across_groups(shared, arrivals, in_time):
    urgent, _ = shared(m=50).play(
        arrivals(250, 4, 2, batch_key="a", priority=1),
        arrivals(1200, 4, 12, batch_key="b", priority=3),
    )
    assert in_time(urgent) >= 0.85


def test_a_request_of_many_rows_is_served_beside_a_model_with_a_short_target(
    shared, arrivals, in_time
):
    large, _ = shared(m=200, urgent=20).play(
        arrivals(5, 4, 3, rows=24), arrivals(50, 4, 13, model="urgent")
    )
    assert in_time(large, 200) >= 0.9


def test_a_model_without_arrivals_does_not_limit_the_others(shared, arrivals, in_time):
    later = [(at_ns + 3 * SECOND, what) for at_ns, what in arrivals(600, 3, 4)]
    many, _ = shared(m=50, urgent=20).play(later, arrivals(100, 1, 14, model="urgent"))
    assert in_time(many) >= 0.99


def test_a_batch_is_charged_to_its_model():
    uses = [DeviceUse(), DeviceUse()]
    charge(uses[0], 30.0, uses, uses)
    charge(uses[1], 10.0, uses, uses)
    assert [(use.used_ns, use.share) for use in uses] == [(30.0, 0.75), (10.0, 0.5)]


def test_use_is_halved_for_all_once_it_fills_the_window():
    uses = [DeviceUse(LATELY_NS), DeviceUse(100.0)]
    charge(uses[0], 100.0, uses, uses[:1])
    assert [use.used_ns for use in uses] == [(LATELY_NS + 100.0) / 2, 50.0]
    assert [use.share for use in uses] == [1.0, 1.0]


def test_the_longest_wait_leaves_time_for_what_arrives_meanwhile():
    p95 = [0.0, *((5 + rows) * MILLISECOND for rows in range(1, 33))]
    target_ns = 50 * MILLISECOND
    waits_ns = [longest_wait_ns(rate / SECOND, target_ns, p95) for rate in (1, 100, 400, 1000)]
    assert waits_ns == sorted(waits_ns, reverse=True)
    for rate, wait_ns in zip((1, 100, 400, 1000), waits_ns, strict=True):
        rows = rate * wait_ns / SECOND
        size = p95.index(target_ns - wait_ns)
        assert rows <= size


@pytest.mark.parametrize(("rate", "target_ms"), [(0.0, 50), (0.1, 50), (100, 6), (100, 1)])
def test_a_model_that_expects_nothing_or_is_always_late_sets_no_limit(rate, target_ms):
    p95 = [0.0, 6 * MILLISECOND, 7 * MILLISECOND]
    assert longest_wait_ns(rate / SECOND, target_ms * MILLISECOND, p95) is None
