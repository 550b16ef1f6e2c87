"""What a prefetched batch must not change for other requests."""

import random

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome, Settle
from batcher.core.events import (
    BatchProgress,
    FailureCause,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, QueueLimits
from batcher.simulation.engine.driver import succeed
from batcher.testing.invariants import validate
from batcher.testing.prefetch import PrefetchingShell

SHAPE, OTHER = ((8,),), ((16,),)


def ms(moment):
    return int(moment * MILLISECOND)


def executes_ns(rows):
    return 5 * MILLISECOND + rows * MILLISECOND // 2


PROFILE = tuple((rows, executes_ns(rows) + MILLISECOND) for rows in (1, 8, 32))
"""32 rows take 22 ms, 1 ms of which is the gap: a batch may be prefetched 3 ms before the end."""


class Shell(PrefetchingShell):
    """A model and its instances; a first batch at 0 ms shows the gap."""

    def __init__(
        self, policy, target=None, instances=1, known=(SHAPE, OTHER), prefetches=True, **options
    ):
        super().__init__(Scheduler(), executes_ns, MILLISECOND, self.note, **options)
        self.outcomes = {}
        self.began = {}
        """By request: when its batch was dispatched, and to which instance."""
        self.arrivals = []
        settings = ModelSettings(32, policy, QueueLimits(), target and ms(target))
        buckets = tuple((shape, PROFILE) for shape in known)
        ups = [
            InstanceUp(f"m#{place}", 1, "m", "d", 1, (), buckets, prefetches)
            for place in range(instances)
        ]
        self.step([ModelConfigured("m", settings), *ups], 0)
        self.add(0, 1)

    def add(self, at, count, shape=SHAPE, due=None, expires=None):
        """Have requests arrive. Returns their ids."""
        first = len(self.arrivals)
        due_ns, expires_ns = (None if moment is None else ms(moment) for moment in (due, expires))
        for place in range(first, first + count):
            arrived = RequestArrived(
                place, "m", 1, 0, shape, "", ms(at), due_ns=due_ns, deadline_ns=expires_ns
            )
            self.arrivals.append((ms(at), arrived))
        return range(first, first + count)

    def play(self):
        self.run(sorted(self.arrivals, key=lambda each: each[0]))
        validate(self.scheduler)
        assert len(self.outcomes) == len(self.arrivals)

    def note(self, now_ns, commands):
        for command in commands:
            if isinstance(command, Settle):
                end = command.outcome, now_ns
                self.outcomes.update(dict.fromkeys(command.ids, end))

    def start(self, dispatch, now_ns):
        for part in dispatch.parts:
            self.began[part.id] = now_ns, dispatch.instance
        super().start(dispatch, now_ns)


def test_a_full_batch_does_not_overtake_a_more_urgent_one_of_another_shape():
    shell = Shell(Adaptive(), target=100)
    shell.add(100, 96)
    [urgent] = shell.add(110, 1, OTHER, due=132)
    shell.play()
    outcome, ended_ns = shell.outcomes[urgent]
    assert outcome is Outcome.OK
    assert ended_ns <= ms(132)


def test_the_instance_that_is_free_first_gets_the_batch():
    """The other one may prefetch sooner, because its batch is longer."""
    shell = Shell(FixedWindow(0), instances=2)
    for at in (10, 40):
        shell.add(at, 1)
    shell.add(100, 32)
    short, *_ = shell.add(114, 1)
    waiting = shell.add(115, 40)
    shell.play()
    assert shell.prefetched >= 1
    assert shell.began[waiting[0]][1] == shell.began[short][1]
    # As without prefetching.
    assert shell.outcomes[waiting[0]][1] <= ms(114 + 6.5 + 22)


def test_nothing_is_prefetched_behind_a_batch_without_a_prediction():
    shell = Shell(FixedWindow(0), known=(SHAPE,))
    first, *rest = shell.add(100, 96, OTHER)
    shell.play()
    assert shell.began[rest[31]][0] >= shell.outcomes[first][1]


def test_a_request_that_expires_before_a_batch_begins_is_not_in_it():
    shell = Shell(FixedWindow(0))
    shell.add(100, 32)
    expires = shell.add(101, 4, expires=120.5)
    shell.add(101, 60)
    shell.play()
    assert {shell.outcomes[i] for i in expires} == {(Outcome.EXPIRED, ms(120.5))}


def test_nothing_is_prefetched_while_requests_make_their_batches_fail():
    def outcome(dispatch, timings):
        if all(part.id % 50 for part in dispatch.parts):
            return succeed(dispatch, timings)
        return BatchProgress(
            dispatch.batch_id, (), timings=timings, last=True, error=FailureCause.UNKNOWN
        )

    shell = Shell(Adaptive(), target=200, outcome=outcome)
    bisections = shell.scheduler.models["m"].bisections
    bounded = []

    def start(dispatch, now_ns):
        prefetched = shell.prefetched
        Shell.start(shell, dispatch, now_ns)
        if bisections.open or bisections.batch_cap.bounds(32):
            bounded.append(shell.prefetched - prefetched)

    shell.start = start
    for place in range(1500):
        shell.add(10 + place * 0.5, 1)
    shell.play()
    assert shell.prefetched > 0
    assert len(bounded) > 10
    assert not any(bounded)


def test_predictions_follow_a_gap_that_grows_and_shrinks():
    """Nearly all batches are prefetched, so only they can show it."""

    def played(prefetches):
        shell = Shell(Adaptive(limit_ns=ms(50)), target=50, prefetches=prefetches)
        shell.gap_ns = MILLISECOND // 5

        def start(dispatch, now_ns):
            long = SECOND < now_ns < 3 * SECOND
            shell.gap_ns = 5 * MILLISECOND if long else MILLISECOND // 5
            Shell.start(shell, dispatch, now_ns)

        shell.start = start
        draw, at = random.Random(1), 1.0
        while (at := at + draw.expovariate(2)) < 5000:
            shell.add(at, 1)
        shell.play()
        took = [
            shell.outcomes[event.id][1] - at_ns
            for at_ns, event in shell.arrivals
            if at_ns >= 1.5 * SECOND and shell.outcomes[event.id][0] is Outcome.OK
        ]
        return shell, sum(ns <= ms(50) for ns in took), sum(ns > ms(50) for ns in took)

    shell, in_time, late = played(prefetches=True)
    _, in_time_before, _ = played(prefetches=False)
    assert shell.prefetched > 0.9 * len(shell.executed)
    assert late <= 0.001 * len(shell.arrivals)
    assert in_time > 1.04 * in_time_before
    model = shell.scheduler.models["m"]
    assert model.handling.gap_ns < MILLISECOND // 2
    assert model.times[SHAPE].curve[32] < executes_ns(32) + MILLISECOND // 2


def test_stalls_of_the_event_loop_do_not_count_as_a_longer_gap():
    """Where all batches are prefetched, none would show that the gap is short again."""
    shell = Shell(Adaptive(), target=50)
    post = shell.post

    def stalled(at_ns, event):
        into_ns = at_ns % ms(500)
        post(at_ns - into_ns + ms(80) if at_ns > SECOND and into_ns < ms(80) else at_ns, event)

    shell.post = stalled
    for place in range(10_000):
        shell.add(1 + place * 0.5, 1)
    shell.play()
    assert shell.prefetched > 0.9 * len(shell.executed)
    assert shell.scheduler.models["m"].handling.gap_ns <= 1.5 * MILLISECOND
