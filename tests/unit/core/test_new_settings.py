"""Settings that change under load: what waits, what was learned, and what cannot be taken."""

from __future__ import annotations

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Dispatch, Outcome, PolicyFailed, Reason, SettingsRefused
from batcher.core.events import InstanceUp, ModelConfigured, RequestArrived
from batcher.core.policies import BatchPolicy, make_policy
from batcher.core.queueing.ranks import LATE, late_turn_ns, rank_of
from batcher.core.requests.late import make_late
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, NoBatching, QueueLimits
from batcher.core.times import NEVER_NS
from batcher.testing.invariants import validate

OK = (Outcome.OK, Reason.NONE)
PROFILE = tuple(
    (rows, (5 * MILLISECOND) + rows * MILLISECOND // 2) for rows in (1, 2, 4, 8, 16, 32)
)


def settings(policy=None, *, rows=32, target=50, **limits):
    target_ns = None if target is None else target * MILLISECOND
    return ModelSettings(rows, policy or Adaptive(), QueueLimits(**limits), target_ns)


class Served:
    """A model under `adaptive` on one instance, whose times are known from a warm-up."""

    def __init__(self, scheduler, first=None):
        self.scheduler = scheduler
        self.now_ns = 0
        self.tell(ModelConfigured("m", first or settings()))
        self.tell(InstanceUp("i", 1, "m", "d", 1, PROFILE))

    def tell(self, *events):
        return self.scheduler.handle(events, self.now_ns)

    def pass_ms(self, milliseconds):
        self.now_ns += int(milliseconds * MILLISECOND)

    def arrive(self, *ids, priority=0, tenant="", rows=1):
        key, shapes = "", ()
        return self.tell(
            *[
                RequestArrived(
                    i, "m", rows, 0, shapes, key, self.now_ns, None, None, priority, tenant
                )
                for i in ids
            ]
        )

    def configure(self, *given, **fields):
        return self.tell(ModelConfigured("m", settings(*given, **fields)))

    @property
    def model(self):
        return self.scheduler.models["m"]

    def waiting(self, request_id):
        request = self.scheduler.live[request_id]
        assert request.batch_id is None
        return request

    def give_rank(self, request_id, rank):
        """Move a waiting request to another priority class."""
        request = self.waiting(request_id)
        self.model.queue.discard(request)
        request.rank = rank
        self.model.queue.add(request)

    def make_late(self, request_id):
        """Make a waiting request late, as a policy that gives it up does."""
        request = self.waiting(request_id)
        self.model.queue.discard(request)
        make_late(request, self.model)
        self.model.queue.add(request)

    def busy(self):
        """Have the instance run request 0, so that what arrives waits."""
        self.arrive(0)
        self.pass_ms(1)
        assert self.scheduler.live[0].batch_id is not None


@pytest.fixture
def served(scheduler):
    return Served(scheduler)


@pytest.fixture
def busy(served):
    served.busy()
    return served


# What was learned


def test_arrival_statistics_are_kept(served):
    for request_id in range(200):
        served.pass_ms(1)
        served.arrive(request_id)
    stats = served.model.policy.arrivals
    rate = stats.rate
    assert rate > 0.0

    served.configure(target=25)

    assert served.model.policy.arrivals is stats
    assert stats.target_ns == 25 * MILLISECOND
    assert stats.rate == rate


def test_arrival_statistics_begin_anew_where_there_was_no_target(scheduler):
    served = Served(scheduler, settings(target=None))
    served.configure(target=50)
    assert served.model.policy.arrivals.target_ns == 50 * MILLISECOND


def test_the_current_wait_and_the_account_of_late_requests_are_kept(served):
    served.model.policy._waiting.began_ns = 7
    served.model.late.backlog = 5.0
    served.configure(Adaptive(limit_ns=2 * SECOND, late_share=0.1), target=40)
    assert served.model.policy._waiting.began_ns == 7
    late = served.model.late
    assert (late.backlog, late.share, late.burst_ns) == (5.0, 0.1, 2 * SECOND)


def test_service_times_of_large_batches_survive_a_smaller_maximum(served):
    times = served.model.times.of(())
    curve = list(times.curve)

    served.configure(rows=4)
    assert list(times.curve) == curve[:5]
    served.configure(rows=32)

    assert list(times.curve) == curve


def test_tenants_that_stay_keep_their_usage(scheduler):
    served = Served(scheduler, settings(tenants=(("gold", 4.0), ("gone", 1.0))))
    served.arrive(1, tenant="gold")
    served.arrive(2, tenant="gone")
    kept = [[each for each in kind if each[0] == "gold"] for kind in served.model.shares.capture()]

    served.configure(tenants=(("gold", 2.0), ("new", 1.0)))

    assert [list(kind) for kind in served.model.shares.capture()] == kept
    assert served.model.shares.weights == {"gold": 2.0, "new": 1.0, "default": 1.0}


def test_ranks_of_arrivals_follow_the_levels(served):
    served.arrive(1, priority=3)
    served.arrive(2, priority=1)
    assert set(served.model.policy.arrivals.ranks) == {
        rank_of(3, over_share=False),
        rank_of(1, over_share=False),
    }

    served.configure(priority_levels=1, default_priority=1)

    assert served.model.policy.arrivals.ranks == {}


# What waits


def test_waiting_requests_keep_their_due_times(busy):
    busy.arrive(1)
    due_ns = busy.waiting(1).due_ns

    busy.configure(target=20)
    busy.arrive(2)

    assert busy.waiting(1).due_ns == due_ns
    assert busy.waiting(2).due_ns == busy.now_ns + 20 * MILLISECOND


def test_a_request_without_a_due_time_is_due_a_target_after_the_change(scheduler):
    served = Served(scheduler, settings(target=None))
    served.busy()
    served.arrive(1)
    served.pass_ms(500)

    commands = served.configure(target=50)

    assert commands == []
    assert served.waiting(1).due_ns == served.now_ns + 50 * MILLISECOND
    assert served.waiting(1).finish_by_ns == served.waiting(1).due_ns


def test_waiting_requests_keep_their_expiry(scheduler):
    served = Served(scheduler, settings(timeout_ns=80 * MILLISECOND))
    served.busy()
    served.arrive(1)
    expires_ns = served.waiting(1).expires_ns

    served.configure(timeout_ns=1 * MILLISECOND)

    assert served.waiting(1).expires_ns == expires_ns


def test_levels_that_are_gone_become_the_last_one(busy):
    busy.arrive(1, priority=3)

    busy.configure(priority_levels=2)

    assert busy.waiting(1).rank == rank_of(2, over_share=False)


def test_a_shorter_promote_after_holds_for_waiting_requests(busy):
    busy.arrive(1, priority=3)

    busy.configure(promote_after_ns=10 * MILLISECOND)

    assert busy.waiting(1).promote_at_ns == busy.now_ns + 10 * MILLISECOND


def test_no_request_is_over_a_share_that_is_gone(scheduler):
    served = Served(scheduler, settings(tenants=(("gold", 4.0),)))
    served.busy()
    served.arrive(1)
    served.give_rank(1, rank_of(2, over_share=True))

    served.configure()

    assert served.waiting(1).rank == rank_of(2, over_share=False)


def test_late_requests_stay_late_in_their_order(busy):
    for request_id in (1, 2):
        busy.arrive(request_id)
        busy.make_late(request_id)
        busy.pass_ms(1)
    busy.model.late.waiting = False

    busy.configure(priority_levels=1, default_priority=1, target=40)

    (group,) = busy.model.queue.groups.values()
    assert [(each.id, each.rank) for each in group] == [(1, LATE), (2, LATE)]
    assert busy.model.late.waiting
    validate(busy.scheduler)


def test_the_limit_of_a_waiting_request_stays_as_it_was(busy):
    busy.configure(Adaptive(limit_ns=300 * MILLISECOND))
    busy.arrive(1)
    until_ns = busy.now_ns + 300 * MILLISECOND
    busy.configure(Adaptive(limit_ns=None))
    busy.arrive(2)
    assert busy.waiting(1).limit_ns == until_ns
    assert busy.waiting(2).limit_ns >= NEVER_NS
    busy.configure(FixedWindow(0))

    busy.now_ns = until_ns - 1
    assert not busy.tell()
    busy.now_ns = until_ns
    (settle,) = busy.tell()
    assert (settle.ids, settle.reason) == ((1,), Reason.PREDICTED_LATE)


def test_another_policy_serves_each_level_in_the_order_of_arrival(busy, play_with):
    busy.arrive(1, priority=3)
    busy.pass_ms(1)
    busy.arrive(2, priority=1)

    busy.configure(FixedWindow(0))
    busy.pass_ms(1)
    busy.arrive(3)
    busy.arrive(4, priority=3)

    (group,) = busy.model.queue.groups.values()
    assert [request.id for request in group] == [2, 3, 1, 4]


def test_late_requests_get_their_level_under_a_policy_without_due_times(busy):
    busy.arrive(1, priority=3)
    busy.make_late(1)

    busy.configure(FixedWindow(0))

    assert busy.waiting(1).rank == rank_of(3, over_share=False)


def test_a_request_may_become_late_twice(busy):
    """Under `fixed` it is not, and afterwards it can still not be in time."""
    busy.arrive(1)
    arrival_ns = busy.now_ns
    busy.make_late(1)
    busy.configure(FixedWindow(0))
    busy.configure()
    assert busy.waiting(1).rank == rank_of(2, over_share=False)
    assert busy.waiting(1).finish_by_ns == busy.waiting(1).due_ns

    busy.make_late(1)
    request = busy.waiting(1)
    assert (request.rank, request.promote_at_ns) == (LATE, NEVER_NS)
    assert request.finish_by_ns == late_turn_ns(
        rank_of(2, over_share=False), arrival_ns, QueueLimits()
    )
    validate(busy.scheduler)


def test_adaptive_gives_waiting_requests_their_level(scheduler):
    served = Served(scheduler, settings(FixedWindow(0)))
    served.busy()
    served.arrive(1)
    served.arrive(2, priority=1)
    served.arrive(3, priority=9)

    served.configure()

    levels = {i: served.waiting(i).rank for i in (1, 2, 3)}
    assert levels == {
        i: rank_of(level, over_share=False) for i, level in {1: 2, 2: 1, 3: 3}.items()
    }
    assert served.waiting(1).finish_by_ns == served.waiting(1).due_ns


# Bounds


def test_no_waiting_request_makes_room_where_a_bound_was_lowered(busy):
    busy.arrive(1, 2, 3, priority=3)

    assert busy.configure(max_requests=2) == []
    (settle,) = busy.arrive(4, priority=1)

    assert (settle.ids, settle.reason) == ((4,), Reason.QUEUE_REQUESTS)
    assert busy.model.queue.requests == 3


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_rows": 5}, Reason.QUEUE_ROWS), ({"max_requests": 2}, Reason.QUEUE_REQUESTS)],
)
def test_a_queue_that_is_full_but_within_its_bounds_still_makes_room(busy, limits, reason):
    busy.arrive(1, rows=3, priority=3)
    busy.arrive(2, rows=2, priority=3)
    busy.configure(**limits)

    (settle,) = busy.arrive(3, priority=1)

    assert (settle.ids, settle.reason) == ((2,), reason)


# What cannot be taken


def failing(made):
    """A factory that raises after its first policy."""

    def make(wanted):
        made.append(wanted)
        if len(made) > 1:
            raise ValueError("no such window")
        return make_policy(wanted)

    return make


def test_settings_whose_policy_cannot_be_made_change_nothing(make_scheduler):
    served = Served(make_scheduler(failing([])))
    served.busy()
    served.arrive(1, priority=3)
    state = served.scheduler.snapshot()
    policy = served.model.policy

    commands = served.configure(rows=1, target=10, max_requests=1, priority_levels=1)

    assert commands == [SettingsRefused("m", "ValueError: no such window")]
    assert served.scheduler.snapshot() == state
    assert served.model.policy is policy


def test_a_model_that_comes_back_and_whose_policy_cannot_be_made_forms_greedy_batches(
    make_scheduler,
):
    served = Served(make_scheduler(failing([0])), settings(rows=8))
    assert served.model.policy_failed
    assert served.model.target_ns == 50 * MILLISECOND
    assert [type(c) for c in served.configure()] == [SettingsRefused]
    restored = Scheduler.restore(served.scheduler.snapshot(), failing([0]))
    assert restored.snapshot() == served.scheduler.snapshot()


def test_after_a_policy_failed_waiting_requests_go_before_new_ones(make_scheduler):
    class Broken(BatchPolicy):
        def decide(self, group, given):
            raise RuntimeError

    served = Served(make_scheduler(), settings(rows=1))
    served.busy()
    served.arrive(1, 2, priority=3)
    served.model.policy = Broken()
    commands = served.tell(InstanceUp("j", 1, "m", "d", 1, PROFILE))
    assert [type(c) for c in commands] == [PolicyFailed, Dispatch]
    served.arrive(3, priority=3)
    served.arrive(4)

    (group,) = served.model.queue.groups.values()
    assert [request.id for request in group] == [4, 2, 3]


# The target


def test_a_target_that_cannot_be_met_is_known_at_once(served):
    served.configure(target=3)
    assert not served.model.reachable
    assert served.arrive(1)[0].parts

    served.configure(target=50)
    assert served.model.reachable


def test_requests_admitted_without_batching_are_answered_under_adaptive(scheduler):
    served = Served(scheduler, settings(NoBatching(), target=None))
    served.busy()
    served.arrive(*range(1, 40))
    served.configure()
    assert served.model.queue.requests == 39


def test_a_request_that_comes_back_is_due_as_the_settings_of_now_say(play):
    play.fixed(max_rows=2, target=50)
    play.up()
    play.arrive(1, 2)
    play.model("m", Adaptive(), 2, target=50)
    play.arrive(3, 4, at=1)
    assert play.batches(play.error(1, at=2)) == [[1]]

    commands = play.error(2, at=3)

    assert play.ended(commands) == {1: (Outcome.FAILED, Reason.UNKNOWN_FAILURE)}
    assert play.scheduler.live[2].finish_by_ns == 50 * MILLISECOND
    assert play.batches(commands) == [[2, 3]]
