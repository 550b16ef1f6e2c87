"""Limits the batch size while single requests make their batches fail.

Small batches fail less often, and their bisections are short. They are not made so small that the
model no longer keeps up with the arrivals.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.captured import Captured
from batcher.core.decay import DecayingSum
from batcher.core.times import LATELY_NS

FAILED_SHARE = 0.02
"""Batches are kept so small that this share of them fails; or larger, where the model would not keep
up with that."""

BUSY_SHARE = 0.7
"""The model keeps up while its arrivals take no more than this share of its instances: bisections need the
rest. With 0.55, up to 0.7 points fewer are in time while 1 % fail."""

FAULT_WINDOW_ROWS = 4096.0
"""Rows after which rows and failing requests are halved: about so many are remembered."""


class FaultAwareCap(Captured):
    """One model's failing requests (`faults`) among its last `rows`, and its arrivals."""

    __slots__ = ("_arrivals", "faults", "rows")

    def __init__(self) -> None:
        self.rows = FAULT_WINDOW_ROWS / 2.0
        self.faults = 0.0
        self._arrivals = DecayingSum(LATELY_NS)

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

        `curve` is the time of a batch by its rows; `waiting` rows are served beside the arrivals. Where no
        size keeps up, it is the largest.
        """
        arriving = (self._arrivals.at(now_ns) + waiting) / LATELY_NS
        needed_rate = arriving / slots / BUSY_SHARE
        safe, largest = self.safe_rows(), len(curve) - 1
        for rows in range(safe, largest):
            if rows >= needed_rate * curve[rows]:
                return rows
        return max(safe, largest)
