"""No request is refused for ever because of a prediction, nor beside an idle instance."""

from __future__ import annotations

import random

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome
from batcher.core.events import DeviceConfigured, RepliesTook
from batcher.core.settings import Adaptive, QueueLimits

SHORT, LONG = ((10,),), ((20,),)


def refused_while_idle(ends, *, since=0):
    return sum(e.outcome is Outcome.REJECTED and e.idle and e.at_ns >= since * SECOND for e in ends)


@pytest.mark.parametrize("seed", range(3))
def test_every_shape_comes_back_after_the_device_was_slow(stage, arrivals, in_time, seed):
    stage.model()
    stage.up(sizes=())
    stage.takes_ns = lambda _, rows, now_ns: (
        stage.usual_ns(rows) * (12 if 3 * SECOND <= now_ns < 5 * SECOND else 1)
    )
    one, other = stage.play(
        arrivals(100, 9, 2 * seed, shapes=SHORT), arrivals(100, 9, 2 * seed + 1, shapes=LONG)
    )
    assert in_time(one, since=7) >= 0.99
    assert in_time(other, since=7) >= 0.99


def test_a_shape_that_is_refused_follows_slow_changes_that_others_show(stage, arrivals, in_time):
    """It takes three times as long for a while, by and by; then all is as it was."""
    stage.model()
    buckets = [
        (shape, ((1, (5 + ms) * MILLISECOND), (32, (5 + 32 * ms) * MILLISECOND)))
        for shape, ms in ((SHORT, 1), (LONG, 12))
    ]
    stage.up(sizes=(), buckets=buckets)

    def takes_ns(dispatch, rows, now_ns):
        slow = 1 + 2 * max(0.0, 1 - abs(now_ns / SECOND - 6) / 4)
        return slow * (5 + rows * (12 if dispatch.bucket == LONG else 1)) * MILLISECOND

    stage.takes_ns = takes_ns
    _, long = stage.play(arrivals(60, 14, 1, shapes=SHORT), arrivals(5, 14, 2, shapes=LONG))
    assert in_time(long, since=11) >= 0.8


def test_a_bucket_that_cannot_meet_the_target_is_served_late(stage, arrivals, in_time):
    stage.model(policy=Adaptive(limit_ns=SECOND))
    stage.up(sizes=(), buckets=[(SHORT, ((1, 6 * MILLISECOND),)), (LONG, ((1, 65 * MILLISECOND),))])
    stage.takes_ns = lambda dispatch, *_: (65 if dispatch.bucket == LONG else 6) * MILLISECOND
    short, long = stage.play(arrivals(50, 10, 1, shapes=SHORT), arrivals(1, 10, 2, shapes=LONG))
    assert all(end.outcome is Outcome.OK for end in long)
    assert in_time(short) >= 0.95


@pytest.mark.parametrize("seed", range(3))
def test_late_requests_are_served_soon_after_a_short_stall(stage, arrivals, in_time, seed):
    """The device has time to spare: late requests share the batches of those in time."""
    stage.model(target=100, policy=Adaptive())
    stage.up()
    stage.takes_ns = lambda _, rows, now_ns: (
        stage.usual_ns(rows) * (4 if 3 * SECOND <= now_ns < 3.15 * SECOND else 1)
    )
    (ends,) = stage.play(arrivals(650, 8, seed))
    answered = [end for end in ends if end.outcome is Outcome.OK]
    late = [end.took_ns for end in answered if end.took_ns > 100 * MILLISECOND]
    assert late
    assert max(late) <= SECOND
    assert in_time(ends, since=4) >= 0.99


def test_a_late_request_is_in_one_batch_only(stage, arrivals):
    """After an overload, late and other requests share batches."""
    stage.model(policy=Adaptive(), promote_after_ns=SECOND // 4)
    stage.up()

    def takes_ns(dispatch, rows, _):
        ids = [part.id for part in dispatch.parts]
        assert len(set(ids)) == len(ids)
        return stage.usual_ns(rows)

    stage.takes_ns = takes_ns
    stage.play(arrivals(1300, 4, 1), arrivals(500, 8, 2, priority=2))


@pytest.mark.parametrize("stall_ms", [300, 1000])
def test_one_slow_batch_of_replies_causes_no_refusal(stage, arrivals, stall_ms):
    stage.model()
    stage.up()
    stage.later = [(3 * SECOND, RepliesTook("m", 1, stall_ms * MILLISECOND))]
    (ends,) = stage.play(arrivals(20, 10, 1))
    assert all(end.outcome is Outcome.OK for end in ends)


def test_replies_that_were_slow_are_forgotten_where_few_come(stage, arrivals, in_time):
    stage.model()
    stage.up()
    stage.later = [
        (3 * SECOND + batch * MILLISECOND, RepliesTook("m", 1, 300 * MILLISECOND))
        for batch in range(100)
    ] + [(at_ms * MILLISECOND, RepliesTook("m", 1, 90_000)) for at_ms in range(4000, 16_000, 1000)]
    (ends,) = stage.play(arrivals(20, 16, 1))
    assert in_time(ends, since=14.2) == 1.0


def test_a_stall_of_all_instances_at_once_is_one_stall(stage, arrivals, in_time):
    stage.model()
    for place in range(4):
        stage.up(device=f"d{place}", name=f"m#{place}")

    def takes_ns(_, rows, now_ns):
        stalls = now_ns < 2.2 * SECOND and now_ns + stage.usual_ns(rows) > 2 * SECOND
        return stage.usual_ns(rows) + (200 * MILLISECOND if stalls else 0)

    stage.takes_ns = takes_ns
    (ends,) = stage.play(arrivals(1600, 4, 1))
    assert in_time([end for end in ends if end.at_ns >= 2.5 * SECOND]) >= 0.99
    assert not refused_while_idle(ends)


def test_the_margin_refuses_no_request_that_an_idle_device_can_probably_serve(
    stage, arrivals, in_time
):
    """One row takes over half of the target, and every 20th batch twice as long."""
    stage.model()
    stage.up(sizes=())
    batches = iter(range(1, 1 << 30))
    stage.takes_ns = lambda _, rows, __: (
        (29 + rows) * MILLISECOND * (2.2 if next(batches) % 20 == 0 else 1)
    )
    (ends,) = stage.play(arrivals(20, 40, 1))
    assert in_time(ends) >= 0.65


def test_a_large_request_of_a_low_priority_is_served_where_there_is_room(stage):
    stage.model()
    stage.up()
    urgent = [(10 * MILLISECOND * each, {"priority": 1}) for each in range(300)]
    large = [
        (500 * MILLISECOND * each + 9 * MILLISECOND, {"priority": 3, "rows": 32})
        for each in range(1, 6)
    ]
    urgent, large = stage.play(urgent, large)
    assert all(end.outcome is Outcome.OK for end in urgent + large)


class TestBesideAnIdleInstance:
    """The device is twice as slow as ever for 30 s: no batch is done within the target, which is the limit."""

    SLOW = range(5, 35)

    @pytest.fixture
    def slowed(self, stage):
        stage.model(target=20)
        stage.up()
        stage.takes_ns = lambda _, rows, now_ns: (
            stage.usual_ns(rows) * (5 if now_ns // SECOND in self.SLOW else 1)
        )
        return stage

    def test_some_run_all_the_time_so_that_a_recovery_is_seen(self, slowed, arrivals, in_time):
        (ends,) = slowed.play(arrivals(20, 40, 1))
        ran = {end.at_ns // SECOND for end in ends if end.outcome is Outcome.OK}
        assert len(ran & set(self.SLOW)) >= len(self.SLOW) // 2
        assert in_time(ends, 20, since=37) >= 0.99

    def test_nothing_is_refused_that_its_limit_leaves_time_for(self, stage, arrivals):
        stage.model(target=20, policy=Adaptive(limit_ns=SECOND))
        stage.up()
        stage.takes_ns = lambda _, rows, now_ns: (
            stage.usual_ns(rows) * (5 if now_ns // SECOND in self.SLOW else 1)
        )
        (ends,) = stage.play(arrivals(10, 40, 1))
        assert all(end.outcome is Outcome.OK for end in ends)

    def test_no_prediction_refuses_a_lone_request(self, stage):
        """It is predicted to take 20 ms, which once were 10, and its caller waits for 15 ms."""
        stage.model(target=None)
        stage.up()
        stage.takes_ns = lambda _, rows, now_ns: (
            (10 if now_ns < SECOND or now_ns > 3 * SECOND else 20) * MILLISECOND
        )
        first = [(20 * MILLISECOND * each, {}) for each in range(100)]
        at_ns = 3 * SECOND + MILLISECOND
        hasty = [(at_ns, {"deadline_ns": at_ns + 15 * MILLISECOND})]
        _, (end,) = stage.play(first, hasty)
        assert end.outcome is Outcome.OK

    def test_callers_whose_deadlines_were_too_short_soon_see_a_recovery(self, stage, arrivals):
        """For 30 s a batch takes 30 ms, and all callers wait for 15 ms; then it takes 6 ms again."""
        stage.model(policy=Adaptive(limit_ns=SECOND))
        stage.up()
        stage.takes_ns = lambda _, rows, now_ns: (
            stage.usual_ns(rows) * (5 if now_ns // SECOND in self.SLOW else 1)
        )
        hasty = [
            (at_ns, what | {"deadline_ns": at_ns + 15 * MILLISECOND})
            for at_ns, what in arrivals(20, 45, 1)
        ]
        (ends,) = stage.play(hasty)
        late = [end for end in ends if end.at_ns >= 37 * SECOND]
        assert all(end.outcome is Outcome.OK for end in late)
        assert sum(end.outcome is Outcome.EXPIRED for end in ends) >= 200


@pytest.mark.parametrize("target", [3, 50])
def test_a_burst_is_answered_as_fast_as_the_device_can(stage, target):
    """Also where no batch can be done within the target: then those of any size are used."""
    stage.model(target=target, policy=Adaptive(limit_ns=SECOND))
    stage.up()
    (ends,) = stage.play([(0, {})] * 300)
    assert all(end.outcome is Outcome.OK for end in ends)
    # In batches of 32 rows it takes 353 ms.
    assert max(end.took_ns for end in ends) <= 400 * MILLISECOND


class TestSharedDevice:
    @pytest.fixture
    def shared(self, stage):
        stage.begin.append(DeviceConfigured("d", 1))
        return stage

    @pytest.mark.parametrize("limit_ns", [None, 50 * MILLISECOND])
    def test_a_model_without_a_target_is_not_starved(self, shared, arrivals, limit_ns):
        shared.model(policy=Adaptive(limit_ns=limit_ns))
        shared.model("batch", target=None)
        shared.up()
        shared.up("batch")
        _, batch = shared.play(arrivals(1300, 6, 1), arrivals(10, 6, 2, model="batch"))
        assert all(end.outcome is Outcome.OK for end in batch)
        assert max(end.took_ns for end in batch) <= 2 * QueueLimits().promote_after_ns

    @pytest.mark.parametrize("target", [None, 200, 3])
    def test_an_urgent_model_keeps_its_target_beside_one_that_wants_everything(
        self, shared, arrivals, in_time, target
    ):
        shared.model()
        shared.model("other", target=target)
        shared.up()
        shared.up("other")
        urgent, _ = shared.play(arrivals(260, 8, 1), arrivals(1300, 8, 2, model="other"))
        assert in_time(urgent) >= 0.99

    def test_tenants_keep_their_shares_of_the_models_part(self, shared, arrivals, in_time):
        limits = {"tenants": (("a", 1.0), ("flood", 1.0))}
        shared.model(**limits)
        shared.model("other")
        shared.up()
        shared.up("other")
        a, _, _ = shared.play(
            arrivals(120, 8, 1, tenant="a"),
            arrivals(1500, 8, 2, tenant="flood"),
            arrivals(1300, 8, 3, model="other"),
        )
        assert in_time(a, since=2) >= 0.8


def test_waiting_gives_a_flooding_tenant_no_advantage(stage, arrivals):
    stage.model(target=None, tenants=(("a", 1.0), ("flood", 1.0)))
    stage.up()
    a, _ = stage.play(arrivals(340, 9, 1, tenant="a"), arrivals(2000, 9, 2, tenant="flood"))
    later = sorted(end.took_ns for end in a if end.at_ns >= 6 * SECOND)
    assert later[len(later) // 2] <= 200 * MILLISECOND


def test_others_wait_for_one_batch_of_a_split_request_however_long_it_waits(stage, arrivals):
    stage.model(target=None)
    stage.up()
    stage.takes_ns = lambda _, rows, __: (21 + 4 * rows) * MILLISECOND
    _, others = stage.play([(0, {"rows": 320})], arrivals(60, 3, 1))
    assert max(end.took_ns for end in others) <= 3 * 149 * MILLISECOND


class TestMargin:
    """Requests of 38 rows, which take 43 ms of 50; one batch in five took a little longer lately."""

    LARGE = tuple((500 * MILLISECOND * each, {"rows": 38}) for each in range(24, 60))

    @pytest.fixture
    def noisy(self, stage):
        draw = random.Random(3)

        def takes_ns(_, rows, now_ns):
            slow = now_ns < 10 * SECOND and draw.random() < 0.2
            return stage.usual_ns(rows) * (1.28 if slow else 1)

        stage.takes_ns = takes_ns
        return stage

    @pytest.mark.parametrize(
        ("target", "limit_ns"),
        [
            (None, None),
            (50, 50 * MILLISECOND),
            (50, None),
            (20, None),
        ],
    )
    def test_callers_with_deadlines_are_served(self, noisy, arrivals, target, limit_ns):
        noisy.model(target=target, policy=Adaptive(limit_ns=limit_ns), max_rows=64)
        noisy.up()
        large = [
            (at_ns, what | {"deadline_ns": at_ns + 50 * MILLISECOND}) for at_ns, what in self.LARGE
        ]
        _, ends = noisy.play(arrivals(80, 10, 1), large)
        assert all(end.outcome is Outcome.OK for end in ends)

    def test_so_are_those_of_a_level_among_others(self, noisy, arrivals, in_time):
        noisy.model(max_rows=64)
        noisy.up()
        large = [(at_ns, what | {"priority": 2}) for at_ns, what in self.LARGE]
        _, _, ends = noisy.play(
            arrivals(40, 10, 1, priority=1), arrivals(40, 10, 2, priority=2), large
        )
        assert in_time(ends) == 1.0


class TestUnreachableBucket:
    @pytest.fixture
    def unlike(self, stage):
        """A bucket that is quick, and one whose rows take 400 ms; neither is known beforehand.

        The target is the limit.
        """
        stage.model()
        stage.up()
        stage.takes_ns = lambda dispatch, rows, _: (
            400 * MILLISECOND if dispatch.bucket == LONG else stage.usual_ns(rows)
        )
        return stage

    @pytest.mark.parametrize("rate", [1, 4])
    def test_it_runs_at_most_once_in_a_second(self, unlike, arrivals, in_time, rate):
        short, long = unlike.play(
            arrivals(40, 30, 1, shapes=SHORT), arrivals(rate, 30, 2, shapes=LONG)
        )
        # For at most 400 of 1,000 ms the device runs what no one can be in time for.
        assert in_time(short, since=12) >= 0.6
        assert sum(e.outcome is Outcome.OK and e.at_ns >= 12 * SECOND for e in long) >= 3

    def test_it_runs_less_where_callers_would_not_wait_for_it(self, unlike, arrivals, in_time):
        long = [
            (at_ns, what | {"deadline_ns": at_ns + 100 * MILLISECOND})
            for at_ns, what in arrivals(4, 30, 2, shapes=LONG)
        ]
        short, _ = unlike.play(arrivals(40, 30, 1, shapes=SHORT), long)
        assert in_time(short, since=3) >= 0.95


def test_a_first_batch_that_was_slow_says_nothing_of_other_shapes(stage, arrivals):
    stage.model()
    stage.up(sizes=())
    first = []

    def takes_ns(dispatch, rows, _):
        if dispatch.bucket == LONG and not first:
            first.append(dispatch)
            return 400 * MILLISECOND
        return stage.usual_ns(rows)

    stage.takes_ns = takes_ns
    period = 3 * SECOND
    short = [x for x in arrivals(150, 24, 1, shapes=SHORT) if x[0] % period < SECOND // 2]
    long = [
        x for x in arrivals(150, 24, 2, shapes=LONG) if period // 2 < x[0] % period < 2 * SECOND
    ]
    short, long = stage.play(short, long)
    assert all(end.outcome is Outcome.OK for end in short)
    assert all(end.outcome is Outcome.OK for end in long if end.at_ns >= 6 * SECOND)


def test_a_tenant_over_its_share_is_promoted_at_last(stage, arrivals):
    tenants = (("x", 1.0), ("y", 9.0))
    stage.model(target=None, max_requests=50_000, tenants=tenants, promote_after_ns=SECOND // 2)
    stage.up()
    x, _ = stage.play(arrivals(300, 3, 1, since=1, tenant="x"), arrivals(855, 12, 2, tenant="y"))
    assert max(end.took_ns for end in x) <= 2.5 * SECOND


def test_few_small_requests_keep_no_large_ones_out(stage):
    stage.model()
    stage.up(sizes=())
    stage.takes_ns = lambda _, rows, __: (10 + 0.1 * rows) * MILLISECOND
    small = [(500 * MILLISECOND * each, {}) for each in range(1, 80)]
    large = [(2 * SECOND * each + 250 * MILLISECOND, {"rows": 16}) for each in range(1, 20)]
    _, large = stage.play(small, large)
    assert all(end.outcome is Outcome.OK for end in large[3:])


@pytest.mark.parametrize("target", [None, 50])
@pytest.mark.parametrize("own", [False, True])
def test_requests_with_a_short_queue_timeout_may_run_for_long(stage, arrivals, target, own):
    """Batches take longer than requests may wait: at a low load hardly any has to."""
    stage.model(target=target, **({} if own else {"timeout_ns": 5 * MILLISECOND}))
    stage.up()
    requests = arrivals(10, 20, 1)
    if own:
        requests = [(at, {"queue_until_ns": at + 5 * MILLISECOND}) for at, _ in requests]
    (ends,) = stage.play(requests)
    served = [end for end in ends if end.outcome is Outcome.OK]
    assert len(served) > 0.95 * len(ends)
    assert all(end.took_ns >= 6 * MILLISECOND for end in served)
    assert {end.outcome for end in ends} <= {Outcome.OK, Outcome.EXPIRED}


def test_no_request_waits_for_others_for_longer_than_its_queue_timeout(stage, arrivals):
    """A window of up to 45 ms is worth it here, but for the timeout."""
    stage.model(target=100, timeout_ns=20 * MILLISECOND)
    stage.up()
    (ends,) = stage.play(arrivals(150, 20, 1))
    assert sum(end.outcome is Outcome.OK for end in ends) > 0.999 * len(ends)
    assert max(end.took_ns for end in ends) > 20 * MILLISECOND


def test_a_first_batch_that_was_slow_shuts_out_no_caller_with_a_deadline(stage, arrivals):
    """Nothing was warmed up: the first batch takes 600 ms, all others 6, and callers wait for 300."""
    stage.model(policy=Adaptive(limit_ns=SECOND))
    stage.up(sizes=())
    batches = iter(range(1 << 30))
    stage.takes_ns = lambda _, rows, __: stage.usual_ns(rows) * (1 if next(batches) else 100)
    hasty = [
        (at_ns, what | {"deadline_ns": at_ns + 300 * MILLISECOND})
        for at_ns, what in arrivals(100, 4, 1)
    ]
    (ends,) = stage.play(hasty)
    assert all(end.outcome is Outcome.OK for end in ends if end.at_ns >= SECOND)
