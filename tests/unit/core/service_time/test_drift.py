"""The factor for a device that became slower or faster."""

from __future__ import annotations

import pytest

from batcher.core.service_time.curve import MEAN_SAMPLES
from batcher.core.service_time.drift import FOLLOWED, JUMP, Drift


def test_samples_near_the_factor_move_it_a_little():
    drift = Drift()
    assert not drift.is_off(1.1)
    drift.move_towards(1.1)
    assert drift.factor == pytest.approx(1 + 0.1 / MEAN_SAMPLES)


@pytest.mark.parametrize("ratio", [JUMP, 1 / JUMP, 3.0, 0.1])
def test_samples_beyond_the_threshold_are_off(ratio):
    assert Drift().is_off(ratio)


def jumps(drift, *ratios):
    return [drift.jump(ratio, 0) for ratio in ratios]


def test_the_factor_jumps_to_the_middle_of_samples_in_a_row_that_are_alike():
    drift = Drift()
    assert jumps(drift, 3.0, 3.2, 2.8) == [False, False, True]
    assert drift.factor == pytest.approx(3.0)


def test_samples_that_are_not_alike_are_stalls():
    drift = Drift()
    assert not any(jumps(drift, 3.0, 2.0, 4.0, 10.0, 6.0))
    assert drift.factor == 1.0
    # Among them are three that are alike, in the end.
    assert jumps(drift, 3.1, 20.0, 2.9) == [False, False, True]
    assert drift.factor == pytest.approx(3.0)


def test_samples_on_the_other_side_start_anew():
    drift = Drift()
    assert jumps(drift, 3.0, 3.0, 0.21, 0.2, 0.2) == [False, False, False, False, True]
    assert drift.factor == pytest.approx(0.205)


def test_one_batch_as_fast_as_before_shows_that_stalls_were_alike():
    drift = Drift()
    drift.move_towards(1.1)
    before = drift.factor
    assert jumps(drift, 4.0, 4.0, 4.0) == [False, False, True]
    assert jumps(drift, 0.95) == [True]
    assert drift.factor == before
    # Faster than ever before takes several.
    assert jumps(drift, 0.5, 0.5, 0.5) == [False, False, True]
    # Once it is as before there is nothing to go back to.
    assert jumps(drift, 1.0, 1.0) == [False, False]


def test_what_it_goes_back_to_follows_other_shapes():
    drift = Drift()
    jumps(drift, 4.0, 4.0, 4.0)
    assert drift.follow(1.5)
    assert jumps(drift, 1.5) == [True]
    assert drift.factor == pytest.approx(1.5)


def test_a_sample_near_the_factor_interrupts_the_row():
    drift = Drift()
    drift.jump(3.0, 0)
    drift.jump(3.0, 0)
    drift.settle()
    assert not drift.jump(3.0, 0)
    assert drift.factor == 1.0


def test_batches_that_ran_beside_one_that_was_off_overlap():
    drift = Drift()
    assert not drift.overlaps(0)
    drift.jump(3.0, 10)
    assert drift.overlaps(9)
    assert not drift.overlaps(10)


def test_changes_of_other_shapes_are_applied_once_they_add_up():
    drift = Drift()
    assert not drift.follow(1 + 0.6 * (FOLLOWED - 1))
    assert drift.factor == 1.0
    assert drift.follow(1 + 0.6 * (FOLLOWED - 1))
    assert drift.factor > FOLLOWED
    twin = Drift()
    twin.restore(drift.capture())
    assert twin.capture() == drift.capture()
