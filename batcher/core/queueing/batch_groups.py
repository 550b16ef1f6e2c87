"""Batch groups: requests of one model that may share a batch, in the order in which they are served.

A group is made of priority classes, the best rank first; within a class, requests are in the order
in which they must be done. Classes exist only while something waits in them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from batcher.core.history import InvalidTransition
from batcher.core.queueing.request import GroupKey, LiveRequest
from batcher.core.times import NEVER_NS


class PriorityClass:
    """Requests of one rank in the order of `finish_by_ns`; `finish_by` holds these, place by place."""

    __slots__ = ("finish_by", "rank", "requests", "rows")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.requests: list[LiveRequest] = []
        self.finish_by: list[int] = []
        self.rows = 0

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def largest_rows(self) -> int:
        """The most rows that one of its requests may have in a batch."""
        if self.rows == len(self.requests):
            return 1
        return max([request.rows for request in self.requests])

    def add(self, request: LiveRequest) -> None:
        """Insert by `finish_by_ns`, behind equal ones."""
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
        """Take a request out, from any place. Raises `InvalidTransition` if it is not here."""
        place = bisect_left(self.finish_by, request.finish_by_ns)
        requests = self.requests
        try:
            while requests[place] is not request:
                place += 1
        except IndexError:
            raise InvalidTransition(request.id, f"does not wait in its class: {request}") from None
        del requests[place]
        del self.finish_by[place]
        self.rows -= request.rows


class BatchGroup:
    """Requests that may share a batch. Iterating yields them in the order in which they are served.

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
        """The request that is served first; a group is never empty."""
        return self.classes[0].requests[0]

    @property
    def oldest_arrival_ns(self) -> int:
        """When the oldest of them arrived, where each class is in order of arrival."""
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
        """Insert into the class of its rank."""
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
        """Take a request out, from any place. Raises `InvalidTransition` if it is not here."""
        rank = request.rank
        for priority_class in self.classes:
            if priority_class.rank == rank:
                priority_class.discard(request)
                if not priority_class.requests:
                    self.classes.remove(priority_class)
                break
        else:
            raise InvalidTransition(request.id, f"has no class of its rank: {request}")
        self.rows -= request.rows

    def pop_front(self, priority_class: PriorityClass, count: int) -> int:
        """Take out the first `count` requests of a class. Returns their rows."""
        if count == len(priority_class.requests):
            rows = priority_class.rows
            self.classes.remove(priority_class)
        else:
            rows = sum([request.rows for request in priority_class.requests[:count]])
            del priority_class.requests[:count]
            del priority_class.finish_by[:count]
            priority_class.rows -= rows
        self.rows -= rows
        return rows


def _rank(priority_class: PriorityClass) -> int:
    return priority_class.rank
