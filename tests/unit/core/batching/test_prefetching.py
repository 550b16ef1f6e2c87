"""An instance gets its next batch before it is free, where a full batch waits."""

import random
from itertools import pairwise

import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome, Reason, Settle
from batcher.core.events import (
    DeviceConfigured,
    InstanceDown,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits
from batcher.testing.invariants import validate
from batcher.testing.prefetch import PrefetchingShell

GAP_NS = MILLISECOND
"""Time of a batch beyond its execution, on an idle instance."""


def executes_ns(rows):
    return 5 * MILLISECOND + rows * MILLISECOND // 2


class Shell(PrefetchingShell):
    """Models with an instance each, and the outcomes of their requests."""

    def __init__(self, prefetches=True, models=("m",), target=50, **limits):
        super().__init__(Scheduler(), executes_ns, GAP_NS, self.note)
        self.outcomes = {}
        settings = ModelSettings(
            32,
            Adaptive(limit_ns=target and target * MILLISECOND),
            QueueLimits(**limits),
            target and target * MILLISECOND,
        )
        events = [DeviceConfigured("d", 1)]
        for model in models:
            profile = tuple((rows, executes_ns(rows) + GAP_NS) for rows in (1, 8, 32))
            events.append(ModelConfigured(model, settings))
            events.append(InstanceUp(f"{model}#0", 1, model, "d", 1, profile, (), prefetches))
        self.step(events, 0)

    def note(self, now_ns, commands):
        for command in commands:
            if isinstance(command, Settle):
                end = command.outcome, command.reason, now_ns
                assert not self.outcomes.keys() & set(command.ids)
                self.outcomes.update(dict.fromkeys(command.ids, end))

    def idle_ns(self):
        """The mean time between batches on the device, over the second half of them."""
        late = self.executed[len(self.executed) // 2 :]
        gaps = [after[0] - before[1] for before, after in pairwise(late)]
        return sum(gaps) / len(gaps)


def poisson(rate, seconds, seed=1, model="m", first_id=0):
    draw, at_ns, found = random.Random(seed), 0, []
    while (at_ns := at_ns + int(draw.expovariate(rate) * SECOND)) < seconds * SECOND:
        found.append((at_ns, RequestArrived(first_id + len(found), model, 1, 0, (), "", at_ns)))
    return found


def both(arrivals):
    """The same arrivals with prefetching and without."""
    shells = Shell(), Shell(prefetches=False)
    for shell in shells:
        shell.run(arrivals)
    return shells


def in_time(shell, arrivals, target=50):
    ends = [(shell.outcomes[event.id], at_ns) for at_ns, event in arrivals]
    assert len(ends) == len(shell.outcomes)
    last_ns = target * MILLISECOND
    return sum(how is Outcome.OK and end - at <= last_ns for (how, _, end), at in ends) / len(ends)


def test_under_a_backlog_the_device_does_not_wait_for_its_next_batch():
    arrivals = poisson(2000, 4)
    shell, before = both(arrivals)
    assert before.prefetched == 0
    assert before.idle_ns() == pytest.approx(GAP_NS, rel=0.01)
    assert shell.prefetched > 0.9 * len(shell.executed)
    assert shell.idle_ns() < 0.05 * GAP_NS
    # A thread begins a batch after the one before it has ended: there is no round trip to learn.
    assert shell.scheduler.fleet.alone("m")
    assert shell.scheduler.models["m"].handling.round_trip_ns == 0.0
    served, served_before = in_time(shell, arrivals), in_time(before, arrivals)
    # 32 rows execute for 21 ms; the gap of 1 ms is saved.
    assert served > 1.035 * served_before
    validate(shell.scheduler)


def test_a_prefetched_batch_is_planned_to_end_earlier_by_what_is_saved():
    """Requests that are late with the gap and in time without it are served. No batch begins sooner."""
    shell, slack_ns, begins = Shell(), [], []

    def start(dispatch, now_ns):
        batch = shell.scheduler.fleet.batches[dispatch.batch_id]
        others = [b for b in shell.scheduler.fleet.batches.values() if b is not batch]
        if batch.prefetched and len(begins) > 20:
            assert batch.dispatched_ns == int(others[0].expected_end_ns)
            times = shell.scheduler.models["m"].times.of(dispatch.bucket)
            due_ns = min(shell.scheduler.live[part.id].finish_by_ns for part in dispatch.parts)
            ends_ns = batch.dispatched_ns + times.p95[batch.rows]
            assert ends_ns - GAP_NS <= due_ns + 1000
            slack_ns.append(due_ns - ends_ns)
        begins.append(batch.dispatched_ns)
        PrefetchingShell.start(shell, dispatch, now_ns)

    shell.start = start
    arrivals = poisson(1800, 4)
    shell.run(arrivals)
    assert min(slack_ns) < -0.8 * GAP_NS
    assert in_time(shell, arrivals) > 0.82


def test_prefetching_makes_no_request_late():
    """Near capacity, some batches are full and others are not."""
    arrivals = poisson(1300, 10)
    shell, before = both(arrivals)
    assert 0.05 < shell.prefetched / len(shell.executed) < 0.95
    assert in_time(shell, arrivals) >= in_time(before, arrivals)
    answered = [event.id for _, event in arrivals if shell.outcomes[event.id][0] is Outcome.OK]
    late = [i for i in answered if shell.outcomes[i][2] - arrivals[i][0] > 50 * MILLISECOND]
    assert len(late) <= 0.001 * len(arrivals)


def test_batches_that_are_not_full_are_formed_when_the_instance_is_free():
    arrivals = poisson(400, 4)
    shell, before = both(arrivals)
    assert shell.prefetched == 0
    assert shell.executed == before.executed


def test_predictions_are_those_of_an_idle_instance():
    shell = Shell()
    shell.run(poisson(2000, 4))
    [times] = shell.scheduler.models["m"].times.values()
    assert times.curve[32] == pytest.approx(executes_ns(32) + GAP_NS, rel=0.01)


def test_nothing_is_prefetched_on_a_device_that_another_model_may_need():
    shell = Shell(models=("m", "n"))
    few = [(at, event) for at, event in poisson(20, 3, 2, "n", 100_000)]
    shell.run(sorted([*poisson(2000, 3), *few], key=lambda each: each[0]))
    assert shell.prefetched == 0
    assert len(shell.executed) > 100


def test_without_a_target_a_full_batch_is_prefetched_too():
    shell = Shell(target=None, max_requests=200)
    shell.run(poisson(2000, 3))
    assert shell.prefetched > 0.9 * len(shell.executed)


def test_a_lost_instance_loses_its_prefetched_batch():
    shell = Shell()
    arrivals = poisson(2000, 1)
    lost = []

    def start(dispatch, now_ns):
        Shell.start(shell, dispatch, now_ns)
        if shell.prefetched == 3 and not lost:
            batches = shell.scheduler.fleet.batches.values()
            lost.extend(sorted(i for batch in batches for i in batch.unreported))
            shell.post(now_ns, InstanceDown("m#0", 1))
            shell.post(now_ns + SECOND, InstanceUp("m#0", 2, "m", "d", 1, prefetches=True))

    shell.start = start
    shell.run(arrivals)
    assert len(lost) > 32
    failed = [i for i, (how, _, _) in shell.outcomes.items() if how is Outcome.FAILED]
    assert sorted(failed) == lost
    assert {shell.outcomes[i][1] for i in failed} == {Reason.INSTANCE_DOWN}
    assert len(shell.outcomes) == len(arrivals)
    assert shell.scheduler.live == {}
    validate(shell.scheduler)
