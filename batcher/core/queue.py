"""Where requests wait: one queue per model, one lane per batch key and shape signature.

A lane is in order of arrival, and everything in it may share a batch. Lanes exist only while
something waits in them. Removal from the middle (cancel, expiry) is constant time: a request that
has gone leaves nothing behind.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from batcher.core.request import LaneKey, LiveRequest


class Lane:
    """Requests that may share a batch, oldest first. Iterating yields them in order."""

    __slots__ = ("_requests", "key", "rows")

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.rows = 0
        self._requests: OrderedDict[int, LiveRequest] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[LiveRequest]:
        return iter(self._requests.values())

    @property
    def head(self) -> LiveRequest:
        """The oldest request; a lane is never empty."""
        return next(iter(self._requests.values()))

    def add(self, request: LiveRequest) -> None:
        """Append at the end."""
        self._requests[request.id] = request
        self.rows += request.rows

    def discard(self, request: LiveRequest) -> None:
        """Take out, from anywhere."""
        del self._requests[request.id]
        self.rows -= request.rows


class ModelQueue:
    """All that waits for one model: its lanes and their totals."""

    __slots__ = ("lanes", "nbytes", "requests", "rows")

    def __init__(self) -> None:
        self.lanes: dict[LaneKey, Lane] = {}
        self.requests = 0
        self.rows = 0
        self.nbytes = 0

    def add(self, request: LiveRequest) -> None:
        """Enqueue at the end of the request's lane."""
        key = request.lane_key
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(key)
        lane.add(request)
        self.requests += 1
        self.rows += request.rows
        self.nbytes += request.nbytes

    def discard(self, request: LiveRequest) -> None:
        """Take a waiting request out; its lane goes with the last one."""
        key = request.lane_key
        lane = self.lanes[key]
        lane.discard(request)
        if not lane:
            del self.lanes[key]
        self.requests -= 1
        self.rows -= request.rows
        self.nbytes -= request.nbytes

    def __iter__(self) -> Iterator[LiveRequest]:
        for lane in self.lanes.values():
            yield from lane

    def oldest_arrival_ns(self) -> int | None:
        """When the request that has waited longest arrived."""
        if not self.lanes:
            return None
        return min(lane.head.arrived.arrival_ns for lane in self.lanes.values())

    def validate(self) -> None:
        """Totals equal what is there, and no lane is empty."""
        for key, lane in self.lanes.items():
            assert len(lane) > 0, f"empty lane {key}"
            assert lane.key == key
            assert lane.rows == sum(r.rows for r in lane)
            assert all(r.batch_id is None and r.lane_key == key for r in lane)
        assert self.requests == sum(len(lane) for lane in self.lanes.values())
        assert self.rows == sum(lane.rows for lane in self.lanes.values())
        assert self.nbytes == sum(r.nbytes for r in self)
