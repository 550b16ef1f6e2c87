import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.errors import InputError
from batcher.simulation.compare.experiment import DEFAULT_REQUESTS, cells, optimum_missing
from batcher.simulation.compare.report import summarize
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.service_time import Slowdown
from batcher.simulation.engine.simulation import ClosedLoop, Conditions
from batcher.simulation.traffic.arrivals import Closed, Gamma, Poisson, Recorded
from batcher.simulation.traffic.workload import Traffic, parse_mix, parse_whole_mix


def nothing(what, through):
    pass


def test_every_policy_meets_the_same_requests(experiment):
    found = list(cells(experiment("greedy", "none", "fixed:2ms", seeds=(4, 5)), nothing))
    assert [cell.runs[0].policy for cell in found] == ["greedy", "none", "fixed:2ms"]
    for cell in found[1:]:
        for run, first in zip(cell.runs, found[0].runs, strict=True):
            assert np.array_equal(run.workload.at_ns, first.workload.at_ns)
    assert found[0].runs[0].workload.at_ns[0] != found[0].runs[1].workload.at_ns[0]


def test_the_optimum_bounds_every_policy(experiment):
    one = experiment("greedy", "none", rates=(100.0, 900.0), seeds=(1, 2))
    for cell in cells(one, nothing):
        for run, best in zip(cell.runs, cell.optimum, strict=True):
            late_ns = run.settled_ns - run.workload.at_ns
            assert int(((run.outcome == 0) & (late_ns <= 50 * MILLISECOND)).sum()) <= best <= 500


def test_the_optimum_can_be_left_out(experiment):
    assert next(cells(experiment(), nothing, optimum=False)).optimum is None


def test_progress_adds_up(experiment):
    reports = []
    one = experiment("greedy", "none", seeds=(1, 2))
    list(cells(one, lambda what, through: reports.append((what, through))))
    assert sum(through for _, through in reports) == one.expected() == 2000
    assert {what for what, _ in reports} == {"optimum", "greedy", "none"}


def test_requests_of_a_run(experiment):
    assert len(experiment(requests=7).load(None, 1)) == 7
    assert len(experiment(requests=None).load(None, 1)) == DEFAULT_REQUESTS
    trace = Recorded.of(np.array([0.0, 1.0, 1.5]))
    assert len(experiment(arrivals=trace, requests=None).load(None, 1)) == 3


@pytest.mark.parametrize("arrivals", [Poisson(100), Gamma(100, 9)])
def test_a_duration_is_filled_to_its_end(experiment, arrivals):
    for seed in range(5):
        load = experiment(arrivals=arrivals, requests=None, duration_ns=10 * SECOND).load(
            None, seed
        )
        assert load.at_ns[-1] <= 10 * SECOND
    assert load.at_ns[-1] > 5 * SECOND


def test_a_duration_fills_whatever_the_first_draw(experiment):
    # So bursty that the expected number of requests often ends long before the duration.
    one = experiment(arrivals=Gamma(100, 60), requests=None, duration_ns=10 * SECOND)
    counts = [len(one.load(None, seed)) for seed in range(20)]
    assert max(counts) > 1420  # the first draw: 1,000 on average, and some more


def test_a_closed_loop_has_callers_and_an_end(experiment):
    one = experiment(arrivals=Closed(3, 5), requests=None, duration_ns=SECOND)
    load = one.load(None, 1)
    assert isinstance(load, ClosedLoop)
    assert (load.callers, load.think_ns, load.until_ns) == (3, 5, SECOND)
    assert len(next(cells(one, nothing)).runs[0].workload) < len(load.workload)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arrivals": Poisson()}, "--arrivals: got no rate"),
        ({"arrivals": Closed(1), "rates": (5.0,)}, "callers in a closed loop set their own rate"),
        ({"requests": 10**9}, "--requests: got 1000000000; allowed: at most 100000000"),
        (
            {"conditions": Conditions(slowdowns=(Slowdown(0, 5, 2.0, "gpu"),))},
            "--slowdown: got the device 'gpu'; allowed: device",
        ),
    ],
)
def test_an_experiment_that_cannot_run_is_refused(experiment, given, message):
    with pytest.raises(InputError) as error:
        experiment(**given)
    assert message in str(error.value)


def test_a_trace_without_a_length_is_played_as_it_is(experiment):
    one = experiment(arrivals=Recorded.of(np.zeros(3)), requests=None)
    (cell,) = cells(one, nothing)
    found = summarize(cell, 1.0)
    assert found.counts.on_time == 3
    # Over the 8 ms of its one batch.
    assert found.rate == found.goodput == pytest.approx(3 / 0.008)
    with pytest.raises(InputError, match="no rate to scale"):
        experiment(arrivals=one.arrivals, rates=(5.0,)).load(5.0, 1)


def test_a_duration_has_bounds_both_ways(experiment):
    with pytest.raises(InputError, match="no request arrives; choose a longer --duration"):
        experiment(duration_ns=1).load(None, 1)
    endless = experiment(arrivals=Poisson(1e9), requests=None, duration_ns=SECOND)
    with pytest.raises(InputError, match="requests would arrive; allowed: at most"):
        endless.expected()


def test_why_there_is_no_optimum(experiment, model):
    assert optimum_missing(experiment()) is None
    for given, why in [
        ({"arrivals": Closed(1)}, "closed loop"),
        ({"deployment": Deployment((model(), model("b")), {})}, "2 models"),
        ({"deployment": Deployment((model(target_ms=None),), {})}, "'m' has no target_p99"),
        ({"deployment": Deployment((model(instances=2),), {})}, "2 batches run at once"),
        (
            {"traffic": Traffic(parse_mix("m"), parse_whole_mix("1,2", least=1))},
            "more than one row",
        ),
    ]:
        missing = optimum_missing(experiment(**given))
        assert missing is not None
        assert why in missing
        assert next(cells(experiment(requests=5, **given), nothing)).optimum is None
