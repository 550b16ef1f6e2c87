"""What the core tells a policy and asks it, with policies written for these tests."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason
from batcher.core.events import InstanceUp, ModelConfigured, RequestArrived
from batcher.core.policies import BatchPolicy, Choose, Take, Wait, greedy_policy, make_policy
from batcher.core.queueing.ranks import rank_of
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings, QueueLimits


class Told(BatchPolicy):
    """A policy that remembers what it was told, and takes one request at a time."""

    learns_arrivals = True

    def __init__(self):
        self.told = []

    def decide(self, group, given):
        return Take(1)

    def on_arrival(self, rows, rank, now_ns, active):
        self.told.append(("arrival", rows, rank, now_ns // MILLISECOND, active))

    def on_batch_done(self, rows, now_ns):
        self.told.append(("done", rows, now_ns // MILLISECOND))

    def take_over(self, previous, new_rank):
        if isinstance(previous, Told):
            self.told = [*previous.told, ("take over", new_rank(rank_of(3, over_share=False)))]

    def capture(self):
        return (tuple(self.told),)

    def restore(self, state):
        (told,) = state
        self.told = list(told)


def test_it_is_told_of_arrivals_and_ends(play_with):
    policy = Told()
    play = play_with(policy)
    play.none()
    play.up()
    play.arrive(1, at=1, rows=2)
    play.arrive(2, at=2)
    play.done(1, 1, at=3)

    default = rank_of(2, over_share=False)
    assert policy.told == [
        ("arrival", 2, default, 1, False),
        ("arrival", 1, default, 2, True),
        ("done", 2, 3),
    ]


def test_a_policy_that_learns_nothing_is_not_told_of_arrivals(play_with):
    policy = Told()
    policy.learns_arrivals = False
    play = play_with(policy)
    play.none()
    play.up()
    play.arrive(1, at=1)

    assert policy.told == []


def test_the_next_one_takes_over_with_the_ranks_of_the_new_settings(make_scheduler):
    made = []

    def make(settings):
        made.append(Told())
        return made[-1]

    scheduler = make_scheduler(make)
    for levels in (3, 1):
        limits = QueueLimits(priority_levels=levels, default_priority=1)
        scheduler.handle([ModelConfigured("m", ModelSettings(8, FixedWindow(), limits))], 0)

    assert [each.told for each in made] == [[], [("take over", rank_of(1, over_share=False))]]


def test_what_it_learned_is_part_of_a_snapshot(play_with):
    play = play_with(Told())
    play.none()
    play.up()
    play.arrive(1, 2)
    state = play.scheduler.snapshot()

    restored = Scheduler.restore(state, lambda settings: Told())

    assert len(restored.models["m"].policy.told) == 2
    assert restored.snapshot() == state


@pytest.mark.parametrize(("aware", "order"), [(False, [1, 2]), (True, [2, 1])])
def test_where_it_is_deadline_aware_requests_wait_in_the_order_of_their_due_times(
    play_with, aware, order
):
    policy = Told()
    policy.deadline_aware = aware
    play = play_with(policy)
    play.none()
    play.up()
    play.arrive(0)
    play.feed(play.request(1, due=90), play.request(2, due=50))

    assert [r.id for r in play.scheduler.models["m"].queue] == order


@pytest.mark.parametrize("serves", [False, True])
def test_what_it_gives_up_is_refused_or_waits_late(make_scheduler, serves):
    class GivesUp(BatchPolicy):
        deadline_aware = True
        serves_late = serves
        given_up = False

        def decide(self, group, given):
            if not self.given_up:
                self.given_up = True
                return Choose((), tuple(group), given.now_ns + 1)
            return Wait(given.now_ns + MILLISECOND)

    scheduler = make_scheduler(lambda settings: GivesUp())
    scheduler.handle([ModelConfigured("m", ModelSettings(8, FixedWindow(), target_ns=5))], 0)
    commands = scheduler.handle(
        [
            InstanceUp("i", 1, "m", "d", 1),
            RequestArrived(1, "m", 1, 0, (), "", 0),
        ],
        0,
    )

    ended = {i: (c.outcome, c.reason) for c in commands for i in c.ids}
    assert ended == ({} if serves else {1: (Outcome.REJECTED, Reason.PREDICTED_LATE)})


def test_it_must_say_how_it_decides():
    class Silent(BatchPolicy):
        pass

    with pytest.raises(TypeError, match="decide"):
        Silent()


def test_the_greedy_policy_is_fixed_without_a_delay(play_with):
    play = play_with(greedy_policy(4))
    play.none(max_rows=4)
    play.up()

    assert play.batches(play.arrive(1, 2, 3, 4, 5)) == [[1, 2, 3, 4]]
    assert play.wakeup is None
    assert isinstance(greedy_policy(4), type(make_policy(ModelSettings(4, FixedWindow()))))
