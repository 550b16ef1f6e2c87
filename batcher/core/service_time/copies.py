"""What it takes until a batch's inputs are on the device, where that overlaps with the batch before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batcher.core.batch_sizes import BatchSizes
from batcher.core.captured import Captured
from batcher.core.service_time.curve import Curve
from batcher.core.service_time.drift import JUMP


class Copies(Captured):
    """Mean times of gathering a batch and copying it in, by its rows; empty where nothing is pipelined."""

    __slots__ = ("_curve",)

    def __init__(self, max_rows: int, batch_sizes: BatchSizes | None) -> None:
        self._curve = Curve(max_rows, batch_sizes)

    @property
    def times(self) -> Sequence[float]:
        """Nanoseconds by rows. It is replaced, never changed."""
        return self._curve.times

    def seed(self, profile: Iterable[tuple[int, int]]) -> None:
        """Learn from a warm-up: (rows, nanoseconds) pairs."""
        for rows, took_ns in profile:
            if 1 <= rows <= self._curve.max_rows and took_ns > 0:
                self._curve.learn(self._curve.executed(rows), took_ns)
        self._derive()

    def observe(self, rows: int, took_ns: float) -> None:
        """Learn from a batch. A stall of the machine counts as a little more than what is known."""
        curve = self._curve
        if not 1 <= rows <= curve.max_rows:
            return
        rows = curve.executed(rows)
        if curve.times:
            took_ns = min(took_ns, JUMP * curve.times[rows])
        if curve.learn(rows, took_ns) and not curve.move_to(rows):
            curve.fit()

    def resize(self, max_rows: int, batch_sizes: BatchSizes | None) -> None:
        """Predict up to another largest batch."""
        self._curve.max_rows, self._curve.batch_sizes = max_rows, batch_sizes
        self._derive()

    def _derive(self) -> None:
        if self._curve.means:
            self._curve.fit()
