"""An instance whose batches are executed by another server, one at a time, in the order of their coming.

What is predicted of a batch must be what it takes there, its wait behind the batches before it included.
"""

import heapq
import random

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Dispatch, Outcome, Settle
from batcher.core.events import (
    BatchProgress,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
    Timings,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits
from batcher.testing.invariants import validate

ROWS = 32
TARGET_NS = 50 * MILLISECOND
NETWORK_NS = MILLISECOND // 2
"""Each way."""
LOOP_NS = 150_000
"""From the decision to the call, and from its end to the report."""


def executes_ns(rows):
    return 5 * MILLISECOND + rows * MILLISECOND // 2


class Neighbor:
    """The scheduler, its instance, and the server behind it."""

    def __init__(self, in_flight, *, prefetches, exclusive=True):
        self.scheduler = Scheduler()
        self.exclusive = exclusive
        self.events, self.count, self.free_ns = [], 0, 0
        self.arrived, self.in_time, self.ended = {}, 0, 0
        self.predicted = []
        settings = ModelSettings(
            ROWS, Adaptive(limit_ns=SECOND), QueueLimits(max_requests=4096), TARGET_NS
        )
        profile = tuple((rows, executes_ns(rows) + 2 * NETWORK_NS) for rows in (1, 2, 4, 8, 16, 32))
        up = InstanceUp("i", 1, "m", "d", in_flight, profile, (), prefetches)
        self.step([ModelConfigured("m", settings), up], 0)

    def at(self, now_ns, event):
        self.count += 1
        heapq.heappush(self.events, (now_ns, self.count, event))

    def step(self, events, now_ns):
        for command in self.scheduler.handle(events, now_ns):
            if isinstance(command, Dispatch):
                self.execute(command, now_ns)
            elif isinstance(command, Settle):
                self.ended += len(command.ids)
                if command.outcome is Outcome.OK:
                    late = [i for i in command.ids if now_ns - self.arrived[i] > TARGET_NS]
                    self.in_time += len(command.ids) - len(late)

    def execute(self, command, now_ns):
        rows = sum(part.stop - part.start for part in command.parts)
        begins_ns = now_ns + LOOP_NS + NETWORK_NS
        if self.exclusive:
            begins_ns = max(begins_ns, self.free_ns)
        self.free_ns = begins_ns + executes_ns(rows)
        ended_ns = self.free_ns + NETWORK_NS
        timings = Timings(now_ns + LOOP_NS, now_ns + LOOP_NS, ended_ns, ended_ns)
        ids = tuple(part.id for part in command.parts)
        report = BatchProgress(command.batch_id, ids, timings=timings)
        self.at(ended_ns + LOOP_NS, report)
        batch = self.scheduler.fleet.batches[command.batch_id]
        took_ns = ended_ns + LOOP_NS - now_ns
        self.predicted.append(took_ns / (batch.expected_end_ns - now_ns))

    def serve(self, load, seconds, seed=1):
        draw = random.Random(seed)
        rate = load * ROWS / executes_ns(ROWS)
        at_ns = 0.0
        for number in range(1, int(rate * seconds * SECOND)):
            at_ns += draw.expovariate(rate)
            self.arrived[number] = int(at_ns)
            event = RequestArrived(number, "m", 1, 4, (), "", int(at_ns))
            self.at(int(at_ns), event)
        while self.events or self.scheduler.live:
            wakeup_ns = self.scheduler.next_wakeup_ns()
            if self.events and (wakeup_ns is None or self.events[0][0] <= wakeup_ns):
                now_ns, _, event = heapq.heappop(self.events)
                self.step([event], now_ns)
            else:
                self.step([], wakeup_ns)
        assert self.ended == len(self.arrived)
        validate(self.scheduler)
        return self.in_time / self.ended

    def errors(self):
        """The 5th, 50th and 95th percentile of actual by predicted times, once they are learned."""
        late = sorted(self.predicted[len(self.predicted) // 4 :])
        return [late[int(share * len(late))] for share in (0.05, 0.5, 0.95)]


@pytest.mark.slow
def test_with_a_batch_ahead_the_neighbor_never_waits_and_times_are_predicted_right():
    ahead, alone = Neighbor(1, prefetches=True), Neighbor(1, prefetches=False)
    assert ahead.serve(0.95, 5) > 0.97
    assert alone.serve(0.95, 5) < 0.9
    low, middle, high = ahead.errors()
    assert 0.95 < low <= middle <= high < 1.05
    assert middle == pytest.approx(1.0, abs=0.01)


@pytest.mark.slow
def test_with_several_in_flight_the_wait_at_the_neighbor_is_part_of_what_is_learned():
    neighbor = Neighbor(2, prefetches=False)
    neighbor.serve(1.1, 5)
    low, middle, high = neighbor.errors()
    assert 0.85 < low <= middle <= high < 1.25
    assert middle == pytest.approx(1.0, abs=0.02)


def test_a_batch_that_ends_before_the_one_that_it_was_to_follow_teaches_nothing():
    """The neighbor executes batches at the same time after all."""
    neighbor = Neighbor(1, prefetches=True, exclusive=False)
    assert neighbor.serve(0.95, 2) > 0.9
    scheduler = neighbor.scheduler
    curve = scheduler.models["m"].times.get(()).curve
    assert min(curve[1:]) > 0
    now_ns = scheduler.now_ns
    # 64 rows: the second batch is prefetched behind the first, and ends first.
    ids = range(10**6, 10**6 + 2 * ROWS)
    scheduler.handle([RequestArrived(i, "m", 1, 4, (), "", now_ns) for i in ids], now_ns)
    until_ns = now_ns + SECOND
    while len(scheduler.fleet.batches) < 2 and now_ns < until_ns:
        now_ns = scheduler.next_wakeup_ns() or until_ns
        scheduler.handle([], now_ns)
    first, second = sorted(scheduler.fleet.batches)
    before = list(scheduler.models["m"].times.get(()).curve)
    for batch_id in (second, first):
        batch = scheduler.fleet.batches[batch_id]
        timings = Timings(now_ns - 1000, now_ns - 1000, now_ns, now_ns)
        done = tuple(part.id for part in batch.parts)
        scheduler.handle([BatchProgress(batch_id, done, timings=timings)], now_ns)
        validate(scheduler)
        if batch_id == second:
            assert list(scheduler.models["m"].times.get(()).curve) == before
