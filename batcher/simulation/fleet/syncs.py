"""The controller's side: replicas are read, and the controller is called with what has arrived."""

from __future__ import annotations

from functools import partial

from batcher.simulation.fleet.controller import Controller, FleetView, ReplicaView
from batcher.simulation.fleet.plans import Plans
from batcher.simulation.fleet.replica import Replica
from batcher.simulation.fleet.replicas import Replicas
from batcher.simulation.fleet.result import Step
from batcher.simulation.fleet.router import Router
from batcher.simulation.fleet.settings import Scrape
from batcher.simulation.fleet.signals import RATES, Signal


class Syncs:
    """Calls the controller at its period until `until_ns`. Only readings that it gets are taken."""

    def __init__(
        self,
        controller: Controller,
        scrape: Scrape,
        replicas: Replicas,
        router: Router,
        plans: Plans,
        until_ns: int,
    ) -> None:
        self._controller = controller
        self._scrape = scrape
        self._replicas = replicas
        self._router = router
        self._plans = plans
        self._until_ns = until_ns
        self._wanted = frozenset(controller.signals)
        self.steps: list[Step] = []
        self._reads = self._moments() if self._wanted else []
        """(moment, whether signals are read and not the counters of rates alone), the last one first."""
        self._plan_read()
        self._plan_sync(0)

    def _read_ns(self, sync_ns: int) -> int:
        """When what a sync gets was read; below 0 for nothing."""
        scrape = self._scrape
        return (sync_ns - scrape.delay_ns) // scrape.interval_ns * scrape.interval_ns

    def _moments(self) -> list[tuple[int, bool]]:
        period_ns, scrape = self._controller.sync_ns, self._scrape
        moments: dict[int, bool] = {}
        before_ns = max(1, round(scrape.rate_ns / scrape.interval_ns)) * scrape.interval_ns
        for sync_ns in range(period_ns, self._until_ns + 1, period_ns):
            at_ns = self._read_ns(sync_ns)
            if at_ns < 0:
                continue
            moments[at_ns] = True
            if self._wanted & RATES and at_ns >= before_ns:
                moments.setdefault(at_ns - before_ns, False)
        return sorted(moments.items(), reverse=True)

    def _plan_read(self) -> None:
        if self._reads:
            at_ns, whole = self._reads.pop()
            self._plans.add(at_ns, partial(self._read, whole))

    def _read(self, whole: bool, now_ns: int) -> None:
        for replica in self._replicas.active:
            if whole:
                replica.samples[now_ns] = replica.scrape(now_ns, self._wanted)
            else:
                replica.read_counters(now_ns)
        self._plan_read()

    def _plan_sync(self, now_ns: int) -> None:
        next_ns = now_ns + self._controller.sync_ns
        if next_ns <= self._until_ns:
            # After what is read at the same moment.
            self._plans.add(next_ns, self._sync, rank=1)

    def _sync(self, now_ns: int) -> None:
        replicas, read_ns = self._replicas, self._read_ns(now_ns)
        views = tuple([_view(replica, read_ns) for replica in replicas.active])
        before = replicas.desired
        waiting = self._router.waiting
        decision = self._controller.sync(FleetView(now_ns, before, views, waiting))
        desired = max(0, decision.desired)
        ready = sum([view.ready_ns is not None for view in views])
        values: dict[Signal, float] = {}
        for signal in self._controller.signals:
            known = [
                view.sample.values[signal]
                for view in views
                if view.sample is not None and signal in view.sample.values
            ]
            if known:
                values[signal] = sum(known) / len(known)
        self.steps.append(
            Step(
                now_ns,
                before,
                desired,
                ready,
                len(views) - ready,
                replicas.drained(now_ns),
                waiting,
                decision.reason,
                values,
            )
        )
        replicas.scale(desired, now_ns)
        self._plan_sync(now_ns)


def _view(replica: Replica, read_ns: int) -> ReplicaView:
    samples = replica.samples
    for at_ns in [at_ns for at_ns in samples if at_ns < read_ns]:
        del samples[at_ns]
    ready_ns = replica.ready_ns if replica.known else None
    return ReplicaView(replica.number, replica.started_ns, ready_ns, samples.get(read_ns))
