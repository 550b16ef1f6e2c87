"""Batch times, learned from the batches that ran."""

from __future__ import annotations

import random

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.service_time.drift import JUMP, JUMP_SAMPLES
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.service_time.handling import Handling
from batcher.core.service_time.recent import SAMPLES

PROFILE = tuple((rows, (5 + rows) * MILLISECOND) for rows in (1, 2, 4, 8, 16, 32))


def restored(times):
    """An estimator that was made of the state of another."""
    twin = ServiceTimes(1)
    twin.restore(times.capture())
    return twin


def line(rows):
    return (5 + rows) * MILLISECOND


@pytest.fixture
def times():
    warmed = ServiceTimes(32)
    warmed.seed(PROFILE)
    return warmed


def test_it_knows_nothing_at_first():
    assert not ServiceTimes(8)


def test_a_profile_of_a_line_gives_the_line_exactly(times):
    assert list(times.curve) == [0] + [line(rows) for rows in range(1, 33)]
    assert times.p95 is times.curve


def test_times_that_never_vary_stay_exact(times):
    before = list(times.curve)
    for moment in range(500):
        rows = moment % 32 + 1
        times.observe(rows, line(rows), moment * MILLISECOND)
    assert list(times.curve) == before
    assert times.margin == 1.0


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_one_size_alone_counts_as_half_overhead(rows):
    times = ServiceTimes(8)
    times.observe(rows, 8 * MILLISECOND, 0)
    assert times.curve[rows] == 8 * MILLISECOND
    assert times.curve[8] == pytest.approx(4 * MILLISECOND * (1 + 8 / rows))


def test_sizes_beyond_the_largest_follow_the_fitted_line():
    times = ServiceTimes(64)
    times.seed(PROFILE)
    assert times.curve[64] == pytest.approx(line(64))


def test_a_larger_batch_is_never_predicted_to_be_faster(times):
    draw = random.Random(0)
    for moment in range(300):
        rows = draw.randint(1, 32)
        times.observe(rows, int(line(rows) * draw.uniform(0.8, 1.2)), moment * MILLISECOND)
    assert list(times.curve) == sorted(times.curve)
    assert times.curve[16] == pytest.approx(line(16), rel=0.08)


def test_the_margin_covers_nearly_all_of_the_noise(times):
    draw = random.Random(0)
    for moment in range(1000):
        rows = draw.randint(1, 32)
        times.observe(rows, int(line(rows) * draw.uniform(0.9, 1.1)), moment * MILLISECOND)
    assert 1.04 < times.margin < 1.16
    assert times.p95[16] == pytest.approx(times.curve[16] * times.margin)


def test_a_device_is_slow_after_a_few_slow_batches_in_a_row(times):
    slow_ns = 12 * line(8)
    for batch in range(1, JUMP_SAMPLES):
        times.observe(8, slow_ns, batch * slow_ns)
        assert times.curve[8] == line(8)
    times.observe(8, slow_ns, JUMP_SAMPLES * slow_ns)
    assert times.curve[8] == 12 * line(8)
    assert times.curve[1] == 12 * line(1)


def test_a_target_is_out_of_reach_for_as_long_as_the_device_is_slow(times):
    assert times.reachable
    times.aim(10 * MILLISECOND)
    assert times.reachable
    for began_ns, slower, reachable in ((SECOND, 4, False), (2 * SECOND, 1, True)):
        for batch in range(JUMP_SAMPLES):
            times.observe(8, slower * line(8), began_ns + batch * slower * line(8))
        assert times.reachable is reachable
    assert ServiceTimes(8, 1).reachable


def test_a_single_outlier_changes_nothing(times):
    before = list(times.curve)
    times.observe(8, 20 * line(8), 0)
    times.observe(8, line(8), 1)
    assert list(times.curve) == before


def test_one_batch_as_fast_as_before_ends_a_slow_spell(times):
    for batch in range(JUMP_SAMPLES):
        times.observe(8, 12 * line(8), batch * 12 * line(8))
    times.observe(1, line(1), SECOND)
    assert list(times.curve) == pytest.approx([0] + [line(rows) for rows in range(1, 33)])


def test_a_slow_drift_is_followed(times):
    for moment in range(400):
        rows = moment % 32 + 1
        times.observe(rows, int(line(rows) * (1 + moment / 2000)), moment)
    assert times.curve[16] == pytest.approx(1.2 * line(16), rel=0.06)


def test_invalid_samples_are_ignored(times):
    before = times.capture()
    times.observe(0, 5, 0)
    times.observe(33, 5, 0)
    times.observe(1, 0, 0)
    assert times.capture() == before


def test_resizing_keeps_what_was_learned(times):
    times.resize(8)
    assert list(times.curve) == [0] + [line(rows) for rows in range(1, 9)]
    times.resize(12)
    assert times.curve[12] == pytest.approx(line(12))


def test_an_estimator_restored_at_any_moment_predicts_the_same():
    times = ServiceTimes(4)
    times.seed([(1, 7 * MILLISECOND), (4, 2 * MILLISECOND)])
    # Pooled sizes, whose means stand still while their weights grow.
    for moment, (rows, took) in enumerate([(3, 5)] * 3 + [(2, 3)] * 5):
        times.observe(rows, took * MILLISECOND, moment * MILLISECOND)
        assert restored(times).curve == times.curve


def test_a_restored_estimator_continues_the_same(times):
    draw = random.Random(3)

    def sample(moment):
        rows = draw.randint(1, 32)
        return rows, int(line(rows) * draw.choice([0.95, 1.0, 1.07, 3.0])), moment

    for moment in range(200):
        times.observe(*sample(moment))
    twin = restored(times)
    for moment in range(200, 400):
        observed = sample(moment)
        times.observe(*observed)
        twin.observe(*observed)
        assert twin.capture() == times.capture()
        assert list(twin.p95) == list(times.p95)


def test_noise_is_forgotten_when_it_is_old_although_nothing_runs(times):
    draw = random.Random(0)
    for moment in range(SAMPLES):
        times.observe(8, int(line(8) * draw.uniform(0.9, 1.1)), moment * MILLISECOND)
    curve = list(times.curve)
    times.refresh(9 * SECOND)
    assert times.margin > 1.05
    times.refresh(11 * SECOND)
    assert times.margin == 1.0
    assert list(times.p95) == list(times.curve) == curve


def test_handling_delays_the_instance_and_replies_delay_callers(times):
    handling = Handling()
    for moment in range(2):
        handling.observe(MILLISECOND, moment, prefetched=False)
        handling.observe_replies(10, 2 * MILLISECOND, moment)
    times.take_handling(handling)
    times.refresh(2)
    assert times.curve[10] == line(10) + MILLISECOND
    assert times.curve[0] == 0.0
    assert times.expected[10] == times.p95[10] == pytest.approx(line(10) + 3 * MILLISECOND)


def test_stalls_around_a_batch_change_the_margin_and_nothing_else(times):
    """One batch in five is reported 100 ms late."""
    for batch in range(200):
        beyond_ns = 100 * MILLISECOND if batch % 5 == 0 else 0
        times.observe(16, line(16), batch * SECOND // 20, beyond_ns=beyond_ns)
    assert list(times.curve) == [0] + [line(rows) for rows in range(1, 33)]
    assert times.margin == JUMP


def test_frequent_stalls_of_the_device_widen_the_margin_up_to_its_bound(times):
    times.seed([(16, 10 * MILLISECOND)])
    for batch in range(200):
        slow = batch % 8 == 7
        times.observe(16, (25 if slow else 10) * MILLISECOND, batch * 20 * MILLISECOND)
    assert times.margin == JUMP
    assert times.curve[16] == pytest.approx(10 * MILLISECOND, rel=0.02)


def test_the_margin_takes_at_most_half_of_what_one_row_leaves_of_the_target():
    times = ServiceTimes(32, target_ns=50 * MILLISECOND)
    times.seed([(1, 40 * MILLISECOND)])
    for batch in range(200):
        slow = batch % 8 == 7
        times.observe(1, (80 if slow else 40) * MILLISECOND, batch * 60 * MILLISECOND)
    assert times.p95[1] == pytest.approx(45 * MILLISECOND)
    assert times.expected[1] == pytest.approx(40 * MILLISECOND)
    times.aim(None)
    assert times.p95[1] == pytest.approx(JUMP * 40 * MILLISECOND)


def test_the_fastest_time_is_unknown_until_something_ran():
    times = ServiceTimes(32)
    assert times.fastest_ns == 0.0
    times.seed(PROFILE, measured=False)
    assert times.curve
    assert times.fastest_ns == 0.0
    times = ServiceTimes(32)
    times.observe(1, 7 * MILLISECOND, 0)
    assert times.fastest_ns == 7 * MILLISECOND


def test_the_fastest_time_is_that_of_the_fastest_batch_lately(times):
    assert times.fastest_ns == line(1)
    times.observe(1, int(0.9 * line(1)), SECOND)
    for batch in range(2, 12):
        times.observe(1, 3 * line(1), batch * SECOND)
    assert times.fastest_ns == pytest.approx(0.9 * line(1), rel=0.03)
    for second in range(12, 31):
        times.refresh(second * SECOND)
        times.observe(1, 3 * line(1), second * SECOND)
    assert times.fastest_ns == pytest.approx(3 * line(1))
    # It counts at once when the device is fast again, and not at all when nothing ran for long.
    times.observe(1, line(1), 31 * SECOND)
    assert times.fastest_ns == pytest.approx(line(1), rel=0.03)
    times.refresh(60 * SECOND)
    assert times.fastest_ns == 0.0


def test_a_large_batch_tells_how_fast_one_row_would_have_been(times):
    times.refresh(0)
    times.refresh(30 * SECOND)
    times.observe(32, int(1.2 * line(32)), 30 * SECOND)
    assert times.fastest_ns == pytest.approx(1.2 * line(1), rel=0.01)


def test_rare_stalls_do_not_belong_to_the_margin(times):
    times.seed([(16, 10 * MILLISECOND)])
    for batch in range(200):
        stalls = batch % 50 == 49
        times.observe(16, (120 if stalls else 10) * MILLISECOND, batch * 20 * MILLISECOND)
    assert times.margin == pytest.approx(1.0, abs=0.01)


def test_overlapping_outliers_are_one_sample(times):
    before = list(times.curve)
    for batch in range(3 * JUMP_SAMPLES):
        times.observe(8, 20 * line(8), 20 * line(8) + batch)
    assert list(times.curve) == before


def test_a_new_size_off_the_line_is_learned_from_two_batches():
    times = ServiceTimes(32)
    times.seed([(8, line(8)), (16, line(16)), (32, line(32))])
    for batch, (rows, took_ns) in enumerate(
        [(20, 1.45 * line(20)), (8, line(8)), (20, 1.4 * line(20)), (8, line(8))]
    ):
        times.observe(rows, int(took_ns), (batch + 1) * SECOND)
    assert times.curve[20] == pytest.approx(1.4 * line(20))
    assert times.curve[8] == line(8)


def test_a_new_size_is_not_learned_from_one_stall():
    times = ServiceTimes(32)
    times.seed([(8, line(8)), (32, line(32))])
    before = list(times.curve)
    times.observe(20, 10 * line(20), SECOND)
    times.observe(8, line(8), 2 * SECOND)
    assert list(times.curve) == before


def test_small_changes_of_other_shapes_add_up(times):
    for _ in range(10):
        times.follow(1.01)
    assert times.drift == pytest.approx(1.01**10, rel=0.05)
    assert times.drift > 1.0


def test_stalls_of_a_rare_size_do_not_change_the_curve_for_good():
    times = ServiceTimes(32)
    times.seed([(size, line(size)) for size in (1, 2, 4)])
    for batch in range(1, 200):
        rows = 7 if batch % 2 else 4
        stalls = rows == 7 and batch < 6
        times.observe(rows, line(rows) * (3 if stalls else 1), batch * SECOND // 2)
    assert list(times.curve) == pytest.approx([0] + [line(rows) for rows in range(1, 33)])


def test_a_size_that_has_changed_is_learned_anew():
    times = ServiceTimes(32)
    times.seed([(size, line(size)) for size in (8, 16, 32)])
    for batch in range(1, 20):
        rows = (8, 32)[batch % 2]
        times.observe(rows, 2 * line(8) if rows == 8 else line(32), batch * SECOND // 2)
    assert times.curve[8] == pytest.approx(2 * line(8), rel=0.03)
    assert times.curve[32] == pytest.approx(line(32), rel=0.03)


def test_back_to_back_batches_are_separate_samples():
    """Also where each would have taken longer on an idle instance."""
    times = ServiceTimes(32)
    times.seed([(32, 21_000)])
    for count in range(1, JUMP_SAMPLES + 1):
        times.observe(32, 61_000, count * 60_000, began_ns=(count - 1) * 60_000)
    assert times.curve[32] == pytest.approx(61_000)


def test_moving_the_curve_at_one_size_gives_the_curve_that_is_fitted_anew():
    draw = random.Random(5)
    moved = fitted = 0
    for most in (1, 5, 8, 16, 32, 40):
        # Partial profiles, so that new sizes come up; some without 1 or the largest, so that a
        # fitted line is part of the curve.
        seeds = ([1, 4, most], [2, most], [1, 2]) if most > 2 else ([1],)
        for seed in seeds:
            times = ServiceTimes(most)
            times.seed([(size, line(size)) for size in seed])
            for batch in range(1, 300):
                if draw.random() < 0.01:
                    times.resize(draw.choice([most, max(1, most // 2), most + 3]))
                # Some of it makes a larger size faster than a smaller one.
                noise = draw.choice([0.0, 0.001, 0.01, 0.2])
                rows = draw.randint(1 if 1 in seed else 2, most)
                took_ns = int(line(rows) * draw.uniform(1 - noise, 1 + noise))
                before = times._curve.sizes
                times.observe(rows, took_ns, batch * SECOND)
                anew = restored(times)
                assert list(times.curve) == list(anew.curve)
                assert list(times.p95) == list(anew.p95)
                moved += times._curve.sizes is before
                fitted += times._curve.sizes is not before
    assert moved > 500
    assert fitted > 500


@pytest.mark.parametrize("known_ns", [0, 40 * MILLISECOND])
@pytest.mark.parametrize("copy_ns", [6, 60])
def test_a_copy_that_takes_longer_than_all_that_was_predicted_says_nothing_of_the_device(
    times, known_ns, copy_ns
):
    times.seed_copies([(1, known_ns)])
    for second in range(8):
        times.observe(1, 6 * MILLISECOND, second * SECOND, copy_ns=copy_ns * MILLISECOND)
    assert times.drift == 1.0
    assert times.curve[1] == max(6 * MILLISECOND, times.copies[1])
    assert times.margin == 1.0 or known_ns
