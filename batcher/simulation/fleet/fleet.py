"""A fleet in virtual time.

What happens at one moment happens in this order: what befalls replicas, controllers and clients, in the order in
which it was planned; then requests arrive. A replica that is read at a moment is read as it was just before.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

import numpy as np

from batcher.errors import InputError
from batcher.simulation.engine.simulation import Recorder, generator
from batcher.simulation.fleet.balancers import (
    LeastRequest,
    LeastRequestPicker,
    Orca,
    Picker,
    RoundRobinPicker,
)
from batcher.simulation.fleet.controller import Controller
from batcher.simulation.fleet.plans import Plans
from batcher.simulation.fleet.replica import Kit, Replica
from batcher.simulation.fleet.replicas import Replicas
from batcher.simulation.fleet.result import FleetRun, ReplicaRecord
from batcher.simulation.fleet.router import Router
from batcher.simulation.fleet.settings import FleetSettings
from batcher.simulation.fleet.syncs import Syncs
from batcher.simulation.fleet.weighted import WeightedPicker
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.workload import Mix, Progress, Traffic, Workload

_CHUNK: Final = 8192
"""Requests that are routed before replicas are played on. It bounds the memory of those that are not played yet."""


def simulate_fleet(
    settings: FleetSettings,
    load: Workload,
    controller: Controller | None = None,
    *,
    until_ns: int | None = None,
    progress: Progress | None = None,
) -> FleetRun:
    """Play the requests to their end. Equal arguments give equal runs.

    The controller is called until `until_ns`, and replica-seconds count until then: by default the last arrival. A
    controller with state is used up by a run. Without a controller the fleet keeps its size. Raises `InputError`
    where a controller's period is not above 0.
    """
    if controller is not None and controller.sync_ns <= 0:
        raise InputError(f"sync_ns: got {controller.sync_ns}; allowed: above 0")
    last_ns = int(load.at_ns[-1]) if len(load) else 0
    until_ns = last_ns if until_ns is None else until_ns
    policy = parse_policy(settings.policy)
    conditions, clients = settings.conditions, settings.clients.count
    deployment = settings.deployment.under(policy)
    recorder = Recorder(conditions.reply_ns)
    client_of = _clients_of(load, clients, conditions.seed)
    draw = Random(f"{conditions.seed} fleet")  # noqa: S311 - no secret
    picker = _picker(settings, draw)
    kit = Kit(
        deployment,
        policy.factory,
        conditions,
        recorder,
        client_of,
        clients,
        frozenset(controller.signals) if controller else frozenset(),
        settings.scrape,
        settings.processor,
        counts=picker.counts,
        reports=isinstance(settings.balancer, Orca),
    )
    plans = Plans()
    router = Router(
        settings.clients, client_of, load, conditions.deadline_ns, picker, plans, progress
    )
    replicas = Replicas(settings, kit, plans, router, draw)
    replicas.begin()
    syncs = (
        Syncs(controller, settings.scrape, replicas, router, plans, until_ns)
        if controller
        else None
    )
    if picker.update_ns:
        _plan_updates(plans, router, picker.update_ns, last_ns)
    _play(load, plans, router, replicas)
    replicas.finish()
    run = recorder.run(policy.name, deployment, load, {}, 0)
    end = router.put_ends(run)
    again = np.zeros(len(load), np.int16)
    again[list(router.again)] = list(router.again.values())
    return FleetRun(
        workload=load,
        settled_ns=run.settled_ns,
        outcome=run.outcome,
        reason=run.reason,
        end=end,
        replica=np.array(router.replica_of, np.int32),
        again=again,
        batch_rows=run.batch_rows,
        batches=run.batches,
        replicas=tuple([_record(replica) for replica in replicas.all]),
        steps=tuple(syncs.steps) if syncs else (),
        until_ns=until_ns,
        target_ns={model.name: model.settings.target_ns for model in deployment.models},
        errors=run.errors,
    )


def requests_at(at_ns: Sequence[int], model: str) -> Workload:
    """One-row requests to a model at these moments (nanoseconds from the start, ascending): a recorded load."""
    moments = np.array(at_ns, np.int64)
    return Workload.of(moments, Traffic(Mix.of((model, 1.0))), generator(0, "traffic"))


def _play(load: Workload, plans: Plans, router: Router, replicas: Replicas) -> None:
    at_ns = load.at_ns
    while True:
        plan_ns = plans.next_ns
        stop = int(np.searchsorted(at_ns, plan_ns, side="left"))
        if stop > router.next:
            now_ns = router.arrive(min(_CHUNK, stop - router.next))
            if stop > router.next:
                for replica in replicas.active:
                    replica.advance(now_ns)
                for replica in replicas.draining:
                    replica.advance(now_ns)
        elif not plans.any:
            return
        else:
            plans.carry_out()


def _clients_of(load: Workload, clients: int, seed: int) -> list[int]:
    if clients == 1:
        return [0] * len(load)
    drawn: list[int] = generator(seed, "clients").integers(0, clients, len(load)).tolist()
    return drawn


def _picker(settings: FleetSettings, draw: Random) -> Picker[Replica]:
    balancer, clients = settings.balancer, settings.clients.count
    if isinstance(balancer, LeastRequest):
        return LeastRequestPicker(balancer.choices, draw)
    if isinstance(balancer, Orca):
        return WeightedPicker(balancer, clients, draw)
    return RoundRobinPicker(clients, draw)


def _plan_updates(plans: Plans, router: Router, period_ns: int, last_ns: int) -> None:
    """Have clients read load reports at their period, while requests arrive."""

    def update(now_ns: int) -> None:
        router.update(now_ns)
        if now_ns < last_ns:
            plans.add(now_ns + period_ns, update)

    plans.add(period_ns, update)


def _record(replica: Replica) -> ReplicaRecord:
    return ReplicaRecord(
        number=replica.number,
        started_ns=replica.started_ns,
        ready_ns=replica.first_ready_ns,
        known_ns=replica.known_ns,
        stopped_ns=replica.stopped_ns,
        ended_ns=replica.ended_ns,
        requests=replica.requests,
        lost=replica.lost,
        restarts=replica.starts,
    )
