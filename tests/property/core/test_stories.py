"""Random stories, told to a scheduler with every kind of policy: what must hold whatever happens."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Dispatch, FailureStorm, Outcome, Reason, Settle
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    DeviceConfigured,
    Failure,
    FailureCause,
    InstanceDown,
    InstanceUp,
    ModelConfigured,
    RepliesTook,
    RequestArrived,
    RequestCancelled,
)
from batcher.core.queueing.ranks import LATE
from batcher.core.scheduler import Scheduler
from batcher.core.settings import (
    Adaptive,
    FixedWindow,
    ModelSettings,
    NoBatching,
    PaddedAxis,
    QueueLimits,
)
from batcher.core.times import LATELY_NS, TOLERANCE_NS
from batcher.testing.invariants import validate

STORIES = 300
LONGEST_WINDOW_NS = 50 * MILLISECOND
"""The longest target: no request waits longer for others than until it is due."""

PADDING = (
    (),
    (PaddedAxis(0, 1, (2, 4, 8)),),
    (PaddedAxis(0, 1, (3, 8)), PaddedAxis(1, 1, (3, 8)), PaddedAxis(1, 2, (2, 5))),
)
SHAPES = (
    (),
    ((4,),),
    ((4,), (4, 3)),
    ((1,), (1, 1)),
    ((8,), (8, 5)),
    ((9,), (9, 1)),
)
"""Of fixed models, of one input or two; the last is longer than any bucket."""

AT_ONCE = (FailureCause.DEVICE, FailureCause.OVERLOADED, FailureCause.UNAVAILABLE)
"""Causes after which nothing runs again."""

TURNED_AWAY = (FailureCause.OVERLOADED, FailureCause.UNAVAILABLE)


class Story:
    """A scheduler, devices of changing speed, and callers that cancel; all from one seed."""

    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.scheduler = Scheduler()
        self.twin = None
        self.now_ns = 0
        self.requests = 0
        self.live = {}
        self.poison = set()
        self.poison_share = self.draw.choice([0.0, 0.02, 0.4])
        self.undone = {}  # id -> rows that are not done
        self.stormy = dict.fromkeys("ab", False)
        self.running = {}
        self.incarnations = {}
        self.settings = {}
        self.foretold = 0
        self.ran_ns = {}  # (model, bucket) -> when its last batch was dispatched

    def settings_of_a_model(self):
        draw = self.draw
        target = draw.choice([None, 3, 20, 50])
        target_ns = None if target is None else target * MILLISECOND
        policy = draw.choice(
            [
                Adaptive(draw.choice([0.3, 0.8, 1.0]), draw.choice([target_ns, SECOND, None])),
                Adaptive(limit_ns=target_ns),
                FixedWindow(draw.choice([0, 2 * MILLISECOND])),
                NoBatching(),
            ]
        )
        limits = QueueLimits(
            max_requests=draw.choice([3, 20, 1000]),
            max_rows=draw.choice([None, 30]),
            timeout_ns=draw.choice([None, 50 * MILLISECOND]),
            priority_levels=draw.choice([1, 3]),
            default_priority=1,
            promote_after_ns=draw.choice([20, 1000]) * MILLISECOND,
            tenants=draw.choice([(), (("default", 1.0), ("gold", 4.0))]),
        )
        return ModelSettings(
            draw.choice([1, 4, 8, 32]),
            policy,
            limits,
            target_ns,
            draw.choice(PADDING),
        )

    def tell(self, *events):
        scheduler = self.scheduler
        commands = scheduler.handle(events, self.now_ns)
        if self.twin is not None:
            assert self.twin.handle(events, self.now_ns) == commands
            assert self.twin.snapshot() == scheduler.snapshot()
            assert self.twin.next_wakeup_ns() == scheduler.next_wakeup_ns()
        validate(scheduler)
        for command in commands:
            if isinstance(command, Dispatch):
                self.start(command)
            elif isinstance(command, FailureStorm):
                assert self.stormy[command.model] == command.over
                self.stormy[command.model] = not command.over
            else:
                assert isinstance(command, Settle), command
                for request_id in command.ids:
                    del self.live[request_id]
                    assert command.outcome is not Outcome.OK or not self.undone[request_id]
        self.check_that_nothing_stands_still()

    def check_that_nothing_stands_still(self):
        """Beside an instance that is free, whatever waits for it does so until a moment that is near."""
        scheduler, wakeup_ns = self.scheduler, self.scheduler.next_wakeup_ns()
        for name, model in scheduler.models.items():
            waits = model.queue.requests or model.bisections.next() is not None
            if waits and scheduler.fleet.free_instance(name) is not None:
                assert wakeup_ns is not None
                assert wakeup_ns <= self.now_ns + LONGEST_WINDOW_NS
        wakeup_ns = scheduler.next_wakeup_ns()
        assert wakeup_ns is None or wakeup_ns > scheduler.now_ns
        for model in scheduler.models.values():
            if model.queue.requests and scheduler.fleet.free_instance(model.name):
                assert wakeup_ns is not None, f"{model.name} waits for nothing"
            if scheduler.fleet.free_instance(model.name):
                assert model.bisections.next() is None

    def start(self, command):
        rows = sum(part.stop - part.start for part in command.parts)
        assert rows <= self.settings[command.model].max_batch_size
        ids = [part.id for part in command.parts]
        assert len(set(ids)) == len(ids)
        running_parts = [p for batch in self.running.values() for p in batch[1]]
        padded = {(a.input, a.axis - 1) for a in self.settings[command.model].padding}
        keys = set()
        for part in command.parts:
            wanted = set(range(part.start, part.stop))
            assert wanted <= self.undone[part.id], "rows that are done run again"
            assert not any(
                p.id == part.id and wanted & set(range(p.start, p.stop)) for p in running_parts
            ), "rows run twice at once"
            request = self.live[part.id]
            assert request.deadline_ns is None or request.deadline_ns > self.now_ns
            keys.add(request.batch_key)
            for place, (own, bucket) in enumerate(zip(request.shapes, command.bucket, strict=True)):
                for axis, (length, most) in enumerate(zip(own, bucket, strict=True)):
                    # What runs again is padded as it was, under whatever settings that was.
                    again = command.attempt > 1 and length < most
                    fits = length < most and (place, axis) in padded
                    assert again or fits or length == most
        assert len(keys) == 1
        bucket = command.model, command.bucket
        stale = self.now_ns - self.ran_ns.get(bucket, -LATELY_NS) >= LATELY_NS
        self.ran_ns[bucket] = self.now_ns
        self.check_that_it_is_in_time(command, rows, stale=stale)
        took_ms = (4 + self.draw.random() * rows) * self.draw.choice([1, 1, 1, 1, 10])
        ends_ns = self.now_ns + int(took_ms * MILLISECOND)
        self.running[command.batch_id] = (
            ends_ns,
            command.parts,
            command.instance,
            command.model,
            rows,
        )

    def check_that_it_is_in_time(self, command, rows, *, stale):
        """Nothing runs that the estimator says will be late, where late means refused.

        But for what runs again, and for a request that is split, once it has begun.
        """
        model = self.scheduler.models[command.model]
        times = model.times.get(command.bucket)
        policy = model.settings.policy
        refuses = isinstance(policy, Adaptive) and policy.limit_ns == model.target_ns
        if not refuses or model.target_ns is None or not model.reachable or not times:
            return
        alone = len(command.parts) == 1
        if command.attempt > 1 or (alone and stale):
            return
        # A request alone may be let try, unless its bucket was measured lately and was never so quick.
        quickest_ns = min(times.least_ns(self.now_ns), times.expected[rows])
        ends_ns = self.now_ns + (quickest_ns if alone else times.p95[rows])
        for part in command.parts:
            request = self.scheduler.live.get(part.id)
            if request is None:
                # The rest of a split request was given up in the same step.
                continue
            # Late requests have no target to meet.
            if request.rank != LATE and request.split is None:
                self.foretold += 1
                assert ends_ns <= request.finish_by_ns + TOLERANCE_NS

    def configure(self, model):
        self.settings[model] = self.settings_of_a_model()
        self.tell(ModelConfigured(model, self.settings[model]))

    def up(self, instance, model, device):
        incarnation = self.incarnations[instance] = self.incarnations.get(instance, 0) + 1
        profile = self.draw.choice([(), ((1, 5 * MILLISECOND), (4, 7 * MILLISECOND))])
        buckets = ()
        if self.draw.random() < 0.5:
            buckets = ((((4,),), profile), (((8,),), profile), (((8,), (8, 5)), profile))
        slots = self.draw.choice([1, 2])
        self.tell(InstanceUp(instance, incarnation, model, device, slots, profile, buckets))

    def down_and_up(self):
        instance = self.draw.choice(list(self.incarnations))
        for batch_id in [b for b, batch in self.running.items() if batch[2] == instance]:
            del self.running[batch_id]
        self.tell(InstanceDown(instance, self.incarnations[instance]))
        self.up(instance, instance[0], "d")

    def arrive(self):
        draw = self.draw
        events = []
        for _ in range(draw.choice([1, 1, 1, 5, 30])):
            self.requests += 1
            patience_ms = draw.choice([None, None, draw.randint(1, 80)])
            request = RequestArrived(
                self.requests,
                draw.choice("aab"),
                draw.choice([1, 1, 1, 2, 5, 33, 90]),
                draw.choice([0, 10]),
                draw.choice([(), draw.choice(SHAPES)]),
                draw.choice(["", "", "k"]),
                self.now_ns,
                None,
                None if patience_ms is None else self.now_ns + patience_ms * MILLISECOND,
                draw.choice([0, 0, 1, 2, 3, 9]),
                draw.choice(["", "gold", "x"]),
                self.sequence(),
            )
            self.live[request.id] = request
            self.undone[request.id] = set(range(request.rows))
            if draw.random() < self.poison_share:
                self.poison.add(request.id)
            events.append(request)
        self.tell(*events)

    def sequence(self):
        """None: this story has no sequences."""

    def leave(self):
        if self.live:
            request_id = self.draw.choice(list(self.live))
            self.tell(RequestCancelled(request_id, self.draw.choice(list(CancelCause))))

    def moments(self):
        wakeup_ns = self.scheduler.next_wakeup_ns()
        ends = [batch[0] for batch in self.running.values()]
        return ends if wakeup_ns is None else [wakeup_ns, *ends]

    def pass_time(self, until_ns, *, failures=0.0):
        self.now_ns = max(self.now_ns, until_ns)
        events, ended = [], set()
        for batch_id in [b for b, batch in self.running.items() if batch[0] <= self.now_ns]:
            _, parts, _, model, rows = self.running.pop(batch_id)
            ids = [part.id for part in parts]
            chance = self.draw.random()
            if self.poison.intersection(ids) or chance < failures:
                cause = FailureCause.UNKNOWN
                if chance < 0.1:
                    cause = self.draw.choice(AT_ONCE)
                    ended.update(ids)
                events.append(BatchProgress(batch_id, (), error=cause))
                continue
            failed = {i for i in ids if self.draw.random() < failures}
            for part in parts:
                if part.id not in failed:
                    self.undone[part.id] -= set(range(part.start, part.stop))
            events.append(
                BatchProgress(
                    batch_id,
                    tuple(i for i in ids if i not in failed),
                    tuple(Failure(i, FailureCause.INPUT) for i in sorted(failed)),
                )
            )
            events.append(RepliesTook(model, rows, self.draw.randrange(MILLISECOND)))
        turned_away = events and all(
            isinstance(event, BatchProgress) and event.error in TURNED_AWAY for event in events
        )
        if turned_away:
            self.tell()  # what time alone changes
            learned = self.learned()
        self.tell(*events)
        assert not ended & self.live.keys(), "what was turned away may run again"
        if turned_away:
            assert self.learned() == learned, "learned from a batch that was turned away"

    def learned(self):
        """What batches have taught of service times and failures; estimates come and go."""
        found = {}
        for name, model in self.scheduler.models.items():
            cap = model.bisections.batch_cap
            found[name] = model.bisections.failures_in_a_row, cap.rows, cap.faults
            for shapes, times in model.times.items():
                if times.steady:
                    found[name, shapes] = times.steady, times._drift.factor
        return found

    def step(self):
        chance = self.draw.random()
        if chance < 0.5:
            self.arrive()
        elif chance < 0.6:
            self.leave()
        elif chance < 0.62:
            self.configure(self.draw.choice("ab"))
        elif chance < 0.64:
            self.down_and_up()
        elif chance < 0.66:
            self.twin = Scheduler.restore(self.scheduler.snapshot())
            assert self.twin.snapshot() == self.scheduler.snapshot()
        else:
            moments = self.moments()
            if self.draw.random() < 0.3 or not moments:
                skipped_ns = self.draw.choice([0, 1, 5, 30, 300]) * MILLISECOND
                self.pass_time(self.now_ns + skipped_ns, failures=0.02)
            else:
                self.pass_time(min(moments), failures=0.02)

    def play(self):
        for model in "ab":
            self.configure(model)
        if self.draw.random() < 0.5:
            self.tell(DeviceConfigured("d", self.draw.choice([1, 2])))
        self.up("a0", "a", "d")
        self.up("b0", "b", self.draw.choice("de"))
        if self.draw.random() < 0.5:
            self.up("a1", "a", "e")
        for _ in range(self.draw.choice([50, 200])):
            self.step()
        while self.moments():
            self.pass_time(min(self.moments()))
        assert self.live == {}


class Restless(Story):
    """Every third thing that happens is a change of settings."""

    def step(self):
        if self.draw.random() < 0.5:
            self.configure(self.draw.choice("ab"))
        super().step()

    def configure(self, model):
        waiting = self.waiting()
        due = {i: self.scheduler.live[i].due_ns for i in waiting}
        super().configure(model)
        for request_id in self.waiting() & waiting:
            if due[request_id] is not None:
                assert self.scheduler.live[request_id].due_ns == due[request_id]

    def waiting(self):
        return {r.id for r in self.scheduler.live.values() if r.batch_id is None}


class Bounds(Restless):
    """Settings that differ in the bounds of the queue alone: a change refuses no request."""

    def settings_of_a_model(self):
        fresh = super().settings_of_a_model()
        if not hasattr(self, "first"):
            self.first = fresh
        first = self.first
        return ModelSettings(first.max_batch_size, first.policy, fresh.queue, first.target_ns)

    def configure(self, model):
        told = []
        tell = self.scheduler.handle
        self.scheduler.handle = lambda *given: told.append(tell(*given)) or told[-1]
        super().configure(model)
        self.scheduler.handle = tell
        for command in told[-1]:
            assert not isinstance(command, Settle) or (
                command.outcome is not Outcome.REJECTED or command.reason is Reason.PREDICTED_LATE
            )


class Unmoved(Story):
    """A twin is told its own settings again every now and then, and does exactly the same."""

    def __init__(self, seed):
        super().__init__(seed)
        self.unmoved = Scheduler()

    @staticmethod
    def state(scheduler):
        """All but what is only a note that there is nothing to decide."""
        state = scheduler.snapshot()
        return replace(state, models=tuple(replace(m, blocked=False) for m in state.models))

    def tell(self, *events):
        # Where something is decided anyway: a change has the policy asked once more, and refuses what
        # is out of reach by then.
        undecided = RequestArrived, RequestCancelled, RepliesTook
        decided = any(not isinstance(event, undecided) for event in events)
        again = [
            ModelConfigured(name, self.settings[name])
            for name in self.unmoved.models
            if decided and self.draw.random() < 0.5
        ]
        commands = self.unmoved.handle([*events, *again], self.now_ns)
        assert self.scheduler.handle(events, self.now_ns) == commands
        validate(self.unmoved)
        assert self.state(self.unmoved) == self.state(self.scheduler)
        handle = self.scheduler.handle
        self.scheduler.handle = lambda *_: commands
        try:
            self.twin = None
            super().tell(*events)
        finally:
            self.scheduler.handle = handle


class Sequential(Story):
    """Most requests are steps of few sequences: no step begins before those that arrived earlier have ended."""

    def sequence(self):
        return self.draw.choice([None, 1, 2, 3, 1 << 63, "x"])

    def start(self, command):
        super().start(command)
        for part in command.parts:
            step = self.live[part.id]
            ahead = [
                each.id
                for each in self.live.values()
                if (each.model, each.sequence) == (step.model, step.sequence) and each.id < step.id
            ]
            assert step.sequence is None or not ahead, f"{part.id} begins before {ahead}"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_steps_of_a_sequence_run_one_at_a_time_in_order_and_every_request_ends_once(part):
    for seed in range(part, STORIES // 2, 4):
        Sequential(seed).play()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_request_ends_once_and_a_restored_scheduler_goes_on_alike(part):
    foretold = 0
    for seed in range(part, STORIES, 4):
        story = Story(seed)
        story.play()
        foretold += story.foretold
    assert foretold > STORIES // 2, "too few of the stories plan"


@pytest.mark.slow
@settings(max_examples=60)
@given(st.integers(0, 1 << 32))
def test_every_request_ends_once_however_often_settings_change(seed):
    Restless(seed).play()


@pytest.mark.slow
@settings(max_examples=60)
@given(st.integers(0, 1 << 32))
def test_a_changed_bound_refuses_no_waiting_request(seed):
    Bounds(seed).play()


@pytest.mark.slow
@settings(max_examples=60)
@given(st.integers(0, 1 << 32))
def test_settings_that_are_told_again_change_nothing(seed):
    Unmoved(seed).play()
