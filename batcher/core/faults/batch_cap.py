"""How large batches may be while requests at fault come one by one.

Every batch is kept small then, so that few fail and the searches for the fault are short; but not
so small that the model does not keep up with what comes.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.decay import DecayingSum

FAULT_CHANCE = 0.02
"""While requests at fault come one by one, none is waited for, and batches are kept so small that
this part of them fails; or larger, where a model would not keep up with that."""

BUSY_SHARE = 0.9
"""It keeps up while what comes takes no more of its instances than this, searches for faults
included."""

PACE_NS = 500_000_000.0
"""The rows that come are averaged over about so long."""

FAULT_ROWS = 4096.0
"""How many rows back requests at fault are remembered."""


class FaultAwareCap:
    """Of one model: the `faults` that were found among so many `rows`, and the rows that come."""

    __slots__ = ("_pace", "faults", "rows")

    def __init__(self) -> None:
        self.rows = FAULT_ROWS / 2.0
        self.faults = 0.0
        self._pace = DecayingSum(PACE_NS)

    def arrived(self, rows: int, now_ns: int) -> None:
        """Note a request; asked only while there are `faults`."""
        self._pace.add(rows, now_ns)

    def count(self, rows: int) -> None:
        """Note a batch's first execution."""
        self.rows += rows
        if self.rows > FAULT_ROWS:
            self.rows /= 2.0
            self.faults /= 2.0

    def bounds(self, max_rows: int) -> bool:
        """Whether batches of so many rows are larger than is worth their risk."""
        return self.faults > 0.0 and self.worth_rows() < max_rows

    def worth_rows(self) -> int:
        """The largest batch that is worth its risk; asked only while there are `faults`."""
        return max(1, int(FAULT_CHANCE * self.rows / self.faults))

    def most_rows(self, curve: Sequence[float], slots: int, waiting: int, now_ns: int) -> int:
        """The largest batch that is worth its risk; if it takes a larger one to keep up, that.

        `curve` says what a batch takes, by its rows, and `waiting` how many rows wait: they are to
        be served beside those that come. The larger a batch, the likelier it runs in vain, and the
        longer is the search for the fault. So where nothing keeps up, it is the size with which most
        rows are answered at once.
        """
        worth, fault = self.worth_rows(), min(1.0, self.faults / self.rows)
        arrivals = (self._pace.at(now_ns) + waiting) / PACE_NS / slots / BUSY_SHARE
        found, most_at_once, passes = worth, 0.0, 1.0
        search_ns = [0.0, 0.0]
        for rows in range(1, len(curve)):
            if rows > 1:
                half = rows // 2
                # It fails as often as not; then the other half is cleared, and runs among others.
                cleared_ns = 0.5 * half * curve[rows] / rows
                search_ns.append(curve[half] + search_ns[rows - half] + cleared_ns)
            passes *= 1.0 - fault
            expected_ns = curve[rows] + (1.0 - passes) * search_ns[rows]
            at_once = passes * rows / expected_ns
            if rows < worth or at_once <= most_at_once:
                continue
            found, most_at_once = rows, at_once
            if rows >= arrivals * expected_ns:
                break
        return found

    def capture(self) -> tuple[float, float, tuple[float, int]]:
        """The state as a plain value, for `restore`."""
        return self.rows, self.faults, self._pace.capture()

    def restore(self, state: tuple[float, float, tuple[float, int]]) -> None:
        """Go on where the one that was captured stood."""
        self.rows, self.faults, arrivals = state
        self._pace.restore(arrivals)
