"""What a batch will take, learned from what batches took."""

from __future__ import annotations

import random

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.service_time.estimator import (
    JUMP_SAMPLES,
    MARGIN_SAMPLES,
    REPLY_GROUP,
    REPLY_SAMPLES,
    ServiceTimes,
)

PROFILE = tuple((rows, (5 + rows) * MILLISECOND) for rows in (1, 2, 4, 8, 16, 32))


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


def test_times_that_never_vary_are_predicted_exactly_for_ever(times):
    before = list(times.curve)
    for moment in range(500):
        rows = moment % 32 + 1
        times.observe(rows, line(rows), moment * MILLISECOND)
    assert list(times.curve) == before
    assert times.margin == 1.0


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_one_size_alone_is_taken_for_half_overhead(rows):
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


def test_noise_of_long_ago_is_forgotten(times):
    draw = random.Random(0)
    for moment in range(MARGIN_SAMPLES):
        times.observe(8, int(line(8) * draw.uniform(0.9, 1.1)), moment * MILLISECOND)
    assert times.margin > 1.0
    for moment in range(3):
        times.observe(8, int(times.curve[8]), 60 * SECOND + moment)
    assert times.margin == pytest.approx(1.0, abs=0.01)


def test_a_device_that_became_slow_is_believed_after_a_few_batches(times):
    slow_ns = 12 * line(8)
    for batch in range(1, JUMP_SAMPLES):
        times.observe(8, slow_ns, batch * slow_ns)
        assert times.curve[8] == line(8)
    times.observe(8, slow_ns, JUMP_SAMPLES * slow_ns)
    assert times.curve[8] == 12 * line(8)
    assert times.curve[1] == 12 * line(1)


def test_a_single_outlier_changes_nothing(times):
    before = list(times.curve)
    times.observe(8, 20 * line(8), 0)
    times.observe(8, line(8), 1)
    assert list(times.curve) == before


def test_a_probe_is_believed_at_once(times):
    for batch in range(JUMP_SAMPLES):
        times.observe(8, 12 * line(8), batch * 12 * line(8))
    times.observe(1, line(1), SECOND, trust=True)
    assert list(times.curve) == pytest.approx([0] + [line(rows) for rows in range(1, 33)])


def test_a_slow_drift_is_followed(times):
    for moment in range(400):
        rows = moment % 32 + 1
        times.observe(rows, int(line(rows) * (1 + moment / 2000)), moment)
    assert times.curve[16] == pytest.approx(1.2 * line(16), rel=0.06)


def test_replies_count_for_callers_and_not_for_the_instance(times):
    for batch in range(200):
        times.observe_replies(10, 2 * MILLISECOND, batch * MILLISECOND)
    assert times.curve[10] == line(10)
    assert times.p95[10] == pytest.approx(line(10) + 2 * MILLISECOND)


def test_the_first_of_a_large_batch_are_answered_before_the_last(times):
    assert times.first_p95 is times.curve
    times.observe_replies(32, 32 * MILLISECOND // 10, 0)
    assert times.reply_ns == MILLISECOND / 10
    assert times.first_p95[4] == times.p95[4]
    assert times.first_p95[32] == line(32) + REPLY_GROUP * times.reply_ns
    assert times.p95[32] == line(32) + 32 * times.reply_ns


def test_the_first_answer_has_the_same_margin_and_follows_the_curve(times):
    for moment in range(64):
        times.observe(16, int(line(16) * (1.0 + 0.02 * (moment % 5))), moment * MILLISECOND)
    assert times.margin > 1.0
    assert times.first_p95[16] == times.p95[16] > times.curve[16]
    times.observe_replies(32, 32 * MILLISECOND // 10, 64 * MILLISECOND)
    spread_ns = times.p95[32] - times.first_p95[32]
    assert spread_ns == pytest.approx((32 - REPLY_GROUP) * times.reply_ns)
    for moment in range(REPLY_SAMPLES + 1):
        times.observe_replies(32, 0, (65 + moment) * MILLISECOND)
    assert times.first_p95 == times.p95


def test_nonsense_is_ignored(times):
    before = times.capture()
    times.observe(0, 5, 0)
    times.observe(33, 5, 0)
    times.observe(1, 0, 0)
    assert times.capture() == before


def test_another_largest_batch_keeps_what_was_learned(times):
    times.resize(8)
    assert list(times.curve) == [0] + [line(rows) for rows in range(1, 9)]
    times.resize(12)
    assert times.curve[12] == pytest.approx(line(12))


def test_an_estimator_restored_at_any_moment_predicts_alike():
    times = ServiceTimes(4)
    times.seed([(1, 7 * MILLISECOND), (4, 2 * MILLISECOND)])
    # Sizes that are pooled, whose means stand still while their weights grow.
    for moment, (rows, took) in enumerate([(3, 5)] * 3 + [(2, 3)] * 5):
        times.observe(rows, took * MILLISECOND, moment * MILLISECOND)
        assert ServiceTimes.restored(times.capture()).curve == times.curve


def test_a_restored_estimator_goes_on_alike(times):
    draw = random.Random(3)

    def sample(moment):
        rows = draw.randint(1, 32)
        return rows, int(line(rows) * draw.choice([0.95, 1.0, 1.07, 3.0])), moment

    for moment in range(200):
        times.observe(*sample(moment))
    twin = ServiceTimes.restored(times.capture())
    for moment in range(200, 400):
        observed = sample(moment)
        times.observe(*observed)
        twin.observe(*observed)
        assert twin.capture() == times.capture()
        assert list(twin.p95) == list(times.p95)


def test_outliers_that_are_no_longer_rare_belong_to_the_margin(times):
    times.seed([(16, 10 * MILLISECOND)])
    for batch in range(200):
        slow = batch % 8 == 7
        times.observe(16, (15 if slow else 10) * MILLISECOND, batch * 20 * MILLISECOND)
    assert times.margin == pytest.approx(1.5, rel=0.05)
    assert times.curve[16] == pytest.approx(10 * MILLISECOND, rel=0.02)


def test_a_rare_stall_is_not_planned_for(times):
    times.seed([(16, 10 * MILLISECOND)])
    for batch in range(200):
        stalls = batch % 50 == 49
        times.observe(16, (120 if stalls else 10) * MILLISECOND, batch * 20 * MILLISECOND)
    assert times.margin == pytest.approx(1.0, abs=0.01)


def test_batches_that_were_off_together_are_one_sample(times):
    before = list(times.curve)
    for batch in range(3 * JUMP_SAMPLES):
        times.observe(8, 20 * line(8), 20 * line(8) + batch)
    assert list(times.curve) == before


def test_a_size_that_does_not_lie_on_the_line_is_learned_from_two_batches():
    times = ServiceTimes(32)
    times.seed([(8, line(8)), (16, line(16)), (32, line(32))])
    for batch, (rows, took_ns) in enumerate(
        [(20, 1.45 * line(20)), (8, line(8)), (20, 1.4 * line(20)), (8, line(8))]
    ):
        times.observe(rows, int(took_ns), (batch + 1) * SECOND)
    assert times.curve[20] == pytest.approx(1.4 * line(20))
    assert times.curve[8] == line(8)


def test_a_size_that_was_never_seen_is_not_learned_from_a_single_stall():
    times = ServiceTimes(32)
    times.seed([(8, line(8)), (32, line(32))])
    before = list(times.curve)
    times.observe(20, 10 * line(20), SECOND)
    times.observe(8, line(8), 2 * SECOND)
    assert list(times.curve) == before


def test_the_margin_leaves_half_of_what_one_row_leaves_of_the_target():
    times = ServiceTimes(32, target_ns=50 * MILLISECOND)
    times.seed([(1, 30 * MILLISECOND)])
    for batch in range(200):
        slow = batch % 8 == 7
        times.observe(1, (60 if slow else 30) * MILLISECOND, batch * 60 * MILLISECOND)
    assert times.margin == pytest.approx(2.0)
    assert times.p95[1] == pytest.approx(40 * MILLISECOND)
    assert times.expected[1] == pytest.approx(30 * MILLISECOND)
    times.aim(None)
    assert times.p95[1] == pytest.approx(60 * MILLISECOND)


def test_a_change_that_others_show_is_followed_once_it_counts(times):
    for _ in range(10):
        times.follow(1.01)
    assert times.drift == pytest.approx(1.01**10, rel=0.05)
    assert times.drift > 1.0


def test_a_long_hand_over_of_replies_is_a_stall(times):
    times.observe_replies(1, 300 * MILLISECOND, 0)
    assert times.p95[1] < line(1) + MILLISECOND


def test_replies_that_were_slow_are_forgotten_where_batches_are_rare(times):
    for batch in range(100):
        times.observe_replies(1, 300 * MILLISECOND, batch * MILLISECOND)
    assert times.p95[1] > line(1) + 200 * MILLISECOND
    for second in range(1, 9):
        times.observe_replies(1, 0, second * SECOND)
    assert times.p95[1] < line(1) + MILLISECOND


def test_stalls_of_a_rare_size_do_not_bend_the_curve_for_good():
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


def test_batches_that_began_when_the_last_ended_are_samples_of_their_own():
    """Also where each would have taken longer on an instance that was idle."""
    times = ServiceTimes(32)
    times.seed([(32, 21_000)])
    for count in range(1, JUMP_SAMPLES + 1):
        times.observe(32, 61_000, count * 60_000, began_ns=(count - 1) * 60_000)
    assert times.curve[32] == pytest.approx(61_000)


def test_a_stall_of_the_answers_is_not_what_they_take():
    times = ServiceTimes(32)
    times.seed([(1, 6 * MILLISECOND), (32, 21 * MILLISECOND)])
    seen = []
    for batch in range(1, 400):
        slow = batch % 30 == 0
        times.observe_replies(20, 20 * MILLISECOND if slow else MILLISECOND, batch * SECOND // 50)
        seen.append(times.p95[20] - times.curve[20])
    assert seen[20:] == pytest.approx([MILLISECOND] * len(seen[20:]))
    # But what lasts is, also of one that goes on where this one stood.
    anew = ServiceTimes.restored(times.capture())
    for batch in range(400, 410):
        times.observe_replies(20, 3 * MILLISECOND, batch * SECOND // 50)
        anew.observe_replies(20, 3 * MILLISECOND, batch * SECOND // 50)
        assert list(anew.p95) == list(times.p95)
    assert times.p95[20] - times.curve[20] == pytest.approx(3 * MILLISECOND)


@pytest.mark.parametrize("per_second", [0.2, 1, 3, 8, 20])
def test_one_stall_of_few_answers_is_none_either(per_second):
    times = ServiceTimes(32)
    times.seed([(1, 6 * MILLISECOND), (32, 21 * MILLISECOND)])
    for batch in range(1, 60):
        slow = batch == 30
        at_ns = int(batch * SECOND / per_second)
        times.observe_replies(20, 20 * MILLISECOND if slow else MILLISECOND, at_ns)
        assert times.p95[20] - times.curve[20] == pytest.approx(MILLISECOND)


def test_a_curve_that_is_moved_at_one_size_is_the_one_that_is_built_anew():
    draw = random.Random(5)
    bent = built = 0
    for most in (1, 5, 8, 16, 32, 40):
        # Seeded in part, so that sizes are met for the first time, too; without 1 or the largest in
        # some, where a line is part of the curve.
        seeds = ([1, 4, most], [2, most], [1, 2]) if most > 2 else ([1],)
        for seed in seeds:
            times = ServiceTimes(most)
            times.seed([(size, line(size)) for size in seed])
            for batch in range(1, 300):
                if draw.random() < 0.01:
                    times.resize(draw.choice([most, max(1, most // 2), most + 3]))
                # Some so much that neighbours change places.
                noise = draw.choice([0.0, 0.001, 0.01, 0.2])
                rows = draw.randint(1 if 1 in seed else 2, most)
                took_ns = int(line(rows) * draw.uniform(1 - noise, 1 + noise))
                before = times._sizes
                times.observe(rows, took_ns, batch * SECOND)
                anew = ServiceTimes.restored(times.capture())
                assert list(times.curve) == list(anew.curve)
                assert list(times.p95) == list(anew.p95)
                bent += times._sizes is before
                built += times._sizes is not before
    assert bent > 500
    assert built > 500
