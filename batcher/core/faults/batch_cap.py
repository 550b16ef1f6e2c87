"""Limits the batch size while single requests make their batches fail.

Small batches fail less often, and their bisections are short. They are not made so small that the
model no longer keeps up with the arrivals.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.captured import Captured
from batcher.core.decay import DecayingSum

FAILED_SHARE = 0.02
"""Batches are kept so small that this share of them fails; or larger, where the model would not keep
up with that."""

BUSY_SHARE = 0.9
"""The model keeps up while its arrivals, and the bisections they cause, take no more than this share of
its instances."""

ARRIVAL_WINDOW_NS = 500_000_000.0
"""Nanoseconds over which arrivals are averaged."""

FAULT_WINDOW_ROWS = 4096.0
"""Rows after which rows and failing requests are halved: about so many are remembered."""


class FaultAwareCap(Captured):
    """One model's failing requests (`faults`) among its last `rows`, and its arrivals."""

    __slots__ = ("_arrivals", "faults", "rows")

    def __init__(self) -> None:
        self.rows = FAULT_WINDOW_ROWS / 2.0
        self.faults = 0.0
        self._arrivals = DecayingSum(ARRIVAL_WINDOW_NS)

    def arrived(self, rows: int, now_ns: int) -> None:
        """Note a request. Called only while there are `faults`."""
        self._arrivals.add(rows, now_ns)

    def count(self, rows: int) -> None:
        """Note the first execution of a batch."""
        self.rows += rows
        if self.rows > FAULT_WINDOW_ROWS:
            self.rows /= 2.0
            self.faults /= 2.0

    def bounds(self, max_rows: int) -> bool:
        """Whether batches of so many rows are too likely to fail."""
        return self.faults > 0.0 and self.safe_rows() < max_rows

    def safe_rows(self) -> int:
        """Returns the largest batch of which at most `FAILED_SHARE` fail; only while there are `faults`."""
        return max(1, int(FAILED_SHARE * self.rows / self.faults))

    def most_rows(self, curve: Sequence[float], slots: int, waiting: int, now_ns: int) -> int:
        """Returns `safe_rows`, or the larger batch that is needed to keep up.

        `curve` is the time of a batch by its rows; `waiting` rows are served beside the arrivals. A
        larger batch is likelier to fail, and its bisection takes longer. So where no size keeps up,
        it is the one with which most rows per second are answered at the first attempt.
        """
        safe, fault = self.safe_rows(), min(1.0, self.faults / self.rows)
        needed_rate = (self._arrivals.at(now_ns) + waiting) / ARRIVAL_WINDOW_NS / slots / BUSY_SHARE
        found, best_rate, passes = safe, 0.0, 1.0
        bisection_ns = [0.0, 0.0]
        for rows in range(1, len(curve)):
            if rows > 1:
                half = rows // 2
                # The first half fails with even odds. Then the second is cleared, and runs in other
                # batches.
                cleared_ns = 0.5 * half * curve[rows] / rows
                bisection_ns.append(curve[half] + bisection_ns[rows - half] + cleared_ns)
            passes *= 1.0 - fault
            expected_ns = curve[rows] + (1.0 - passes) * bisection_ns[rows]
            rate = passes * rows / expected_ns
            if rows < safe or rate <= best_rate:
                continue
            found, best_rate = rows, rate
            if rows >= needed_rate * expected_ns:
                break
        return found
