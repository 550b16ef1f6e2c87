"""A scheduler that is brought into every state of docs/scheduler-states.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from batcher.clock import MILLISECOND
from batcher.core.events import BatchProgress, InstanceUp, Timings
from batcher.core.settings import Adaptive

PAGE = Path(__file__).parents[4] / "docs" / "scheduler-states.md"
SERVE = Adaptive()
TAKES = 10
"""Milliseconds of every batch, where the instance was warmed up."""


class World:
    """A scheduler and short words for what happens to it; request 1 is the one of interest."""

    def __init__(self, play):
        self.play = play
        self.scheduler = play.scheduler

    def adaptive(self, policy=SERVE, *, target=15, max_rows=8, **limits):
        promote_after = limits.pop("promote_after", 1000)
        limits.setdefault("priority_levels", 1)
        limits.setdefault("default_priority", 1)
        self.play.model(
            "m",
            policy,
            max_rows,
            target=target,
            promote_after_ns=promote_after * MILLISECOND,
            **limits,
        )

    def up(self, instance="i", incarnation=1, *, warm=True, prefetches=False):
        profile = tuple((rows, TAKES * MILLISECOND) for rows in (1, 2, 4, 8)) if warm else ()
        self.play.feed(
            InstanceUp(instance, incarnation, "m", "d", 1, profile, prefetches=prefetches)
        )

    def last_batch(self):
        return self.scheduler.contents.next_batch_id - 1

    def learn_the_gap(self):
        """Two batches that their instance began 1 ms after it got them."""
        for batch in range(2):
            began, ended = batch * TAKES, (batch + 1) * TAKES
            self.play.arrive(90 + batch, at=began, due=1000)
            began_ns, ended_ns = began * MILLISECOND + MILLISECOND, ended * MILLISECOND
            stamps = Timings(began_ns, began_ns, ended_ns)
            report = BatchProgress(self.last_batch(), (90 + batch,), timings=stamps)
            self.play.feed(report, at=ended)

    def enter_batch(self, how, rest, **requests):
        """Request 1 and others are in a batch of four rows, as it was in the state `how` before."""
        if how == "waiting":
            state = "prefetched" if rest.get("prefetches") else "running"
            self.enter(state, max_rows=4, **requests)
            return
        self.enter(how, max_rows=4, **requests, **rest)
        if rest.get("prefetches"):
            self.until_prefetched()
        else:
            self.end_of_0()

    def until_prefetched(self, request_id=1):
        """Let time pass until the request is in a prefetched batch."""
        for _ in range(100):
            request = self.scheduler.live[request_id]
            if request.batch_id is not None:
                return
            wakeup = self.play.wakeup
            self.play.feed(at=self.play.now + 0.25 if wakeup is None else wakeup)
        raise AssertionError("nothing was prefetched")

    def enter(self, state, **rest):
        """Bring request 1 into a state."""
        getattr(self, state.replace("-", "_").replace(" ", "_"))(**rest)

    # Into a state

    def waiting(self, *, rows=1, max_rows=1, expires=None, **limits):
        self.play.fixed(max_rows=max_rows, **limits)
        self.up(warm=False)
        self.play.arrive(0, rows=max_rows)
        self.play.arrive(1, rows=rows, expires=expires)

    def held(self, *, expires=None, policy=None, **limits):
        """Requests 0 and 1 are steps of one sequence, and 0 runs."""
        if policy is None:
            self.play.fixed(max_rows=4, **limits)
        else:
            self.adaptive(policy, target=50)
        self.up(warm=False)
        first, second = self.play.request(0), self.play.request(1, expires=expires)
        self.play.feed(replace(first, sequence=7), replace(second, sequence=7))

    def late(self, *, others=(), after=(), rows=1, expires=None, prefetches=False, **limits):
        """Request 0 runs for 10 ms, and 1 would be done after 20 ms, but is due after 15."""
        limits.setdefault("target", 50)
        self.adaptive(**limits)
        self.up(prefetches=prefetches)
        if prefetches:
            self.learn_the_gap()
        start = self.play.now
        self.play.arrive(0, at=start, due=start + 1000)
        self.play.arrive(
            *others, 1, *after, at=start + 1, rows=rows, expires=expires, due=start + 15
        )

    def partly_run(self, *, rows=6, expires=None):
        self.play.fixed(max_rows=2)
        self.up(warm=False)
        self.play.arrive(1, rows=rows, expires=expires)

    def prefetched(self, *, others=(), rows=1, max_rows=1, expires=None):
        self.play.fixed(max_rows=max_rows)
        self.up(prefetches=True)
        self.learn_the_gap()
        self.play.arrive(0, rows=max_rows)
        self.play.arrive(*others, 1, rows=rows, expires=expires)
        self.until_prefetched()

    def running(self, *, others=(), after=(), rows=1, max_rows=1, expires=None):
        self.play.fixed(max_rows=max_rows)
        self.up(warm=False)
        self.play.arrive(*others, 1, *after, rows=rows, expires=expires)

    def suspect(self, *, rows=1, max_rows=2, expires=None):
        """Requests 2 and 1 have failed together; 2 runs again."""
        self.running(others=(2,), rows=rows, max_rows=max_rows, expires=expires)
        self.play.error(1)

    def suspect_in_two_batches(self):
        """Rows of request 1 are suspect, and the others run on instance `j`."""
        self.play.fixed(max_rows=4)
        self.up("i", warm=False)
        self.up("j", warm=False)
        self.play.feed(self.play.request(0, rows=2), self.play.request(1, rows=6))
        self.play.error(1)

    def in_two_batches(self):
        """Request 1 runs on both instances."""
        self.play.fixed(max_rows=2)
        self.up("i", warm=False)
        self.up("j", warm=False)
        self.play.arrive(1, rows=4)

    def partly_run_and_suspect(self):
        """Two rows of request 1 are suspect, and the others wait."""
        self.play.fixed(max_rows=4)
        self.up(warm=False)
        self.play.feed(self.play.request(0, rows=2), self.play.request(1, rows=10))
        self.play.error(1)

    def end_of_0(self, at=None):
        batch_id = self.scheduler.live[0].batch_id
        self.play.done(batch_id, 0, at=self.play.now if at is None else at)


@pytest.fixture
def world(play):
    return World(play)
