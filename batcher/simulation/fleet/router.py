"""The clients' side: every request goes to one replica, waits at its client, or ends there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from batcher.core.commands import Outcome, Reason
from batcher.core.events import Event, RequestArrived
from batcher.core.times import NEVER_NS
from batcher.simulation.engine.simulation import OUTCOMES, REASONS, Run
from batcher.simulation.fleet.balancers import Picker
from batcher.simulation.fleet.plans import Plans
from batcher.simulation.fleet.replica import Replica
from batcher.simulation.fleet.result import End
from batcher.simulation.fleet.settings import Clients
from batcher.simulation.traffic.workload import Progress, Workload

_FAILED: Final = OUTCOMES.index(Outcome.FAILED)
_EXPIRED: Final = OUTCOMES.index(Outcome.EXPIRED)
_DEADLINE: Final = REASONS.index(Reason.CALLER_DEADLINE)


class Router:
    """Sends requests to the replicas that clients know."""

    def __init__(
        self,
        clients: Clients,
        client_of: Sequence[int],
        workload: Workload,
        deadline_ns: int | None,
        picker: Picker[Replica],
        plans: Plans,
        progress: Progress | None,
    ) -> None:
        self._clients = clients
        self._client_of = client_of
        self._workload = workload
        self._deadline_ns = deadline_ns
        self._picker = picker
        self._plans = plans
        self._source: Iterator[tuple[int, Event]] = workload.events(
            deadline_ns=deadline_ns, progress=progress
        )
        self.next = 0
        """The first request that has not arrived yet."""
        self._known: Sequence[Replica] = ()
        self._waiting: dict[int, int] = {}
        """Request -> until when it waits at its client, in the order in which they began to."""
        self.replica_of = [-1] * len(workload)
        self.again: dict[int, int] = {}
        """How often requests were sent again."""
        self._ended: list[tuple[int, int, End]] = []
        """(request, moment, how) of those that did not end in a server."""

    @property
    def waiting(self) -> int:
        """Requests that wait at clients."""
        return len(self._waiting)

    def changed(self, known: Sequence[Replica], now_ns: int) -> None:
        """Clients know these replicas from now on."""
        self._known = known
        self._picker.changed(known, now_ns)
        if known:
            waiting, self._waiting = self._waiting, {}
            for request in waiting:
                self._send(request, now_ns)

    def update(self, now_ns: int) -> None:
        """Have clients read load reports."""
        if self._known:
            self._picker.update(now_ns)

    def arrive(self, count: int) -> int:
        """Let so many requests arrive, or fewer if a plan has to come first; returns the last one's moment."""
        source, client_of, number = self._source, self._client_of, self.next
        replica_of, pick = self.replica_of, self._picker.pick
        if not self._known:
            at_ns, _ = next(source)
            self.next += 1
            self._find_none(number, at_ns)
            return at_ns
        at_ns = 0
        for at_ns, event in islice(source, count):
            replica = pick(client_of[number], at_ns)
            replica_of[number] = replica.number
            number += 1
            if replica.dead:
                self.next = number
                self._unreached(replica, number - 1, at_ns)
                return at_ns
            replica.inbox.append((at_ns, event))
        self.next = number
        return at_ns

    def _send(self, request: int, now_ns: int) -> None:
        """Send a request that has waited, or was sent before."""
        if self._gone(request, now_ns):
            return
        if not self._known:
            self._find_none(request, now_ns)
            return
        replica = self._picker.pick(self._client_of[request], now_ns)
        self.replica_of[request] = replica.number
        if replica.dead:
            self._unreached(replica, request, now_ns)
        else:
            replica.inbox.append((now_ns, self._event(request, now_ns)))

    def _unreached(self, replica: Replica, request: int, now_ns: int) -> None:
        if self._picker.counts:
            replica.outstanding[self._client_of[request]] -= 1
        self._unserved(request, now_ns, End.UNREACHABLE)

    def _find_none(self, request: int, now_ns: int) -> None:
        """No replica is known for a request."""
        if not self._clients.wait_ns:
            self._unserved(request, now_ns, End.NO_REPLICA)
            return
        until_ns, expires_ns = now_ns + self._clients.wait_ns, self._expires_ns(request)
        how = End.NO_REPLICA if until_ns < expires_ns else End.DEADLINE
        until_ns = min(until_ns, expires_ns)
        self._waiting[request] = until_ns
        self._plans.add(until_ns, partial(self._give_up, request, how))

    def _give_up(self, request: int, how: End, now_ns: int) -> None:
        if self._waiting.get(request) == now_ns:
            del self._waiting[request]
            self._ended.append((request, now_ns, how))

    def lost(self, requests: Sequence[int], now_ns: int) -> None:
        """These died with their replica."""
        for request in requests:
            self._unserved(request, now_ns, End.LOST)

    def _unserved(self, request: int, now_ns: int, how: End) -> None:
        """A request was not served: it is sent again after a while, if it may be."""
        if self._gone(request, now_ns):
            return
        again = self.again.get(request, 0)
        if again == self._clients.retries:
            self._ended.append((request, now_ns, how))
            return
        self.again[request] = again + 1
        self._plans.add(now_ns + self._clients.retry_ns, partial(self._send, request))

    def _gone(self, request: int, now_ns: int) -> bool:
        """Whether the caller's deadline has passed: then the request has ended at that."""
        expires_ns = self._expires_ns(request)
        if now_ns <= expires_ns:
            return False
        self._ended.append((request, expires_ns, End.DEADLINE))
        return True

    def _expires_ns(self, request: int) -> int:
        if self._deadline_ns is None:
            return NEVER_NS
        return int(self._workload.at_ns[request]) + self._deadline_ns

    def _event(self, request: int, now_ns: int) -> RequestArrived:
        """The request as it arrives at a server now."""
        workload = self._workload
        kind = workload.kinds[int(workload.kind[request])]
        return RequestArrived(
            request,
            kind.model,
            int(workload.rows[request]),
            0,
            () if workload.length is None else ((int(workload.length[request]),),),
            "",
            now_ns,
            None,
            None if self._deadline_ns is None else self._expires_ns(request),
            kind.priority,
            kind.tenant,
        )

    def put_ends(self, run: Run) -> NDArray[np.int8]:
        """Put what did not end in a server into the run's arrays; returns where each request ended."""
        end = np.zeros(len(self._workload), np.int8)
        for request, at_ns, how in self._ended:
            run.settled_ns[request], end[request] = at_ns, how
            run.outcome[request] = _FAILED
            if how is End.DEADLINE:
                run.outcome[request], run.reason[request] = _EXPIRED, _DEADLINE
        return end
