"""How many times the work that is offered a device could serve inside the targets.

Flows share the slots of a device: the rows of one bucket of one model each. A request that comes just after
a batch of its flow began waits for the next one, and then takes as long as that. So where a flow's batches
have `b` rows and begin every `b / rate`, all are in time if

    b / rate + T(b) <= target

Larger batches cost less for each row, so they are as large as that allows. The slots can do so much more of this as
leaves them busy all the time: where `s` times as much is offered, and each flow has the largest such batches
at that rate, `rate * T(b) / b` sums up to the number of slots.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from batcher.core.record import record
from batcher.core.service_time.estimator import ServiceTimes, least_of_rows
from batcher.core.settings import ModelSettings, NoBatching

STEPS: Final = 14
"""Halvings of the range of `SPAN` in which the answer is looked for: to 0.1 %."""

SPAN: Final = 1e6
"""The range is from the load at the highest rate of all sizes down to a millionth of it."""


@record
class Flow:
    """Rows that share batches: their rate in rows a nanosecond, what batches take, and by when they must end.

    `curve` and `alone` are those of `ServiceTimes`, up to the largest batch; `least` has the least time of a row
    in batches of at most so many rows.
    """

    rate: float
    curve: Sequence[float]
    alone: Sequence[float]
    least: Sequence[float]
    target_ns: float | None

    def row_ns(self, times: float) -> float:
        """What a row costs where `times` as much is offered."""
        target_ns, alone = self.target_ns, self.alone
        most = len(alone) - 1
        if target_ns is None or alone[1] > target_ns:
            return self.least[most]  # every request is late, so that the most is served
        gap_ns = 1.0 / (self.rate * times)
        low, high = 1, bisect_right(alone, target_ns) - 1
        while low < high:
            rows = (low + high + 1) // 2
            if rows * gap_ns + alone[rows] <= target_ns:
                low = rows
            else:
                high = rows - 1
        least = self.least
        if low == most or low * gap_ns + alone[low] > target_ns:
            return least[low]
        # Sizes are whole, but batches of two sizes take turns.
        below, above = (each * gap_ns + alone[each] for each in (low, low + 1))
        part = (target_ns - below) / (above - below)
        busy_ns = (1.0 - part) * low * least[low] + part * (low + 1) * least[low + 1]
        return busy_ns / (low + part)


def flow(
    rate: float, times: ServiceTimes, settings: ModelSettings, batches_of: float = 1.0
) -> Flow:
    """A flow of a model's rows at this rate. Where no requests share a batch, each has `batches_of` rows."""
    curve, alone = times.curve, times.alone
    if isinstance(settings.policy, NoBatching):
        most = min(len(curve) - 1, max(1, round(batches_of)))
        curve = [0.0, *[curve[most] * rows / most for rows in range(1, most + 1)]]
        alone = [0.0, *[alone[most]] * most]
        return Flow(rate, curve, alone, least_of_rows(curve), settings.target_ns)
    return Flow(rate, curve, alone, times.least, settings.target_ns)


def times_served(flows: Sequence[Flow], slots: int) -> float:
    """How many times as much as is offered these slots could serve, if it came evenly. Rates are above 0."""
    best_ns = sum([each.rate * each.least[-1] for each in flows])
    high = slots / best_ns
    if _busy(flows, high) <= slots:
        return high
    low = high / SPAN
    for _ in range(STEPS):
        middle = (low * high) ** 0.5
        if _busy(flows, middle) <= slots:
            low = middle
        else:
            high = middle
    return low


def _busy(flows: Sequence[Flow], times: float) -> float:
    """How many slots are busy on average where so many times as much is offered."""
    return sum([each.rate * times * each.row_ns(times) for each in flows])
