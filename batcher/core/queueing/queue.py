"""Where requests wait: one queue per model, one batch group per batch key and bucket of shapes.

Groups exist only while something waits in them, and a request that has gone leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batcher.core.history import InvalidTransition
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.request import GroupKey, LiveRequest


def _order(request: LiveRequest) -> tuple[int, int]:
    return request.rank, request.finish_by_ns


class ModelQueue:
    """All requests that wait for one model: its batch groups and their totals.

    `rows` counts what may go into the next batches; `later_rows` counts the further rows of the
    `splits` requests that are split. `held` are the steps of sequences that wait for the step before
    them, by id in order of arrival, with `held_rows` and `held_bytes`; the other totals do not count them.
    """

    __slots__ = (
        "groups",
        "held",
        "held_bytes",
        "held_rows",
        "later_rows",
        "nbytes",
        "requests",
        "rows",
        "splits",
    )

    def __init__(self) -> None:
        self.groups: dict[GroupKey, BatchGroup] = {}
        self.requests = 0
        self.rows = 0
        self.nbytes = 0
        self.splits = 0
        self.later_rows = 0
        self.held: dict[int, LiveRequest] = {}
        self.held_rows = 0
        self.held_bytes = 0

    @property
    def all_rows(self) -> int:
        """All rows that wait, also those beyond the next batches."""
        return self.rows + self.later_rows

    def add(self, request: LiveRequest) -> None:
        """Enqueue in the request's batch group, by its rank and `finish_by_ns`."""
        key = request.arrived.batch_key, request.bucket
        rows = request.rows
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = BatchGroup(key)
            group.add(request)
        else:
            priority_class = group.classes[0]
            finish_by, finish_by_ns = priority_class.finish_by, request.finish_by_ns
            if priority_class.rank == request.rank and finish_by[-1] <= finish_by_ns:
                # The common case, without a call: the last place of the first class.
                finish_by.append(finish_by_ns)
                priority_class.requests.append(request)
                priority_class.rows += rows
                group.rows += rows
                if request.promote_at_ns < group.promote_at_ns:  # noqa: PLR1730 - for each request
                    group.promote_at_ns = request.promote_at_ns
                if request.expires_ns is not None and request.expires_ns < group.expires_ns:
                    group.expires_ns = request.expires_ns
            else:
                group.add(request)
        self.requests += 1
        self.rows += rows
        self.nbytes += request.nbytes
        if request.split is not None:
            request.split.queued = True
            self.splits += 1
            self.later_rows += request.later_rows

    def hold(self, request: LiveRequest) -> None:
        """Keep a step that waits for the step before it."""
        request.held = True
        self.held[request.id] = request
        self.held_rows += request.arrived.rows
        self.held_bytes += request.nbytes

    def release(self, request: LiveRequest) -> None:
        """Take a held step out."""
        request.held = False
        del self.held[request.id]
        self.held_rows -= request.arrived.rows
        self.held_bytes -= request.nbytes

    def discard(self, request: LiveRequest) -> None:
        """Take a waiting request out; its group is dropped with the last one.

        Raises `InvalidTransition` if it does not wait here.
        """
        key = request.arrived.batch_key, request.bucket
        group = self.groups.get(key)
        if group is None:
            raise InvalidTransition(request.id, f"waits in no group: {request}")
        group.discard(request)
        if not group.classes:
            del self.groups[key]
        self.requests -= 1
        self.rows -= request.rows
        self.nbytes -= request.nbytes
        if request.split is not None:
            self._dequeued(request)

    def _dequeued(self, request: LiveRequest) -> None:
        if request.split is not None:
            request.split.queued = False
            self.splits -= 1
            self.later_rows -= request.later_rows

    def take(self, group: BatchGroup, requests: Sequence[LiveRequest]) -> None:
        """Take waiting requests of one group out; this is fast where they are the first of their classes."""
        classes = tuple(group.classes)
        for priority_class in classes:
            own = list(requests)
            if len(classes) > 1:
                own = [request for request in requests if request.rank == priority_class.rank]
            count = len(own)
            if not own:
                continue
            if priority_class.requests[:count] != own:
                for request in own:
                    self.discard(request)
                continue
            self.rows -= group.pop_front(priority_class, count)
            self.requests -= count
            self.nbytes -= sum([request.nbytes for request in own])
            if self.splits:
                for request in own:
                    self._dequeued(request)
        if not group.classes:
            self.groups.pop(group.key, None)

    def take_all(self) -> list[LiveRequest]:
        """Take out all waiting requests, group by group, each in the order in which it is served."""
        waiting = list(self)
        self.groups.clear()
        self.requests = self.rows = self.nbytes = 0
        for request in waiting:
            self._dequeued(request)
        return waiting

    @property
    def worst(self) -> tuple[int, int]:
        """The rank and `finish_by_ns` of the request that is served last; something must wait or be held."""
        classes = [group.classes[-1] for group in self.groups.values()]
        places = [(priority_class.rank, priority_class.finish_by[-1]) for priority_class in classes]
        return max([*places, *map(_order, self.held.values())])

    def worst_first(self) -> Iterator[LiveRequest]:
        """All waiting and held requests, the one that is served last first."""
        classes = [
            priority_class for group in self.groups.values() for priority_class in group.classes
        ]
        if self.held:
            # Of equal ones, the last of a sequence first.
            waiting = [*self, *self.held.values()][::-1]
            return iter(sorted(waiting, key=_order, reverse=True))
        if len(classes) == 1:
            return reversed(classes[0].requests)
        return iter(sorted(self, key=_order, reverse=True))

    def __iter__(self) -> Iterator[LiveRequest]:
        for group in self.groups.values():
            yield from group

    def oldest_arrival_ns(self) -> int | None:
        """When the request that has waited longest arrived, in nanoseconds; None where none waits."""
        arrivals_ns = [r.arrived.arrival_ns for r in (*self, *self.held.values())]
        return min(arrivals_ns, default=None)
