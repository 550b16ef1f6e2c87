"""Late requests in the queue: their order, their share of the device, and which are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.batching.late_entitlement import LEAST_NEEDED, late_entitlement_ns
from batcher.core.commands import Outcome, Reason
from batcher.core.events import BatchProgress, FailureCause, InstanceUp, ModelConfigured
from batcher.core.queueing.ranks import LATE, late_turn_ns, rank_of
from batcher.core.requests.late import LateQueue
from batcher.core.requests.refusals import UNAVAILABLE_RETRY_NS
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, ModelSettings, PaddedAxis, QueueLimits

TAKES = 10
"""Milliseconds of every batch, whatever its rows."""


@pytest.fixture
def busy(play):
    """Request 0 runs until 10 ms, or for longer; whatever is due within 20 ms is late."""

    def begin(*, limit=1000, share=0.5, max_rows=1, target=50, **limits):
        policy = Adaptive(limit_ns=limit * MILLISECOND, late_share=share)
        play.model("m", policy, max_rows, target=target, **limits)
        profile = tuple((rows, TAKES * MILLISECOND) for rows in (1, max_rows))
        play.feed(InstanceUp("i", 1, "m", "d", 1, profile))
        play.arrive(0, rows=max_rows)
        return play

    return begin


def model(play):
    return play.scheduler.models["m"]


def late_ids(play):
    return [r.id for group in model(play).queue.groups.values() for r in group if r.rank == LATE]


def overload(play):
    """More was offered than can be served, for long."""
    model(play).late.backlog = 1e9


def beyond_reach(play):
    now_ns = int(play.now * MILLISECOND)
    return [r.id for r in LateQueue(model(play), play.scheduler.fleet, now_ns).beyond_reach()]


class TestOrder:
    def test_late_requests_wait_in_the_order_in_which_they_arrived(self, busy):
        play = busy()
        play.arrive(1, at=1, due=18)
        play.arrive(2, at=2, due=10)
        play.arrive(3, at=3, due=15)
        assert late_ids(play) == [1, 2, 3]

    def test_a_lesser_level_counts_as_having_come_promote_after_later(self, busy):
        play = busy(promote_after_ns=4 * MILLISECOND)
        for request_id, at, priority in ((1, 0, 3), (2, 1, 2), (3, 4, 1), (4, 6, 1), (5, 9, 1)):
            request = play.request(request_id, at=at, due=at + 5)
            play.feed(replace(request, priority=priority), at=at)
        # As if they had come at 8, 5, 4, 6 and 9.
        assert late_ids(play) == [3, 2, 4, 1, 5]

    def test_a_tenant_over_its_share_counts_half_a_level_later(self):
        limits = QueueLimits(promote_after_ns=SECOND)
        within, over = rank_of(2, over_share=False), rank_of(2, over_share=True)
        assert late_turn_ns(over, 7, limits) - late_turn_ns(within, 7, limits) == SECOND // 2
        assert late_turn_ns(rank_of(1, over_share=False), 7, limits) == 7

    def test_they_wait_behind_all_that_can_be_in_time(self, busy):
        play = busy()
        play.arrive(1, at=1, due=15)
        play.arrive(2, at=2, due=100)
        assert play.batches(play.done(1, 0, at=10)) == [[2]]

    def test_they_go_along_where_a_batch_has_room(self, busy):
        play = busy(max_rows=4)
        play.arrive(1, 2, at=1, due=15)
        play.arrive(3, at=2, due=30)
        assert sorted(*play.batches(play.done(1, 0, at=10))) == [1, 2, 3]

    def test_alone_they_fill_a_batch_at_once(self, busy):
        play = busy(max_rows=4)
        play.arrive(1, 2, 3, 4, 5, at=1, due=15)
        assert play.batches(play.done(1, 0, at=10)) == [[1, 2, 3, 4]]
        assert play.batches(play.done(2, 1, 2, 3, 4, at=20)) == [[5]]

    def test_one_whose_limit_has_come_too_near_makes_room_for_the_next(self, busy):
        play = busy()
        play.arrive(1, at=1, expires=22, due=15)
        play.arrive(2, at=2, due=15)
        assert play.batches(play.done(1, 0, at=15)) == [[2]]


class TestReach:
    """Each late request takes 10 ms, of which the share of late ones is half: 20 ms each, from 10 ms on."""

    def test_the_last_ones_are_refused_that_their_share_would_serve_after_their_limits(self, busy):
        play = busy(limit=100)
        play.arrive(1, 2, 3, 4, 5, 6, at=1, due=15)
        assert beyond_reach(play) == []
        overload(play)
        assert beyond_reach(play) == [6, 5]

    def test_a_request_that_has_begun_is_not_refused_for_it(self, busy):
        play = busy(limit=100)
        play.arrive(1, 2, 3, 4, 5, 6, at=1, due=15)
        play.scheduler.live[6].requeues = 1
        overload(play)
        assert beyond_reach(play) == [5, 4]

    def test_they_are_told_when_a_retry_makes_sense(self, busy):
        play = busy(limit=100)
        play.arrive(1, 2, 3, 4, 5, 6, at=1, due=15)
        overload(play)
        *refusals, _ = play.done(1, 0, at=10)
        (refused,) = [each for each in refusals if each.outcome is Outcome.REJECTED]
        assert (set(refused.ids), refused.reason) == ({5, 6}, Reason.PREDICTED_LATE)
        assert refused.retry_after_ns

    def test_in_overload_what_its_share_cannot_reach_is_refused_on_arrival(self, busy):
        play = busy(limit=100)
        overload(play)
        model(play).late.window_ends_ns = SECOND
        ended = {}
        for request_id in range(1, 8):
            ended |= play.ended(play.arrive(request_id, at=1, due=15))
        assert late_ids(play) == [1, 2, 3, 4]
        assert set(ended) == {5, 6, 7}

    def test_without_overload_all_is_admitted_that_can_be_served_by_its_limit(self, busy):
        play = busy(limit=100)
        ended = {}
        for request_id in range(1, 12):
            ended |= play.ended(play.arrive(request_id, at=1, due=15))
        assert late_ids(play) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert set(ended) == {10, 11}

    def test_the_next_one_is_not_refused_beside_an_idle_instance(self, busy):
        play = busy(limit=100, share=0.0)
        play.arrive(1, at=1, due=15)
        overload(play)
        assert beyond_reach(play) == [1]
        assert play.batches(play.done(1, 0, at=10)) == [[1]]

    def test_nor_the_next_ones_beside_several(self, busy):
        play = busy(limit=100, share=0.0)
        play.arrive(1, 2, 3, at=1, due=15)
        overload(play)
        assert beyond_reach(play) == [3, 2, 1]
        up = InstanceUp("j", 1, "m", "d2", 1)
        assert play.batches(play.feed(BatchProgress(1, (0,)), up, at=10)) == [[1], [2]]


class TestEntitlement:
    def entitled_ms(self, play):
        model(play).late.backlog = 0.0
        return late_entitlement_ns(model(play), 1, int(play.now * MILLISECOND)) / MILLISECOND

    def test_where_none_waits_it_is_nothing(self, busy):
        play = busy()
        model(play).late.waiting = True
        assert self.entitled_ms(play) == 0.0
        assert not model(play).late.waiting

    def test_what_is_far_from_its_limit_takes_no_time_from_others(self, busy):
        play = busy(limit=1000)
        play.arrive(1, 2, 3, at=1, due=15)
        play.now = 9
        assert LEAST_NEEDED > 30 / 990
        assert self.entitled_ms(play) == 0.0

    def test_else_what_it_needs_to_be_answered_by_its_limit(self, busy):
        play = busy(limit=101)
        play.arrive(*range(1, 6), at=1, due=15)
        play.now = 2
        # For 1 ms now, of 50 ms that must be served within 100, the last batch of 10 included.
        assert self.entitled_ms(play) == pytest.approx(50 / 90)

    def test_the_nearest_limit_says_how_much(self, busy):
        """Each limit stands for all that is served before it."""
        play = busy(limit=1000)
        play.arrive(*range(1, 16), at=1, due=15)
        play.arrive(16, at=1, due=15, expires=202)
        play.arrive(*range(17, 33), at=1, due=15)
        play.now = 2
        assert self.entitled_ms(play) == pytest.approx(160 / 190)

    def test_one_whose_limit_is_too_near_does_not_stop_the_others(self, busy):
        play = busy(max_rows=4)
        play.arrive(1, at=1, due=15, expires=22)
        play.arrive(2, at=2, due=15)
        play.arrive(9, at=3, due=60)
        model(play).late._entitled_ns = 10.0 * MILLISECOND
        commands = play.done(1, 0, at=15)
        assert play.policy_failures(commands) == []
        assert sorted(*play.batches(commands)) == [2, 9]

    def test_pieces_that_run_again_are_charged_by_their_rows(self, busy):
        play = busy(max_rows=4)
        play.arrive(2, at=1, due=15)
        play.arrive(1, at=1, rows=9, due=15)
        assert play.parts(play.done(1, 0, at=10)) == [[(2, 0, 1), (1, 0, 3)]]
        assert play.parts(play.error(2, at=20)) == [[(2, 0, 1)]]
        model(play).late._entitled_ns = 10.0 * MILLISECOND
        assert play.parts(play.done(3, 2, at=30)) == [[(1, 0, 3)]]
        # Its three rows are all of the batch, although the next piece has four.
        assert model(play).late._entitled_ns == 0.0

    def test_it_is_spent_before_requests_in_time(self, busy):
        play = busy(limit=101)
        play.arrive(*range(1, 6), at=1, due=15)
        play.arrive(9, at=2, due=60)
        model(play).late._entitled_ns = 10.0 * MILLISECOND
        assert play.batches(play.done(1, 0, at=10)) == [[1]]
        assert self.entitled_ms(play) < TAKES


class TestFailedBatches:
    @pytest.fixture
    def failed(self, busy):
        """Requests 1 to 4 became late, ran together at 10 ms, and failed at 20."""
        play = busy(max_rows=4, limit=200)
        play.arrive(1, 2, 3, 4, at=1, due=15)
        play.done(1, 0, at=10)
        play.error(2, at=20)
        return play

    def test_they_stay_late(self, failed):
        assert {r.rank for r in failed.scheduler.live.values()} == {LATE}

    def test_all_but_the_invalid_one_are_answered(self, failed):
        ended, now = {}, 20
        while failed.scheduler.live:
            now += 10
            (batch,) = failed.scheduler.fleet.batches.values()
            ids = [part.id for part in batch.parts]
            bad = FailureCause.UNKNOWN if 3 in ids else None
            done = () if bad else tuple(ids)
            report = BatchProgress(batch.batch_id, done, error=bad)
            ended |= failed.ended(failed.feed(report, at=now))
        assert {i: outcome for i, (outcome, _) in ended.items()} == {
            1: Outcome.OK,
            2: Outcome.OK,
            3: Outcome.FAILED,
            4: Outcome.OK,
        }

    def test_what_is_cleared_counts_as_late_again(self, failed):
        model(failed).late.waiting = False
        failed.error(3, at=30)
        assert late_ids(failed)
        assert model(failed).late.waiting

    def test_none_runs_again_after_its_limit(self, failed):
        ended = failed.ended(failed.error(3, at=202))
        assert ended
        assert set(ended.values()) == {(Outcome.REJECTED, Reason.PREDICTED_LATE)}


class TestLimit:
    def test_with_a_hung_instance_each_ends_at_its_limit(self, busy):
        play = busy(limit=100)
        ends = {}
        for request_id in (1, 2, 3):
            play.arrive(request_id, at=request_id, due=15)
        model(play).late.backlog = 0.0
        while len(ends) < 3:
            play.now = play.wakeup
            ends |= dict.fromkeys(play.ended(play.feed()), play.now)
        assert ends == {1: 101, 2: 102, 3: 103}
        assert set(play.scheduler.live) == {0}

    def test_while_no_instance_is_up_that_is_the_reason(self, busy):
        play = busy(limit=100)
        play.arrive(1, at=1, due=15)
        play.down("i")
        play.now = 101
        [refused] = play.feed()
        assert (refused.ids, refused.reason) == ((1,), Reason.NO_INSTANCE)
        assert (refused.retry_after_ns, refused.blame) == (UNAVAILABLE_RETRY_NS, None)

    def test_where_the_target_is_the_limit_what_cannot_be_in_time_is_refused_at_once(self, busy):
        play = busy(limit=15, target=15)
        assert set(play.ended(play.arrive(1, at=1))) == {1}
        assert late_ids(play) == []

    def test_but_not_beside_an_idle_instance(self, busy):
        """It took 10 ms before; once it has taken 20, and another one is let try."""
        play = busy(limit=15, target=15)
        play.done(1, 0, at=20)
        assert play.batches(play.arrive(1, at=21)) == [[1]]

    def test_nor_beside_two_where_one_request_waits(self, busy):
        play = busy(limit=15, target=15)
        play.done(1, 0, at=20)
        play.feed(InstanceUp("j", 1, "m", "d2", 1))
        assert play.batches(play.arrive(1, 2, at=21)) == [[1], [2]]

    def test_nor_where_times_are_estimated_of_another_bucket(self, play):
        """Rows of that one take 30 ms, and the request is due within 4 ms of a target of 20 ms."""
        target_ns = 20 * MILLISECOND
        padding = (PaddedAxis(0, 1, (4, 8)),)
        settings = ModelSettings(1, Adaptive(limit_ns=target_ns), QueueLimits(), target_ns, padding)
        took = ((((4,),), ((1, 30 * MILLISECOND),)),)
        play.feed(ModelConfigured("m", settings), InstanceUp("i", 1, "m", "d", 1, (), took))
        assert play.batches(play.arrive(1, shapes=((8,),), due=4)) == [[1]]


def test_a_restored_scheduler_goes_on_alike_with_late_requests(busy):
    play = busy(max_rows=2, limit=60)
    for request_id in range(1, 12):
        play.arrive(request_id, at=request_id / 2, due=15)
    assert late_ids(play)
    model(play).late._entitled_ns = 12.0 * MILLISECOND
    twin = Scheduler.restore(play.scheduler.snapshot())
    assert twin.snapshot() == play.scheduler.snapshot()
    now = 10
    while play.scheduler.live:
        running = list(play.scheduler.fleet.batches.values())
        reports = [BatchProgress(b.batch_id, tuple(p.id for p in b.parts)) for b in running]
        commands = play.feed(*reports, at=now)
        assert twin.handle(reports, now * MILLISECOND) == commands
        assert twin.snapshot() == play.scheduler.snapshot()
        assert twin.next_wakeup_ns() == play.scheduler.next_wakeup_ns()
        now += 13
