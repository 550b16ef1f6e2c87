"""Fleets whose replicas come, go, die, hang and freeze, in virtual time."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Outcome, Settle
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, QueueLimits
from batcher.simulation.engine.deployment import Deployment, SimulatedModel
from batcher.simulation.engine.service_time import Noise, linear
from batcher.simulation.engine.simulation import (
    OUTCOMES,
    UNSETTLED,
    Conditions,
    generator,
    simulate,
)
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
    requests_at,
    simulate_fleet,
)
from batcher.simulation.fleet import replica as replica_module
from batcher.simulation.fleet.router import Router
from batcher.simulation.fleet.settings import replica_seed
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.arrivals import Poisson, arrival_times

pytestmark = pytest.mark.slow

MS = MILLISECOND
TARGET_NS = 40 * MS
MODEL = SimulatedModel(
    "m",
    ModelSettings(8, Adaptive(limit_ns=100 * MS), QueueLimits(max_requests=30), TARGET_NS),
    linear(4 * MS, MS, 8),
    noise=Noise("uniform", 0.2),
    warmup_sizes=(1, 8),
)
WINDOW = replace(MODEL, settings=replace(MODEL.settings, policy=FixedWindow(3 * MS)))
DEPLOYMENTS = (
    Deployment((MODEL,), {}),
    Deployment((replace(MODEL, instances=2),), {}, exclusive=frozenset({"device"})),
    Deployment((WINDOW,), {}),
)
ORCA = Orca(blackout_ns=50 * MS, expiration_ns=300 * MS, update_ns=20 * MS)

milliseconds = st.integers(0, 300).map(lambda ms: ms * MS)


def spans(most):
    return st.builds(
        Span, st.integers(0, most).map(lambda ms: ms * MS), st.just(Noise("uniform", 0.5))
    )


@st.composite
def faults(draw):
    kind, at_ns = draw(st.sampled_from(FaultKind)), draw(milliseconds)
    until_ns = at_ns + draw(st.integers(1, 200)) * MS
    return Fault(kind, draw(st.integers(0, 4)), at_ns, until_ns)


settings = st.builds(
    FleetSettings,
    deployment=st.sampled_from(DEPLOYMENTS),
    replicas=st.integers(0, 4),
    conditions=st.builds(
        Conditions,
        seed=st.integers(0, 9),
        deadline_ns=st.sampled_from([None, 30 * MS, 150 * MS]),
        batch_gap_ns=st.sampled_from([0, MS]),
        reply_ns=st.sampled_from([0, 1000]),
        pauses=st.sampled_from([(), ((50 * MS, 80 * MS), (150 * MS, 151 * MS))]),
    ),
    start_up=st.builds(StartUp, spans(40), spans(40), spans(20)),
    readiness=st.builds(
        Readiness,
        st.integers(0, 30).map(lambda ms: ms * MS),
        st.integers(0, 60).map(lambda ms: ms * MS),
        st.integers(0, 20).map(lambda ms: ms * MS),
    ),
    drain=st.builds(
        Drain,
        st.integers(0, 50).map(lambda ms: ms * MS),
        st.sampled_from([0, 20 * MS, 30 * SECOND]),
    ),
    clients=st.builds(
        Clients,
        st.integers(1, 3),
        st.sampled_from([0, 20 * MS, 300 * MS]),
        st.integers(0, 3),
        st.sampled_from([0, MS, 10 * MS]),
    ),
    balancer=st.sampled_from([RoundRobin(), LeastRequest(), LeastRequest(0), ORCA]),
    scrape=st.sampled_from(
        [Scrape(10 * MS, 3 * MS, 40 * MS, 5 * MS), Scrape(30 * MS, 0, 30 * MS, 20 * MS)]
    ),
    faults=st.lists(faults(), max_size=6).map(tuple),
)


def poisson(rate, count, seed):
    """So many requests at so many a second; moments are whole tenths of milliseconds, so that some coincide."""
    times = arrival_times(Poisson(rate), generator(seed, "arrivals"), requests=count)
    return requests_at((times // (MS // 10) * (MS // 10)).tolist(), "m")


arrivals = st.builds(
    poisson, st.sampled_from([300, 1000, 3000]), st.integers(50, 250), st.integers(0, 99)
)
scripts = st.lists(st.tuples(milliseconds, st.integers(0, 5)), min_size=1, max_size=6).map(
    lambda steps: Scripted(tuple(sorted(steps)), 10 * MS, tuple(Signal))
)


def watched(*arguments, **more):
    """Runs a fleet; returns the run, and (replica, moment, commands) of each step of a scheduler."""
    log = []
    build, changed = replica_module.build, Router.changed

    def spying(deployment, factory, conditions, observe, devices):
        def observed(now_ns, commands):
            log.append((conditions.seed >> 32 & 0xFFFFFFFF, now_ns, commands))
            observe(now_ns, commands)

        return build(deployment, factory, conditions, observed, devices)

    def checked(router, known, now_ns):
        assert all(each.known for each in known)
        assert len({each.number for each in known}) == len(known)
        changed(router, known, now_ns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica_module, "build", spying)
        patch.setattr(Router, "changed", checked)
        return simulate_fleet(*arguments, **more), log


@hypothesis_settings(max_examples=300)
@given(fleet=settings, load=arrivals, script=scripts, ends=milliseconds)
def test_every_request_ends_once_in_one_place(fleet, load, script, ends):
    run, log = watched(fleet, load, script, until_ns=ends)
    settled = Counter()
    places = defaultdict(list)
    for number, _, commands in log:
        for command in commands:
            if isinstance(command, Settle):
                settled.update(command.ids)
                for request in command.ids:
                    places[request].append((number, command.outcome))
    assert not run.errors
    assert (run.outcome != UNSETTLED).all()
    assert (run.settled_ns >= load.at_ns).all()
    for request in range(len(load)):
        in_server = run.end[request] == End.SERVER
        assert settled[request] == in_server
        if in_server:
            [(number, outcome)] = places[request]
            assert run.replica[request] == number
            assert OUTCOMES[run.outcome[request]] is outcome
        else:
            expired = run.end[request] == End.DEADLINE
            assert OUTCOMES[run.outcome[request]] is (
                Outcome.EXPIRED if expired else Outcome.FAILED
            )
            if expired:
                assert run.settled_ns[request] == load.at_ns[request] + fleet.conditions.deadline_ns
        assert run.again[request] <= fleet.clients.retries
    assert sum(each.requests for each in run.replicas) >= (run.end == End.SERVER).sum()


@given(fleet=settings, load=arrivals, script=scripts, ends=milliseconds)
def test_nothing_is_routed_to_a_replica_that_is_not_known_as_ready(fleet, load, script, ends):
    run = simulate_fleet(fleet, load, script, until_ns=ends)
    for replica in run.replicas:
        mine = load.at_ns[(run.replica == replica.number) & (run.again == 0)]
        if not len(mine):
            continue
        assert replica.known_ns is not None
        if not fleet.clients.wait_ns:
            assert mine.min() >= replica.known_ns
        if replica.stopped_ns is not None:
            unknown_ns = min(fleet.drain.delay_ns, fleet.readiness.removed_ns)
            assert mine.max() <= replica.stopped_ns + unknown_ns


@given(fleet=settings, load=arrivals, script=scripts, ends=milliseconds)
def test_equal_arguments_give_equal_runs(fleet, load, script, ends):
    one, other = (simulate_fleet(fleet, load, script, until_ns=ends) for _ in range(2))
    for name in ("settled_ns", "outcome", "reason", "end", "replica", "again", "batches"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert one.replicas == other.replicas
    assert one.steps == other.steps


@given(fleet=settings, load=arrivals, script=scripts, ends=milliseconds)
def test_replicas_live_as_long_as_they_are_counted(fleet, load, script, ends):
    run = simulate_fleet(fleet, load, script, until_ns=ends)
    moments = sorted(
        {0, ends, *[r.started_ns for r in run.replicas]}
        | {r.ended_ns for r in run.replicas if r.ended_ns is not None and r.ended_ns < ends}
    )
    spent = 0
    for begin_ns, end_ns in pairwise(moments):
        if end_ns <= ends:
            there = sum(
                r.started_ns <= begin_ns and (r.ended_ns is None or r.ended_ns >= end_ns)
                for r in run.replicas
            )
            spent += there * (end_ns - begin_ns)
    assert run.replica_seconds == pytest.approx(spent / SECOND)
    for replica in run.replicas:
        if replica.stopped_ns is not None and replica.ended_ns is not None:
            assert replica.ended_ns >= replica.stopped_ns
        if replica.ready_ns is not None:
            assert replica.ready_ns >= replica.started_ns
    for step in run.steps:
        assert step.ready + step.starting == step.before


@given(fleet=settings, load=arrivals, script=scripts)
def test_nothing_is_lost_where_replicas_come_and_go_and_none_dies(fleet, load, script):
    fleet = replace(
        fleet,
        faults=(),
        replicas=max(1, fleet.replicas),
        drain=replace(fleet.drain, timeout_ns=30 * SECOND),
        clients=replace(fleet.clients, wait_ns=60 * SECOND),
        conditions=replace(fleet.conditions, deadline_ns=None),
    )
    steps = tuple((at_ns, max(1, size)) for at_ns, size in script.steps)
    run = simulate_fleet(fleet, load, replace(script, steps=steps))
    assert (run.end == End.SERVER).all()
    assert not any(each.lost for each in run.replicas)


@given(fleet=settings, load=arrivals, script=scripts)
def test_one_fixed_replica_is_a_single_simulation(fleet, load, script):
    fleet = replace(fleet, replicas=1, faults=())
    run = simulate_fleet(fleet, load, replace(script, steps=()))
    one = simulate(fleet.deployment, parse_policy("configured"), load, fleet.conditions)
    for name in ("settled_ns", "outcome", "reason", "batch_rows"):
        assert np.array_equal(getattr(run, name), getattr(one, name))


@given(fleet=settings, load=arrivals, count=st.integers(2, 5), script=scripts)
def test_round_robin_of_one_client_deals_requests_out(fleet, load, count, script):
    fleet = replace(fleet, replicas=count, faults=(), balancer=RoundRobin(), clients=Clients())
    run = simulate_fleet(fleet, load, replace(script, steps=()))
    for place in range(min(count, len(load))):
        of = slice(place, None, count)
        [number] = set(run.replica[of].tolist())
        mine = replace(load, at_ns=load.at_ns[of], rows=load.rows[of], kind=load.kind[of])
        seed = replica_seed(fleet.conditions.seed, number)
        one = simulate(
            fleet.deployment,
            parse_policy("configured"),
            mine,
            replace(fleet.conditions, seed=seed),
        )
        for name in ("settled_ns", "outcome", "reason", "batch_rows"):
            assert np.array_equal(getattr(run, name)[of], getattr(one, name))
