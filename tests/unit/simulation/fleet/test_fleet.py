import pickle
from dataclasses import replace

import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.simulation.engine.service_time import Noise
from batcher.simulation.engine.simulation import Conditions, generator, simulate
from batcher.simulation.fleet import (
    Drain,
    FleetSettings,
    Readiness,
    Scripted,
    Span,
    StartUp,
    requests_at,
    simulate_fleet,
)
from batcher.simulation.fleet.settings import replica_seed
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.arrivals import Poisson, arrival_times

ARRAYS = ("settled_ns", "outcome", "reason", "batch_rows")


def at(*moments_ms):
    """One-row requests of model m at these moments."""
    return requests_at([round(ms * MILLISECOND) for ms in moments_ms], "m")


def poisson(rate, count, seed=1):
    return requests_at(
        arrival_times(Poisson(rate), generator(seed, "arrivals"), requests=count).tolist(), "m"
    )


def ms(run):
    return (run.settled_ns / MILLISECOND).tolist()


@pytest.fixture
def noisy(deployment):
    """The deployment with uneven batch times, which are learned at warm-up."""
    models = [
        replace(each, noise=Noise("lognormal", 0.3), warmup_sizes=(1, 4, 8))
        for each in deployment.models
    ]
    return replace(deployment, models=tuple(models))


def same(run, of, places=slice(None)):
    return all((getattr(run, name)[places] == getattr(of, name)).all() for name in ARRAYS)


def test_one_replica_is_a_single_simulation(noisy):
    load = poisson(600, 3000)
    for policy in ("greedy", "adaptive", "fixed:3ms"):
        one = simulate(noisy, parse_policy(policy), load)
        assert same(simulate_fleet(FleetSettings(noisy, policy), load), one)


def test_round_robin_over_three_is_three_simulations_of_every_third_request(noisy):
    load = poisson(1500, 3000)
    fleet = simulate_fleet(FleetSettings(noisy, "adaptive", replicas=3), load)
    for place in range(3):
        of = slice(place, None, 3)
        [number] = set(fleet.replica[of].tolist())
        mine = replace(load, at_ns=load.at_ns[of], rows=load.rows[of], kind=load.kind[of])
        seed = Conditions(seed=replica_seed(0, number))
        assert same(fleet, simulate(noisy, parse_policy("adaptive"), mine, seed), of)


def test_a_replica_that_is_started_gets_requests_when_clients_know_it(deployment):
    settings = FleetSettings(
        deployment,
        "greedy",
        start_up=StartUp(Span(20 * MILLISECOND), Span(10 * MILLISECOND), Span(5 * MILLISECOND)),
        readiness=Readiness(added_ns=15 * MILLISECOND),
    )
    script = Scripted(((50 * MILLISECOND, 2),), sync_ns=50 * MILLISECOND)
    run = simulate_fleet(settings, at(0, 60, 99, 100, 110, 200), script)
    # Ready at 85 ms, known at 100 ms.
    assert run.replica.tolist()[:3] == [0, 0, 0]
    assert set(run.replica.tolist()[3:]) == {0, 1}
    assert (run.replicas[1].ready_ns, run.replicas[1].known_ns) == (85_000_000, 100_000_000)
    assert run.replica_seconds == pytest.approx(0.2 + 0.15)
    assert [step.desired for step in run.steps] == [2, 2, 2, 2]


def test_a_replica_that_is_stopped_serves_until_clients_know_and_ends_with_its_last_answer(
    deployment,
):
    settings = FleetSettings(
        deployment,
        "greedy",
        replicas=2,
        drain=Drain(delay_ns=20 * MILLISECOND),
        readiness=Readiness(removed_ns=50 * MILLISECOND),
    )
    script = Scripted(((100 * MILLISECOND, 1),), sync_ns=100 * MILLISECOND)
    load = at(0, 1, *range(100, 130))
    run = simulate_fleet(settings, load, script, until_ns=SECOND)
    assert run.answered.all()
    [gone] = [each for each in run.replicas if each.stopped_ns is not None]
    served = run.replica == gone.number
    # GOAWAY tells clients at 120 ms, before the endpoints would at 150 ms.
    assert 118 * MILLISECOND <= load.at_ns[served].max() < 120 * MILLISECOND
    assert gone.ended_ns == run.settled_ns[served].max()
    assert run.replica_seconds == pytest.approx(1 + gone.ended_ns / SECOND)


def test_a_run_can_be_pickled(deployment):
    settings = pickle.loads(pickle.dumps(FleetSettings(deployment, "greedy", replicas=2)))
    run = simulate_fleet(settings, at(0, 1, 2))
    assert np.array_equal(pickle.loads(pickle.dumps(run)).settled_ns, run.settled_ns)
