"""Many batch groups of one caller: what they may cost the decision and other callers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batcher.clock import MILLISECOND
from batcher.core.batching.selection import (
    MAX_GROUPS_ASKED,
    MAX_KINDS,
    OLDEST_FIRST_ONE_IN,
    groups_to_ask,
)
from batcher.core.commands import Dispatch, Outcome, Reason, Settle
from batcher.core.events import InstanceUp, ModelConfigured
from batcher.core.policies.fixed import FixedWindowPolicy
from batcher.core.queueing.queue import ModelQueue
from batcher.core.queueing.ranks import LATE
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.refusals import QUEUE_FULL_RETRY_NS
from batcher.core.settings import Adaptive, FixedWindow, PaddedAxis


def apart(play, ids, **what):
    """Requests that are a group each."""
    return [play.request(i, key=f"own {i}", **what) for i in ids]


def keys(commands):
    """The first request of each dispatched batch."""
    return [c.parts[0].id for c in commands if isinstance(c, Dispatch)]


class TestGroupsToAsk:
    @pytest.fixture
    def queue(self, play):
        def filled(groups):
            """Group n holds `groups[n]` requests; the later ones are due later."""
            queue, number = ModelQueue(), 0
            for key, count in enumerate(groups):
                for _ in range(count):
                    arrived = play.request(number, key=str(key))
                    queue.add(LiveRequest(arrived, number, None))
                    number += 1
            return queue

        return filled

    def names(self, groups):
        return sorted(int(group.key[0]) for group in groups)

    def test_all_while_they_are_few(self, queue):
        groups, more = groups_to_ask(queue([1] * MAX_GROUPS_ASKED))
        assert self.names(groups) == list(range(MAX_GROUPS_ASKED))
        assert not more

    def test_the_most_urgent_where_none_is_larger(self, queue):
        groups, more = groups_to_ask(queue([1] * (3 * MAX_GROUPS_ASKED)))
        assert self.names(groups) == list(range(MAX_GROUPS_ASKED))
        assert more

    def test_half_are_the_most_urgent_and_half_the_largest(self, queue):
        half = MAX_GROUPS_ASKED // 2
        groups, _ = groups_to_ask(queue([1] * 100 + [3] * half + [2] * 100))
        assert self.names(groups) == [*range(half), *range(100, 100 + half)]


def test_a_decision_asks_about_a_bounded_number_of_groups(play_with):
    class Counting(FixedWindowPolicy):
        asked = 0

        def decide(self, group, given):
            self.asked += 1
            return super().decide(group, given)

    policy = Counting(FixedWindow(), 8)
    play = play_with(policy)
    play.fixed()
    play.up()
    play.arrive(0)
    play.feed(*apart(play, range(1, 200)))
    policy.asked = 0
    play.done(1, 0)

    assert policy.asked == MAX_GROUPS_ASKED


def test_with_many_groups_no_window_is_open(play):
    play.fixed(delay=10)
    play.up()
    waiting = play.feed(*apart(play, range(1, MAX_GROUPS_ASKED + 1)))
    assert keys(waiting) == []

    assert keys(play.arrive(100)) == [1]


class TestOrderOfGroups:
    @pytest.fixture
    def busy(self, play):
        """More groups of one than count as kinds wait, then a group of four; request 0 runs."""
        play.fixed()
        profile = tuple((rows, (5 + rows) * MILLISECOND) for rows in range(1, 9))
        play.feed(InstanceUp("i", 1, "m", "d", profile=profile))
        play.arrive(0)
        play.feed(*apart(play, range(1, MAX_KINDS + 1)))
        play.arrive(11, 12, 13, 14, at=1)
        return play

    def test_the_most_efficient_batch_and_the_oldest_alternate(self, busy):
        order = [
            keys(busy.done(batch_id, at=10 * batch_id)) for batch_id in range(1, MAX_KINDS + 2)
        ]
        assert OLDEST_FIRST_ONE_IN == 2
        assert order[:2] == [[11], [1]]
        assert [first for batch in order for first in batch] == [11, *range(1, MAX_KINDS + 1)]

    def test_few_groups_count_as_kinds_and_run_in_order_of_arrival(self, busy):
        busy.cancel(MAX_KINDS)
        assert keys(busy.done(1, at=10)) == [1]

    def test_many_buckets_of_a_padded_model_run_in_order_of_arrival(self, play):
        play.fixed()
        settings = play.scheduler.models["m"].settings
        lengths = tuple(range(1, 2 * MAX_KINDS + 1))
        padding = (PaddedAxis(0, 1, lengths),)
        play.feed(ModelConfigured("m", replace(settings, padding=padding)))
        play.up()
        play.arrive(0, shapes=((1,),))
        for length in lengths:
            play.arrive(*range(10 * length, 10 * length + 1 + length // 8), shapes=((length,),))

        assert keys(play.done(1, 0)) == [10]
        assert keys(play.done(2, 10)) == [20]

    def test_a_better_priority_level_goes_first(self, busy):
        busy.feed(replace(busy.request(20, key="x"), priority=1))
        assert keys(busy.done(1, at=10)) == [20]

    def test_groups_that_gained_a_level_are_not_all_served_before_the_others(self, busy):
        busy.arrive(*range(30, 34), at=1100)
        commands = busy.done(1, at=1100)
        assert keys(commands) == [11]
        assert keys(busy.done(2, at=1120)) == [1]

    def test_a_restored_scheduler_continues_with_the_same_count(self, busy):
        busy.done(1, at=10)
        scheduler = busy.scheduler
        twin = type(scheduler).restore(scheduler.snapshot())
        assert twin.models["m"].dispatch_count == scheduler.models["m"].dispatch_count == 2
        assert twin.snapshot() == scheduler.snapshot()


class TestMaxGroups:
    @pytest.fixture
    def full(self, play):
        """Three groups wait, as many as may; request 0 runs."""
        play.fixed(max_groups=3)
        play.up()
        play.arrive(0)
        play.feed(*apart(play, (1, 2, 3)))
        return play

    REFUSED = (Outcome.REJECTED, Reason.QUEUE_GROUPS)

    def test_one_more_replaces_the_oldest_group_of_one(self, full):
        commands = full.arrive(4)
        assert commands == [Settle((1,), *self.REFUSED, QUEUE_FULL_RETRY_NS)]

    def test_requests_of_a_waiting_group_are_admitted(self, full):
        assert full.arrive(4, key="own 2") == []

    def test_groups_of_several_requests_are_not_replaced(self, full):
        full.arrive(4, key="own 1")
        assert full.ended(full.arrive(5)) == {2: self.REFUSED}

    def test_groups_of_a_better_priority_level_are_not_replaced(self, full):
        newcomer = replace(full.request(4), priority=3)
        assert full.ended(full.feed(newcomer)) == {4: self.REFUSED}

    def test_promotion_does_not_protect_a_group(self, full):
        full.now = 1500
        full.arrive(9, key="own 3")
        assert full.ended(full.arrive(4)) == {1: self.REFUSED}

    def test_a_lower_bound_refuses_nothing_that_waits(self, full):
        full.fixed(max_groups=2)
        assert full.ended(full.arrive(4)) == {4: self.REFUSED}


@pytest.mark.parametrize("padded", [False, True])
def test_the_backlog_counts_a_batch_for_each_group(play, padded):
    play.model("m", Adaptive(), 8)
    shapes = ((4,),) if padded else ()
    if padded:
        settings = play.scheduler.models["m"].settings
        padding = (PaddedAxis(0, 1, (4, 8)),)
        play.feed(ModelConfigured("m", replace(settings, padding=padding)))
    profile = tuple((rows, (5 + rows) * MILLISECOND) for rows in range(1, 9))
    buckets = ((((4,),), profile), (((8,),), profile)) if padded else ()
    play.feed(InstanceUp("i", 1, "m", "d", 1, () if padded else profile, buckets))
    play.arrive(0, shapes=shapes)
    play.feed(*apart(play, range(1, 11), shapes=shapes))
    model = play.scheduler.models["m"]
    last = 10 if padded else 9 + 13 / 8 / 6
    assert model.times.backlog_ns(model.queue, 10) == pytest.approx(last * 6 * MILLISECOND)

    for request_id in range(1, 11):
        play.cancel(request_id)
    play.arrive(*range(21, 31), shapes=shapes)
    assert model.times.backlog_ns(model.queue, 10) == pytest.approx(10 * 13 / 8 * MILLISECOND)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [Adaptive(), FixedWindow()])
@pytest.mark.parametrize("target", [50, None])
def test_one_caller_with_a_key_per_request_takes_nothing_from_the_others(
    stage, arrivals, policy, target
):
    """A stream at a third of the device, beside nine times the device in groups of one."""
    stage.model(target=target, policy=policy)
    stage.up()
    others = [
        (at_ns, {"batch_key": str(number)})
        for number, (at_ns, _) in enumerate(arrivals(1500, 2, 51))
    ]
    [stream, _] = stage.play(arrivals(300, 2, 1), others)

    refused = sum(end.outcome is not Outcome.OK for end in stream)
    assert refused <= 0.005 * len(stream)
    took_ns = sorted(end.took_ns for end in stream if end.outcome is Outcome.OK)
    assert took_ns[int(0.99 * len(took_ns))] < 45 * MILLISECOND


def test_the_group_whose_late_request_is_next_is_asked_as_well(play):
    queue = ModelQueue()
    for number in range(3 * MAX_GROUPS_ASKED):
        request = LiveRequest(play.request(number, key=str(number)), number, None)
        if number == 40:
            request.rank, request.finish_by_ns = LATE, 7
        queue.add(request)
    asked, more = groups_to_ask(queue, late_turn_ns=7)
    assert "40" in {group.key[0] for group in asked}
    assert more
