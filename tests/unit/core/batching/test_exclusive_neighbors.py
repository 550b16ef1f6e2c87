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

    def __init__(self, in_flight, *, prefetches, exclusive=True, network_ns=NETWORK_NS, noise=0.0):
        self.scheduler = Scheduler()
        self.network_ns, self.noise, self.draw = network_ns, noise, random.Random(7)
        self.joinable = 0
        """Prefetched batches that a later arrival could have joined."""
        self.exclusive = exclusive
        self.events, self.count, self.free_ns = [], 0, 0
        self.arrived, self.in_time, self.ended = {}, 0, 0
        self.predicted = []
        settings = ModelSettings(
            ROWS, Adaptive(limit_ns=SECOND), QueueLimits(max_requests=4096), TARGET_NS
        )
        profile = tuple((rows, executes_ns(rows) + 2 * network_ns) for rows in (1, 2, 4, 8, 16, 32))
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
        begins_ns = now_ns + LOOP_NS + self.network_ns
        if self.exclusive:
            begins_ns = max(begins_ns, self.free_ns)
        self.free_ns = begins_ns + int(executes_ns(rows) * self.draw.gauss(1.0, self.noise))
        ended_ns = self.free_ns + self.network_ns
        timings = Timings(now_ns + LOOP_NS, now_ns + LOOP_NS, ended_ns, ended_ns)
        ids = tuple(part.id for part in command.parts)
        report = BatchProgress(command.batch_id, ids, timings=timings)
        self.at(ended_ns + LOOP_NS, report)
        batch = self.scheduler.fleet.batches[command.batch_id]
        self.joinable += (
            batch.prefetched and rows < ROWS and not self.scheduler.models["m"].queue.rows
        )
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


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.85, 1.5])
def test_the_round_trip_is_learned_and_does_not_drift(load):
    neighbor = Neighbor(1, prefetches=True, network_ns=5 * MILLISECOND // 2, noise=0.05)
    in_time = neighbor.serve(load, 20)
    assert in_time > (0.99 if load < 1 else 0.6)
    assert neighbor.joinable > 0
    model = neighbor.scheduler.models["m"]
    assert model.handling.round_trip_ns < 7 * MILLISECOND
    assert model.times.get(()).curve[ROWS] < executes_ns(ROWS) + 8 * MILLISECOND
    if load < 1:
        assert model.handling.round_trip_ns > 4 * MILLISECOND


def test_what_was_learned_of_the_round_trip_is_restored():
    neighbor = Neighbor(1, prefetches=True, network_ns=5 * MILLISECOND // 2)
    neighbor.serve(0.85, 3)
    before = neighbor.scheduler
    after = Scheduler.restore(before.snapshot())
    handling = before.models["m"].handling
    assert handling.round_trip_ns > 0
    for name in ("round_trip_ns", "early_saves_ns", "saved_ns"):
        assert getattr(after.models["m"].handling, name) == getattr(handling, name)
    assert after.snapshot() == before.snapshot()


def test_no_round_trip_is_learned_of_a_backend_that_is_busy_with_others():
    neighbor = Neighbor(1, prefetches=True, network_ns=5 * MILLISECOND // 2)
    settings = ModelSettings(ROWS, Adaptive(limit_ns=SECOND), QueueLimits(), TARGET_NS)
    up = InstanceUp("other", 1, "other", "d", 1, ((1, MILLISECOND),), (), True)
    neighbor.step([ModelConfigured("other", settings), up], 0)
    neighbor.serve(0.85, 3)
    assert neighbor.scheduler.models["m"].handling.round_trip_ns == 0.0
    assert neighbor.joinable == 0


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
