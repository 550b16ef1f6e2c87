"""Requests with any number that a caller can send, and beyond: the scheduler goes on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.clock import MILLISECOND
from batcher.core.commands import Dispatch, Outcome, Reason, Settle
from batcher.core.events import BatchProgress, InstanceUp, ModelConfigured, RequestArrived
from batcher.core.scheduler import Scheduler
from batcher.core.settings import (
    Adaptive,
    FixedWindow,
    ModelSettings,
    NoBatching,
    QueueLimits,
)
from batcher.testing.invariants import validate

NOW_NS = 10**15

NUMBERS = st.sampled_from(
    [
        *(
            sign * (2**bits + more)
            for bits in (31, 62, 63, 64, 70)
            for more in (-1, 0)
            for sign in (1, -1)
        ),
        *(-1, 0, 1),
    ]
)
MOMENTS = st.one_of(
    st.none(), NUMBERS, st.integers(-5, 60).map(lambda ms: NOW_NS + ms * MILLISECOND)
)
POLICIES = (
    Adaptive(),
    Adaptive(limit_ns=20 * MILLISECOND),
    FixedWindow(),
    FixedWindow(5 * MILLISECOND, (2,)),
    NoBatching(),
)


@st.composite
def arrivals(draw: st.DrawFn, request_id: int, now_ns: int) -> RequestArrived:
    """A request of which every number may be extreme."""
    return RequestArrived(
        request_id,
        "m",
        rows=draw(st.sampled_from([1, 1, 2, 3, 8, 9, 2**31, 2**63, 2**70])),
        nbytes=draw(st.sampled_from([0, 1, 2**31, 2**63, 2**70])),
        shapes=draw(st.sampled_from([(), ((1,),), ((2**63,),)])),
        batch_key=draw(st.sampled_from(["", "a"])),
        arrival_ns=draw(st.sampled_from([now_ns, now_ns, now_ns - MILLISECOND])),
        due_ns=draw(MOMENTS),
        deadline_ns=draw(MOMENTS),
        priority=draw(st.one_of(st.integers(-1, 4), NUMBERS)),
        tenant=draw(st.sampled_from(["", "gold"])),
        queue_until_ns=draw(MOMENTS),
    )


@st.composite
def models(draw: st.DrawFn) -> ModelSettings:
    limits = QueueLimits(
        max_requests=draw(st.sampled_from([3, 100])),
        max_groups=draw(st.sampled_from([1, 256])),
        max_bytes=draw(st.sampled_from([None, 2**40])),
        timeout_ns=draw(st.sampled_from([None, 20 * MILLISECOND, 2**63])),
        tenants=draw(st.sampled_from([(), (("gold", 1.0), ("default", 1.0))])),
    )
    target_ns = draw(st.sampled_from([None, 20 * MILLISECOND, 2**62]))
    return ModelSettings(8, draw(st.sampled_from(POLICIES)), limits, target_ns)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=100)
def test_every_request_ends_and_the_state_holds(data):
    scheduler = Scheduler()
    profile = tuple((rows, (2 + rows) * MILLISECOND) for rows in (1, 8))
    begin = [ModelConfigured("m", data.draw(models())), InstanceUp("i", 1, "m", "d", 1, profile)]
    now_ns, told, ended, running = NOW_NS, 0, {}, []

    def step(events):
        for command in scheduler.handle(events, now_ns):
            if isinstance(command, Dispatch):
                running.append(command)
            elif isinstance(command, Settle):
                assert not ended.keys() & set(command.ids)
                ended.update(dict.fromkeys(command.ids, command))
        wakeup_ns = scheduler.next_wakeup_ns()
        assert wakeup_ns is None or wakeup_ns < 2**62
        validate(scheduler)
        scheduler.observe(now_ns)
        assert Scheduler.restore(scheduler.snapshot()).snapshot() == scheduler.snapshot()

    step(begin)
    for _ in range(data.draw(st.integers(1, 4))):
        count = data.draw(st.integers(1, 4))
        step([data.draw(arrivals(told + n, now_ns)) for n in range(count)])
        told += count
        now_ns += data.draw(st.integers(0, 15)) * MILLISECOND
        if running and data.draw(st.booleans()):
            batch = running.pop(0)
            step([BatchProgress(batch.batch_id, tuple({p.id for p in batch.parts}))])
    for _ in range(200):
        if not scheduler.live:
            break
        now_ns += 15 * MILLISECOND
        batches, running[:] = running[:], []
        step([BatchProgress(b.batch_id, tuple({p.id for p in b.parts})) for b in batches])

    assert set(ended) == set(range(told))
    for command in ended.values():
        assert command.outcome is Outcome.OK or command.reason is not Reason.NONE
        assert command.retry_after_ns is None or 0 < command.retry_after_ns < 2**62
