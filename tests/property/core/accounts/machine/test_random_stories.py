"""The machine under every policy, in long stories that are drawn from plain seeds.

Hypothesis seldom draws much that is unlikely at once, and every run of it draws the same. A story
here has more values to choose from, each of them drawn apart. None is shrunk: the note on a failure
names the seed and the steps, and `Story(make_machine(), seed).play()` plays that story alone.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from batcher.clock import MILLISECOND
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    DeviceConfigured,
    Failure,
    FailureCause,
    InstanceDown,
    InstanceDraining,
    InstancesFailed,
    ModelRemoved,
    RepliesTook,
)
from batcher.core.policies import make_policy
from batcher.core.settings import (
    Adaptive,
    FixedWindow,
    ModelSettings,
    NoBatching,
    PaddedAxis,
    QueueLimits,
)
from batcher.testing.strategies import DEVICES, INSTANCES, MODELS, TENANTS
from batcher.testing.transitions import read_transitions, recorded_transitions

STORIES = 200
"""Played in all, from the seeds below it."""

PAGE = Path(__file__).parents[5] / "docs" / "scheduler-states.md"
TABLE_STORIES = 50
"""Whose transitions are compared with the page's tables."""

COMMON = 60
"""Different transitions that these stories make at least; with fewer they would prove little."""

FAILING_STORIES = 80
"""With policies that fail now and then."""

PARTS = 4
"""Tests that share the stories."""

KINDS = 4
"""Of requests, in one story: so few that they share batches."""

POLICIES = (
    NoBatching(),
    FixedWindow(),
    FixedWindow(2 * MILLISECOND),
    Adaptive(),
    Adaptive(0.3, 20 * MILLISECOND),
    Adaptive(0.5, 50 * MILLISECOND, 0.0),
    Adaptive(limit_ns=1000 * MILLISECOND, late_share=0.5),
    Adaptive(1.0),
)
PADDING = ((), (PaddedAxis(0, 1, (8,)),), (PaddedAxis(0, 1, (4, 8)),), (PaddedAxis(0, 1, (4, 8)),))
LENGTHS = ((4,), (4, 5), (5,), (4, 9))
"""By turns; the last of them is longer than any bucket."""

ROWS = ((1,), (1,), (1,), (2,), (3, 1), (9, 1), (20, 1), (2, 1, 3))
CAUSES = (*FailureCause, FailureCause.MEMORY, FailureCause.MEMORY)
BATCH_SIZES = ((), (), (), (1, 2, 4, 8), (3, 4), (8,), (4, 8, 16), (2, 16), (1, 5))
"""Some smallest ones are large, and some sizes are beyond the largest batch."""


class Story:
    """What a machine is told, all from one seed; `steps` are the calls that told it."""

    def __init__(self, machine, seed):
        self.machine = machine
        self.seed = seed
        self.draw = random.Random(seed)
        self.one_of = self.draw.choice
        self.steps = []

    def do(self, rule, **given):
        """Follow a rule of the machine, and note that first."""
        values = ", ".join(f"{name}={value!r}" for name, value in given.items())
        self.steps.append(f"machine.{rule}({values})")
        getattr(self.machine, rule)(**given)

    def happens(self, event):
        """Something that the scheduler is told at the next moment."""
        self.steps.append(f"machine.pending.append({event!r})")
        self.machine.pending.append(event)

    def milliseconds(self, *values):
        ms = self.one_of(values)
        return None if ms is None else ms * MILLISECOND

    # Settings, instances and requests

    def settings(self):
        one_of = self.one_of
        levels = one_of((1, 2, 3))
        limits = QueueLimits(
            max_requests=one_of((100, 100, 3, 8)),
            max_groups=one_of((256, 256, 2)),
            max_batches_per_request=one_of((1, 3, 6)),
            max_rows=one_of((None, None, 12, 30)),
            max_bytes=one_of((None, None, 12)),
            timeout_ns=self.milliseconds(None, None, 6, 30, 100),
            priority_levels=levels,
            default_priority=self.draw.randint(1, levels),
            promote_after_ns=self.milliseconds(5, 100, 1000),
            tenants=one_of(((), (), (("default", 1.0), ("gold", 4.0)))),
        )
        return ModelSettings(
            one_of((1, 2, 4, 8, 8, 16)),
            one_of(POLICIES),
            limits,
            self.milliseconds(None, 3, 12, 20, 20, 50, 1000),
            one_of(PADDING),
            idempotent=one_of((False, True)),
            batch_sizes=one_of(BATCH_SIZES),
        )

    def profile(self):
        """Service times of sizes of which some are missing, in steps of any form, or none."""
        if self.draw.random() < 0.15:
            return ()
        took_ms = self.one_of((1, 2, 3, 6, 300))
        times = []
        for rows in (1, 2, 4, 8, 16):
            took_ms += self.one_of((0, 1, rows, 3, 10))
            if rows == 1 or self.draw.random() < 0.6:
                times.append((rows, took_ms * MILLISECOND))
        return tuple(times)

    def kind(self):
        """Model, lengths, batch key, rows, due, expiry, priority and tenant of some requests."""
        one_of = self.one_of
        model = one_of("abb")
        return (
            model,
            one_of(LENGTHS) if model == "b" else (),
            one_of(("", "", "", "k")),
            one_of(ROWS),
            one_of((None, None, 4, 15, 30)),
            one_of((None, None, None, 3, 10, 25, 40)),
            one_of((0, 0, 1, 2, 3)),
            one_of(TENANTS),
        )

    # Steps

    def begin(self):
        self.do(
            "begin",
            settings=tuple(self.settings() for _ in MODELS),
            limit=self.one_of((None, 1, 1, 2)),
            slots=self.one_of((1, 1, 2)),
            profile=self.profile(),
            kinds=tuple(self.kind() for _ in range(KINDS)),
            copy_ms=self.one_of((0, 0, 1, 9)),
        )

    def time_passes(self):
        self.do("time_passes", delta_ms=self.one_of((0, 1, 2, 3, 5, 20, 20, 1000, 11000)))

    def instances_work(self):
        """Now and then, the devices have memory for other batches from here on."""
        row_ms = self.one_of((0, 1, 1, 3, self.one_of((20, 200))))
        if self.draw.random() < 0.2:
            self.do("memory", elements=self.one_of((None, None, 0, 1, 3, 16, 40)))
        self.do("instances_work", delta_ms=self.one_of((2, 5, 20, 100, 1000)), row_ms=row_ms)

    def time_passes_and_the_timer_is_late(self):
        delta_ns = self.milliseconds(*range(-1, 9))
        self.do("time_passes_and_the_timer_is_late", delta_ns=delta_ns)

    def arrive(self):
        kind, poison = self.draw.randrange(KINDS), self.draw.random() < 0.4
        self.do("arrive", kind=kind, count=self.one_of((1, 1, 3, 8, 16)), poison=poison)

    def stream(self):
        self.do(
            "stream",
            first=self.draw.randrange(KINDS),
            rounds=self.one_of((1, 4, 12, 30)),
            count=self.one_of((1, 1, 2, 4)),
            every_ms=self.one_of((0, 1, 2, 3, 6, 20)),
            poison=self.draw.random() < 0.4,
        )

    def cancel(self):
        self.do("cancel", back=self.draw.randint(0, 10), cause=self.one_of(tuple(CancelCause)))

    def progress(self):
        """A report of which anything may be wrong."""
        running = self.machine.accounts.running
        batch_id = self.one_of((*running, 0, 1))
        left = sorted(running[batch_id].left) if batch_id in running else [2]
        done = [self.one_of((*left, self.machine.next_id)) for _ in range(self.one_of(range(4)))]
        failed = self.one_of(((), (), (Failure(self.one_of((*left, 1)), self.one_of(CAUSES)),)))
        last = self.draw.random() < 0.3
        error = self.one_of((None, None, None, *CAUSES))
        self.happens(BatchProgress(batch_id, tuple(done), failed, last, error=error))

    def finish(self):
        self.do("finish", place=self.one_of(range(3)), cause=self.one_of(CAUSES))

    def all_fail(self):
        self.do(
            "all_fail",
            kind=self.draw.randrange(KINDS),
            count=self.one_of((0, 3, 8, 16)),
            rounds=self.one_of((1, 1, 2, 4, 16)),
            cause=self.one_of((*CAUSES, FailureCause.INPUT, FailureCause.UNKNOWN)),
            meanwhile=self.one_of((None, None, "smaller", "drain", "cancel")),
        )

    def configure(self):
        sizes = "max_batch_size", "batch_sizes", "padding"
        part = self.one_of((*sizes, "policy", "target_ns", "queue"))
        self.do("configure", model=self.one_of(MODELS), part=part, settings=self.settings())

    def change(self):
        """The fleet changes."""
        instance, model = self.one_of(INSTANCES), self.one_of(MODELS)
        device = self.one_of(DEVICES)
        incarnation = self.machine.incarnations[instance]
        match self.one_of(
            ("up", "up", "up", "down", "down", "fail", "drain", "device", "remove", "replies")
        ):
            case "up":
                slots = self.one_of((1, 2))
                event = self.machine.up(instance, model, device, slots, self.profile())
            case "down":
                event = InstanceDown(instance, incarnation)
            case "fail":
                event = InstancesFailed(model)
            case "drain":
                event = InstanceDraining(instance, incarnation)
            case "device":
                event = DeviceConfigured(device, self.one_of((None, 1, 2, 0)))
            case "remove":
                event = ModelRemoved(model)
            case _:
                event = RepliesTook(model, 1, self.milliseconds(0, 1, 2))
        self.happens(event)

    def snapshot(self):
        self.do("snapshot")

    def play(self):
        weights = {
            self.time_passes: 2,
            self.instances_work: 3,
            self.time_passes_and_the_timer_is_late: 1,
            self.arrive: 3,
            self.stream: 4,
            self.cancel: 1,
            self.progress: 1,
            self.finish: 2,
            self.all_fail: 2,
            self.configure: self.one_of((0, 1, 3)),
            self.change: self.one_of((0, 1)),
            self.snapshot: 1,
        }
        try:
            self.begin()
            for step in self.draw.choices(
                tuple(weights), weights.values(), k=self.one_of((10, 30, 60))
            ):
                step()
            self.do("teardown")
        except Exception as failure:
            steps = "\n".join(self.steps)
            failure.add_note(f"The story of seed {self.seed}:\n{steps}")
            raise


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_no_request_is_lost_or_misses_its_promise_in_random_stories(make_machine, part):
    for seed in range(part, STORIES, PARTS):
        Story(make_machine(), seed).play()


def now_and_then_failing(settings):
    """A model's own policy, which raises at some moments; equal moments, equal failures."""
    policy = make_policy(settings)

    def fails(now_ns, every):
        if now_ns // MILLISECOND % every == every // 2:
            raise ArithmeticError(every)

    class Failing(type(policy)):
        __slots__ = ()

        def decide(self, group, given):
            if len(group) > 2:
                fails(given.now_ns, 7)
            return super().decide(group, given)

        def expected_rate(self, now_ns):
            fails(now_ns, 29)
            return super().expected_rate(now_ns)

        def on_arrival(self, rows, rank, now_ns, active):
            fails(now_ns, 31)
            super().on_arrival(rows, rank, now_ns, active)

        def on_batch_done(self, rows, now_ns):
            fails(now_ns, 23)
            super().on_batch_done(rows, now_ns)

    policy.__class__ = Failing
    return policy


@pytest.mark.slow
def test_no_request_is_lost_where_policies_fail(make_machine):
    failures = 0
    for seed in range(FAILING_STORIES):
        machine = make_machine(policies=now_and_then_failing)
        Story(machine, seed).play()
        failures += len(machine.accounts.failed_policies)
    assert failures >= FAILING_STORIES


@pytest.mark.slow
def test_random_stories_make_only_transitions_that_the_tables_have(make_machine):
    allowed, seen = set(read_transitions(PAGE)), set()
    for seed in range(STORIES, STORIES + TABLE_STORIES):
        with recorded_transitions() as recorder:
            Story(make_machine(), seed).play()
        for key, transition in recorded_once(recorder):
            assert transition in allowed, f"seed {seed}, {key}: {transition} is in no table"
            seen.add(transition)
    assert len(seen) >= COMMON, f"the stories make only {len(seen)} transitions"


def recorded_once(recorder):
    """Each different transition, with the thing that made it first."""
    first = {}
    for key, transition in recorder.seen:
        first.setdefault(transition, key)
    return [(key, transition) for transition, key in first.items()]
