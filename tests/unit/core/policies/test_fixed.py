"""The policy `fixed`, one batch group at a time: the rules that Triton users know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason
from batcher.core.events import InstanceUp, RequestArrived
from batcher.core.policies import PolicyInput, Take, Wait
from batcher.core.policies.fixed import FixedWindowPolicy
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.request import LiveRequest
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.settings import FixedWindow

DELAY = 100


def group_of(*rows, arrival_ns=0):
    group = BatchGroup(("", ()))
    for request_id, count in enumerate(rows):
        arrived = RequestArrived(request_id, "m", count, 0, (), "", arrival_ns + request_id)
        group.add(LiveRequest(arrived, None, None))
    return group


def given(now_ns):
    return PolicyInput(now_ns, (now_ns,), ServiceTimes(8))


def decide(rows, *, preferred=(), max_rows=8, delay=DELAY, now_ns=50):
    policy = FixedWindowPolicy(FixedWindow(delay, preferred), max_rows)
    return policy.decide(group_of(*rows), given(now_ns))


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
    ("rows", "decision"),
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
def test_an_open_window_ends_at_a_preferred_size(rows, decision):
    assert decide(rows, preferred=(4, 6)) == decision


@pytest.mark.parametrize(("rows", "taken"), [([1], 1), ([1] * 5, 5), ([1] * 7, 7), ([1] * 20, 8)])
def test_once_overdue_preferred_sizes_no_longer_matter(rows, taken):
    assert decide(rows, preferred=(4, 6), now_ns=DELAY) == Take(taken)


def test_the_window_closes_at_the_very_nanosecond():
    assert decide([1], now_ns=DELAY - 1) == Wait(DELAY)
    assert decide([1], now_ns=DELAY) == Take(1)


def test_the_window_is_that_of_the_oldest_request():
    policy = FixedWindowPolicy(FixedWindow(DELAY), 8)

    assert policy.decide(group_of(1, 1, arrival_ns=1_000), given(1_050)) == Wait(1_100)
    assert policy.decide(group_of(1, 1, arrival_ns=1_000), given(1_100)) == Take(2)


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


class TestDeadlines:
    """A window of 10 ms. One row takes 6 ms, eight 13 ms, once that is known."""

    @pytest.fixture
    def window(self, play):
        def up(*, known=True, **limits):
            play.fixed(delay=10, **limits)
            profile = tuple((rows, (5 + rows) * MILLISECOND) for rows in range(1, 9))
            play.feed(InstanceUp("i", 1, "m", "d", profile=profile if known else ()))
            return play

        return up

    def test_a_window_closes_early_for_a_deadline_that_can_still_be_met(self, window):
        play = window()
        assert play.arrive(1, expires=15) == []
        assert play.wakeup == 15 - 6 - 1
        assert play.batches(play.feed(at=8)) == [[1]]

    def test_it_may_be_the_deadline_of_any_request(self, window):
        play = window()
        play.arrive(1)
        play.arrive(2, at=2, expires=14)
        assert play.wakeup == 14 - 7 - 1
        assert play.batches(play.feed(at=6)) == [[1, 2]]

    def test_a_deadline_that_the_window_leaves_time_for_changes_nothing(self, window):
        play = window()
        play.arrive(1, expires=17)
        assert play.wakeup == 10

    def test_while_service_times_are_unknown_a_batch_begins_before_the_deadline(self, window):
        play = window(known=False)
        play.arrive(1, expires=5)
        assert play.wakeup == 4
        assert play.batches(play.feed(at=4)) == [[1]]

    def test_a_time_in_the_queue_ends_the_window_and_not_the_answer(self, window):
        play = window(timeout_ns=4 * MILLISECOND)
        play.arrive(1)
        assert play.wakeup == 3
        assert play.batches(play.feed(at=3)) == [[1]]

    def test_requests_that_cannot_be_in_time_leave_the_others_their_window(self, window):
        play = window()
        play.feed(play.request(1, expires=8), play.request(2, at=3), at=3)
        assert play.wakeup == 8
        assert play.ended(play.feed(at=8)) == {1: (Outcome.EXPIRED, Reason.CALLER_DEADLINE)}
        assert play.wakeup == 13
        assert play.batches(play.feed(at=13)) == [[2]]

    def test_the_deadline_of_a_request_that_is_gone_closes_nothing(self, window):
        play = window()
        play.arrive(1, expires=15)
        play.arrive(2, at=1)
        play.cancel(1)
        assert play.wakeup == 11


class TestPriorities:
    """Two rows to a batch; what comes while request 0 runs waits."""

    @pytest.fixture(params=["fixed", "none"])
    def busy(self, request, play):
        getattr(play, request.param)(max_rows=2, promote_after_ns=20 * MILLISECOND)
        play.up()
        play.arrive(0)
        return play

    def order(self, play):
        """The ids of what waits, in the order in which it is dispatched."""
        found = []
        batch_id = 1
        while play.batches(commands := play.done(batch_id)):
            batch_id += 1
            [ids] = play.batches(commands)
            found += ids
        return found

    def test_the_most_urgent_go_first_and_in_order_of_arrival(self, busy):
        for request_id, priority in enumerate((3, 0, 2, 1, 9, 1), 1):
            busy.feed(replace(busy.request(request_id), priority=priority), at=request_id)

        assert self.order(busy) == [4, 6, 2, 3, 1, 5]

    def test_the_same_holds_across_batch_groups(self, busy):
        for request_id, (priority, key) in enumerate([(3, "a"), (2, "b"), (1, "c"), (2, "")], 1):
            busy.feed(replace(busy.request(request_id, key=key), priority=priority))

        assert self.order(busy) == [3, 2, 4, 1]

    def test_waiting_raises_the_priority_level(self, busy):
        busy.feed(replace(busy.request(1), priority=2), at=0)
        busy.feed(replace(busy.request(2), priority=1), at=19)
        busy.feed(replace(busy.request(3), priority=1), at=21)
        busy.now = 22

        assert self.order(busy) == [1, 2, 3]

    def test_a_full_queue_makes_room_for_a_better_class(self, busy):
        busy.fixed(max_requests=2)
        busy.feed(replace(busy.request(1), priority=3))
        busy.arrive(2)

        commands = busy.feed(replace(busy.request(3), priority=1))
        assert busy.ended(commands) == {1: (Outcome.REJECTED, Reason.QUEUE_REQUESTS)}
        commands = busy.feed(replace(busy.request(4), priority=3))
        assert busy.ended(commands) == {4: (Outcome.REJECTED, Reason.QUEUE_REQUESTS)}


def test_a_window_is_as_old_as_the_oldest_of_any_level(play):
    play.fixed(delay=10)
    play.up()
    play.feed(replace(play.request(1), priority=3), at=0)
    play.feed(replace(play.request(2), priority=1), at=4)

    assert play.wakeup == 10
    assert play.batches(play.feed(at=10)) == [[2, 1]]


def test_a_request_that_is_cancelled_in_the_window_leaves_the_others_theirs(play):
    play.fixed(delay=10)
    play.up()
    play.arrive(1, at=0)
    play.arrive(2, at=3)
    play.cancel(1)

    assert play.wakeup == 13
    assert play.feed(at=10) == []
    assert play.batches(play.feed(at=13)) == [[2]]


@pytest.mark.parametrize("told_apart", [True, False])
def test_a_tenant_within_its_share_does_not_wait_for_one_that_floods(stage, arrivals, told_apart):
    tenants = (("quiet", 1.0), ("default", 1.0)) if told_apart else ()
    stage.model(policy=FixedWindow(), tenants=tenants)
    stage.up()
    quiet = arrivals(100, 0.5, 1, tenant="quiet")
    [ends, _] = stage.play(quiet, arrivals(2500, 0.5, 2, tenant="flood"))

    longest_ns = max(end.took_ns for end in ends)
    assert (longest_ns < 200 * MILLISECOND) == told_apart
