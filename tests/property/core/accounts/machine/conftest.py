"""The scheduler under every policy, with accounts that let nothing be lost.

Beside `test_machine.py`, whose ledger foretells each decision of the simple policies, here are the
adaptive policy, priorities, tenants, buckets, and batches that fail as a whole. All that is drawn is
one of few values, so that a failure shrinks quickly.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from batcher.clock import MILLISECOND
from batcher.core.batch_sizes import filled_rows
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    DeviceConfigured,
    Failure,
    FailureCause,
    InstanceDown,
    InstanceDraining,
    InstancesFailed,
    InstanceUp,
    ModelConfigured,
    ModelRemoved,
    RepliesTook,
    RequestArrived,
    RequestCancelled,
    Timings,
)
from batcher.core.policies import make_policy
from batcher.core.scheduler import Scheduler
from batcher.core.times import NEVER_NS
from batcher.testing.invariants import validate
from batcher.testing.strategies import (
    DEVICES,
    INSTANCES,
    MODELS,
    TENANTS,
    any_model_settings,
    milliseconds,
    profiles,
)

KINDS = 4
"""Of requests, in one story: so few that they share batches."""

GAP_NS = MILLISECOND
"""How long after it was given a batch an instance begins it."""

MOST_STEPS = 5000
"""Whatever has happened, no request waits for longer than so many steps of the clock."""


@st.composite
def kinds(draw):
    """What requests are like: model, lengths, batch key, rows, due, expiry, priority and tenant."""
    model = draw(st.sampled_from(MODELS))
    return (
        model,
        draw(st.sampled_from(((4,), (4, 5), (5,)))) if model == "b" else (),
        draw(st.sampled_from(("", "", "", "k"))),
        draw(st.sampled_from(((1,), (1,), (1,), (2,), (3, 1), (9, 1), (20, 1)))),
        draw(st.sampled_from((None, None, 4, 30))),
        draw(st.sampled_from((None, None, None, 3, 10, 40))),
        draw(st.sampled_from((0, 0, 1, 2, 3))),
        draw(st.sampled_from(TENANTS)),
    )


class AccountsMachine(RuleBasedStateMachine):
    def __init__(self, accounts, policies=make_policy):
        super().__init__()
        self.policies = policies
        self.scheduler = Scheduler(policies)
        self.fresh_twin = self.twin = None
        self.tells = 0
        self.broken = False
        self.kinds = ()
        self.settings = {}
        self.accounts = accounts
        self.now_ns = 0
        self.pending = []
        self.next_id = 1
        self.poison = set()
        self.prefetched = set()
        self.copy_ns = 0
        self.elements = NEVER_NS
        self.incarnations = dict.fromkeys(INSTANCES, 0)

    # What happens in one moment piles up in `pending`, until the scheduler is told.

    def tell(self, now_ns, *events):
        events, self.pending = [*self.pending, *events], []
        self.broken = True
        self.accounts.take_in(events, now_ns)
        commands = self.scheduler.handle(events, now_ns)
        validate(self.scheduler)
        self.accounts.check(commands, self.scheduler)
        wakeup_ns = self.scheduler.next_wakeup_ns()
        assert wakeup_ns is None or wakeup_ns > self.scheduler.now_ns
        for twin in filter(None, (self.fresh_twin, self.twin)):
            assert twin.handle(events, now_ns) == commands
            assert twin.snapshot() == self.scheduler.snapshot()
            assert twin.next_wakeup_ns() == wakeup_ns
        self.broken = False
        self.tells += 1
        searching = any(model.bisections.open for model in self.scheduler.models.values())
        self.fresh_twin = self.restored() if searching or self.tells % 8 == 0 else None

    def restored(self):
        state = self.scheduler.snapshot()
        twin = Scheduler.restore(state, self.policies)
        validate(twin)
        assert twin.snapshot() == state
        return twin

    def up(self, instance, model, device, slots=1, profile=()):
        incarnation = self.incarnations[instance] = self.incarnations[instance] + 1
        prefetches, overlaps = slots == 1, self.copy_ns > 0
        copied = tuple((rows, self.copy_ns) for rows, _ in profile) if self.copy_ns else ()
        up = instance, incarnation, model, device, slots
        if model != "b":
            return InstanceUp(
                *up, profile, (), prefetches, (((), copied),) if copied else (), overlaps
            )
        # Of one bucket more is known than of the other.
        buckets = (((4,),), profile[:1]), (((8,),), profile)
        copies = ((((8,),), copied),) if copied else ()
        return InstanceUp(*up, (), buckets, prefetches, copies, overlaps)

    def burst(self, kind, count, *, poison=False):
        """Requests that are equal but for lengths and rows by turns; one may make its batches fail."""
        model, lengths, key, rows, due_ms, expires_ms, priority, tenant = self.kinds[kind]
        due_ns, expires_ns = (
            None if ms is None else self.now_ns + ms * MILLISECOND for ms in (due_ms, expires_ms)
        )
        ids = range(self.next_id, self.next_id + count)
        self.next_id += count
        if poison:
            self.poison.add(ids[count // 2])
        return [
            RequestArrived(
                i,
                model,
                rows[i % len(rows)],
                1,
                ((lengths[i % len(lengths)],),) if lengths else (),
                key,
                self.now_ns,
                due_ns,
                expires_ns,
                priority,
                tenant,
            )
            for i in ids
        ]

    def reconfigure(self, model, **changes):
        self.settings[model] = replace(self.settings[model], **changes)
        self.pending.append(ModelConfigured(model, self.settings[model]))

    def answer(self, batch_id, cause=FailureCause.UNKNOWN):
        """What an instance says of a batch in the end.

        It fails if its device has no memory for it, or one of its requests is poison.
        """
        batch = self.accounts.running[batch_id]
        each = max(1, sum(length for shape in batch.command.bucket for length in shape))
        rows = filled_rows(batch.rows, self.accounts.sizes_of(batch.command.model))
        if rows * each > self.elements:
            return BatchProgress(batch_id, (), error=FailureCause.MEMORY)
        if batch.left & self.poison:
            return BatchProgress(batch_id, (), error=cause)
        began_ns = batch.dispatched_ns
        # An instance begins a while after it was given a batch, unless it was prefetched.
        gap_ns = 0 if batch_id in self.prefetched else min(GAP_NS, (self.now_ns - began_ns) // 2)
        timings = Timings(began_ns + gap_ns, began_ns + gap_ns, self.now_ns)
        if self.copy_ns:
            # One that was prefetched was copied before it began.
            started_ns = (
                began_ns - self.copy_ns if batch_id in self.prefetched else began_ns + gap_ns
            )
            copied_ns = min(self.now_ns, started_ns + self.copy_ns)
            timings = Timings(started_ns, copied_ns, self.now_ns, self.now_ns, copied_ns)
        return BatchProgress(batch_id, tuple(sorted(batch.left)), timings=timings)

    def pass_time(self, delta_ms, row_ms=None):
        """Time passes with an exact timer; batches are answered if a row takes `row_ms`."""
        until_ns = self.now_ns + delta_ms * MILLISECOND
        while True:
            ends = {}
            if row_ms is not None:
                for batch_id, batch in self.accounts.running.items():
                    if batch.next:
                        self.prefetched.add(batch_id)
                        continue
                    took_ms = 2 + row_ms * batch.rows
                    ends[batch_id] = max(self.now_ns, batch.dispatched_ns + took_ms * MILLISECOND)
            wakeup_ns = self.scheduler.next_wakeup_ns()
            moments = [until_ns, *ends.values()]
            if wakeup_ns is not None:
                moments.append(max(self.now_ns, wakeup_ns))
            self.now_ns = min(moments)
            self.tell(self.now_ns, *[self.answer(i) for i in ends if ends[i] <= self.now_ns])
            if self.now_ns >= until_ns:
                return

    @initialize(
        settings=st.tuples(*[any_model_settings() for _ in MODELS]),
        limit=st.none() | st.integers(1, 2),
        slots=st.integers(1, 2),
        profile=profiles,
        kinds=st.tuples(*[kinds() for _ in range(KINDS)]),
        copy_ms=st.sampled_from((0, 0, 1, 9)),
    )
    def begin(self, settings, limit, slots, profile, kinds, copy_ms):
        self.kinds = kinds
        self.copy_ns = copy_ms * MILLISECOND
        self.settings = dict(zip(MODELS, settings, strict=True))
        self.pending += [ModelConfigured(*each) for each in zip(MODELS, settings, strict=True)]
        self.pending.append(DeviceConfigured(DEVICES[0], limit))
        for instance, model in zip(INSTANCES, MODELS, strict=False):
            self.pending.append(self.up(instance, model, DEVICES[0], slots, profile))

    # Time

    @rule(delta_ms=st.sampled_from((0, 1, 2, 5, 20, 1000, 11000)))
    def time_passes(self, delta_ms):
        self.pass_time(delta_ms)

    @rule(delta_ms=st.sampled_from((2, 5, 20, 100, 1000)), row_ms=st.sampled_from((1, 3)))
    def instances_work(self, delta_ms, row_ms):
        self.pass_time(delta_ms, row_ms)

    @rule(delta_ns=milliseconds(-1, 8))
    def time_passes_and_the_timer_is_late(self, delta_ns):
        self.now_ns += max(0, delta_ns)
        self.tell(self.now_ns + min(0, delta_ns))

    # Callers

    @rule(
        kind=st.integers(0, KINDS - 1),
        count=st.sampled_from((8, 1, 3, 16)),
        poison=st.sampled_from((False, True)),
    )
    def arrive(self, kind, count, poison):
        self.pending += self.burst(kind, count, poison=poison)

    @rule(
        first=st.integers(0, KINDS - 1),
        rounds=st.sampled_from((4, 1, 12, 30)),
        count=st.sampled_from((1, 1, 2, 4)),
        every_ms=st.sampled_from((0, 1, 3, 6, 20)),
        poison=st.sampled_from((False, False, True)),
    )
    def stream(self, first, rounds, count, every_ms, poison):
        """Requests of all kinds come one after the other, and instances work."""
        for turn in range(rounds):
            kind = (first + turn) % KINDS
            self.tell(self.now_ns, *self.burst(kind, count, poison=poison and turn == 1))
            self.pass_time(every_ms, 1)

    @rule(back=st.integers(0, 10), cause=st.sampled_from(CancelCause))
    def cancel(self, back, cause):
        self.pending.append(RequestCancelled(self.next_id - back, cause))

    # Batches

    @rule(data=st.data(), last=st.booleans())
    def progress(self, data, last):
        """A report of which anything may be wrong."""
        batch_id = data.draw(st.sampled_from([*self.accounts.running, 0, 1]))
        batch = self.accounts.running.get(batch_id)
        left = sorted(batch.left) if batch else [2]
        ids = data.draw(st.lists(st.sampled_from([*left, self.next_id]), max_size=3))
        failures = st.builds(Failure, st.sampled_from([*left, 1]), st.sampled_from(FailureCause))
        failed = data.draw(st.lists(failures, max_size=1))
        error = data.draw(st.sampled_from((None, None, *FailureCause)))
        self.pending.append(BatchProgress(batch_id, tuple(ids), tuple(failed), last, error=error))

    @rule(place=st.integers(0, 2), cause=st.sampled_from(FailureCause))
    def finish(self, place, cause):
        for batch_id in list(self.accounts.running)[place : place + 1]:
            self.pending.append(self.answer(batch_id, cause))

    @rule(
        kind=st.integers(0, KINDS - 1),
        count=st.sampled_from((8, 0, 3, 16)),
        rounds=st.sampled_from((1, 2, 4, 16)),
        cause=st.sampled_from(FailureCause),
        meanwhile=st.sampled_from((None, None, "smaller", "drain", "cancel")),
    )
    def all_fail(self, kind, count, rounds, cause, meanwhile):
        """Whatever runs fails, again and again; and something happens before the last time."""
        self.tell(self.now_ns, *self.burst(kind, count))
        model = self.kinds[kind][0]
        for left in reversed(range(rounds)):
            running = list(self.accounts.running)
            if not left and meanwhile == "smaller":
                self.reconfigure(model, max_batch_size=1)
            elif not left and meanwhile == "drain":
                self.pending += [InstanceDraining(*each) for each in self.incarnations.items()]
            elif not left and meanwhile == "cancel":
                self.pending.append(RequestCancelled(self.next_id - 2, CancelCause.CANCELLED))
            self.tell(self.now_ns, *[BatchProgress(i, (), error=cause) for i in running])

    @rule(elements=st.sampled_from((None, 0, 1, 3, 16)))
    def memory(self, elements):
        """Devices have memory for batches of so many elements."""
        self.elements = NEVER_NS if elements is None else elements

    # Operators

    @rule(
        model=st.sampled_from(MODELS),
        part=st.sampled_from(
            ("max_batch_size", "batch_sizes", "policy", "target_ns", "queue", "padding")
        ),
        settings=any_model_settings(),
    )
    def configure(self, model, part, settings):
        """One part of a model's settings changes, or the model comes back with it changed."""
        self.reconfigure(model, **{part: getattr(settings, part)})

    @rule(
        data=st.data(),
        kind=st.sampled_from(("up", "up", "down", "fail", "drain", "device", "remove", "replies")),
    )
    def change(self, data, kind):
        instance = data.draw(st.sampled_from(INSTANCES))
        model = data.draw(st.sampled_from(MODELS))
        device = data.draw(st.sampled_from(DEVICES))
        match kind:
            case "up":
                slots, profile = data.draw(st.integers(1, 2)), data.draw(profiles)
                event = self.up(instance, model, device, slots, profile)
            case "down":
                event = InstanceDown(instance, self.incarnations[instance])
            case "fail":
                event = InstancesFailed(model)
            case "drain":
                event = InstanceDraining(instance, self.incarnations[instance])
            case "device":
                event = DeviceConfigured(device, data.draw(st.sampled_from((None, 1, 2, 0))))
            case "remove":
                event = ModelRemoved(model)
            case _:
                event = RepliesTook(model, 1, data.draw(milliseconds(0, 2)))
        self.pending.append(event)

    @rule()
    def snapshot(self):
        self.twin = self.restored()

    def teardown(self):
        """Whatever has happened: once instances are up and answer, every request has ended."""
        if self.broken:
            return
        self.tell(self.now_ns, *[DeviceConfigured(device, None) for device in DEVICES])
        for instance, model in zip(INSTANCES, MODELS, strict=False):
            self.tell(self.now_ns, self.up(instance, model, DEVICES[0]))
        for _ in range(MOST_STEPS):
            if not self.accounts.live and not self.accounts.running:
                break
            self.pass_time(1, 1)
        assert self.accounts.ended == set(range(1, self.next_id))
        assert self.scheduler.live == {}
        assert self.scheduler.fleet.batches == {}
        # It may still ask for a step at the limit of a request that has been answered, and for those
        # in which memory ceilings are raised: each doubles.
        for _ in range(64):
            if (wakeup_ns := self.scheduler.next_wakeup_ns()) is not None:
                self.tell(wakeup_ns)
        assert self.scheduler.next_wakeup_ns() is None
        assert not any(model.bisections.open for model in self.scheduler.models.values())


@pytest.fixture
def make_machine(make_accounts):
    """Machines to which nothing has happened yet, each with accounts of its own."""
    return lambda **given: AccountsMachine(make_accounts(), **given)
