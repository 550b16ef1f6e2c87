import numpy as np
import pytest

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome, Reason
from batcher.simulation.compare.experiment import Cell
from batcher.simulation.compare.report import latencies_ms, summarize
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.simulation import OUTCOMES, REASONS, UNSETTLED, Run
from batcher.simulation.traffic.workload import Kind, Workload

OK = OUTCOMES.index(Outcome.OK)
REJECTED = OUTCOMES.index(Outcome.REJECTED)
FULL = REASONS.index(Reason.QUEUE_REQUESTS)


@pytest.fixture
def run_of(model):
    """A run of requests given as (arrival ms, end ms, outcome, tenant's place), target 50 ms."""

    def call(*requests, target_ms=50):
        at, ended, outcome, kind = (np.array(column) for column in zip(*requests, strict=True))
        kinds = tuple(Kind("m", tenant, 0) for tenant in ("a", "b")[: kind.max() + 1])
        return Run(
            policy="p",
            deployment=Deployment((model(target_ms=target_ms),), {}),
            workload=Workload(at * MILLISECOND, np.ones(len(at), np.int64), kind, kinds),
            settled_ns=ended * MILLISECOND,
            outcome=outcome.astype(np.int8),
            reason=np.where(outcome == REJECTED, FULL, 0).astype(np.int8),
            batch_rows=np.ones(len(at), np.int64),
            batches=np.array([1, 2]),
            busy_ns={"device": 50 * MILLISECOND},
            ended_ns=int(ended.max()) * MILLISECOND,
            errors=(),
        )

    return call


def test_a_run_in_numbers(run_of):
    run = run_of((0, 10, OK, 0), (10, 60, OK, 0), (20, 71, OK, 0), (100, 100, REJECTED, 0))
    summary = summarize(Cell(None, (run,), (3,)), capacity=80.0)
    assert (summary.counts.on_time, summary.counts.late, summary.counts.dropped) == (2, 1, 1)
    assert summary.counts.requests == 4
    assert summary.counts.p50_ms == 50.0
    assert summary.rate == pytest.approx(40.0)
    assert summary.load == pytest.approx(0.5)
    assert summary.goodput == pytest.approx(20.0)
    assert summary.busy_fraction == pytest.approx(0.5)
    assert summary.mean_batch == 1.5
    assert summary.dropped_by == {"rejected:queue_requests": 1}
    assert summary.groups == {}
    assert summary.optimum_goodput == pytest.approx(30.0)
    assert sorted(latencies_ms([run])) == [10, 50, 51]


def test_seeds_are_pooled(run_of):
    one = run_of((0, 10, OK, 0), (100, 110, OK, 0))
    other = run_of((0, 80, OK, 0), (100, 130, OK, 0))
    summary = summarize(Cell(None, (one, other)), capacity=10.0)
    assert summary.seeds == 2
    assert summary.counts.requests == 4
    assert summary.counts.on_time == 3
    assert summary.goodput == pytest.approx(15.0)
    assert summary.batches == 4
    assert summary.optimum_goodput is None


def test_groups(run_of):
    run = run_of((0, 10, OK, 0), (5, 90, OK, 1), (6, 6, REJECTED, 1))
    groups = summarize(Cell(None, (run,)), capacity=1.0).groups
    a, b = groups[Kind("m", "a", 0)], groups[Kind("m", "b", 0)]
    assert (a.requests, a.on_time, a.late, a.dropped, a.p99_ms) == (1, 1, 0, 0, 10.0)
    assert (b.requests, b.on_time, b.late, b.dropped) == (2, 0, 1, 1)


def test_without_a_target_every_answer_is_on_time(run_of):
    run = run_of((0, 9000, OK, 0), target_ms=None)
    assert summarize(Cell(None, (run,)), capacity=1.0).counts.on_time == 1


def test_nothing_was_answered(run_of):
    run = run_of((0, 0, REJECTED, 0), (0, 0, UNSETTLED, 0))
    summary = summarize(Cell(None, (run,)), capacity=1.0)
    assert summary.counts.p50_ms is None
    assert summary.goodput == 0
    assert summary.dropped_by == {"rejected:queue_requests": 1, "unsettled": 1}


def test_the_json_has_the_keys_that_programs_read(run_of):
    run = run_of((0, 10, OK, 0), (5, 90, OK, 1))
    document = summarize(Cell(None, (run,), (2,)), capacity=1000.0).as_json()
    assert document == {
        "policy": "p",
        "rate": 400.0,
        "load": 0.4,
        "seeds": 1,
        "requests": 2,
        "on_time": 1,
        "late": 1,
        "dropped": 0,
        "p50_ms": 47.5,
        "p95_ms": 81.25,
        "p99_ms": 84.25,
        "goodput": 200.0,
        "busy_fraction": 0.5556,
        "batches": 2,
        "mean_batch": 1.5,
        "failed_batches": 0,
        "dropped_by": {},
        "optimum_on_time": 2,
        "groups": [
            {
                "model": "m",
                "tenant": tenant,
                "priority": 0,
                "requests": 1,
                "on_time": on_time,
                "late": 1 - on_time,
                "dropped": 0,
                "p50_ms": ms,
                "p95_ms": ms,
                "p99_ms": ms,
            }
            for tenant, on_time, ms in (("a", 1, 10.0), ("b", 0, 85.0))
        ],
        "errors": [],
    }
