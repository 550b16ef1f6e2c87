"""A recorded trace with several requests for each recorded one, so that it fills a larger fleet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from batcher.simulation.traffic.arrivals import Process, Seconds


@dataclass(frozen=True, slots=True)
class Multiplied:
    """`times` requests for each of `recorded`: the shape of its rate over time, `times` as high.

    Each copy is drawn evenly between its request and the next one. So between any two recorded requests there are
    `times` as many as there were, and every burst, lull and trend is kept in time and grows in height. Neither is it
    smoothed, as by copies that are shifted (their bursts would no longer meet), nor does one request become a burst
    of its own, as by copies at one moment.
    """

    recorded: Process
    times: int

    @property
    def rate(self) -> float:
        """Requests a second, on average."""
        return self.recorded.rate * self.times

    def at_rate(self, rate: float) -> Self:
        """The same trace, stretched or squeezed to another mean rate."""
        return replace(self, recorded=self.recorded.at_rate(rate / self.times))

    def seconds(self, count: int, draw: np.random.Generator) -> Seconds:
        """The first `count` arrivals, in seconds."""
        recorded = self.recorded.seconds(-(-count // self.times), draw)
        if not len(recorded):
            return recorded
        gaps = np.diff(recorded)
        last = gaps.mean() if len(gaps) else 0.0
        begins: NDArray[np.float64] = np.repeat(recorded, self.times)
        room = np.repeat(np.append(gaps, last), self.times)
        copies = begins + room * draw.random(len(begins))
        # The first of each is where it was recorded, so that one copy alone is the trace itself.
        copies[:: self.times] = recorded
        copies.sort()
        return copies[:count]
