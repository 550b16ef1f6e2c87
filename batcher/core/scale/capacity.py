"""What an instance can serve inside the target: the time of a slot that one row costs at that rate."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

from batcher.core.bucket_times import BucketTimes
from batcher.core.events import Shapes
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.settings import ModelSettings, NoBatching

WAITS: Final = 2.0
"""A request that comes just after a batch began waits for that batch, and then takes as long itself."""


def row_ns(times: ServiceTimes, settings: ModelSettings) -> float:
    """The time of a slot that a row of a bucket costs, at the highest rate inside the target; 0.0 while unknown.

    Where not even one row alone is inside the target, every request is late: then it is the rate of all sizes.
    """
    curve = times.curve
    if not curve:
        return 0.0
    most = 1 if isinstance(settings.policy, NoBatching) else len(curve) - 1
    if settings.target_ns is not None and times.alone[1] <= settings.target_ns:
        most = min(most, max(1, bisect_right(times.alone, settings.target_ns / WAITS) - 1))
    return min([curve[rows] / rows for rows in range(1, most + 1)])


class RowCosts:
    """What rows of one model cost, by bucket, as of now."""

    def __init__(self, times: BucketTimes, settings: ModelSettings) -> None:
        self._known = {bucket: row_ns(each, settings) for bucket, each in times.items() if each}
        self.usual_ns = 0.0
        """What a row costs of a bucket of which nothing is known."""
        if self._known:
            self.usual_ns = sum(self._known.values()) / len(self._known)

    def __bool__(self) -> bool:
        return bool(self._known)

    def cost_ns(self, rows: Mapping[Shapes, float]) -> float:
        """The time of a slot that these rows take. Those of a bucket that never ran count as the others do."""
        known, usual_ns = self._known, self.usual_ns
        return sum([each * known.get(bucket, usual_ns) for bucket, each in rows.items()])
