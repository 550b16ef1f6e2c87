"""The sizes that a model's batches can have, where only certain ones can run.

Such a batch is filled up to the next size, so its rows cost what that size costs. That decides two
things: the time of a batch is a step function of its rows (`service_time/curve.py`), and rows just
above a size may be better served as that size and a rest than as the next (`BatchSizes.apart`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


def filled_rows(rows: int, sizes: Sequence[int]) -> int:
    """The rows that a batch with so many rows of requests runs with; `sizes` ascend, () is any.

    Beyond the largest size it is not filled.
    """
    place = bisect_left(sizes, rows)
    return sizes[place] if place < len(sizes) else rows


def largest_up_to(most: int, sizes: Sequence[int]) -> int:
    """The largest of `sizes` that is at most `most`, or the smallest of all; `most` where there are none."""
    if not sizes:
        return most
    return sizes[max(0, bisect_right(sizes, most) - 1)]


class BatchSizes:
    """The sizes of batches of at most `max_rows` rows.

    `executed[b]` is the size that b rows run with, at most `max_rows`. A `curve` is what b rows take.
    """

    __slots__ = ("executed", "sizes")

    def __init__(self, sizes: Sequence[int], max_rows: int) -> None:
        self.sizes = tuple(sorted({*(size for size in sizes if size < max_rows), max_rows}))
        self.executed = [0, *(filled_rows(rows, self.sizes) for rows in range(1, max_rows + 1))]

    def below(self, rows: int) -> int:
        """The largest size that these rows fill and leave a rest of; 0 if they are a size, or fill none."""
        place = bisect_left(self.sizes, rows)
        return self.sizes[place - 1] if place and self.sizes[place] != rows else 0

    def apart(self, first: int, rows: int, curve: Sequence[float]) -> bool:
        """Whether the first of `rows` rows, and then the rest, take no longer than all in one batch.

        If so, nothing ends later in two batches.
        """
        return curve[first] + self.least_ns(rows - first, curve) <= curve[rows]

    def least_ns(self, rows: int, curve: Sequence[float]) -> float:
        """What so many rows take in batches one after the other, each of the largest size that they fill.

        The last may be filled up.
        """
        before_ns, least_ns = 0.0, float("inf")
        while rows:
            least_ns = min(least_ns, before_ns + curve[rows])
            size = self.below(rows)
            if not size:
                return least_ns
            batches, rows = divmod(rows, size)
            before_ns += batches * curve[size]
        return min(least_ns, before_ns)
