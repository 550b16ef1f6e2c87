"""Fixtures that every test may ask for."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, Phase, settings

from batcher.clock import MILLISECOND
from batcher.core.commands import Dispatch, PolicyFailed, Settle
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    DeviceConfigured,
    FailureCause,
    InstanceDown,
    InstanceDraining,
    InstancesFailed,
    InstanceUp,
    ModelConfigured,
    ModelRemoved,
    RequestArrived,
    RequestCancelled,
)
from batcher.core.policies import make_policy
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings, NoBatching, QueueLimits
from batcher.testing.invariants import validate

# A shell lets what it runs in the background ignore SIGINT, and programs inherit that: those that
# tests start and interrupt would not end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples whenever the same files are collected (docs/changing.md, Tests);
# `--hypothesis-profile=explore` looks for new ones.
settings.register_profile(
    "check",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", settings.get_profile("check"), derandomize=False)
# `unshrunk` reports the first failure as it was drawn: to shrink one takes minutes.
settings.register_profile("unshrunk", settings.get_profile("check"), phases=[Phase.generate])
settings.load_profile("check")


class Play:
    """A scheduler under a manual clock, with short names for its events and commands.

    Times are milliseconds. Each method feeds one event list at `now` and returns the commands;
    the builders (`request`) only make events.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.now = 0.0

    def feed(self, *events, at=None):
        """Feed events at a moment (by default the time of the clock)."""
        if at is not None:
            self.now = at
        return self.scheduler.handle(events, int(self.now * MILLISECOND))

    # Set-up

    def fixed(self, model="m", *, delay=0, preferred=(), max_rows=8, **rest):
        return self.model(model, FixedWindow(int(delay * MILLISECOND), preferred), max_rows, **rest)

    def none(self, model="m", *, max_rows=8, **rest):
        return self.model(model, NoBatching(), max_rows, **rest)

    def model(self, model, policy, max_rows, *, target=None, idempotent=False, **limits):
        target_ns = None if target is None else int(target * MILLISECOND)
        limits = QueueLimits(**limits)
        settings = ModelSettings(max_rows, policy, limits, target_ns, idempotent=idempotent)
        return self.feed(ModelConfigured(model, settings))

    def up(self, instance="i", incarnation=1, *, model="m", device="d", max_in_flight=1):
        return self.feed(InstanceUp(instance, incarnation, model, device, max_in_flight))

    def draining(self, instance="i", incarnation=1):
        return self.feed(InstanceDraining(instance, incarnation))

    def down(self, instance="i", incarnation=1):
        return self.feed(InstanceDown(instance, incarnation))

    def failed(self, model="m"):
        return self.feed(InstancesFailed(model))

    def remove(self, model="m"):
        return self.feed(ModelRemoved(model))

    def limit(self, device="d", *, max_in_flight):
        return self.feed(DeviceConfigured(device, max_in_flight))

    # Requests

    def request(
        self,
        request_id,
        *,
        model="m",
        rows=1,
        nbytes=0,
        shapes=(),
        key="",
        expires=None,
        due=None,
        at=None,
    ):
        arrival = self.now if at is None else at
        return RequestArrived(
            request_id,
            model,
            rows,
            nbytes,
            shapes,
            key,
            int(arrival * MILLISECOND),
            None if due is None else int(due * MILLISECOND),
            None if expires is None else int(expires * MILLISECOND),
        )

    def arrive(self, *ids, at=None, **rest):
        """One burst: these requests arrive together."""
        if at is not None:
            self.now = at
        return self.feed(*[self.request(request_id, **rest) for request_id in ids])

    def cancel(self, request_id, cause=CancelCause.CANCELLED, *, at=None):
        return self.feed(RequestCancelled(request_id, cause), at=at)

    def error(self, batch_id, cause=FailureCause.UNKNOWN, *, at=None):
        """A batch failed as a whole."""
        return self.feed(BatchProgress(batch_id, (), error=cause), at=at)

    def done(self, batch_id, *ids, at=None, failed=(), last=True):
        return self.feed(BatchProgress(batch_id, ids, tuple(failed), last), at=at)

    # Answers

    @property
    def wakeup(self):
        """When the scheduler wants to be called, in milliseconds, or None."""
        wakeup_ns = self.scheduler.next_wakeup_ns()
        return None if wakeup_ns is None else wakeup_ns / MILLISECOND

    @staticmethod
    def batches(commands):
        """The ids of each dispatched batch."""
        return [[p.id for p in c.parts] for c in commands if isinstance(c, Dispatch)]

    @staticmethod
    def parts(commands):
        """The rows of each dispatched batch, as `(id, start, stop)`."""
        return [
            [(p.id, p.start, p.stop) for p in c.parts] for c in commands if isinstance(c, Dispatch)
        ]

    @staticmethod
    def ended(commands):
        """How each settled request ended, as `(outcome, reason)`."""
        return {
            request_id: (c.outcome, c.reason)
            for c in commands
            if isinstance(c, Settle)
            for request_id in c.ids
        }

    @staticmethod
    def policy_failures(commands):
        return [c for c in commands if isinstance(c, PolicyFailed)]


@pytest.fixture
def make_scheduler():
    """Schedulers, with any policy factory; each is validated at teardown."""
    made = []

    def make(policies=make_policy):
        scheduler = Scheduler(policies)
        made.append(scheduler)
        return scheduler

    yield make
    for scheduler in made:
        validate(scheduler)


@pytest.fixture
def scheduler(make_scheduler):
    """An empty scheduler, validated at teardown."""
    return make_scheduler()


@pytest.fixture
def play(scheduler):
    """An empty scheduler under a manual clock."""
    return Play(scheduler)


@pytest.fixture
def play_with(make_scheduler):
    """The same with one policy for all models: `play_with(policy)`."""
    return lambda policy: Play(make_scheduler(lambda settings: policy))
