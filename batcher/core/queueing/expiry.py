"""Which waiting request expires next.

A heap with lazy deletion: a request that is dispatched or cancelled stays in it until it comes to the
top, or until most entries are stale and the heap is built again. So its size is at most twice that of
the queue.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from batcher.core.queueing.request import LiveRequest


class ExpiryHeap:
    """Waiting requests by hard expiry. `live` is the scheduler's own table of requests.

    While `heap` is empty there is nothing to expire.
    """

    __slots__ = ("_live", "heap", "waiting")

    def __init__(self, live: Mapping[int, LiveRequest]) -> None:
        self._live = live
        self.heap: list[tuple[int, int]] = []
        self.waiting = 0

    def add(self, request: LiveRequest) -> None:
        """Watch a request that has begun to wait."""
        if request.expires_ns is None:
            return
        self.waiting += 1
        heapq.heappush(self.heap, (request.expires_ns, request.id))

    def discard(self, request: LiveRequest) -> None:
        """Forget a request that no longer waits (already so in the scheduler's table)."""
        if request.expires_ns is None:
            return
        self.waiting -= 1
        if len(self.heap) > 2 * (self.waiting + 1):
            # A request that waits again after its batch failed may be in it twice.
            self.heap = list({entry for entry in self.heap if self._is_waiting(*entry)})
            heapq.heapify(self.heap)

    def next_ns(self) -> int | None:
        """When the next waiting request expires, or None."""
        heap = self.heap
        while heap:
            if self._is_waiting(*heap[0]):
                return heap[0][0]
            heapq.heappop(heap)
        return None

    def due(self, now_ns: int) -> Iterator[LiveRequest]:
        """Waiting requests that have expired by `now_ns`; the caller discards each one."""
        while (next_ns := self.next_ns()) is not None and next_ns <= now_ns:
            yield self._live[self.heap[0][1]]

    def _is_waiting(self, expires_ns: int, request_id: int) -> bool:
        request = self._live.get(request_id)
        return request is not None and request.batch_id is None and request.expires_ns == expires_ns
