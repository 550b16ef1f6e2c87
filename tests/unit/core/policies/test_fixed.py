"""The policy `fixed`, a lane at a time: the rules that Triton users know."""

from __future__ import annotations

import pytest

from batcher.core.estimator import ServiceTimes
from batcher.core.events import RequestArrived
from batcher.core.policies import FixedWindowPolicy, Situation, Take, Wait
from batcher.core.queue import Lane
from batcher.core.request import LiveRequest
from batcher.core.settings import FixedWindow

DELAY = 100


def lane_of(*rows, arrival_ns=0):
    lane = Lane(("", ()))
    for request_id, count in enumerate(rows):
        arrived = RequestArrived(request_id, "m", count, 0, (), "", arrival_ns + request_id)
        lane.add(LiveRequest(arrived, None, None))
    return lane


def situation(now_ns):
    return Situation(now_ns, (now_ns,), ServiceTimes(8))


def decide(rows, *, preferred=(), max_rows=8, delay=DELAY, now_ns=50):
    policy = FixedWindowPolicy(FixedWindow(delay, preferred), max_rows)
    return policy.decide(lane_of(*rows), situation(now_ns))


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        ([1], 1),
        ([1, 1, 1], 3),
        ([1] * 8, 8),
        ([1] * 9, 8),
        ([8, 1], 1),
        ([3, 3, 3], 2),
        ([3, 5, 1], 2),
    ],
)
def test_without_a_delay_all_that_fits_goes_at_once(rows, taken):
    assert decide(rows, delay=0) == Take(taken)


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        ([1, 1, 1], 3),  # below every preferred size: what there is
        ([1] * 4, 4),
        ([1] * 5, 4),  # a preferred prefix, not the fifth
        ([1] * 6, 6),  # the longest preferred prefix
        ([1] * 8, 6),
        ([2, 1, 2, 1], 4),  # 2, 3, 5, 6 rows
        ([2, 1, 2], 3),  # 2, 3, 5 rows: never a preferred size
        ([5, 2, 1], 1),  # jumps from 5 over the largest to 7: what was there before the jump
        ([7, 1], 1),  # over the largest from the start: as much as before the next one
    ],
)
def test_without_a_delay_a_preferred_prefix_goes_first(rows, taken):
    assert decide(rows, preferred=(4, 6), delay=0) == Take(taken)


@pytest.mark.parametrize("rows", [[1], [1] * 7, [3, 3]])
def test_an_open_window_waits_for_the_maximum(rows):
    assert decide(rows) == Wait(DELAY)


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        ([1] * 8, 8),
        ([1] * 12, 8),
        ([8], 1),
        ([4, 4, 4], 2),
        ([5, 5], 1),  # cannot grow: the next one does not fit
    ],
)
def test_a_batch_that_is_full_or_cannot_grow_goes_before_the_window_closes(rows, taken):
    assert decide(rows) == Take(taken)


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([1, 1, 1], Wait(DELAY)),
        ([1] * 4, Take(4)),
        ([1] * 5, Take(4)),
        ([1] * 6, Take(6)),
        ([3, 2], Wait(DELAY)),  # 3, 5: may still reach 6
        ([3, 2, 2], Take(2)),  # jumps from 5 to 7
        ([3, 1, 3], Take(2)),  # hit 4, then jumped: 4 stays
        ([7], Take(1)),  # more than the largest preferred size cannot become preferred
        ([7, 1], Take(1)),
    ],
)
def test_an_open_window_ends_at_a_preferred_size(rows, verdict):
    assert decide(rows, preferred=(4, 6)) == verdict


@pytest.mark.parametrize(("rows", "taken"), [([1], 1), ([1] * 5, 5), ([1] * 7, 7), ([1] * 20, 8)])
def test_once_overdue_preferred_sizes_no_longer_matter(rows, taken):
    assert decide(rows, preferred=(4, 6), now_ns=DELAY) == Take(taken)


def test_the_window_closes_at_the_very_nanosecond():
    assert decide([1], now_ns=DELAY - 1) == Wait(DELAY)
    assert decide([1], now_ns=DELAY) == Take(1)


def test_the_window_is_that_of_the_oldest_request():
    policy = FixedWindowPolicy(FixedWindow(DELAY), 8)

    assert policy.decide(lane_of(1, 1, arrival_ns=1_000), situation(1_050)) == Wait(1_100)
    assert policy.decide(lane_of(1, 1, arrival_ns=1_000), situation(1_100)) == Take(2)


def test_preferred_sizes_may_come_in_any_order():
    assert decide([1] * 6, preferred=(6, 4)) == decide([1] * 6, preferred=(4, 6)) == Take(6)


def test_a_batch_goes_on_growing_while_every_instance_is_busy(play):
    play.fixed(delay=2, preferred=(2,), max_rows=8)
    play.up()
    assert play.batches(play.arrive(1, 2)) == [[1, 2]]

    for request_id in range(3, 9):
        assert play.arrive(request_id, at=request_id) == []

    assert play.wakeup is None
    assert play.batches(play.done(1, 1, 2, at=10)) == [[3, 4, 5, 6, 7, 8]]


def test_what_is_not_overdue_when_an_instance_comes_free_still_makes_preferred_batches(play):
    play.fixed(delay=20, preferred=(2,), max_rows=8)
    play.up()
    play.arrive(1, 2)
    play.arrive(3, 4, 5, at=1)

    assert play.batches(play.done(1, 1, 2, at=10)) == [[3, 4]]
    assert play.done(2, 3, 4, at=15)
    assert play.wakeup == 21


def test_no_delay_and_no_load_adds_no_wait(play):
    play.fixed(delay=0)
    play.up()

    assert play.batches(play.arrive(1, at=5)) == [[1]]
    assert play.wakeup is None


def test_requests_that_expire_in_the_window_leave_the_others_theirs(play):
    play.fixed(delay=10)
    play.up()
    play.feed(play.request(1, expires=4), play.request(2, at=3), at=3)
    play.feed(at=4)

    assert play.wakeup == 13
    assert play.batches(play.feed(at=13)) == [[2]]


def test_a_request_that_is_cancelled_in_the_window_leaves_the_others_theirs(play):
    play.fixed(delay=10)
    play.up()
    play.arrive(1, at=0)
    play.arrive(2, at=3)
    play.cancel(1)

    assert play.wakeup == 13
    assert play.feed(at=10) == []
    assert play.batches(play.feed(at=13)) == [[2]]
