import pickle
from dataclasses import replace

import numpy as np
import pytest

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Dispatch
from batcher.core.settings import Adaptive
from batcher.errors import InputError
from batcher.simulation.engine.service_time import Noise
from batcher.simulation.engine.simulation import Conditions, generator, simulate
from batcher.simulation.fleet import (
    Clients,
    Drain,
    End,
    Fault,
    FaultKind,
    FleetSettings,
    LeastRequest,
    Orca,
    Readiness,
    RoundRobin,
    Scrape,
    Scripted,
    Signal,
    Span,
    StartUp,
    parse_balancer,
    requests_at,
    simulate_fleet,
)
from batcher.simulation.fleet import replica as replica_module
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


@pytest.mark.slow
def test_one_replica_is_a_single_simulation(noisy):
    load = poisson(600, 3000)
    for policy in ("greedy", "adaptive", "fixed:3ms"):
        one = simulate(noisy, parse_policy(policy), load)
        assert same(simulate_fleet(FleetSettings(noisy, policy), load), one)


@pytest.mark.slow
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


SHORT = StartUp(Span(20 * MILLISECOND), Span(10 * MILLISECOND), Span(5 * MILLISECOND))


def test_a_replica_that_died_is_started_again_and_gets_requests_again(deployment):
    settings = FleetSettings(
        deployment,
        "greedy",
        start_up=SHORT,
        readiness=Readiness(added_ns=10 * MILLISECOND, lost_ns=3 * MILLISECOND),
        faults=(Fault(FaultKind.DIE, 0, 12 * MILLISECOND),),
    )
    # What it has dies at 12 ms; clients know at 15 ms; it is ready at 27 ms and known at 37 ms.
    run = simulate_fleet(settings, at(0, 10, 11, 13, 20, 36, 37, 50))
    assert run.end.tolist() == [
        End.SERVER,
        End.LOST,
        End.LOST,
        End.UNREACHABLE,
        End.NO_REPLICA,
        End.NO_REPLICA,
        End.SERVER,
        End.SERVER,
    ]
    assert ms(run) == [6, 12, 12, 13, 20, 36, 43, 56]
    [replica] = run.replicas
    assert (replica.restarts, replica.lost, replica.ended_ns) == (1, 2, None)
    assert run.replica_seconds == pytest.approx(0.05)


def test_what_died_is_sent_again_and_counts_from_its_first_arrival(deployment):
    settings = FleetSettings(
        deployment,
        "greedy",
        start_up=SHORT,
        readiness=Readiness(added_ns=0),
        clients=Clients(wait_ns=SECOND, retries=1, retry_ns=2 * MILLISECOND),
        faults=(Fault(FaultKind.LEAVE, 0, 5 * MILLISECOND),),
    )
    run = simulate_fleet(settings, at(0), until_ns=SECOND)
    # Another one is ready at 40 ms: it takes 6 ms, and the target is 50 ms.
    assert (ms(run), run.replica.tolist(), run.again.tolist()) == ([46], [1], [1])
    assert run.on_time.tolist() == [True]
    assert [each.ended_ns for each in run.replicas] == [5 * MILLISECOND, None]


def test_a_request_waits_for_a_replica_as_long_as_its_client_lets_it(deployment):
    settings = FleetSettings(
        deployment,
        "greedy",
        replicas=0,
        start_up=SHORT,
        readiness=Readiness(added_ns=0),
        clients=Clients(wait_ns=20 * MILLISECOND),
    )
    script = Scripted(((10 * MILLISECOND, 1),), sync_ns=10 * MILLISECOND)
    run = simulate_fleet(settings, at(0, 24, 26, 27), script)
    # Ready and known at 45 ms, when both that wait are sent at once.
    assert ms(run) == [20, 44, 52, 52]
    assert run.end.tolist() == [End.NO_REPLICA, End.NO_REPLICA, End.SERVER, End.SERVER]


def test_a_request_that_waits_twice_gets_the_whole_time_twice(deployment):
    ms_ = MILLISECOND
    settings = FleetSettings(
        deployment,
        "greedy",
        start_up=StartUp(load=Span(30 * ms_)),
        readiness=Readiness(added_ns=0),
        clients=Clients(wait_ns=40 * ms_, retries=2, retry_ns=0),
        faults=(Fault(FaultKind.DIE, 0, 1 * ms_), Fault(FaultKind.DIE, 0, 32 * ms_)),
    )
    # It waits from 1 ms to 31 ms, dies at 32 ms, and waits until 62 ms; the first wait would have ended at 41 ms.
    run = simulate_fleet(settings, at(0), until_ns=SECOND)
    assert (ms(run), run.again.tolist()) == ([68], [2])


@pytest.mark.parametrize("balancer", [RoundRobin(), LeastRequest(), LeastRequest(0), Orca()])
def test_a_frozen_replica_answers_no_scrape_and_goes_on_afterwards(deployment, balancer):
    settings = FleetSettings(
        deployment,
        "greedy",
        balancer=balancer,
        scrape=Scrape(10 * MILLISECOND, 0, 10 * MILLISECOND),
        faults=(Fault(FaultKind.FREEZE, 0, 15 * MILLISECOND, 35 * MILLISECOND),),
    )
    waiting = Signal.QUEUE_REQUESTS
    script = Scripted((), sync_ns=10 * MILLISECOND, signals=(waiting,))
    run = simulate_fleet(settings, at(14, 16, 17), script, until_ns=60 * MILLISECOND)
    assert [step.values.get(waiting) for step in run.steps] == [0, None, None, 0, 0, 0]
    assert ms(run) == [35, 42, 42]


def test_a_hung_replica_goes_on_answering_scrapes(deployment):
    settings = FleetSettings(
        deployment,
        "greedy",
        scrape=Scrape(10 * MILLISECOND, 0, 10 * MILLISECOND),
        faults=(Fault(FaultKind.HANG, 0, 15 * MILLISECOND, 35 * MILLISECOND),),
    )
    waiting, oldest = Signal.QUEUE_REQUESTS, Signal.OLDEST_AGE
    script = Scripted((), sync_ns=10 * MILLISECOND, signals=(waiting, oldest))
    run = simulate_fleet(settings, at(14, 16, 17), script, until_ns=50 * MILLISECOND)
    assert [step.values[waiting] for step in run.steps] == [0, 2, 2, 2, 0]
    assert [step.values[oldest] for step in run.steps] == [0, 0.006, 0.016, 0.026, 0]
    assert ms(run) == [40, 47, 47]


def test_what_is_not_answered_when_a_drain_ends_is_lost(deployment):
    settings = FleetSettings(
        deployment,
        "greedy",
        drain=Drain(delay_ns=10 * MILLISECOND, timeout_ns=20 * MILLISECOND),
        faults=(Fault(FaultKind.HANG, 0, 0, SECOND),),
    )
    script = Scripted(((10 * MILLISECOND, 0),), sync_ns=10 * MILLISECOND)
    run = simulate_fleet(settings, at(0, 19, 30), script, until_ns=SECOND)
    assert run.end.tolist() == [End.LOST, End.LOST, End.NO_REPLICA]
    assert ms(run) == [40, 40, 30]
    assert run.replicas[0].ended_ns == 40 * MILLISECOND


def test_a_controller_gets_what_is_read_at_its_moment_and_not_what_is_read_later(deployment):
    waiting, duty = Signal.QUEUE_REQUESTS, Signal.DUTY_CYCLE
    load = at(19, 19.5)
    # The rates of the sync at 40 ms take a reading at 0.
    for delay_ms, expected in ((0, [0, 1, 0, 0]), (1, [0, 1, 0]), (11, [0, 1])):
        settings = FleetSettings(
            deployment,
            "greedy",
            scrape=Scrape(10 * MILLISECOND, delay_ms * MILLISECOND, 40 * MILLISECOND),
        )
        script = Scripted((), sync_ns=10 * MILLISECOND, signals=(waiting, duty))
        run = simulate_fleet(settings, load, script, until_ns=40 * MILLISECOND)
        values = [step.values.get(waiting) for step in run.steps]
        assert values[len(values) - len(expected) :] == expected


@pytest.mark.slow
def test_requests_that_wait_are_as_many_as_come_while_one_waits(noisy):
    """Little's law: on average, what is read of the queues is the rate times the mean wait."""
    load = poisson(1800, 12_000)
    settings = FleetSettings(
        noisy, "greedy", replicas=3, scrape=Scrape(3 * MILLISECOND, 0, 30 * MILLISECOND)
    )
    waiting = Signal.QUEUE_REQUESTS
    script = Scripted((), sync_ns=3 * MILLISECOND, signals=(waiting,))
    waited = {}
    build = replica_module.build

    def spying(deployment, factory, conditions, observe, devices):
        def observed(now_ns, commands):
            for command in commands:
                if isinstance(command, Dispatch):
                    waited.update((p.id, now_ns - load.at_ns[p.id]) for p in command.parts)
            observe(now_ns, commands)

        return build(deployment, factory, conditions, observed, devices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica_module, "build", spying)
        run = simulate_fleet(settings, load, script)
    seen = 3 * np.mean([step.values[waiting] for step in run.steps])
    assert len(waited) == len(load)
    assert seen == pytest.approx(sum(waited.values()) / run.until_ns, rel=0.03)
    assert seen > 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scrape(interval_ns=0),
        lambda: Scrape(rate_ns=0),
        lambda: Scrape(nvml_period_ns=0),
        lambda: Scrape(delay_ns=-1),
        lambda: Clients(0),
        lambda: Clients(wait_ns=-1),
        lambda: Clients(retries=-1),
        lambda: Fault(FaultKind.HANG, 0, 5, 5),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(InputError, match="allowed: "):
        make()


def test_a_controller_without_a_period_is_refused(deployment):
    with pytest.raises(InputError, match="sync_ns: got 0"):
        simulate_fleet(FleetSettings(deployment), at(0), Scripted((), sync_ns=0))


@pytest.mark.slow
def test_a_hung_replica_that_refuses_at_once_gets_as_much_by_least_request_and_less_by_weights(
    deployment,
):
    model = replace(
        deployment.models[0],
        settings=replace(deployment.models[0].settings, policy=Adaptive(limit_ns=SECOND)),
        warmup_sizes=(1, 4, 8),
    )
    load = poisson(1600, 40_000)
    shares = {}
    for name in ("least_request", "orca"):
        settings = FleetSettings(
            replace(deployment, models=(model,)),
            replicas=3,
            balancer=parse_balancer(name),
            faults=(Fault(FaultKind.HANG, 1, 15 * SECOND, 25 * SECOND),),
        )
        run = simulate_fleet(settings, load)
        while_hung = (load.at_ns > 20 * SECOND) & (load.at_ns < 25 * SECOND)
        shares[name] = (run.replica[while_hung] == 1).mean()
    assert shares["least_request"] == pytest.approx(1 / 3, abs=0.03)
    assert shares["orca"] < 0.25


def test_a_replica_that_is_stopped_before_clients_know_it_gets_nothing(deployment):
    settings = FleetSettings(
        deployment,
        "greedy",
        start_up=StartUp(Span(15 * MILLISECOND)),
        readiness=Readiness(added_ns=20 * MILLISECOND),
        drain=Drain(delay_ns=30 * MILLISECOND),
    )
    # Ready at 25 ms, told to end at 30 ms, and would be known at 45 ms.
    script = Scripted(((10 * MILLISECOND, 2), (30 * MILLISECOND, 1)), sync_ns=10 * MILLISECOND)
    run = simulate_fleet(settings, at(*range(0, 100, 2)), script)
    assert set(run.replica.tolist()) == {0}
    assert (run.replicas[1].known_ns, run.replicas[1].ended_ns) == (None, 60 * MILLISECOND)
    assert run.replica_seconds == pytest.approx(0.098 + 0.05)


def test_a_replica_that_dies_again_while_it_starts_is_ready_after_the_second_start(deployment):
    settings = FleetSettings(
        deployment,
        "greedy",
        start_up=StartUp(load=Span(30 * MILLISECOND)),
        readiness=Readiness(added_ns=0),
        clients=Clients(wait_ns=SECOND),
        faults=(
            Fault(FaultKind.DIE, 0, 10 * MILLISECOND),
            Fault(FaultKind.DIE, 0, 30 * MILLISECOND),
        ),
    )
    run = simulate_fleet(settings, at(20))
    assert ms(run) == [66]
    assert run.replicas[0].restarts == 2


def test_what_is_stopped_first_is_what_a_replica_set_would_stop_first(deployment):
    start_up = StartUp(Span(20 * SECOND))
    script = Scripted(
        ((10 * SECOND, 3), (100 * SECOND, 4), (110 * SECOND, 3), (200 * SECOND, 2)),
        sync_ns=10 * SECOND,
    )
    for seed in range(5):
        conditions = Conditions(seed=seed)
        settings = FleetSettings(deployment, "greedy", 2, conditions, start_up)
        run = simulate_fleet(settings, at(0), script, until_ns=400 * SECOND)
        stopped = [each.number for each in run.replicas if each.stopped_ns is not None]
        # The one that still starts; then one of those that have been ready for 128 to 255 s.
        assert 3 in stopped
        assert len(stopped) == 2
        assert run.replicas[3].ready_ns is None
