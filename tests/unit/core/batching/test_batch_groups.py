"""Lanes and models that compete for one device: nobody is starved by whoever asks for more."""

import pytest

from batcher.clock import SECOND
from batcher.core.events import DeviceConfigured


@pytest.fixture
def shared(stage):
    """Models on one device, by target in milliseconds; warmed up with a few sizes only."""

    def models(**targets):
        stage.begin.append(DeviceConfigured("d", 1))
        for model, target in targets.items():
            stage.model(model, target=target)
            stage.up(model, sizes=(1, 8, 32))
        return stage

    return models


def test_a_small_lane_lives_beside_one_that_is_overloaded(shared, arrivals, in_time):
    small, _ = shared(m=50).play(
        arrivals(80, 4, 1, batch_key="small"), arrivals(1200, 4, 11, batch_key="large")
    )
    assert in_time(small) >= 0.85


def test_a_better_level_comes_first_in_another_lane_too(shared, arrivals, in_time):
    urgent, _ = shared(m=50).play(
        arrivals(250, 4, 2, batch_key="a", priority=1),
        arrivals(1200, 4, 12, batch_key="b", priority=3),
    )
    assert in_time(urgent) >= 0.85


def test_a_request_of_many_rows_is_served_beside_a_neighbor_in_a_hurry(shared, arrivals, in_time):
    large, _ = shared(m=200, hurry=20).play(
        arrivals(5, 4, 3, rows=24), arrivals(50, 4, 13, model="hurry")
    )
    assert in_time(large, 200) >= 0.9


def test_a_neighbor_that_fell_silent_is_not_waited_for(shared, arrivals, in_time):
    later = [(at_ns + 3 * SECOND, what) for at_ns, what in arrivals(600, 3, 4)]
    many, _ = shared(m=50, hurry=20).play(later, arrivals(100, 1, 14, model="hurry"))
    assert in_time(many) >= 0.99
