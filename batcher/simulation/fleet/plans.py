"""What is to happen in a fleet, by moment."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from batcher.core.times import NEVER_NS


class Plans:
    """Calls functions at their moments; of one moment by rank, then in the order in which they were planned."""

    __slots__ = ("_count", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Callable[[int], None]]] = []
        self._count = 0

    def add(self, at_ns: int, what: Callable[[int], None], rank: int = 0) -> None:
        """Have `what` called at `at_ns`, with that moment."""
        self._count += 1
        heapq.heappush(self._heap, (at_ns, rank, self._count, what))

    @property
    def next_ns(self) -> int:
        """When the next one is due; `NEVER_NS` without any."""
        return self._heap[0][0] if self._heap else NEVER_NS

    @property
    def any(self) -> bool:
        """Whether there is any."""
        return bool(self._heap)

    def carry_out(self) -> None:
        """Call the next one."""
        at_ns, _, _, what = heapq.heappop(self._heap)
        what(at_ns)
