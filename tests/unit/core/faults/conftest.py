"""Bursts of requests on one instance, some of which fail."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Dispatch, FailureStorm, Settle
from batcher.core.events import (
    BatchProgress,
    FailureCause,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import FixedWindow, ModelSettings
from batcher.simulation import Driver
from batcher.simulation.engine.driver import succeed
from batcher.testing.invariants import validate


class FailingBursts:
    """One instance and bursts of requests, some of which fail whatever batch they are in."""

    def __init__(self, failing, *, rows=1, cause=FailureCause.UNKNOWN, max_rows=64):
        self.failing = failing
        self.rows = rows
        self.cause = cause
        self.dispatches = []
        self.commands = []
        self.scheduler = Scheduler()
        self.driver = Driver(
            self.scheduler,
            lambda _: MILLISECOND,
            observe=lambda _, commands: self.take(commands),
            outcome=self.outcome,
        )
        settings = ModelSettings(max_rows, FixedWindow())
        self.driver.step([ModelConfigured("m", settings), InstanceUp("i", 1, "m", "d")], 0)

    def take(self, commands):
        self.commands += commands
        self.dispatches += [c for c in commands if isinstance(c, Dispatch)]

    def outcome(self, dispatch, timings):
        if self.failing.intersection(part.id for part in dispatch.parts):
            return BatchProgress(dispatch.batch_id, (), error=self.cause)
        return succeed(dispatch, timings)

    def burst(self, first, count, at_ns=0):
        """These requests arrive together, and everything runs to its end."""
        ids = range(first, first + count)
        self.driver.run([(at_ns, RequestArrived(i, "m", self.rows, 0, (), "", at_ns)) for i in ids])
        validate(self.scheduler)
        assert not self.scheduler.live
        return {
            i: (c.outcome, c.reason)
            for c in self.commands
            if isinstance(c, Settle)
            for i in c.ids
            if i in ids
        }

    @property
    def extra(self):
        return sum(d.attempt > 1 for d in self.dispatches)

    def assert_bisections_are_bounded(self):
        """No batch had more further executions than its failing requests cost."""
        batch_of, sizes, searches, failing = {}, {}, Counter(), Counter()
        for batch in self.dispatches:
            if batch.attempt == 1:
                batch_of |= dict.fromkeys([part.id for part in batch.parts], batch.batch_id)
                sizes[batch.batch_id] = len(batch.parts)
                failing[batch.batch_id] = len({part.id for part in batch.parts} & self.failing)
            else:
                (searched,) = {batch_of[part.id] for part in batch.parts}
                searches[searched] += 1
        for batch_id, reruns in searches.items():
            assert reruns <= failing[batch_id] * (math.ceil(math.log2(sizes[batch_id])) + 2)

    @property
    def storms(self):
        return [c.over for c in self.commands if isinstance(c, FailureStorm)]


@pytest.fixture(scope="session")
def bursts():
    """`bursts({1, 2}, ...)`: an instance on which batches with request 1 or 2 fail."""
    return FailingBursts
