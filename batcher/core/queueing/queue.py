"""Where requests wait: one queue per model, one lane per batch key and bucket of shapes.

A lane is made of lines, the most valuable first: what must be served before anything else, then
each priority level (tenants within their share before those over it), then what is late. A line is
in the order in which its requests are due. Lanes and lines exist only while something waits in
them, and a request that has gone leaves nothing behind.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from batcher.core.queueing.request import GroupKey, LiveRequest
from batcher.core.settings import QueueLimits
from batcher.core.times import NEVER_NS

PROMOTED: Final = 0
"""The rank of what has waited for too long, whatever it was before."""

PROMOTED_ONE_IN: Final = 32.0
"""Of all rows, one in so many is for those, whatever else there is to do."""

BEST_EFFORT: Final = 1 << 20
"""The rank of what can only be late."""


def rank_of(level: int, *, over_share: bool) -> int:
    """The rank of a priority level (1 is the most urgent) and of a tenant's standing in it."""
    return 2 * level + over_share


def promotion_ns_of(request: LiveRequest, since_ns: int, limits: QueueLimits) -> int:
    """When waiting has earned a request a better line; `NEVER_NS` if it never does.

    What is over its tenant's share is served from what the others leave. It comes to the front only
    where nothing else ends its wait, and when it has waited for longer than anybody should.
    """
    rank = request.rank
    if not rank_of(1, over_share=False) < rank < BEST_EFFORT:
        return NEVER_NS
    if rank % 2 == 0:
        return since_ns + limits.promote_after_ns
    if request.finish_by_ns < NEVER_NS:
        return NEVER_NS
    return since_ns + (limits.priority_levels + 1) * limits.promote_after_ns


def latest_finish_ns(request: LiveRequest) -> int:
    """When a request must be done: in time, or at least before its caller leaves."""
    # From `NEVER_NS` on, an order is no moment, only a place among others.
    if request.rank in (PROMOTED, BEST_EFFORT) or request.finish_by_ns >= NEVER_NS:
        return NEVER_NS if request.deadline_ns is None else request.deadline_ns
    return request.finish_by_ns


class PriorityClass:
    """Requests of one rank, in the order in which they are due: two lists that go together."""

    __slots__ = ("finish_by", "rank", "requests", "rows")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.requests: list[LiveRequest] = []
        self.finish_by: list[int] = []
        self.rows = 0

    def __len__(self) -> int:
        return len(self.requests)

    def add(self, request: LiveRequest) -> None:
        """Insert behind everything that is due no later."""
        finish_by = self.finish_by
        finish_by_ns = request.finish_by_ns
        if not finish_by or finish_by[-1] <= finish_by_ns:
            finish_by.append(finish_by_ns)
            self.requests.append(request)
        else:
            place = bisect_right(finish_by, finish_by_ns)
            finish_by.insert(place, finish_by_ns)
            self.requests.insert(place, request)
        self.rows += request.rows

    def discard(self, request: LiveRequest) -> None:
        """Take out, from anywhere."""
        place = bisect_left(self.finish_by, request.finish_by_ns)
        requests = self.requests
        while requests[place] is not request:
            place += 1
        del requests[place]
        del self.finish_by[place]
        self.rows -= request.rows


class BatchGroup:
    """Requests that may share a batch. Iterating yields them in the order of their worth.

    None of them expires before `expires_ns`; `first_expiry_ns` says when the first of them does.
    """

    __slots__ = ("classes", "expires_ns", "key", "promote_at_ns", "rows")

    def __init__(self, key: GroupKey) -> None:
        self.key = key
        self.rows = 0
        self.classes: list[PriorityClass] = []
        self.promote_at_ns = NEVER_NS
        self.expires_ns = NEVER_NS

    def __len__(self) -> int:
        classes = self.classes
        if len(classes) == 1:
            return len(classes[0].requests)
        return sum(len(priority_class) for priority_class in classes)

    def __iter__(self) -> Iterator[LiveRequest]:
        for priority_class in self.classes:
            yield from priority_class.requests

    @property
    def head(self) -> LiveRequest:
        """The request that is served first; a lane is never empty."""
        return self.classes[0].requests[0]

    @property
    def oldest_arrival_ns(self) -> int:
        """When the first of them came, where each line is in order of arrival."""
        classes = self.classes
        if len(classes) == 1:
            return classes[0].requests[0].arrived.arrival_ns
        return min([priority_class.requests[0].arrived.arrival_ns for priority_class in classes])

    def first_expiry_ns(self) -> int:
        """When the first of them expires; `NEVER_NS` if none does."""
        expiries = [request.expires_ns for request in self if request.expires_ns is not None]
        self.expires_ns = min(expiries, default=NEVER_NS)
        return self.expires_ns

    def add(self, request: LiveRequest) -> None:
        """Insert into the line of its rank."""
        rank = request.rank
        for priority_class in self.classes:
            if priority_class.rank == rank:
                break
        else:
            priority_class = PriorityClass(rank)
            self.classes.append(priority_class)
            self.classes.sort(key=_rank)
        priority_class.add(request)
        self.rows += request.rows
        if request.promote_at_ns < self.promote_at_ns:  # noqa: PLR1730 - for each request
            self.promote_at_ns = request.promote_at_ns
        if request.expires_ns is not None and request.expires_ns < self.expires_ns:
            self.expires_ns = request.expires_ns

    def discard(self, request: LiveRequest) -> None:
        """Take out, from anywhere."""
        rank = request.rank
        for priority_class in self.classes:
            if priority_class.rank == rank:
                priority_class.discard(request)
                if not priority_class.requests:
                    self.classes.remove(priority_class)
                break
        self.rows -= request.rows

    def pop_front(self, count: int) -> int:
        """Take out the first `count` requests, all from the first line. Returns their rows."""
        priority_class = self.classes[0]
        if count == len(priority_class.requests):
            rows = priority_class.rows
            del self.classes[0]
        else:
            rows = sum([request.rows for request in priority_class.requests[:count]])
            del priority_class.requests[:count]
            del priority_class.finish_by[:count]
            priority_class.rows -= rows
        self.rows -= rows
        return rows


def _rank(priority_class: PriorityClass) -> int:
    return priority_class.rank


def _worth(request: LiveRequest) -> tuple[int, int]:
    return request.rank, request.finish_by_ns


class ModelQueue:
    """All that waits for one model: its lanes and their totals.

    `rows` counts what may go into the next batches; `behind` counts the further rows of the
    `splits` requests that are split.
    """

    __slots__ = ("behind", "groups", "nbytes", "requests", "rows", "splits")

    def __init__(self) -> None:
        self.groups: dict[GroupKey, BatchGroup] = {}
        self.requests = 0
        self.rows = 0
        self.nbytes = 0
        self.splits = 0
        self.behind = 0

    @property
    def all_rows(self) -> int:
        """Every row that waits."""
        return self.rows + self.behind

    def add(self, request: LiveRequest) -> None:
        """Enqueue in the request's lane, where its rank and its due time put it."""
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
                # The common case, without a call: behind everybody of the first line.
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
            self.behind += request.behind

    def discard(self, request: LiveRequest) -> None:
        """Take a waiting request out; its lane goes with the last one."""
        key = request.group_key
        group = self.groups[key]
        group.discard(request)
        if not group.classes:
            del self.groups[key]
        self.requests -= 1
        self.rows -= request.rows
        self.nbytes -= request.nbytes
        self._dequeued(request)

    def _dequeued(self, request: LiveRequest) -> None:
        if request.split is not None:
            request.split.queued = False
            self.splits -= 1
            self.behind -= request.behind

    def take(self, group: BatchGroup, requests: Sequence[LiveRequest]) -> None:
        """Take waiting requests of one lane out; quick where they are its first ones."""
        count = len(requests)
        first = group.classes[0].requests
        if first[0] is requests[0] and first[:count] == list(requests):
            self.rows -= group.pop_front(count)
            if not group.classes:
                del self.groups[group.key]
            self.requests -= count
            self.nbytes -= sum([request.nbytes for request in requests])
            if self.splits:
                for request in requests:
                    self._dequeued(request)
        else:
            for request in requests:
                self.discard(request)

    def take_all(self) -> list[LiveRequest]:
        """Take out everything that waits, lane by lane, the most valuable of each first."""
        waiting = list(self)
        self.groups.clear()
        self.requests = self.rows = self.nbytes = 0
        for request in waiting:
            self._dequeued(request)
        return waiting

    def rerank(self, request: LiveRequest, rank: int) -> None:
        """Move a waiting request to another line."""
        self.discard(request)
        request.rank = rank
        self.add(request)

    @property
    def worst(self) -> tuple[int, int]:
        """The rank and order of what is worth least; something must wait."""
        classes = [group.classes[-1] for group in self.groups.values()]
        return max(
            [(priority_class.rank, priority_class.finish_by[-1]) for priority_class in classes]
        )

    def worst_first(self) -> Iterator[LiveRequest]:
        """What waits, the least valuable first: by rank, then by when it is due."""
        classes = [
            priority_class for group in self.groups.values() for priority_class in group.classes
        ]
        if len(classes) == 1:
            return reversed(classes[0].requests)
        return iter(sorted(self, key=_worth, reverse=True))

    def __iter__(self) -> Iterator[LiveRequest]:
        for group in self.groups.values():
            yield from group

    def oldest_arrival_ns(self) -> int | None:
        """When the request that has waited longest arrived."""
        return min((r.arrived.arrival_ns for r in self), default=None)

    def validate(self) -> None:
        """Totals equal what is there, nothing is empty, and lines are in order."""
        for key, group in self.groups.items():
            assert group.classes, f"empty lane {key}"
            assert group.key == key
            assert group.rows == sum(r.rows for r in group)
            assert all(r.batch_id is None and r.group_key == key for r in group)
            ranks = [priority_class.rank for priority_class in group.classes]
            assert ranks == sorted(set(ranks))
            for priority_class in group.classes:
                assert priority_class.requests
                assert (
                    priority_class.finish_by
                    == [r.finish_by_ns for r in priority_class.requests]
                    == sorted(priority_class.finish_by)
                )
                assert all(r.rank == priority_class.rank for r in priority_class.requests)
                assert priority_class.rows == _rows(priority_class.requests)
        assert self.requests == sum(len(group) for group in self.groups.values())
        assert self.rows == sum(group.rows for group in self.groups.values())
        assert self.nbytes == sum(r.nbytes for r in self)
        assert self.splits == sum(r.split is not None for r in self)
        assert self.behind == sum(r.behind for r in self)
        assert all(r.split.queued for r in self if r.split is not None)


def _rows(requests: Iterable[LiveRequest]) -> int:
    return sum(request.rows for request in requests)
