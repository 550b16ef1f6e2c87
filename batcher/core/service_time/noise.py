"""An upper quantile of how much longer than predicted recent batches took."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable

MARGIN_SAMPLES = 64
"""The quantile is that of so many recent samples."""

MARGIN_QUANTILE = 0.95
"""Which quantile: one batch in twenty may take longer than planned."""

FORGET_NS = 10_000_000_000
"""Nanoseconds after which a sample says nothing about noise any more."""


class Noise:
    """Recent samples of how long batches took, as multiples of their predictions."""

    __slots__ = ("_ratios", "_recent")

    def __init__(self) -> None:
        self._recent: list[tuple[int, float]] = []
        self._ratios: list[float] = []

    def __len__(self) -> int:
        return len(self._ratios)

    def add(self, ratio: float, now_ns: int) -> float:
        """Add a sample, forget old ones. Returns the margin: the quantile, or 1 if that is less."""
        recent, ratios = self._recent, self._ratios
        recent.append((now_ns, ratio))
        insort(ratios, ratio)
        while len(recent) > MARGIN_SAMPLES or recent[0][0] < now_ns - FORGET_NS:
            _, gone = recent.pop(0)
            del ratios[bisect_right(ratios, gone) - 1]
        place = min(len(ratios) - 1, int(MARGIN_QUANTILE * len(ratios)))
        return max(1.0, ratios[place])

    def clear(self) -> None:
        """Forget all samples."""
        self._recent.clear()
        self._ratios.clear()

    def capture(self) -> tuple[tuple[int, float], ...]:
        """The samples, for `restore`."""
        return tuple(self._recent)

    def restore(self, state: Iterable[tuple[int, float]]) -> None:
        """Continue from what `capture` returned."""
        self._recent = list(state)
        self._ratios = sorted(ratio for _, ratio in self._recent)
