"""Keeps batches small for a while after the device had no memory for one.

What a batch needs grows with its elements: its rows times the elements of a row of its padding bucket.
So the ceiling is a number of elements. A batch of long rows that has no room does not shrink batches of
short ones that need less.

The batch that fails is the measure: the ceiling becomes half of it, and half again where that fails. After
`hold_ns` it doubles, and so on up to the first batch that failed. It ends when so large a batch succeeds, or
when none has come for as long again. Where a raised ceiling fails, it is halved and held for twice as long.
"""

from __future__ import annotations

from batcher.core.captured import Captured
from batcher.core.times import LATELY_NS, NEVER_NS

MOST_HOLD_NS = 64 * LATELY_NS
"""How long a ceiling is held at most before a larger batch is tried. A try that fails costs the device the
time of that batch, once a minute: less than 1 % for batches of up to 0.6 s. 30 % more or less is as much
more or less of that, and of the time until memory that became free is used."""


class MemoryCeiling(Captured):
    """One model's ceiling; `elements` is None while there is none.

    `failures` counts the batches that failed for want of memory since the start. `each` is the elements
    of a row (`Model.row_elements`).
    """

    __slots__ = ("_raised", "_top", "elements", "failures", "hold_ns", "raise_at_ns")

    def __init__(self) -> None:
        self.elements: int | None = None
        self.failures = 0
        self.hold_ns = LATELY_NS
        """How long the ceiling stays before it is raised."""
        self.raise_at_ns = NEVER_NS
        self._raised = False
        """Whether it has been raised since it was last lowered."""
        self._top = 0
        """The elements of the largest batch that has failed since there is a ceiling."""

    def most_rows(self, each: int, max_rows: int) -> int:
        """The most rows of a batch, at least 1; `max_rows` is what the settings allow."""
        if self.elements is None:
            return max_rows
        return max(1, min(max_rows, self.elements // each))

    def failed(self, each: int, rows: int, now_ns: int) -> bool:
        """Note a batch that had no room, and lower the ceiling. Returns whether there was none before."""
        self.failures += 1
        size, begins = rows * each, self.elements is None
        if begins:
            self.hold_ns, self._top = LATELY_NS, size
        elif self.elements is not None and size > self.elements:
            # It was on its way when the ceiling was lowered, or is one row that exceeds it.
            self._top = max(self._top, size)
            return False
        elif self._raised:
            self.hold_ns = min(2 * self.hold_ns, MOST_HOLD_NS)
        self._raised = False
        self.elements = max(1, size // 2)
        self.raise_at_ns = now_ns + self.hold_ns
        return begins

    def succeeded(self, each: int, rows: int) -> bool:
        """Note a batch that had room; returns whether that ends the ceiling."""
        if self.elements is None or min(self.elements, rows * each) < self._top:
            return False
        self._end()
        return True

    def raise_(self, now_ns: int) -> bool:
        """Raise the ceiling where its time has come; returns whether that ends it."""
        if self.elements is None or now_ns < self.raise_at_ns:
            return False
        if self.elements >= self._top:
            self._end()
            return True
        self.elements = min(2 * self.elements, self._top)
        self._raised = True
        self.raise_at_ns = now_ns + self.hold_ns
        return False

    def _end(self) -> None:
        self.elements, self.raise_at_ns, self._raised = None, NEVER_NS, False
