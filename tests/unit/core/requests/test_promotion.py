"""How long requests of lesser levels and late ones wait in an overload."""

import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits
from batcher.simulation.engine.deployment import Deployment, SimulatedModel
from batcher.simulation.engine.service_time import linear
from batcher.simulation.engine.simulation import OUTCOMES, generator, simulate
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.arrivals import Poisson, arrival_times
from batcher.simulation.traffic.workload import Traffic, Workload, parse_mix, parse_whole_mix

LIMIT_NS, PROMOTE_AFTER_NS = SECOND, SECOND // 4


@pytest.fixture(scope="module")
def run():
    """A device that serves about 1,600 rows a second is asked for 2,400, a third of them urgent."""
    settings = ModelSettings(
        16,
        Adaptive(limit_ns=LIMIT_NS),
        QueueLimits(promote_after_ns=PROMOTE_AFTER_NS),
        target_ns=50 * MILLISECOND,
    )
    curve = linear(2 * MILLISECOND, MILLISECOND // 2, 16)
    model = SimulatedModel("m", settings, curve, warmup_sizes=(1, 4, 16))
    traffic = Traffic(parse_mix("m"), priorities=parse_whole_mix("1=1,3=2", least=0))
    times = arrival_times(Poisson(2400.0), generator(1, "arrivals"), requests=12_000)
    workload = Workload.of(times, traffic, generator(1, "traffic"))
    return simulate(Deployment((model,), {}), parse_policy("configured"), workload)


def answered(run):
    return np.array([outcome == "ok" for outcome in OUTCOMES])[run.outcome]


@pytest.mark.slow
def test_what_is_late_is_answered_within_its_limit_or_refused(run):
    waited_ns = run.settled_ns - run.workload.at_ns
    # A batch that has begun is not ended at a limit.
    assert waited_ns.max() <= LIMIT_NS + 10 * MILLISECOND
    assert waited_ns[answered(run)].max() > 50 * MILLISECOND


@pytest.mark.slow
def test_requests_in_time_do_not_suffer_from_late_ones(run):
    urgent = np.array([kind.priority == 1 for kind in run.workload.kinds])[run.workload.kind]
    waited_ns = (run.settled_ns - run.workload.at_ns)[urgent]
    assert (waited_ns <= 50 * MILLISECOND).mean() >= 0.99


@pytest.mark.slow
def test_the_device_serves_as_many_as_it_can(run):
    assert answered(run).sum() >= 0.95 * 1600 * run.workload.at_ns[-1] / SECOND
