"""A synthetic day: a slow wave, bursts, and one step, as Poisson arrivals of a rate that varies.

`day:PEAK:LENGTH` is what `parse_process` reads. With the time as a part of the day:

    calm(t) = peak x (LOW + (1 - LOW) x (1 - cos(2 pi t)) / 2)       from the night through noon to the night
    step    = from STEP_AT to STEP_END the calm rate is STEP times as high, at once
    bursts  = one in BURST_EVERY_S on average, at moments that are drawn: for 20 to 60 s the rate is 1.5 to 2.5 times as high

What overlaps multiplies. Only the moments, the lengths and the heights of bursts and the arrivals are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

LOW: Final = 0.2
"""The rate at night over that at noon: services for one part of the world see 0.1 to 0.4. Only the fleet's smallest size
follows from it."""

STEP: Final = 2.0
"""How much the rate rises at once: another service's callers come over, as on the loss of one of two zones."""

STEP_AT: Final = 0.2
STEP_END: Final = 0.3
"""The parts of the day between which the step holds: in the morning, where twice the rate is still below the peak."""

BURST_EVERY_S: Final = 600.0
"""There is a burst for each ten minutes of the day."""

BURST_S: Final = (20.0, 60.0)
"""How long bursts are: some shorter than a replica needs to start, some longer, so that not all can be met."""

BURST: Final = (1.5, 2.5)
"""How many times as high the rate is in a burst."""

STANDARD_S: Final = 7200.0
"""How long a day is by default: two hours, so that the wave rises no faster than 1 % of the peak in 36 s."""


@dataclass(frozen=True, slots=True)
class Day:
    """Arrivals of a day of `length_s` seconds; `peak` is the calm rate at noon, in requests a second."""

    peak: float = 0.0
    length_s: float = STANDARD_S

    @property
    def rate(self) -> float:
        """Requests a second, on average over the day without its bursts."""
        return self.peak * _mean_shape()

    def at_rate(self, rate: float) -> Self:
        """The same day with another mean rate."""
        return replace(self, peak=rate / _mean_shape())

    def most_requests(self) -> int:
        """As many requests as arrive at most, whatever is drawn: every burst at the peak, and none overlaps another."""
        bursts_s = _count(self.length_s) * BURST_S[1] * (BURST[1] - 1.0) * STEP
        mean = self.rate * self.length_s + self.peak * bursts_s
        return int(mean + 10 * np.sqrt(mean) + 100)

    def seconds(self, count: int, draw: np.random.Generator) -> NDArray[np.float64]:
        """The first `count` arrivals, or all of the day, in seconds."""
        edges = np.linspace(0.0, self.length_s, max(1000, round(4 * self.length_s)) + 1)
        middles = (edges[1:] + edges[:-1]) / 2
        rates = self.peak * _shape(middles / self.length_s)
        for at_s, lasts_s, height in _bursts(self.length_s, draw):
            rates[(middles >= at_s) & (middles < at_s + lasts_s)] *= height
        expected = np.concatenate([[0.0], np.cumsum(rates * np.diff(edges))])
        most = min(count, int(expected[-1] + 10 * np.sqrt(expected[-1]) + 100))
        wanted = np.cumsum(draw.exponential(1.0, most))
        found: NDArray[np.float64] = np.interp(wanted[wanted < expected[-1]], expected, edges)
        return found


def _shape(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """The calm rate over the peak, by the part of the day that is over."""
    wave = LOW + (1.0 - LOW) * (1.0 - np.cos(2.0 * np.pi * part)) / 2.0
    return np.where((part >= STEP_AT) & (part < STEP_END), STEP * wave, wave)


def _mean_shape() -> float:
    return float(_shape((np.arange(10_000) + 0.5) / 10_000).mean())


def _count(length_s: float) -> int:
    return max(1, round(length_s / BURST_EVERY_S))


def _bursts(length_s: float, draw: np.random.Generator) -> list[tuple[float, float, float]]:
    """(begin, length, height) of each burst."""
    count = _count(length_s)
    begins = draw.uniform(0.0, length_s, count)
    lengths = draw.uniform(*BURST_S, count)
    heights = draw.uniform(*BURST, count)
    return list(zip(begins.tolist(), lengths.tolist(), heights.tolist(), strict=True))
