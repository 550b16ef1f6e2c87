"""Streams of requests against a scheduler under virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome, Settle
from batcher.core.events import InstanceUp, ModelConfigured, RequestArrived
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits
from batcher.simulation import Driver
from batcher.testing.invariants import validate


@dataclass
class End:
    """What became of a request; `idle`: no batch was running when it ended."""

    at_ns: int
    outcome: Outcome
    took_ns: int
    idle: bool
    retry_ns: int | None


class Stage:
    """Models, instances, and what happens to several streams of requests on them.

    Every batch takes 5 ms and 1 ms a row, or what `takes_ns(dispatch, rows, now_ns)` says.
    """

    def __init__(self):
        self.scheduler = Scheduler()
        self.begin = []
        self.later = []
        self.takes_ns = lambda dispatch, rows, now_ns: self.usual_ns(rows)
        self.outcome = None

    @staticmethod
    def usual_ns(rows):
        return (5 + rows) * MILLISECOND

    def model(self, name="m", *, target=50, policy=None, max_rows=32, padding=(), **limits):
        """A model with a target in milliseconds; None for no target."""
        target_ns = None if target is None else target * MILLISECOND
        limits = QueueLimits(**limits)
        settings = ModelSettings(
            max_rows, policy or Adaptive(limit_ns=target_ns), limits, target_ns, padding
        )
        self.begin.append(ModelConfigured(name, settings))

    def up(self, model="m", device="d", *, sizes=(1, 2, 4, 8, 16, 32), name=None, buckets=()):
        """An instance that was warmed up with these sizes; none for one that was not."""
        profile = tuple((rows, self.usual_ns(rows)) for rows in sizes)
        self.begin.append(
            InstanceUp(name or f"{model}#0", 1, model, device, 1, profile, tuple(buckets))
        )

    def play(self, *streams):
        """Streams of `(at_ns, what)`; returns the `End`s of each."""
        scheduler, found = self.scheduler, {}

        def observe(now_ns, commands):
            for command in commands:
                if isinstance(command, Settle):
                    idle = not scheduler.fleet.batches
                    ended = (now_ns, command.outcome, idle, command.retry_after_ns)
                    found.update(dict.fromkeys(command.ids, ended))

        def service_ns(dispatch):
            rows = sum(part.stop - part.start for part in dispatch.parts)
            return int(self.takes_ns(dispatch, rows, scheduler.now_ns))

        more = {} if self.outcome is None else {"outcome": self.outcome}
        driver = Driver(scheduler, service_ns, observe=observe, **more)
        driver.step(self.begin, 0)
        order = sorted(
            (at_ns, place, number)
            for place, stream in enumerate(streams)
            for number, (at_ns, _) in enumerate(stream)
        )
        events = list(self.later)
        for request_id, (at_ns, place, number) in enumerate(order):
            what = {"model": "m", "rows": 1, "nbytes": 0, "shapes": (), "batch_key": ""}
            what |= streams[place][number][1]
            events.append((at_ns, RequestArrived(request_id, arrival_ns=at_ns, **what)))
        driver.run(sorted(events, key=lambda timed: timed[0]))
        validate(scheduler)
        assert not scheduler.live
        ends = [[] for _ in streams]
        for request_id, (at_ns, place, _) in enumerate(order):
            now_ns, outcome, idle, retry_ns = found[request_id]
            ends[place].append(End(at_ns, outcome, now_ns - at_ns, idle, retry_ns))
        return ends


def _arrivals(rate, seconds, seed, *, since=0, **what):
    """Moments of a Poisson stream, each with what is asked there."""
    draw = random.Random(seed)
    at_ns, found = since * SECOND, []
    while (at_ns := at_ns + int(draw.expovariate(rate) * SECOND)) < (since + seconds) * SECOND:
        found.append((at_ns, what))
    return found


def _in_time(ends, target=50, *, since=0):
    """The part of those that came since then that was answered within so many milliseconds."""
    ends = [end for end in ends if end.at_ns >= since * SECOND]
    last_ns = target * MILLISECOND + 1000
    return sum(e.outcome is Outcome.OK and e.took_ns <= last_ns for e in ends) / len(ends)


@pytest.fixture
def stage():
    return Stage()


@pytest.fixture
def arrivals():
    return _arrivals


@pytest.fixture
def in_time():
    return _in_time
