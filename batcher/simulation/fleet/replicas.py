"""The replicas of a fleet: they are started, become ready, become known, drain, die and end."""

from __future__ import annotations

from functools import partial
from random import Random

from batcher.simulation.engine.simulation import generator
from batcher.simulation.fleet.plans import Plans
from batcher.simulation.fleet.replica import Kit, Replica
from batcher.simulation.fleet.router import Router
from batcher.simulation.fleet.settings import Fault, FaultKind, FleetSettings, Span, replica_seed

_ENDING = (FaultKind.DIE, FaultKind.LEAVE)


class Replicas:
    """All replicas that there ever were, and how many there are to be."""

    def __init__(
        self, settings: FleetSettings, kit: Kit, plans: Plans, router: Router, draw: Random
    ) -> None:
        self._settings = settings
        self._kit = kit
        self._plans = plans
        self._router = router
        self._draw = draw
        self.all: list[Replica] = []
        self.active: list[Replica] = []
        """Those that are there and not told to end, in the order in which they were created."""
        self.draining: list[Replica] = []
        """Those that were told to end and may not have ended."""
        self._known: list[Replica] = []
        self.desired = settings.replicas
        for fault in settings.faults:
            if fault.kind in _ENDING:
                plans.add(fault.at_ns, partial(self._strike, fault))

    def begin(self) -> None:
        """Have the first ones ready and known at once."""
        for _ in range(self.desired):
            replica = self._create(0)
            replica.begin(0)
            replica.known, replica.known_ns = True, 0
        self._known = list(self.active)
        self._router.changed(self._known, 0)

    def scale(self, desired: int, now_ns: int) -> None:
        """Start as many as are missing now, or stop as many as are too many."""
        self.desired = desired
        for _ in range(desired - len(self.active)):
            replica = self._create(now_ns)
            start_up = self._settings.start_up
            self._start(replica, now_ns, (start_up.image, start_up.load, start_up.warm_up))
        surplus = len(self.active) - desired
        if surplus > 0:
            for replica in sorted(self.active, key=partial(_stay, now_ns))[:surplus]:
                self._stop(replica, now_ns)

    def finish(self) -> None:
        """Play all that are left to their end."""
        for replica in self.active:
            replica.finish()

    def drained(self, now_ns: int) -> int:
        """How many are ending now."""
        self.draining = [r for r in self.draining if r.ended_ns is None or r.ended_ns > now_ns]
        return len(self.draining)

    def _create(self, now_ns: int) -> Replica:
        number = len(self.all)
        own = [fault for fault in self._settings.faults if fault.replica == number]
        hangs, freezes = (
            sorted((fault.at_ns, fault.until_ns) for fault in own if fault.kind is kind)
            for kind in (FaultKind.HANG, FaultKind.FREEZE)
        )
        uid = self._draw.getrandbits(64)
        pauses = apart(sorted([*freezes, *self._kit.conditions.pauses]))
        replica = Replica(self._kit, number, now_ns, uid, apart(hangs), pauses)
        self.all.append(replica)
        self.active.append(replica)
        return replica

    def _start(self, replica: Replica, now_ns: int, spans: tuple[Span, ...]) -> None:
        seed = replica_seed(self._settings.conditions.seed, replica.number, replica.starts)
        draw = generator(seed, "start-up")
        takes_ns = sum([span.sample_ns(draw) for span in spans])
        self._plans.add(now_ns + takes_ns, partial(self._ready, replica, replica.starts))

    def _ready(self, replica: Replica, starts: int, now_ns: int) -> None:
        if replica.stopped_ns is not None or replica.ended_ns is not None:
            return
        if replica.starts != starts:
            return
        replica.begin(now_ns)
        learned_ns = now_ns + self._settings.readiness.added_ns
        self._plans.add(learned_ns, partial(self._learn, replica, starts))

    def _learn(self, replica: Replica, starts: int, now_ns: int) -> None:
        """Clients learn that it is ready."""
        if replica.stopped_ns is not None or replica.dead or replica.starts != starts:
            return
        if not replica.known:
            replica.known = True
            if replica.known_ns is None:
                replica.known_ns = now_ns
            self._known = [*self._known, replica]
            self._router.changed(self._known, now_ns)

    def _forget(self, replica: Replica, now_ns: int) -> None:
        """Clients learn that it is not ready any more; not where its process is ready again meanwhile."""
        if replica.known and (replica.dead or replica.stopped_ns is not None):
            replica.known = False
            self._known = [each for each in self._known if each is not replica]
            self._router.changed(self._known, now_ns)

    def _stop(self, replica: Replica, now_ns: int) -> None:
        """Tell a replica to end: it serves for a while, takes nothing new then, and ends with its last answer."""
        replica.stopped_ns = now_ns
        self.active.remove(replica)
        if replica.ready_ns is None:
            replica.ended_ns = now_ns
            self._forget(replica, now_ns)
            return
        self.draining.append(replica)
        drain, readiness = self._settings.drain, self._settings.readiness
        unknown_ns = now_ns + min(drain.delay_ns, readiness.removed_ns)
        self._plans.add(unknown_ns, partial(self._forget, replica))
        self._plans.add(now_ns + drain.delay_ns, partial(self._close, replica))

    def _close(self, replica: Replica, now_ns: int) -> None:
        """It takes nothing new from here on: play it until it has answered everything."""
        if replica.ended_ns is not None:
            return
        replica.drains_ns = now_ns
        until_ns = min(
            [
                now_ns + self._settings.drain.timeout_ns,
                *[
                    fault.at_ns
                    for fault in self._settings.faults
                    if fault.kind in _ENDING
                    and fault.replica == replica.number
                    and fault.at_ns > now_ns
                ],
            ]
        )
        done_ns = replica.drain(now_ns, until_ns)
        if done_ns is None:
            replica.ended_ns = until_ns
            self._plans.add(until_ns, partial(self._lose, replica))
        else:
            replica.ended_ns = done_ns

    def _lose(self, replica: Replica, now_ns: int) -> None:
        self._router.lost(replica.die(), now_ns)

    def _strike(self, fault: Fault, now_ns: int) -> None:
        """A replica dies, or is gone with its machine."""
        if fault.replica >= len(self.all):
            return
        replica = self.all[fault.replica]
        if replica.ended_ns is not None:
            return
        replica.advance(now_ns)
        lost = replica.die()
        self._plans.add(now_ns + self._settings.readiness.lost_ns, partial(self._forget, replica))
        self._router.lost(lost, now_ns)
        if replica.stopped_ns is None and fault.kind is FaultKind.DIE:
            replica.starts += 1
            start_up = self._settings.start_up
            self._start(replica, now_ns, (start_up.load, start_up.warm_up))
            return
        replica.ended_ns = now_ns
        if replica.stopped_ns is None:
            self.active.remove(replica)
            self.scale(self.desired, now_ns)


def apart(spells: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same spells, those that touch put together."""
    found: list[tuple[int, int]] = []
    for start_ns, end_ns in spells:
        if found and start_ns <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end_ns))
        else:
            found.append((start_ns, end_ns))
    return tuple(found)


def _stay(now_ns: int, replica: Replica) -> tuple[bool, int, int, int, int]:
    """A replica is stopped before those with a higher value, as a ReplicaSet ranks its pods.

    Those that are not ready come first, then those that have been ready for less time, then the newer ones. Times
    count as powers of two, and equal ones are as good as drawn (`LogarithmicScaleDown`, on since Kubernetes 1.22).
    What cannot be known here does not count: nodes, and costs that are annotated.
    """
    ready = replica.known and replica.ready_ns is not None
    ready_ns = now_ns - replica.ready_ns if ready and replica.ready_ns is not None else 0
    created = (now_ns - replica.started_ns + 1).bit_length()
    return ready, (ready_ns + 1).bit_length() if ready else 0, -replica.starts, created, replica.uid
