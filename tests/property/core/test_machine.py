"""The scheduler against the naive ledger, under any order of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from batcher.clock import MILLISECOND
from batcher.core.commands import Dispatch, Settle
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    DeviceConfigured,
    Failure,
    FailureCause,
    InstanceDown,
    InstanceDraining,
    InstanceUp,
    ModelConfigured,
    ModelRemoved,
    RequestCancelled,
)
from batcher.core.scheduler import Scheduler
from batcher.testing.invariants import validate
from batcher.testing.strategies import (
    DEVICES,
    INSTANCES,
    MODELS,
    milliseconds,
    model_settings,
    requests,
)

CAUSES = tuple(cause for cause in FailureCause if cause is not FailureCause.MEMORY)
"""What makes requests and batches fail. The ledger knows of no ceiling, which a lack of memory brings: the accounts
(tests/property/core/accounts) play that."""


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self, ledger):
        super().__init__()
        self.scheduler = Scheduler()
        self.twin = None
        self.ledger = ledger
        self.ledger.times = lambda arrived: self.scheduler.models[arrived.model].times.get(
            arrived.shapes
        )
        self.now_ns = 0
        self.pending = []
        self.next_id = 1
        self.incarnations = dict.fromkeys(INSTANCES, 0)

    def tell(self, events, now_ns):
        expected = self.ledger.take_in(events, now_ns)
        commands = self.scheduler.handle(events, now_ns)
        ended = [
            (i, (c.outcome, c.reason)) for c in commands if isinstance(c, Settle) for i in c.ids
        ]
        assert len(ended) == len(expected)
        assert dict(ended) == expected
        # What batches take, and so what targets are worth, is nothing that the ledger knows.
        models = self.scheduler.models.items()
        self.ledger.out_of_reach = {name for name, model in models if not model.reachable}
        for command in commands:
            if isinstance(command, Dispatch):
                self.ledger.dispatch(command)
            else:
                assert isinstance(command, Settle)
        assert self.ledger.candidates() == []
        assert self.scheduler.next_wakeup_ns() == self.ledger.wakeup_ns()
        validate(self.scheduler)
        if self.twin is not None:
            assert self.twin.handle(events, now_ns) == commands
            assert self.twin.snapshot() == self.scheduler.snapshot()
            assert self.twin.next_wakeup_ns() == self.scheduler.next_wakeup_ns()

    def pass_time(self, until_ns):
        """Time passes with a timer that is exact."""
        while (wakeup_ns := self.scheduler.next_wakeup_ns()) is not None and wakeup_ns <= until_ns:
            assert wakeup_ns > self.scheduler.now_ns
            self.tell([], wakeup_ns)

    # What happens in one moment piles up in `pending`, until the scheduler is told.

    @initialize(
        settings=st.tuples(*[model_settings() for _ in MODELS]), limit=st.none() | st.integers(1, 2)
    )
    def begin(self, settings, limit):
        self.pending += [ModelConfigured(*each) for each in zip(MODELS, settings, strict=True)]
        self.pending.append(DeviceConfigured(DEVICES[0], limit))
        for instance, model in zip(INSTANCES, (*MODELS, MODELS[0]), strict=True):
            self.incarnations[instance] = 1
            self.pending.append(InstanceUp(instance, 1, model, DEVICES[0]))

    def tell_pending(self, now_ns):
        pending, self.pending = self.pending, []
        self.tell(pending, now_ns)

    @rule(delta_ns=milliseconds(0, 4))
    def time_passes(self, delta_ns):
        self.now_ns += delta_ns
        self.pass_time(self.now_ns)
        self.tell_pending(self.now_ns)

    @rule(delta_ns=milliseconds(-1, 8))
    def time_passes_and_the_timer_is_late(self, delta_ns):
        self.now_ns += max(0, delta_ns)
        self.tell_pending(self.now_ns + min(0, delta_ns))

    @rule(data=st.data(), count=st.integers(1, 5))
    def arrive(self, data, count):
        for _ in range(count):
            self.pending.append(data.draw(requests(self.next_id, self.now_ns)))
            self.next_id += 1

    @rule(back=st.integers(0, 10), cause=st.sampled_from(CancelCause))
    def cancel(self, back, cause):
        self.pending.append(RequestCancelled(self.next_id - back, cause))

    @rule(data=st.data(), last=st.booleans())
    def progress(self, data, last):
        batch_id = data.draw(st.sampled_from([*self.ledger.running, 0, 1]))
        batch = self.ledger.running.get(batch_id)
        left = batch.left if batch else [2]
        ids = st.lists(st.sampled_from([*left, self.next_id]), max_size=4)
        failures = st.builds(Failure, st.sampled_from([*left, 1]), st.sampled_from(CAUSES))
        failed = data.draw(st.lists(failures, max_size=2))
        self.pending.append(BatchProgress(batch_id, tuple(data.draw(ids)), tuple(failed), last))

    @rule(data=st.data(), cause=st.sampled_from(CAUSES))
    def fail(self, data, cause):
        """A batch fails as a whole, in which there is nothing to bisect."""
        if self.ledger.running:
            batch_id = data.draw(st.sampled_from(list(self.ledger.running)))
            if len(self.ledger.running[batch_id].left) > 1 and cause in {
                FailureCause.INPUT,
                FailureCause.UNKNOWN,
            }:
                cause = FailureCause.DEVICE
            self.pending.append(BatchProgress(batch_id, (), error=cause))

    @rule(data=st.data())
    def finish(self, data):
        if self.ledger.running:
            batch_id = data.draw(st.sampled_from(list(self.ledger.running)))
            ids = tuple(self.ledger.running[batch_id].left)
            self.pending.append(BatchProgress(batch_id, ids))

    @rule(data=st.data(), kind=st.sampled_from(("up", "leave", "device", "configure", "remove")))
    def change(self, data, kind):
        instance = data.draw(st.sampled_from(INSTANCES))
        model = data.draw(st.sampled_from(MODELS))
        device = data.draw(st.sampled_from(DEVICES))
        match kind:
            case "up":
                self.incarnations[instance] += 1
                incarnation = self.incarnations[instance] - data.draw(st.sampled_from((0, 0, 1, 2)))
                max_in_flight = data.draw(st.integers(1, 2))
                event = InstanceUp(instance, incarnation, model, device, max_in_flight)
            case "leave":
                leaves = data.draw(st.sampled_from((InstanceDown, InstanceDraining)))
                older = data.draw(st.sampled_from((0, 0, 1)))
                event = leaves(instance, self.incarnations[instance] - older)
            case "device":
                event = DeviceConfigured(device, data.draw(st.none() | st.integers(0, 2)))
            case "configure":
                event = ModelConfigured(model, data.draw(model_settings()))
            case _:
                event = ModelRemoved(model)
        self.pending.append(event)

    @rule()
    def snapshot(self):
        state = self.scheduler.snapshot()
        self.twin = Scheduler.restore(state)
        validate(self.twin)
        assert self.twin.snapshot() == state

    def teardown(self):
        """Whatever has happened: once instances are up and answer, every request has ended."""
        self.tell(self.pending, self.now_ns)
        self.tell([DeviceConfigured(device, None) for device in DEVICES], self.now_ns)
        for instance, model in zip(INSTANCES, MODELS, strict=False):
            incarnation = self.incarnations[instance] + 1
            self.tell([InstanceUp(instance, incarnation, model, DEVICES[0])], self.now_ns)
        while self.ledger.waiting or self.ledger.running:
            self.now_ns += MILLISECOND
            self.pass_time(self.now_ns)
            batches = self.ledger.running.items()
            self.tell([BatchProgress(i, tuple(b.left)) for i, b in batches], self.now_ns)
        assert set(self.ledger.ended) == set(range(1, self.next_id))
        assert self.scheduler.live == {}
        assert self.scheduler.fleet.batches == {}
        assert self.scheduler.next_wakeup_ns() is None


@pytest.mark.slow
def test_the_scheduler_does_what_the_ledger_says(make_ledger):
    run_state_machine_as_test(
        lambda: SchedulerMachine(make_ledger()),
        settings=settings(max_examples=150, stateful_step_count=40),
    )
