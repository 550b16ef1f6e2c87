"""The contract of docs/scheduling.md, a property test for each of its sentences."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome, Reason
from batcher.core.events import RequestArrived
from batcher.core.settings import (
    Adaptive,
    FixedWindow,
    ModelSettings,
    NoBatching,
    PaddedAxis,
    QueueLimits,
)
from batcher.simulation.engine.stalls import Stalls

PADDING = (PaddedAxis(0, 1, (4, 8)),)
LONGEST = 8
ROOM = {"max_requests": 10_000, "max_groups": 10_000}
"""No bound of the queue is hit, so that only predictions refuse."""

SLOW = settings(
    max_examples=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@st.composite
def limits(draw):
    return QueueLimits(
        **ROOM,
        priority_levels=draw(st.sampled_from((1, 3))),
        default_priority=1,
        promote_after_ns=draw(st.sampled_from((20, 1000))) * MILLISECOND,
        tenants=draw(st.sampled_from(((), (("default", 1.0), ("gold", 4.0))))),
    )


@st.composite
def models(draw, limit_ms=(None, 100, 1000), target_ms=(20, 50)):
    """A model under any policy, without a bound that could be hit."""
    target_ns = draw(st.sampled_from(target_ms)) * MILLISECOND
    limit = draw(st.sampled_from(limit_ms))
    limit_ns = None if limit is None else max(target_ns, limit * MILLISECOND)
    policies = (Adaptive(limit_ns=limit_ns),) * 3 + (FixedWindow(2 * MILLISECOND), NoBatching())
    return ModelSettings(
        draw(st.sampled_from((1, 4, 8, 32))),
        draw(st.sampled_from(policies)),
        draw(limits()),
        target_ns,
        draw(st.sampled_from(((), PADDING))),
    )


@st.composite
def devices(draw, device_of):
    return device_of(*draw(st.sampled_from(((5, 0.5), (5, 1), (1, 2), (3, 0.5, 100)))))


def requests_of(draw, settings_, at_ns, *, deadline_ns=None, split=True):
    """Requests at these moments: of several groups, priorities, tenants, lengths and sizes."""
    found = []
    for number, moment_ns in enumerate(sorted(at_ns)):
        rows = draw.choice([1, 1, 1, 2, 3])
        if split and draw.random() < 0.05:
            rows = 2 * settings_.max_batch_size + 1
        shapes = ((draw.randint(1, LONGEST),),) if settings_.padding else ()
        found.append(
            RequestArrived(
                number,
                "m",
                rows if split else min(rows, settings_.max_batch_size),
                0,
                shapes,
                draw.choice(["", "", "", "k"]),
                moment_ns,
                deadline_ns=None if deadline_ns is None else moment_ns + deadline_ns,
                priority=draw.choice([0, 0, 1, 2, 3]),
                tenant=draw.choice(["", "gold", "x"]),
            )
        )
    return found


def one_by_one_ns(settings_, requests, device):
    """What all requests take one after the other, each alone, in pieces where it is split."""
    most, total_ns = settings_.max_batch_size, 0
    bucket = ((LONGEST,),) if settings_.padding else ()
    for request in requests:
        full, rest = divmod(request.rows, most)
        total_ns += full * device.takes_ns(most, bucket)
        total_ns += device.takes_ns(rest, bucket) if rest else 0
    return total_ns


def own_limit_ns(settings_):
    return settings_.policy.limit_ns if isinstance(settings_.policy, Adaptive) else None


# (1) A target is a goal: a request is not refused because it will be late, as long as it can be
# answered within its limit.


@pytest.mark.slow
@SLOW
@given(data=st.data(), seed=st.integers(0, 1 << 32))
def test_a_burst_that_fits_its_limit_is_answered_whole(play, device_of, data, seed):
    """Served one by one in any order, all would be answered by their limits: so none is refused."""
    draw = random.Random(seed)
    asked, device = data.draw(models()), data.draw(devices(device_of))
    count, spread_ms = draw.choice([1, 5, 30, 100]), draw.choice([0, 5, 30])
    at_ns = [round(draw.random() * spread_ms * MILLISECOND) for _ in range(count)]
    requests = requests_of(draw, asked, at_ns)
    work_ns = one_by_one_ns(asked, requests, device)
    longest_ns = work_ns + (spread_ms + 100) * MILLISECOND
    limit_ns = own_limit_ns(asked)
    if draw.random() < 0.5:
        deadline_ns = 2 * longest_ns
        requests = requests_of(random.Random(seed), asked, at_ns, deadline_ns=deadline_ns)
    assume(limit_ns is None or longest_ns < limit_ns)
    played = play(asked, requests, device, instances=draw.choice([1, 2]))
    assert set(played.outcomes()) == {(Outcome.OK, Reason.NONE)}
    assert max(played.waited_ns().values()) <= longest_ns


# (2) The limit is the caller's deadline if there is one that is earlier, else a setting. With the
# target as the limit, what cannot be in time is refused.


@pytest.mark.slow
@SLOW
@given(data=st.data(), seed=st.integers(0, 1 << 32))
def test_what_is_answered_is_answered_by_its_limit(play, device_of, data, seed):
    """A batch that has begun ends, so an answer may come one batch after the limit."""
    draw = random.Random(seed)
    asked, device = data.draw(models(limit_ms=(20, 100, 300))), data.draw(devices(device_of))
    assume(isinstance(asked.policy, Adaptive))
    rate = draw.choice([0.5, 1.0, 2.0, 4.0]) / device.takes_ns(1)
    at_ns = arrivals(draw, rate, 400)
    deadline_ns = draw.choice([None, 60 * MILLISECOND])
    requests = requests_of(draw, asked, at_ns, deadline_ns=deadline_ns, split=False)
    played = play(asked, requests, device)
    bucket = ((LONGEST,),) if asked.padding else ()
    longest_ns = device.takes_ns(asked.max_batch_size, bucket)
    limit_ns = min(asked.policy.limit_ns, deadline_ns or 1 << 62)
    assert max(played.waited_ns().values(), default=0) <= limit_ns + longest_ns
    reasons = {e.reason for e in played.ended.values()}
    allowed = {Reason.NONE, Reason.PREDICTED_LATE}
    of_callers = {Reason.CALLER_DEADLINE, Reason.DEADLINE_TOO_SHORT} if deadline_ns else set()
    assert reasons <= allowed | of_callers


def arrivals(draw, rate, count):
    """Poisson arrivals: so many, `rate` a nanosecond."""
    now_ns, found = 0.0, []
    for _ in range(count):
        now_ns += draw.expovariate(rate)
        found.append(round(now_ns))
    return found


# (3) Nothing is refused for a prediction while an instance that could run it is idle and nothing
# that is more urgent waits.


@pytest.mark.slow
@SLOW
@given(data=st.data(), seed=st.integers(0, 1 << 32))
def test_nothing_is_refused_for_a_prediction_beside_an_idle_instance(play, device_of, data, seed):
    """Whatever was predicted: devices change their speed, and batches are handed over or heard late."""
    draw = random.Random(seed)
    asked, device = data.draw(models(limit_ms=(100, None))), data.draw(devices(device_of))
    rate = draw.choice([0.2, 0.6, 1.5]) / device.takes_ns(1)
    requests = requests_of(
        draw, asked, arrivals(draw, rate, 300), deadline_ns=draw.choice([None, 30 * MILLISECOND])
    )
    change = [draw.choice([0.3, 1.0, 3.0, 20.0]) for _ in range(8)]
    played = play(
        asked,
        requests,
        device,
        instances=draw.choice([1, 2]),
        stalls=stalls_of(draw, requests[-1].arrival_ns),
        slower=lambda now_ns: change[now_ns // (200 * MILLISECOND) % len(change)],
    )
    assert played.beside_idle == []


def stalls_of(draw, until_ns):
    """Stalls of each part, or of none, at random moments."""
    spells = {}
    for part in ("loop", "dispatch", "reply", "device"):
        every_ns = draw.choice([0, 50, 300]) * MILLISECOND
        found, now_ns = [], 0
        while every_ns and now_ns < until_ns:
            start_ns = now_ns + round(draw.expovariate(1 / every_ns)) + 1
            now_ns = start_ns + draw.choice([1, 20, 200]) * MILLISECOND
            found.append((start_ns, now_ns))
        spells[part] = found
    return Stalls(**spells)


# (4) When more is offered than can be served, for longer than a burst, those that can be in time are
# served in time, and what must be refused is refused at once, with the time after which a retry makes
# sense; serving what is late costs those in time at most a stated share.


@pytest.mark.slow
@settings(SLOW, max_examples=12)
@given(
    seed=st.integers(0, 1 << 32),
    load=st.sampled_from((1.5, 2.0, 4.0)),
    shape=st.sampled_from(((5, 0.5, 50), (5, 1, 50), (5, 1, 100))),
    share=st.sampled_from((0.02, 0.05)),
    levels=st.sampled_from((1, 3)),
)
def test_what_is_late_costs_those_in_time_its_share(
    play, device_of, seed, load, shape, share, levels
):
    base_ms, row_ms, target_ms = shape
    device, draw = device_of(base_ms, row_ms), random.Random(seed)
    target_ns, limit_ns = target_ms * MILLISECOND, SECOND
    rate = load * 32 / device.takes_ns(32)
    at_ns = arrivals(draw, rate, int(rate * 4 * SECOND))
    requests = [
        RequestArrived(i, "m", 1, 0, (), "", t, priority=draw.randint(1, levels))
        for i, t in enumerate(at_ns)
    ]

    def played(policy):
        limits = QueueLimits(**ROOM, priority_levels=levels, default_priority=1)
        asked = ModelSettings(32, policy, limits, target_ns)
        return play(asked, requests, device, validate=False)

    refusing = played(Adaptive(limit_ns=target_ns))
    serving = played(Adaptive(limit_ns=limit_ns, late_share=share))
    from_ns = 2 * limit_ns

    def in_time(each):
        due = {i: w for i, w in each.waited_ns().items() if each.arrived[i].arrival_ns >= from_ns}
        return sum(waited_ns <= target_ns + 1000 for waited_ns in due.values())

    assert in_time(serving) >= (1 - share - 0.03) * in_time(refusing)
    refused = {i: e for i, e in serving.refused().items() if requests[i].arrival_ns >= from_ns}
    assert refused
    assert all(e.retry_ns is not None and e.retry_ns > 0 for e in refused.values())
    waits_ns = sorted(e.at_ns - requests[i].arrival_ns for i, e in refused.items())
    assert waits_ns[int(0.9 * len(waits_ns))] <= target_ns + device.takes_ns(32)


# (5) What is late is served in order and soon: its longest wait is bounded by the limit and grows
# with the backlog, not with luck.


@pytest.mark.slow
@SLOW
@given(
    seed=st.integers(0, 1 << 32),
    load=st.sampled_from((0.0, 0.5, 0.8, 1.2)),
    size=st.sampled_from((30, 100, 300)),
    shape=st.sampled_from(((5, 0.5), (5, 1))),
)
def test_what_is_late_is_served_in_order(play, device_of, seed, load, size, shape):
    device, draw = device_of(*shape), random.Random(seed)
    target_ns, limit_ns = 50 * MILLISECOND, SECOND
    rate = load * 32 / device.takes_ns(32)
    at_ns = arrivals(draw, rate, int(rate * SECOND)) if load else []
    burst_ns = 200 * MILLISECOND
    at_ns = sorted(at_ns + [burst_ns] * size)
    requests = [RequestArrived(i, "m", 1, 0, (), "", t) for i, t in enumerate(at_ns)]
    asked = ModelSettings(32, Adaptive(limit_ns=limit_ns), QueueLimits(**ROOM), target_ns)
    played = play(asked, requests, device)
    waited = played.waited_ns()
    late = [i for i in sorted(waited) if waited[i] > target_ns + 1000]
    begun = [played.begun_ns[i] for i in late]
    assert begun == sorted(begun)
    assert max(waited.values()) <= limit_ns + device.takes_ns(32)
    if load < 1:
        work_ns = size / 32 * device.takes_ns(32) + 2 * device.takes_ns(32)
        assert max(waited.values()) <= work_ns / (1 - load) + target_ns
