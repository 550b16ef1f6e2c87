import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Dispatch, Part
from batcher.errors import InputError
from batcher.simulation.engine.service_time import (
    Devices,
    Noise,
    Slowdown,
    TimerDelay,
    best_rate,
    from_table,
    linear,
    parse_noise,
    parse_slowdown,
    parse_timer_delay,
    table_of,
)


def test_a_line():
    assert linear(5, 2, 3) == (0, 7, 9, 11)


def test_between_measured_sizes_runs_a_straight_line():
    assert from_table({1: 100, 3: 200}, 3) == (0, 100, 150, 200)


def test_below_the_smallest_size_nothing_is_faster():
    assert from_table({2: 100, 4: 120}, 4) == (0, 100, 100, 110, 120)


def test_beyond_the_largest_size_the_slope_stays():
    assert from_table({1: 100, 2: 110, 4: 150}, 6) == (0, 100, 110, 130, 150, 170, 190)
    assert from_table({4: 100}, 8)[8] == 200


def test_a_dip_is_leveled():
    assert from_table({1: 100, 2: 90, 3: 120}, 3) == (0, 100, 100, 120)


def test_the_best_rate_is_that_of_the_best_size():
    assert best_rate((0, SECOND, SECOND, 4 * SECOND)) == 2.0


def test_a_table_is_milliseconds_by_rows():
    assert table_of({"1": 5.5, "8": 9}, "f") == {1: 5_500_000, 8: 9_000_000}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "f: holds no service times"),
        ({"0": 1}, "f: got the size '0'; allowed: whole numbers from 1 on"),
        ({"version": 1, "models": []}, "what `batcher profile` wrote goes to --profile"),
        ({"x": 1}, "got the size 'x'"),
        ({"1": 0}, "f, size 1: got 0; allowed: milliseconds, above 0"),
        ({"1": True}, "got True"),
        ({"1": "5"}, "got '5'"),
        ({"1": float("nan")}, "got nan"),
    ],
)
def test_a_wrong_table(document, message):
    with pytest.raises(InputError) as error:
        table_of(document, "f")
    assert message in str(error.value)


@pytest.mark.parametrize("kind", ["uniform", "lognormal"])
def test_noise_has_mean_1_and_its_spread(kind):
    factors = np.array(Noise(kind, 0.2).factors(50_000, np.random.default_rng(1)))
    assert factors.mean() == pytest.approx(1, abs=0.01)
    # A uniform factor's spread is its half width.
    assert factors.std() == pytest.approx(0.2 / (3**0.5 if kind == "uniform" else 1), rel=0.05)


def test_noise_spellings():
    assert parse_noise("0.1") == parse_noise("uniform:0.1") == Noise("uniform", 0.1)
    assert parse_noise("lognormal:2") == Noise("lognormal", 2)


@pytest.mark.parametrize("text", ["", "1", "-0.1", "normal:0.1", "lognormal:11", "nan"])
def test_wrong_noise(text):
    with pytest.raises(InputError, match=r"allowed: 0\.1 or uniform:0\.1"):
        parse_noise(text)


def test_slowdown_spellings():
    assert parse_slowdown("12x@5s-7s") == Slowdown(5 * SECOND, 7 * SECOND, 12)
    assert parse_slowdown("0.5x@0-7ms@gpu-0").device == "gpu-0"


@pytest.mark.parametrize("text", ["", "12x", "12x@5s", "12x@7s-5s", "0x@1s-2s", "12x@5-7"])
def test_wrong_slowdowns(text):
    with pytest.raises(InputError, match="FACTORx@FROM-TO"):
        parse_slowdown(text)


def test_timer_delay_spellings():
    assert parse_timer_delay("50us") == parse_timer_delay("exponential:50us") == TimerDelay(50_000)
    assert parse_timer_delay("constant:50us") == TimerDelay(50_000, "constant")
    with pytest.raises(InputError, match="got '50'; allowed: a duration"):
        parse_timer_delay("50")


def test_timer_delay_draws():
    draw = np.random.default_rng(1)
    late = TimerDelay(1000).draws(draw)
    assert np.mean([late() for _ in range(20_000)]) == pytest.approx(1000, rel=0.05)
    assert TimerDelay(7, "constant").draws(draw)() == 7


class Clock:
    now_ns = 0

    def __call__(self):
        return self.now_ns


@pytest.fixture
def devices():
    """Model m on device g with one instance "m#0" and another "m#1"; 1 ms a row."""

    def call(**rest):
        clock = Clock()
        parts = {
            "curves": {"m": linear(0, MILLISECOND, 8)},
            "device_of": {"m#0": "g", "m#1": "g"},
            "exclusive": frozenset(),
            "noise": {},
            "slowdowns": (),
            "draw": np.random.default_rng(1),
            "clock": clock,
        }
        return Devices(**(parts | rest)), clock

    return call


def dispatch(rows, instance="m#0"):
    parts = tuple(Part(n, 0, 1) for n in range(rows))
    return Dispatch(1, "m", instance, (), parts)


def test_a_batch_takes_what_the_curve_says(devices):
    timed, _ = devices()
    assert timed(dispatch(3)) == 3 * MILLISECOND
    assert timed(dispatch(2, "m#1")) == 2 * MILLISECOND
    assert timed.use["g"].busy_ns == 5 * MILLISECOND


def test_on_an_exclusive_device_batches_take_turns(devices):
    timed, clock = devices(exclusive=frozenset({"g"}))
    assert timed(dispatch(3)) == 3 * MILLISECOND
    clock.now_ns = MILLISECOND
    assert timed(dispatch(2, "m#1")) == 4 * MILLISECOND
    clock.now_ns = 10 * MILLISECOND
    assert timed(dispatch(1)) == MILLISECOND
    assert timed.use["g"].busy_ns == 6 * MILLISECOND


def test_a_slowdown_slows_what_starts_in_it(devices):
    timed, clock = devices(slowdowns=(Slowdown(10, 20, 4.0), Slowdown(0, 9, 9.0, "other")))
    assert timed(dispatch(1)) == MILLISECOND
    clock.now_ns = 10
    assert timed(dispatch(1)) == 4 * MILLISECOND
    clock.now_ns = 20
    assert timed(dispatch(1)) == MILLISECOND


def test_noise_is_the_models_own(devices):
    timed, _ = devices(noise={"m": Noise("uniform", 0.5)})
    took = {timed(dispatch(2)) for _ in range(50)}
    assert len(took) > 40
    assert all(MILLISECOND <= t <= 3 * MILLISECOND for t in took)
