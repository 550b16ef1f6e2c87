"""How long a batch takes: curves by batch size, and what disturbs them.

A `Curve` is a tuple of nanoseconds indexed by rows (index 0 is not used) that never decreases. It is
a straight line, or comes from a table of measured sizes or a profile (`profile.py`). `Devices`
turns a dispatched batch into the time until it is done: the curve, times a random factor (noise),
times the factor of a slowdown, after the batches ahead of it where a device is exclusive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import isfinite
from typing import Final, Literal, TypeAlias

import numpy as np

from batcher.clock import MILLISECOND
from batcher.config import parse_duration
from batcher.core.batch_sizes import filled_rows
from batcher.core.commands import Dispatch
from batcher.core.events import Shapes
from batcher.errors import InputError

Curve: TypeAlias = tuple[int, ...]
"""Nanoseconds that a batch of so many rows takes, the dispatch overhead included."""

_DRAWS_AT_ONCE: Final = 4096


def linear(base_ns: int, per_row_ns: int, max_rows: int) -> Curve:
    """`base + per_row * rows`."""
    return (0, *(base_ns + per_row_ns * rows for rows in range(1, max_rows + 1)))


def from_table(table: Mapping[int, int], max_rows: int) -> Curve:
    """A curve through measured sizes: rows to nanoseconds, at least one entry.

    Between two sizes it is a straight line. Below the smallest size it is that size's time, because
    nothing shows that a smaller batch is faster. Beyond the largest it keeps the slope from half of the
    largest on, or is proportional where only one size is known. A larger batch never takes less than a
    smaller one: a dip is noise of the measurement.
    """
    sizes = sorted(table)
    times = list(accumulate((table[size] for size in sizes), max))
    largest, longest = sizes[-1], times[-1]
    rows = np.arange(1, max_rows + 1)
    curve = np.interp(rows, sizes, times)
    if len(sizes) == 1:
        slope = longest / largest
    else:
        half = float(np.interp(max(largest / 2, sizes[0]), sizes, times))
        slope = (longest - half) / (largest - max(largest / 2, sizes[0]))
    beyond = rows > largest
    curve[beyond] = longest + slope * (rows[beyond] - largest)
    return (0, *np.rint(curve).astype(np.int64).tolist())


def stepped(curve: Curve, sizes: Sequence[int]) -> Curve:
    """The curve where batches are filled up to the next of `sizes` (ascending; () for any)."""
    if not sizes:
        return curve
    most = len(curve) - 1
    filled = (min(filled_rows(rows, sizes), most) for rows in range(1, len(curve)))
    return (0, *(curve[rows] for rows in filled))


def table_of(document: Mapping[str, object], source: str) -> dict[int, int]:
    """Read `{"1": ms, "2": ms, ...}`. Raises `InputError` naming the entry."""
    table: dict[int, int] = {}
    for key, value in document.items():
        good_size = key.isascii() and key.isdecimal() and int(key) > 0
        if not good_size:
            profile = (
                "; what `batcher profile` wrote goes to --profile" if "models" in document else ""
            )
            raise InputError(
                f"{source}: got the size {key!r}; allowed: whole numbers from 1 on{profile}"
            )
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not isfinite(float(str(value))) or float(str(value)) <= 0:
            raise InputError(f"{source}, size {key}: got {value!r}; allowed: milliseconds, above 0")
        table[int(key)] = max(1, round(float(str(value)) * MILLISECOND))
    if not table:
        raise InputError(f"{source}: holds no service times")
    return table


def best_rate(curve: Curve) -> float:
    """The most rows a second that one instance can serve."""
    return max(rows * 1e9 / took_ns for rows, took_ns in enumerate(curve) if rows)


@dataclass(frozen=True, slots=True)
class Noise:
    """A random factor of mean 1 on every batch's time.

    `uniform`: from 1 - spread to 1 + spread. `lognormal`: a standard deviation of `spread`.
    """

    kind: Literal["uniform", "lognormal"] = "uniform"
    spread: float = 0.0

    def factors(self, count: int, draw: np.random.Generator) -> list[float]:
        """Draws `count` factors."""
        if self.kind == "uniform":
            factors = draw.uniform(1 - self.spread, 1 + self.spread, count)
        else:
            sigma = float(np.sqrt(np.log1p(self.spread**2)))
            factors = draw.lognormal(-sigma * sigma / 2, sigma, count)
        return [float(factor) for factor in factors]


QUIET: Final = Noise()


def parse_noise(text: str) -> Noise:
    """Read `0.1`, `uniform:0.1` or `lognormal:0.1`. Raises `InputError`."""
    kind, _, spread = text.rpartition(":")
    try:
        value = float(spread)
    except ValueError:
        value = -1.0
    if kind in ("", "uniform") and 0 <= value < 1:
        return Noise("uniform", value)
    if kind == "lognormal" and 0 <= value <= 10:
        return Noise("lognormal", value)
    raise InputError(
        f"got {text!r}; allowed: 0.1 or uniform:0.1 (from 0 to below 1), lognormal:0.1 (0 to 10)"
    )


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Batches that start from `start_ns` to before `end_ns` take `factor` times as long."""

    start_ns: int
    end_ns: int
    factor: float
    device: str | None = None
    """The device that is slow; None means all of them."""


_SLOWDOWN: Final = re.compile(r"([^@x:]+)x@([^-]+)-([^@]+?)(?:@(.+))?", re.ASCII)


def parse_slowdown(text: str) -> Slowdown:
    """Read `12x@5s-7s` or, of one device, `12x@5s-7s@gpu0`. Raises `InputError`."""
    match = _SLOWDOWN.fullmatch(text)
    try:
        slowdown = match and Slowdown(
            parse_duration(match[2]), parse_duration(match[3]), float(match[1]), match[4]
        )
    except ValueError:
        slowdown = None
    if slowdown and 0 < slowdown.factor < float("inf") and slowdown.start_ns < slowdown.end_ns:
        return slowdown
    raise InputError(
        f"got {text!r}; allowed: FACTORx@FROM-TO such as 12x@5s-7s, or 12x@5s-7s@DEVICE"
    )


@dataclass(slots=True)
class DeviceUse:
    """What a device has done. `busy_ns` is the sum of its batches' times."""

    busy_ns: int = 0
    free_ns: int = 0
    """When the batches on an exclusive device are done."""


@dataclass(slots=True)
class Devices:
    """The `service_time` of a driver: how long the devices take for each dispatched batch."""

    curves: Mapping[str, Curve]
    """By model."""
    device_of: Mapping[str, str]
    """By instance."""
    exclusive: frozenset[str]
    """Devices that run one batch after the other, however many are dispatched to them."""
    noise: Mapping[str, Noise]
    """By model; one without an entry is quiet."""
    slowdowns: tuple[Slowdown, ...]
    draw: np.random.Generator
    clock: Callable[[], int]
    buckets: Mapping[str, Mapping[int, Curve]] = field(default_factory=dict)
    """By model, the curves of its padding buckets; one without an entry is not padded."""
    copies: Mapping[str, Curve] = field(default_factory=dict)
    """By model, how long batches are copied to the device beside its computation; without an entry,
    batches are not pipelined."""
    use: dict[str, DeviceUse] = field(default_factory=dict)
    _factors: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, dispatch: Dispatch) -> int:
        """Nanoseconds from now until the batch is done."""
        now_ns = self.clock()
        return self.run(dispatch, now_ns)[1] - now_ns

    def run(self, dispatch: Dispatch, from_ns: int) -> tuple[int, int]:
        """When a batch that could begin at `from_ns` begins, and when it ends."""
        rows = 0
        for part in dispatch.parts:
            rows += part.stop - part.start
        device = self.device_of[dispatch.instance]
        took_ns = self.sample_ns(dispatch.model, rows, dispatch.bucket)
        for slowdown in self.slowdowns:
            if slowdown.device in (None, device) and slowdown.start_ns <= from_ns < slowdown.end_ns:
                took_ns = round(took_ns * slowdown.factor)
        use = self.use.get(device)
        if use is None:
            use = self.use[device] = DeviceUse()
        use.busy_ns += took_ns
        if device not in self.exclusive:
            return from_ns, from_ns + took_ns
        begins_ns = max(use.free_ns, from_ns)
        use.free_ns = begins_ns + took_ns
        return begins_ns, use.free_ns

    def copy_ns(self, dispatch: Dispatch) -> int:
        """How long a batch is copied to its device; 0 where batches are not pipelined."""
        copies = self.copies.get(dispatch.model)
        return copies[sum([part.stop - part.start for part in dispatch.parts])] if copies else 0

    def sample_ns(self, model: str, rows: int, bucket: Shapes = ()) -> int:
        """One draw of the service time of a batch that has the device to itself."""
        curve = self.buckets[model][bucket[0][0]] if bucket else self.curves[model]
        took_ns = curve[rows]
        noise = self.noise.get(model)
        if noise is None or not noise.spread:
            return took_ns
        factors = self._factors.get(model)
        if not factors:
            factors = self._factors[model] = noise.factors(_DRAWS_AT_ONCE, self.draw)
        return max(1, round(took_ns * factors.pop()))


@dataclass(frozen=True, slots=True)
class TimerDelay:
    """How late timers fire: exponential with this mean, or exactly this late each time."""

    mean_ns: int
    kind: Literal["exponential", "constant"] = "exponential"

    def draws(self, draw: np.random.Generator) -> Callable[[], int]:
        """A function that returns the next draw at each call."""
        if self.kind == "constant":
            return lambda: self.mean_ns
        stock: list[int] = []

        def late_ns() -> int:
            if not stock:
                stock.extend(
                    draw.exponential(self.mean_ns, _DRAWS_AT_ONCE).astype(np.int64).tolist()
                )
            return stock.pop()

        return late_ns


def parse_timer_delay(text: str) -> TimerDelay:
    """Read `0.1ms`, `exponential:0.1ms` or `constant:0.1ms`. Raises `InputError`."""
    kind, _, mean = text.rpartition(":")
    try:
        mean_ns = parse_duration(mean)
        if kind in ("", "exponential"):
            return TimerDelay(mean_ns)
        if kind == "constant":
            return TimerDelay(mean_ns, "constant")
    except ValueError:
        pass
    raise InputError(
        f"got {text!r}; allowed: a duration such as 50us, or constant:50us for the same each time"
    )
