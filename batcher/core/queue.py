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

from batcher.core.request import NEVER_NS, LaneKey, LiveRequest
from batcher.core.settings import QueueLimits

AGED: Final = 0
"""The rank of what has waited for too long, whatever it was before."""

AGED_PART: Final = 32.0
"""Of all rows, one in so many is for those, whatever else there is to do."""

LATE: Final = 1 << 20
"""The rank of what can only be late."""


def rank_of(level: int, *, over_share: bool) -> int:
    """The rank of a priority level (1 is the most urgent) and of a tenant's standing in it."""
    return 2 * level + over_share


def next_promotion_ns(request: LiveRequest, since_ns: int, limits: QueueLimits) -> int:
    """When waiting has earned a request a better line; `NEVER_NS` if it never does.

    What is over its tenant's share is served from what the others leave. It comes to the front only
    where nothing else ends its wait, and when it has waited for longer than anybody should.
    """
    rank = request.rank
    if not rank_of(1, over_share=False) < rank < LATE:
        return NEVER_NS
    if rank % 2 == 0:
        return since_ns + limits.ageing_ns
    if request.order < NEVER_NS:
        return NEVER_NS
    return since_ns + (limits.priority_levels + 1) * limits.ageing_ns


def must_end_ns(request: LiveRequest) -> int:
    """When a request must be done: in time, or at least before its caller leaves."""
    # From `NEVER_NS` on, an order is no moment, only a place among others.
    if request.rank in (AGED, LATE) or request.order >= NEVER_NS:
        return NEVER_NS if request.leaves_ns is None else request.leaves_ns
    return request.order


class Line:
    """Requests of one rank, in the order in which they are due: two lists that go together."""

    __slots__ = ("orders", "rank", "requests", "rows")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.requests: list[LiveRequest] = []
        self.orders: list[int] = []
        self.rows = 0

    def __len__(self) -> int:
        return len(self.requests)

    def add(self, request: LiveRequest) -> None:
        """Insert behind everything that is due no later."""
        orders = self.orders
        order = request.order
        if not orders or orders[-1] <= order:
            orders.append(order)
            self.requests.append(request)
        else:
            place = bisect_right(orders, order)
            orders.insert(place, order)
            self.requests.insert(place, request)
        self.rows += request.rows

    def discard(self, request: LiveRequest) -> None:
        """Take out, from anywhere."""
        place = bisect_left(self.orders, request.order)
        requests = self.requests
        while requests[place] is not request:
            place += 1
        del requests[place]
        del self.orders[place]
        self.rows -= request.rows


class Lane:
    """Requests that may share a batch. Iterating yields them in the order of their worth.

    None of them expires before `expires_ns`; `first_expiry_ns` says when the first of them does.
    """

    __slots__ = ("expires_ns", "key", "lines", "promotes_ns", "rows")

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.rows = 0
        self.lines: list[Line] = []
        self.promotes_ns = NEVER_NS
        self.expires_ns = NEVER_NS

    def __len__(self) -> int:
        lines = self.lines
        if len(lines) == 1:
            return len(lines[0].requests)
        return sum(len(line) for line in lines)

    def __iter__(self) -> Iterator[LiveRequest]:
        for line in self.lines:
            yield from line.requests

    @property
    def head(self) -> LiveRequest:
        """The request that is served first; a lane is never empty."""
        return self.lines[0].requests[0]

    @property
    def oldest_arrival_ns(self) -> int:
        """When the first of them came, where each line is in order of arrival."""
        lines = self.lines
        if len(lines) == 1:
            return lines[0].requests[0].arrived.arrival_ns
        return min([line.requests[0].arrived.arrival_ns for line in lines])

    def first_expiry_ns(self) -> int:
        """When the first of them expires; `NEVER_NS` if none does."""
        expiries = [request.expires_ns for request in self if request.expires_ns is not None]
        self.expires_ns = min(expiries, default=NEVER_NS)
        return self.expires_ns

    def add(self, request: LiveRequest) -> None:
        """Insert into the line of its rank."""
        rank = request.rank
        for line in self.lines:
            if line.rank == rank:
                break
        else:
            line = Line(rank)
            self.lines.append(line)
            self.lines.sort(key=_rank)
        line.add(request)
        self.rows += request.rows
        if request.promotes_ns < self.promotes_ns:  # noqa: PLR1730 - for each request
            self.promotes_ns = request.promotes_ns
        if request.expires_ns is not None and request.expires_ns < self.expires_ns:
            self.expires_ns = request.expires_ns

    def discard(self, request: LiveRequest) -> None:
        """Take out, from anywhere."""
        rank = request.rank
        for line in self.lines:
            if line.rank == rank:
                line.discard(request)
                if not line.requests:
                    self.lines.remove(line)
                break
        self.rows -= request.rows

    def pop_front(self, count: int) -> int:
        """Take out the first `count` requests, all from the first line. Returns their rows."""
        line = self.lines[0]
        if count == len(line.requests):
            rows = line.rows
            del self.lines[0]
        else:
            rows = sum([request.rows for request in line.requests[:count]])
            del line.requests[:count]
            del line.orders[:count]
            line.rows -= rows
        self.rows -= rows
        return rows


def _rank(line: Line) -> int:
    return line.rank


def _worth(request: LiveRequest) -> tuple[int, int]:
    return request.rank, request.order


class ModelQueue:
    """All that waits for one model: its lanes and their totals.

    `rows` counts what may go into the next batches; `behind` counts the further rows of the
    `splits` requests that are split.
    """

    __slots__ = ("behind", "lanes", "nbytes", "requests", "rows", "splits")

    def __init__(self) -> None:
        self.lanes: dict[LaneKey, Lane] = {}
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
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(key)
            lane.add(request)
        else:
            line = lane.lines[0]
            orders, order = line.orders, request.order
            if line.rank == request.rank and orders[-1] <= order:
                # The common case, without a call: behind everybody of the first line.
                orders.append(order)
                line.requests.append(request)
                line.rows += rows
                lane.rows += rows
                if request.promotes_ns < lane.promotes_ns:  # noqa: PLR1730 - for each request
                    lane.promotes_ns = request.promotes_ns
                if request.expires_ns is not None and request.expires_ns < lane.expires_ns:
                    lane.expires_ns = request.expires_ns
            else:
                lane.add(request)
        self.requests += 1
        self.rows += rows
        self.nbytes += request.nbytes
        if request.split is not None:
            request.split.queued = True
            self.splits += 1
            self.behind += request.behind

    def discard(self, request: LiveRequest) -> None:
        """Take a waiting request out; its lane goes with the last one."""
        key = request.lane_key
        lane = self.lanes[key]
        lane.discard(request)
        if not lane.lines:
            del self.lanes[key]
        self.requests -= 1
        self.rows -= request.rows
        self.nbytes -= request.nbytes
        self._dequeued(request)

    def _dequeued(self, request: LiveRequest) -> None:
        if request.split is not None:
            request.split.queued = False
            self.splits -= 1
            self.behind -= request.behind

    def take(self, lane: Lane, requests: Sequence[LiveRequest]) -> None:
        """Take waiting requests of one lane out; quick where they are its first ones."""
        count = len(requests)
        first = lane.lines[0].requests
        if first[0] is requests[0] and first[:count] == list(requests):
            self.rows -= lane.pop_front(count)
            if not lane.lines:
                del self.lanes[lane.key]
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
        self.lanes.clear()
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
        lines = [lane.lines[-1] for lane in self.lanes.values()]
        return max([(line.rank, line.orders[-1]) for line in lines])

    def worst_first(self) -> Iterator[LiveRequest]:
        """What waits, the least valuable first: by rank, then by when it is due."""
        lines = [line for lane in self.lanes.values() for line in lane.lines]
        if len(lines) == 1:
            return reversed(lines[0].requests)
        return iter(sorted(self, key=_worth, reverse=True))

    def __iter__(self) -> Iterator[LiveRequest]:
        for lane in self.lanes.values():
            yield from lane

    def oldest_arrival_ns(self) -> int | None:
        """When the request that has waited longest arrived."""
        return min((r.arrived.arrival_ns for r in self), default=None)

    def validate(self) -> None:
        """Totals equal what is there, nothing is empty, and lines are in order."""
        for key, lane in self.lanes.items():
            assert lane.lines, f"empty lane {key}"
            assert lane.key == key
            assert lane.rows == sum(r.rows for r in lane)
            assert all(r.batch_id is None and r.lane_key == key for r in lane)
            ranks = [line.rank for line in lane.lines]
            assert ranks == sorted(set(ranks))
            for line in lane.lines:
                assert line.requests
                assert line.orders == [r.order for r in line.requests] == sorted(line.orders)
                assert all(r.rank == line.rank for r in line.requests)
                assert line.rows == _rows(line.requests)
        assert self.requests == sum(len(lane) for lane in self.lanes.values())
        assert self.rows == sum(lane.rows for lane in self.lanes.values())
        assert self.nbytes == sum(r.nbytes for r in self)
        assert self.splits == sum(r.split is not None for r in self)
        assert self.behind == sum(r.behind for r in self)
        assert all(r.split.queued for r in self if r.split is not None)


def _rows(requests: Iterable[LiveRequest]) -> int:
    return sum(request.rows for request in requests)
