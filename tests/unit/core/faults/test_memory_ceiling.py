"""A device without memory for a batch: smaller batches, for a while, and no request to blame."""

from itertools import pairwise

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import BatchCeiling, Dispatch, Outcome, Reason, Settle
from batcher.core.events import (
    BatchProgress,
    FailureCause,
    InstanceDraining,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
    Timings,
)
from batcher.core.faults.memory_ceiling import MOST_HOLD_NS, MemoryCeiling
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, NoBatching, PaddedAxis
from batcher.core.times import NEVER_NS
from batcher.simulation.engine.driver import succeed
from batcher.testing.invariants import validate

MEMORY = FailureCause.MEMORY


class SmallDevice:
    """A model on a device that has memory for batches of so many `elements`, and takes 1 ms for each."""

    def __init__(
        self, elements, *, policy=None, max_rows=64, padding=(), instances=1, batch_sizes=()
    ):
        self.elements = elements
        self.commands = []
        self.dispatches = []
        self.scheduler = Scheduler()
        settings = ModelSettings(
            max_rows, policy or FixedWindow(), padding=padding, batch_sizes=batch_sizes
        )
        up = [InstanceUp(f"i{name}", 1, "m", "d") for name in range(instances)]
        self.running = []
        self.handle([ModelConfigured("m", settings), *up], 0)
        self.ids = iter(range(1, 1_000_000))

    def handle(self, events, now_ns):
        commands = self.scheduler.handle(events, now_ns)
        self.commands += commands
        validate(self.scheduler)
        for command in commands:
            if isinstance(command, Dispatch):
                self.dispatches.append(command)
                done_ns = now_ns + MILLISECOND
                timings = Timings(now_ns, now_ns, done_ns, done_ns)
                self.running.append((done_ns, self.outcome(command, timings)))

    def outcome(self, dispatch, timings):
        each = max(1, sum(axis for shape in dispatch.bucket for axis in shape))
        if rows_of(dispatch) * each > self.elements:
            return BatchProgress(dispatch.batch_id, (), error=MEMORY)
        return succeed(dispatch, timings)

    def send(self, count, at_ns=0, *, rows=1, shapes=()):
        """So many requests arrive together, and everything runs to its end. Returns how each ended."""
        now_ns = max(at_ns, self.scheduler.now_ns)
        ids = [next(self.ids) for _ in range(count)]
        before = len(self.commands)
        self.handle([RequestArrived(i, "m", rows, 0, shapes, "", now_ns) for i in ids], now_ns)
        while self.scheduler.live:
            wakeup_ns = self.scheduler.next_wakeup_ns() or NEVER_NS
            now_ns = min([wakeup_ns, *[done_ns for done_ns, _ in self.running]])
            done = [report for done_ns, report in self.running if done_ns <= now_ns]
            self.running = [each for each in self.running if each[0] > now_ns]
            self.handle(done, now_ns)
        settled = [c for c in self.commands[before:] if isinstance(c, Settle)]
        return {i: (c.outcome, c.reason) for c in settled for i in c.ids}

    def sizes(self):
        found = [rows_of(each) for each in self.dispatches]
        self.dispatches.clear()
        return found

    @property
    def seen(self):
        return self.scheduler.observe(self.scheduler.now_ns).models[0]


def rows_of(dispatch):
    return sum(part.stop - part.start for part in dispatch.parts)


@pytest.fixture
def device():
    return SmallDevice


OK = (Outcome.OK, Reason.NONE)
NO_MEMORY = (Outcome.FAILED, Reason.DEVICE_MEMORY)


def test_the_rows_of_a_batch_without_memory_run_again_in_halves(device):
    world = device(40)
    assert set(world.send(64).values()) == {OK}
    assert world.sizes() == [64, 32, 32]
    assert world.seen.ceiling_rows == 32
    assert [c for c in world.commands if isinstance(c, BatchCeiling)] == [BatchCeiling("m", 64, 32)]


def test_nothing_is_bisected_counted_as_failing_or_learned(device):
    world = device(10)
    world.send(64)
    seen = world.seen
    assert (seen.bisected_batches, seen.bisect_executions, seen.storm) == (0, 0, False)
    model = world.scheduler.models["m"]
    assert not model.bisections.batch_cap.faults
    assert not model.bisections.failures_in_a_row
    # The curve ends at the ceiling, and knows the batches that had room alone.
    assert len(model.times.of(()).curve) == 1 + seen.ceiling_rows


def test_what_waits_is_planned_in_batches_below_the_ceiling(device):
    for policy in (FixedWindow(), Adaptive(), NoBatching(), FixedWindow(MILLISECOND, (48, 64))):
        world = device(20, policy=policy)
        world.send(64)
        world.sizes()
        assert set(world.send(200).values()) == {OK}
        assert max(world.sizes()) <= 20


@pytest.mark.parametrize("rows", [1, 3, 64, 150])
def test_an_executor_that_never_has_memory_ends_every_request(device, rows):
    world = device(0)
    ends = world.send(20, rows=rows)
    assert len(ends) == 20
    assert set(ends.values()) == {NO_MEMORY}
    settled = [c for c in world.commands if isinstance(c, Settle)]
    assert all(c.retry_after_ns == SECOND for c in settled)
    # Each row ran at most once in each of the sizes 64, 32, 16, ..., 1.
    assert sum(world.sizes()) <= 20 * rows * 7


@pytest.mark.parametrize("rows", [40, 64, 130])
def test_requests_with_many_rows_are_cut(device, rows):
    world = device(5)
    assert set(world.send(3, rows=rows).values()) == {OK}
    done = {}
    for dispatch in world.dispatches:
        if rows_of(dispatch) <= 5:
            for part in dispatch.parts:
                done.setdefault(part.id, []).extend(range(part.start, part.stop))
    assert {i: sorted(each) for i, each in done.items()} == {i: [*range(rows)] for i in (1, 2, 3)}


def test_the_ceiling_is_raised_by_steps_and_ends_with_a_batch_as_large_as_the_one_that_failed(
    device,
):
    world = device(8)
    world.send(64)
    assert world.seen.ceiling_rows == 8
    world.sizes()
    world.elements = 64
    largest = []
    for second in range(1, 6):
        world.send(64, second * SECOND + second * 100 * MILLISECOND)
        largest.append(max(world.sizes()))
    assert largest == [16, 32, 64, 64, 64]
    ceilings = [c for c in world.commands if isinstance(c, BatchCeiling)]
    assert ceilings == [BatchCeiling("m", 64, 32), BatchCeiling("m", over=True)]
    assert world.scheduler.models["m"].memory.elements is None


def test_a_ceiling_that_no_large_batch_tries_ends_by_time(device):
    world = device(32)
    world.send(64)
    while (wakeup_ns := world.scheduler.next_wakeup_ns()) is not None:
        world.handle([], wakeup_ns)
    assert world.scheduler.now_ns < 4 * SECOND
    assert world.seen.ceiling_rows == 64


def test_a_raised_ceiling_that_fails_again_is_held_for_twice_as_long(device):
    world = device(32)
    failed_ns = []
    for _ in range(3_000):
        world.send(64, world.scheduler.now_ns + 100 * MILLISECOND)
        failed_ns += [world.scheduler.now_ns] * world.sizes().count(64)
    pauses = [round((b - a) / SECOND) for a, b in pairwise(failed_ns)]
    assert pauses[:6] == [1, 2, 4, 8, 16, 32]
    assert max(pauses) * SECOND <= MOST_HOLD_NS + SECOND
    assert sum(isinstance(c, BatchCeiling) for c in world.commands) == 1


def test_long_rows_do_not_shrink_batches_of_short_ones(device):
    world = device(2000, padding=(PaddedAxis(0, 1, (10, 100)),))
    assert set(world.send(64, shapes=((100,),)).values()) == {OK}
    assert world.seen.ceiling_rows == 16
    world.sizes()
    world.send(64, shapes=((7,),))
    assert world.sizes() == [64]
    assert set(world.send(64, shapes=((99,),)).values()) == {OK}
    assert world.sizes() == [16, 16, 16, 16]


def test_one_row_that_is_too_large_fails_alone_and_shrinks_no_batch_of_others(device):
    world = device(2000, padding=(PaddedAxis(0, 1, (10, 100_000)),))
    assert world.send(1, shapes=((99_999,),)) == {1: NO_MEMORY}
    world.sizes()
    world.send(64, shapes=((10,),))
    assert world.sizes() == [64]


@pytest.mark.parametrize("batch_sizes", [(4, 8, 16, 64), (64,), (1, 3, 64)])
def test_only_sizes_that_can_run_are_tried(device, batch_sizes):
    world = device(16, batch_sizes=batch_sizes)
    ends = set(world.send(60).values())
    fits = batch_sizes[0] <= 16
    assert ends == ({OK} if fits else {NO_MEMORY})
    first, *others = world.sizes()
    assert first == 60
    largest = max([size for size in batch_sizes if size <= 32], default=0)
    assert max(others, default=0) <= largest
    assert world.seen.ceiling_rows == max(largest, batch_sizes[0])


def test_batches_on_their_way_when_the_ceiling_falls_do_not_lower_it_further(device):
    world = device(40, instances=3)
    assert set(world.send(192).values()) == {OK}
    assert world.sizes() == [64] * 3 + [32] * 6
    assert world.seen.ceiling_rows == 32


def test_it_is_the_same_after_a_restart_from_a_snapshot(device):
    world = device(8)
    world.send(64)
    again = Scheduler.restore(world.scheduler.snapshot())
    assert again.snapshot() == world.scheduler.snapshot()
    assert again.next_wakeup_ns() == world.scheduler.next_wakeup_ns()
    assert again.models["m"].most_rows(()) == 8


def test_a_request_that_fails_by_itself_for_want_of_memory_lowers_the_ceiling_too():
    ceiling = MemoryCeiling()
    assert ceiling.failed(1, 32, 0)
    assert not ceiling.failed(1, 16, 0)
    assert (ceiling.elements, ceiling.failures) == (8, 2)
    assert ceiling.most_rows(4, 32) == 2
    assert ceiling.most_rows(100, 32) == 1


def test_what_runs_again_keeps_its_bucket_in_a_snapshot_whatever_is_configured_meanwhile(device):
    world = device(15, padding=(PaddedAxis(0, 1, (10, 100)),))
    first = RequestArrived(9001, "m", 1, 0, ((7,),), "", 0)
    second = RequestArrived(9002, "m", 1, 0, ((7,),), "", 0)
    world.handle([first, second], 0)
    (_, report) = world.running.pop()
    settings = ModelSettings(64, FixedWindow(), padding=(PaddedAxis(0, 1, (8,)),))
    world.handle([InstanceDraining("i0", 1), InstanceUp("i1", 1, "m", "d"), report], MILLISECOND)
    world.handle([ModelConfigured("m", settings)], 2 * MILLISECOND)
    again = Scheduler.restore(world.scheduler.snapshot())
    assert {r.bucket for r in again.live.values()} == {((10,),)}
    assert again.snapshot() == world.scheduler.snapshot()
