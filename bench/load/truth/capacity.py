"""What the emulated device can serve inside the targets, from its known times alone.

Requests of one model and bucket share batches. With batches of `b` rows that begin every `b / rate`, all are
answered in time if `b / rate + T(b) <= target`: so large are the batches, and a row costs so much less. What is
offered is the part of the device's time that it would take, if it were so many times as much that no time is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from truth.model import COLUMNS
from truth.scene import ModelPlan


@dataclass(frozen=True, eq=False)
class Flow:
    """Requests that share batches: those of one model, and of one width once they are padded."""

    plan: ModelPlan
    width: int = COLUMNS

    @cached_property
    def batches_s(self) -> list[float]:
        """What batches take, by rows, from one on; filled up where only certain sizes run."""
        batching = self._batching
        sizes = batching.get("batch_sizes") or range(1, batching["max_batch_size"] + 1)
        row_ms = self.plan.row_ms * self.width / COLUMNS
        ran = [
            min(size for size in sizes if size >= rows)
            for rows in range(1, batching["max_batch_size"] + 1)
        ]
        return [(self.plan.base_ms + row_ms * rows) / 1e3 for rows in ran]

    @cached_property
    def least_s(self) -> list[float]:
        """The least that a row costs in batches of at most so many, from one on."""
        costs = (batch_s / rows for rows, batch_s in enumerate(self.batches_s, 1))
        return list(accumulate(costs, min))

    @cached_property
    def target_s(self) -> float:
        """The model's target."""
        return float(self._batching["target_p99"].removesuffix("ms")) / 1e3

    def row_s(self, rate: float) -> float:
        """What a row costs at so many rows a second."""
        target_s, least, batches = self.target_s, self.least_s, self.batches_s
        takes = [rows / rate + batch_s for rows, batch_s in enumerate(batches, 1)]
        fits = sum(each <= target_s for each in takes)
        if batches[0] > target_s or fits == len(takes):
            return least[-1]
        if not fits:
            return least[0]
        part = (target_s - takes[fits - 1]) / (takes[fits] - takes[fits - 1])
        return least[fits - 1] + part * (least[fits] - least[fits - 1])

    def uneven(self) -> float:
        """What may be served in time of random arrivals, as a part of what is of even ones: at least.

        Of the rows that can be served within a target, one in forty may come in excess of them: then about
        one in a hundred is late. Blocks of random rows differ by the root of their number.
        """
        rows = self.target_s / self.row_s(1e6)
        return max(0.5, 1.0 - 0.75 / rows**0.5)

    def rate(self, share: float) -> float:
        """The rows a second that take that much of one slot's time."""
        return _solved(lambda rate: rate * self.row_s(rate) - share)

    @cached_property
    def _batching(self) -> dict[str, Any]:
        batching: dict[str, Any] = self.plan.section(Path())["batching"]
        return batching


def parts(rates: Mapping[Flow, float], slots: int) -> dict[Flow, float]:
    """The part of each flow in the load of a device, whose sum that is."""
    offered = {flow: rate for flow, rate in rates.items() if rate > 0}
    if not offered:
        return dict.fromkeys(rates, 0.0)

    def spare(times: float) -> float:
        return sum(rate * times * f.row_s(rate * times) for f, rate in offered.items()) - slots

    times = _solved(spare)
    return {
        flow: rates[flow] * flow.row_s(rates[flow] * times) / slots if flow in offered else 0.0
        for flow in rates
    }


def _solved(rises: Callable[[float], float]) -> float:
    """Where a function that rises is 0."""
    low, high = 1e-6, 1e6
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if rises(middle) < 0 else (low, middle)
    return low
