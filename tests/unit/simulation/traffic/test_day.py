"""The synthetic day, and traces with several requests for each recorded one."""

import numpy as np
import pytest

from batcher.errors import InputError
from batcher.simulation.traffic.arrivals import Recorded, parse_process
from batcher.simulation.traffic.day import LOW, Day
from batcher.simulation.traffic.multiplied import Multiplied


def draw(seed=0):
    return np.random.default_rng(seed)


def per_bin(seconds, bins, length):
    return np.histogram(seconds, bins, (0, length))[0]


def test_a_day_has_a_wave_a_step_and_bursts():
    day = Day(200.0, 7200.0)
    days = [per_bin(day.seconds(10**8, draw(seed)), 720, 7200.0) / 10.0 for seed in range(5)]
    found = np.median(days, axis=0)
    quiet = np.median(found[:10]), np.median(found[355:365])
    assert quiet[0] == pytest.approx(200 * LOW, rel=0.1)
    assert quiet[1] == pytest.approx(200, rel=0.1)
    # The step: twice as high at once, and back at once.
    assert np.median(found[144:150]) / np.median(found[137:143]) == pytest.approx(2.0, rel=0.15)
    assert np.median(found[208:214]) / np.median(found[217:223]) == pytest.approx(2.0, rel=0.15)
    # Twelve bursts of 40 s, 1.75 times as high on average as what the median of several days has.
    above = [(each > 1.35 * found).mean() for each in days]
    assert np.mean(above) == pytest.approx(12 * 40 / 7200, rel=0.3)


def test_the_mean_rate_of_a_day_without_its_bursts():
    day = Day(100.0, 7200.0)
    count = np.mean([len(day.seconds(10**8, draw(seed))) for seed in range(5)])
    assert day.rate * 7200 < count < 1.15 * day.rate * 7200
    assert day.at_rate(30.0).rate == pytest.approx(30.0)
    assert count < day.most_requests()


def test_equal_seeds_equal_days():
    day = Day(20.0, 600.0)
    assert np.array_equal(day.seconds(10**6, draw(1)), day.seconds(10**6, draw(1)))
    assert not np.array_equal(day.seconds(100, draw(1)), day.seconds(100, draw(2)))
    assert len(day.seconds(100, draw())) == 100
    found = day.seconds(10**6, draw())
    assert (np.diff(found) >= 0).all()
    assert found[0] >= 0
    assert found[-1] < 600


def test_how_a_day_is_written():
    assert parse_process("day:300:2h") == parse_process("day:300") == Day(300.0, 7200.0)
    assert parse_process("day") == Day(0.0, 7200.0)
    for wrong in ("day:0", "day:x", "day:300:0s", "day:300:1h:2"):
        with pytest.raises(InputError, match="day:PEAK:LENGTH"):
            parse_process(wrong)


@pytest.fixture
def recorded():
    bursts = [np.linspace(at, at + 2, 200) for at in (10, 60, 130)]
    return Recorded.of(np.sort(np.concatenate([*bursts, np.arange(0, 200, 4.0)])))


def test_a_multiplied_trace_keeps_its_shape(recorded):
    found = Multiplied(recorded, 10).seconds(10**8, draw())
    once = per_bin(recorded.seconds(10**8, draw()), 40, 200.0)
    assert len(found) == 10 * len(recorded.recorded_s)
    assert np.abs(per_bin(found, 40, 200.0) - 10 * once).max() <= 20
    assert (np.diff(found) >= 0).all()
    # No request has become a burst of its own: copies of one that stands alone are spread up to the next.
    alone = found[(found > 20) & (found < 24)]
    assert len(alone) == pytest.approx(10, abs=1)
    assert np.diff(alone).max() < 3


def test_multiplied_by_one_is_the_trace(recorded):
    assert np.array_equal(Multiplied(recorded, 1).seconds(10**8, draw()), recorded.recorded_s)


def test_a_multiplied_trace_at_another_rate(recorded):
    many = Multiplied(recorded, 4)
    assert many.rate == pytest.approx(4 * recorded.rate)
    assert many.at_rate(100.0).rate == pytest.approx(100.0)
    assert len(many.seconds(10, draw())) == 10


def test_one_request_can_be_multiplied():
    assert list(Multiplied(Recorded.of(np.array([3.0])), 3).seconds(10, draw())) == [0.0] * 3
