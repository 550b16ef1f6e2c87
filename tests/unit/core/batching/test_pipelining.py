"""Batches that are copied in while others compute: what is learned of both, and when the next one is formed."""

import json

import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.config import parse_config
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
from batcher.simulation.engine.prefetch import PrefetchDriver
from batcher.simulation.engine.scenario import Costs, deployment_of
from batcher.simulation.engine.simulation import Conditions, simulate
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.workload import Mix, Traffic, Workload
from batcher.testing.invariants import validate

GAP_NS = MILLISECOND // 2
COPY_NS = 2 * MILLISECOND
MOST = 16


def computes_ns(rows):
    return 3 * MILLISECOND + rows * MILLISECOND // 5


class Shell(PrefetchDriver):
    """One instance with a device of its own, which copies one batch while it computes another."""

    def __init__(self, target_ms=50, gap_ns=GAP_NS, copy_ns=COPY_NS, warm=True):
        super().__init__(
            Scheduler(), self._compute, gap_ns, observe=self.note, copy_ns=lambda _: copy_ns
        )
        self.computed, self.dispatched, self.ended = [], [], {}
        target_ns = target_ms * MILLISECOND
        settings = ModelSettings(MOST, Adaptive(limit_ns=10 * SECOND), QueueLimits(), target_ns)
        profile = tuple((rows, computes_ns(rows)) for rows in (1, MOST)) if warm else ()
        copies = (((), tuple((rows, copy_ns) for rows, _ in profile)),) if warm else ()
        up = InstanceUp("m#0", 1, "m", "d", 1, profile, (), True, copies)
        self.step([ModelConfigured("m", settings), up], 0)

    @property
    def model(self):
        return self.scheduler.contents.models["m"]

    def note(self, now_ns, commands):
        for command in commands:
            if isinstance(command, Settle):
                self.ended.update(dict.fromkeys(command.ids, (command.outcome, now_ns)))
            elif isinstance(command, Dispatch):
                self.dispatched.append((now_ns, len(command.parts)))

    def _compute(self, dispatch, from_ns):
        ran = from_ns, from_ns + computes_ns(len(dispatch.parts))
        self.computed.append(ran)
        return ran

    def at(self, times_ns):
        """Play requests of one row that arrive then."""
        self.run(
            (at_ns, RequestArrived(n, "m", 1, 0, (), "", at_ns)) for n, at_ns in enumerate(times_ns)
        )
        validate(self.scheduler)

    def idle_share(self):
        """The part of the time in which the device does nothing, over the second half."""
        late = self.computed[len(self.computed) // 2 :]
        return 1 - sum(end - begin for begin, end in late) / (late[-1][1] - late[0][0])


def steady(rate, seconds):
    return [int(n * SECOND / rate) for n in range(int(rate * seconds))]


def test_a_device_with_a_backlog_never_waits_for_a_copy():
    shell = Shell()
    shell.at(steady(4000, 1.0))
    assert shell.idle_share() < 0.005
    assert max(rows for _, rows in shell.dispatched) == MOST


def test_the_time_of_the_device_is_learned_whether_a_batch_waited_for_its_copy_or_not():
    shell = Shell(warm=False)
    # Alone, then with a backlog, then alone.
    alone = [n * 50 * MILLISECOND for n in range(20)]
    busy = [alone[-1] + each for each in steady(3000, 1.0)]
    shell.at([*alone, *busy, *[busy[-1] + 100 * MILLISECOND + each for each in alone]])
    times = shell.model.times.of(())
    assert times.drift == pytest.approx(1.0, abs=0.01)
    assert list(times.copies[1:]) == pytest.approx([COPY_NS] * MOST, rel=0.01)
    for rows in (1, MOST):
        assert times.curve[rows] == pytest.approx(computes_ns(rows), rel=0.03)
        assert times.alone[rows] == pytest.approx(computes_ns(rows) + COPY_NS + GAP_NS, rel=0.03)
        assert times.p95[rows] >= times.expected[rows] >= times.alone[rows]
    assert shell.model.handling.round_trip_ns == 0.0
    [observed] = shell.scheduler.observe(shell.scheduler.now_ns).models
    assert observed.copy_ns == pytest.approx(COPY_NS, rel=0.01)
    assert observed.handling_ns == pytest.approx(GAP_NS, rel=0.01)


def test_a_copy_that_takes_longer_than_the_computation_is_what_a_batch_costs():
    copy_ns = 10 * MILLISECOND
    shell = Shell(copy_ns=copy_ns)
    shell.at(steady(4000, 1.0))
    times = shell.model.times.of(())
    assert list(times.curve[1:]) == pytest.approx([copy_ns] * MOST, rel=0.01)
    begins = [begin for begin, _ in shell.computed]
    each_ns = (begins[-1] - begins[1]) / (len(begins) - 2)
    assert each_ns == pytest.approx(copy_ns, rel=0.02)


def test_a_partial_batch_is_copied_in_before_its_device_is_free():
    shell = Shell()
    alone = [n * 50 * MILLISECOND for n in range(20)]
    # While the last one computes, another comes.
    shell.at([*alone, alone[-1] + 3 * MILLISECOND])
    assert [rows for _, rows in shell.dispatched] == [1] * 21
    (_, first_end), (second_begin, _) = shell.computed[-2:]
    assert second_begin - first_end < MILLISECOND // 10
    assert {outcome for outcome, _ in shell.ended.values()} == {Outcome.OK}


@pytest.mark.parametrize(("target_ms", "reachable"), [(5, False), (6, True)])
def test_the_copy_counts_as_latency(target_ms, reachable):
    # 3.2 ms of the device and 2 ms of copying.
    assert Shell(target_ms=target_ms).model.reachable is reachable


def test_a_stall_of_one_copy_changes_little():
    shell = Shell()
    shell.at(steady(500, 0.2))
    times = shell.model.times.of(())
    before = list(times.copies)
    times.observe(1, computes_ns(1), shell.scheduler.now_ns, copy_ns=200 * MILLISECOND)
    assert list(times.copies) == pytest.approx(before, rel=0.03)


def test_a_device_is_not_given_batches_long_before_it_is_free():
    shell = Shell()
    shell.at(steady(4000, 0.5))
    begins = [begin for begin, _ in shell.computed]
    early_ns = [at - given for at, (given, _) in zip(begins, shell.dispatched, strict=True)]
    # The copy, two gaps, and what 20 % of a batch bounds.
    assert max(early_ns[5:]) < COPY_NS + 2 * GAP_NS + 2 * MILLISECOND


def test_a_scheduler_knows_copies_in_its_state():
    shell = Shell(warm=False)
    shell.at(steady(3000, 0.3))
    shell.step([RequestArrived(10_000, "m", 1, 0, (), "", SECOND)], SECOND)
    state = shell.scheduler.snapshot()
    restored = Scheduler.restore(state)
    assert restored.snapshot() == state
    times = restored.contents.models["m"].times
    assert times.pipelined
    assert times.of(()).copies == shell.model.times.of(()).copies
    assert times.of(()).alone == shell.model.times.of(()).alone


def deployment(*, pipelining, target):
    document = {
        "models": [
            {
                "name": "m",
                "executor": "emulated",
                "pipelining": pipelining,
                "options": {"copy": "2ms", "base": "3ms", "per_row": "0.2ms"},
                "batching": {"max_batch_size": 32, "target_p99": target},
            }
        ]
    }
    return deployment_of(parse_config(json.dumps(document)), Mix.of(("m", 1.0)), Costs())


@pytest.mark.parametrize("target", ["20ms", "50ms"])
def test_more_requests_are_in_time_than_one_after_the_other(target):
    traffic = Traffic(Mix.of(("m", 1.0)))
    draw = np.random.default_rng(0)
    at_ns = (np.cumsum(draw.exponential(1 / 2900, 6000)) * 1e9).astype(np.int64)
    workload = Workload.of(at_ns, traffic, draw)
    in_time = {}
    for pipelining in (True, False):
        simulated = deployment(pipelining=pipelining, target=target)
        capacity = simulated.capacity(traffic)
        assert capacity == pytest.approx(32e3 / (9.4 if pipelining else 11.4))
        conditions = Conditions(batch_gap_ns=GAP_NS)
        run = simulate(simulated, parse_policy("adaptive"), workload, conditions)
        target_ns = simulated.models[0].settings.target_ns
        in_time[pipelining] = (run.settled_ns - at_ns <= target_ns).mean()
    assert in_time[True] > 0.97
    assert in_time[True] > in_time[False]


def test_copies_count_from_when_the_time_of_the_device_is_known(play):
    """A batch that took the device no time at all says how long copies take, and nothing else."""
    play.model("m", Adaptive(), MOST)
    play.up()
    play.arrive(1, at=1)
    copied_ns = 3 * MILLISECOND
    stamps = Timings(MILLISECOND, copied_ns, copied_ns, copied_ns, copied_ns)
    play.feed(BatchProgress(1, (1,), timings=stamps), at=4)
    times = play.scheduler.models["m"].times.get(())
    assert (list(times.curve), list(times.copies)) == ([], [])
    assert play.batches(play.arrive(2, at=5)) == [[2]]
    stamps = Timings(
        5 * MILLISECOND, 7 * MILLISECOND, 9 * MILLISECOND, 9 * MILLISECOND, 7 * MILLISECOND
    )
    play.feed(BatchProgress(2, (2,), timings=stamps), at=9)
    assert (times.curve[1], times.copies[1]) == (2.0 * MILLISECOND, 2.0 * MILLISECOND)
