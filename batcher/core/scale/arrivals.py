"""How evenly rows arrive: which part of what an instance could serve at best it can serve in time.

Rows are cut into blocks of as many as can be served within the target. A block that arrives faster than it can be
served makes some of its rows late. So what is needed is how long the fastest blocks take, compared with
the mean one: that is the same at any load, and says up to which mean rate few rows are late.
"""

from __future__ import annotations

from math import erf, exp, pi, sqrt
from typing import Final

from batcher.core.captured import Captured
from batcher.core.times import LATELY_NS

LATE_PART: Final = 0.025
"""The part of the rows that may come in excess of what can be served in a target, where 1 % may be late: most of
the excess finds room in the next batch. Simulated, it is 0.015 on a device whose batches take half of their time
whatever they hold, and 0.04 where nearly all of it is the rows'. Either instead changes capacities by 6 %."""

BINS: Final = 40
"""Parts of the mean time by which fast blocks are told apart. Slower ones than the mean need not be."""

FULL: Final = 4096.0
"""Blocks that are remembered: some minutes of them, so that one burst is of no account."""

PRIOR: Final = 32.0
"""Blocks of a Poisson stream that are taken to have been seen before the first one."""

EXACT: Final = 50
"""Up to so many rows the excess of a Poisson stream is summed up; that of more is the normal distribution's to 1 %."""

FOLD_NS: Final = 5 * LATELY_NS
"""Blocks are compared with the mean of so long at least: what changes more slowly is a change of the load."""

LEAST: Final = 32
"""The fewest blocks of which a mean is taken."""

MOST: Final = 512
"""The most of them: a bound of memory."""

STEADY: Final = 1.25
"""Blocks whose two halves took times that differ by more than this are of two loads. With 2 a step of the load from
0.8 to 0.95 makes an even stream look like one of which 0.73 can be served, instead of 0.89."""

BURST: Final = 0.25
"""Blocks that follow on each other and take less than this part of the mean each are one burst, and count as one."""

PAUSE: Final = 5.0
"""A block that takes longer than this many of the median one has a pause in it, and is no part of the stream."""


class Evenness(Captured):
    """How long blocks of rows of one model take to arrive, each compared with the mean of its time."""

    __slots__ = (
        *("_part", "begun_ns", "block_rows", "counts", "folded_ns", "rows", "seen", "spans"),
    )
    STATE = ("begun_ns", "block_rows", "counts", "folded_ns", "rows", "seen", "spans")

    def __init__(self) -> None:
        self.block_rows = 0
        """Rows of a block; 0 while it is not known how many can be served within the target."""
        self.rows = 0
        """Rows of the block that is arriving."""
        self.begun_ns = 0
        """When it began."""
        self.folded_ns = 0
        """When blocks were compared with their mean the last time."""
        self.spans: list[float] = []
        """How long the last blocks took, in nanoseconds."""
        self.counts = [0.0] * BINS
        """Blocks by the part of the mean that they took, those below the mean only."""
        self.seen = 0.0
        """Blocks, also slower ones."""
        self._part: float | None = None
        """`part`, once it was asked for."""

    def block(self, now_ns: int) -> None:
        """A block is complete."""
        if len(self.spans) < MOST:
            self.spans.append((now_ns - self.begun_ns) * self.block_rows / self.rows)
        self.rows, self.begun_ns = 0, now_ns

    def fold(self, block_rows: int, now_ns: int) -> None:
        """Compare the blocks of some seconds with their mean, if there are enough; the next ones have so many rows."""
        self._part = None
        if len(self.spans) >= LEAST and now_ns - self.folded_ns >= FOLD_NS:
            self.folded_ns = now_ns
            longest_ns = PAUSE * sorted(self.spans)[len(self.spans) // 2]
            spans = [each for each in self.spans if each <= longest_ns]
            half = len(spans) // 2
            first, second = sum(spans[:half]), sum(spans[-half:])
            # Else the load has changed.
            if max(first, second) <= STEADY * min(first, second):
                self._compare(spans, sum(spans) / len(spans))
            self.spans = []
        if self.seen > FULL:
            self.counts = [each / 2 for each in self.counts]
            self.seen /= 2
        if 2 * block_rows > 3 * self.block_rows or 2 * self.block_rows > 3 * block_rows:
            # What is known of blocks of another size says little of these.
            self.block_rows, self.rows, self.begun_ns, self.spans = block_rows, 0, now_ns, []
            self.counts, self.seen = [0.0] * BINS, 0.0

    def _compare(self, spans: list[float], mean_ns: float) -> None:
        """Count blocks by the part of the mean that they took."""
        before_ns = mean_ns
        for span_ns in spans:
            if span_ns < mean_ns:
                if max(span_ns, before_ns) < BURST * mean_ns:
                    continue
                # Rounded, just less than the mean may be all of it.
                self.counts[min(int(BINS * span_ns / mean_ns), BINS - 1)] += 1.0
            self.seen += 1.0
            before_ns = span_ns

    def part(self) -> float:
        """The part of the highest rate up to which few rows are late; at most 1."""
        if self._part is None:
            self._part = self._find_part()
        return self._part

    def _derive(self) -> None:
        self._part = None

    def _find_part(self) -> float:
        low, high = 1.0 / BINS, 1.0
        if self._late(high) <= LATE_PART:
            return high
        for _ in range(12):
            middle = (low + high) / 2
            if self._late(middle) <= LATE_PART:
                low = middle
            else:
                high = middle
        return low

    def _late(self, load: float) -> float:
        """The part of the rows that arrive in excess of what can be served, at this part of the highest rate."""
        late = PRIOR * _poisson_excess(load, self.block_rows)
        for place, count in enumerate(self.counts):
            took = (place + 0.5) / BINS
            if took >= load:
                break
            late += count * (1.0 - took / load)
        return late / (PRIOR + self.seen)


def _poisson_excess(load: float, rows: int) -> float:
    """The part of a Poisson stream that comes in excess of `rows` in a time in which `load` of them come on average."""
    mean = load * rows
    if rows > EXACT:
        sigma = sqrt(mean)
        far = (mean - rows) / sigma
        below = 0.5 * (1.0 + erf(far / sqrt(2.0)))
        return sigma * (exp(-far * far / 2.0) / sqrt(2.0 * pi) + far * below) / mean
    chance, room = exp(-mean), rows * exp(-mean)
    for number in range(1, rows):
        chance *= mean / number
        room += (rows - number) * chance
    return max(0.0, (mean - rows + room) / mean)
