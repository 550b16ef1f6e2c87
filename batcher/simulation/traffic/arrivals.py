"""When requests arrive: stochastic processes, closed-loop callers, and how both are written.

`poisson:RATE`, `gamma:RATE:CV`, `mmpp:RATE:RATIO:SHARE:CYCLE`, `day:PEAK:LENGTH` and `closed:CALLERS:THINK` are
what `parse_process` reads. Everything is drawn from a numpy generator that the caller
seeds, so equal seeds give equal arrivals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from batcher.clock import SECOND
from batcher.config import parse_duration
from batcher.errors import InputError
from batcher.simulation.traffic.day import STANDARD_S, Day

Times: TypeAlias = NDArray[np.int64]
Seconds: TypeAlias = NDArray[np.floating[Any]]

MOST_REQUESTS = 100_000_000
"""More arrivals than this in one run are refused, before memory is allocated for them."""


class Process(Protocol):
    """Open-loop arrivals at a mean rate (requests a second; 0 until one is given)."""

    @property
    def rate(self) -> float:
        """Requests a second, in the long run."""
        ...

    def at_rate(self, rate: float) -> Self:
        """The same process with another mean rate."""
        ...

    def seconds(self, count: int, draw: np.random.Generator) -> Seconds:
        """The first `count` arrivals, ascending, in seconds from the start."""
        ...


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals."""

    rate: float = 0.0

    def at_rate(self, rate: float) -> Self:
        """The same process with another mean rate."""
        return replace(self, rate=rate)

    def seconds(self, count: int, draw: np.random.Generator) -> Seconds:
        """The first `count` arrivals, in seconds."""
        return np.cumsum(draw.exponential(1.0 / self.rate, count))


@dataclass(frozen=True, slots=True)
class Gamma:
    """A renewal process with gamma gaps: `cv` is their standard deviation over their mean."""

    rate: float = 0.0
    cv: float = 3.0

    def at_rate(self, rate: float) -> Self:
        """The same process with another mean rate."""
        return replace(self, rate=rate)

    def seconds(self, count: int, draw: np.random.Generator) -> Seconds:
        """The first `count` arrivals, in seconds."""
        shape = 1.0 / self.cv**2
        return np.cumsum(draw.gamma(shape, 1.0 / (self.rate * shape), count))


@dataclass(frozen=True, slots=True)
class Mmpp:
    """A Poisson process that switches between calm and burst (a two-state MMPP).

    The burst's rate is `ratio` times the calm one's, a share `share` of the time is burst, and a
    calm spell and the burst after it last `cycle_s` seconds together; both are exponential.
    """

    rate: float = 0.0
    ratio: float = 5.0
    share: float = 0.2
    cycle_s: float = 1.0

    def at_rate(self, rate: float) -> Self:
        """The same process with another mean rate; spells last as long as before."""
        return replace(self, rate=rate)

    def seconds(self, count: int, draw: np.random.Generator) -> Seconds:
        """The first `count` arrivals, in seconds."""
        calm = self.rate / (1.0 - self.share + self.share * self.ratio)
        # Arrivals of a unit-rate process, mapped by the inverse of the integrated rate.
        wanted = np.cumsum(draw.exponential(1.0, count))
        means = np.array([self.cycle_s * (1.0 - self.share), self.cycle_s * self.share])
        rates = np.array([calm, calm * self.ratio])
        if draw.random() < self.share:
            means, rates = means[::-1], rates[::-1]
        moments, expected = [np.zeros(1)], [np.zeros(1)]
        while expected[-1][-1] < wanted[-1]:
            spells = draw.exponential(1.0, (1024, 2)) * means
            moments.append(moments[-1][-1] + np.cumsum(spells.ravel()))
            expected.append(expected[-1][-1] + np.cumsum((spells * rates).ravel()))
        return np.interp(wanted, np.concatenate(expected), np.concatenate(moments))


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded trace, stretched or squeezed to `rate`. `recorded_s` starts at 0."""

    recorded_s: Seconds
    rate: float = 0.0

    @classmethod
    def of(cls, recorded_s: Seconds) -> Self:
        """A trace at the rate it was recorded at."""
        span_s = float(recorded_s[-1] - recorded_s[0])
        # n arrivals have n - 1 gaps; a trace without any length has no rate.
        rate = (len(recorded_s) - 1) / span_s if span_s > 0 else 0.0
        return cls(recorded_s - recorded_s[0], rate)

    def at_rate(self, rate: float) -> Self:
        """The same trace at another mean rate."""
        if not self.rate:
            raise InputError("all requests of the trace arrive at once: it has no rate to scale")
        return replace(self, recorded_s=self.recorded_s * (self.rate / rate), rate=rate)

    def seconds(self, count: int, draw: np.random.Generator) -> Seconds:  # noqa: ARG002 - the interface
        """The first `count` arrivals, or all there are."""
        return self.recorded_s[:count]


@dataclass(frozen=True, slots=True)
class Closed:
    """Callers that send a request, wait for its answer, pause for `think_ns`, and send the next."""

    callers: int
    think_ns: int = 0


def arrival_times(
    process: Process, draw: np.random.Generator, *, requests: int, duration_ns: int | None = None
) -> Times:
    """Arrivals in nanoseconds, ascending: at most `requests`, none after `duration_ns`."""
    seconds = process.seconds(requests, draw)
    times: Times = np.rint(seconds * SECOND).astype(np.int64)
    if duration_ns is not None:
        times = times[: int(np.searchsorted(times, duration_ns, side="right"))]
    return times


_SPELLINGS = {
    "poisson": "poisson:RATE",
    "gamma": "gamma:RATE:CV",
    "mmpp": "mmpp:RATE:RATIO:SHARE:CYCLE",
    "day": "day:PEAK:LENGTH",
    "closed": "closed:CALLERS:THINK",
}


def is_process(text: str) -> bool:
    """Whether `--arrivals` names a process and not a file."""
    return text.partition(":")[0] in _SPELLINGS


def parse_process(text: str) -> Process | Closed:
    """Read `poisson:800`, `gamma:800:3`, `mmpp:800:5:0.2:1s`, `day:800:2h` or `closed:16:0ms`.

    Parameters after the first may be left out; so may the rate of an open loop where `--rate` or
    `--load` gives it. Raises `InputError`.
    """
    name, *rest = text.split(":")
    if name not in _SPELLINGS:
        raise InputError(f"got {text!r}; allowed: a file or {', '.join(_SPELLINGS.values())}")
    given = dict(enumerate(part for part in rest))
    if len(given) > _SPELLINGS[name].count(":"):
        raise InputError(f"got {text!r}; allowed: at most {_SPELLINGS[name]}")
    try:
        return _process(name, given)
    except ValueError as error:
        raise InputError(f"got {text!r}; allowed: {_SPELLINGS[name]}; {error}") from None


def _process(name: str, given: dict[int, str]) -> Process | Closed:
    if name == "closed":
        callers = int(_number(given.get(0, ""), "CALLERS", at_least=1, whole=True))
        return Closed(callers, parse_duration(given.get(1, "0")))
    rate = _number(given[0], "PEAK" if name == "day" else "RATE", above=0) if given.get(0) else 0.0
    if name == "day":
        length_ns = parse_duration(given[1]) if 1 in given else round(STANDARD_S * SECOND)
        if not length_ns:
            raise ValueError("LENGTH must be longer than 0")
        return Day(rate, length_ns / SECOND)
    if name == "poisson":
        return Poisson(rate)
    if name == "gamma":
        return Gamma(rate, _number(given.get(1, "3"), "CV", above=0))
    ratio = _number(given.get(1, "5"), "RATIO", at_least=1)
    share = _number(given.get(2, "0.2"), "SHARE", above=0, below=1)
    cycle_ns = parse_duration(given.get(3, "1s"))
    if not cycle_ns:
        raise ValueError("CYCLE must be longer than 0")
    return Mmpp(rate, ratio, share, cycle_ns / SECOND)


def _number(
    text: str,
    name: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> float:
    limits = []
    if above is not None:
        limits.append(f"above {above:g}")
    if at_least is not None:
        limits.append(f"at least {at_least:g}")
    if below is not None:
        limits.append(f"below {below:g}")
    rule = f"{name} must be a {'whole ' if whole else ''}number {' and '.join(limits)}"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(rule) from None
    wrong = (
        not np.isfinite(value)
        or (above is not None and value <= above)
        or (at_least is not None and value < at_least)
        or (below is not None and value >= below)
        or (whole and not value.is_integer())
    )
    if wrong:
        raise ValueError(rule)
    return value
