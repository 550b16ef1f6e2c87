"""Samples that are far off while the device is as it was: either noise, or the curve is wrong there."""

from __future__ import annotations

from collections.abc import Container

from batcher.core.captured import Captured
from batcher.core.service_time.drift import JUMP, JUMP_SAMPLES
from batcher.core.service_time.recent import FORGET_NS

SAMPLES_OF_NEW_SIZE = 2
"""So many batches in a row, of a size that was never seen, that are off alike show that the curve is
wrong there, while other sizes are as predicted; of a known size as many as of a change of the device.
On a device that rounds up to powers of two, 3 cost up to 4 points of requests in time without a
warm-up, and without any of this 15 to 25 are lost."""


class Outliers(Captured):
    """By size: (moment, nanoseconds) of its last batches, while they are off the curve."""

    __slots__ = ("samples",)

    def __init__(self) -> None:
        self.samples: dict[int, list[tuple[int, float]]] = {}

    def add(self, rows: int, took_ns: float, now_ns: int) -> None:
        """Note a batch that was far off."""
        self.samples.setdefault(rows, []).append((now_ns, took_ns))
        del self.samples[rows][:-JUMP_SAMPLES]

    def discard(self, rows: int) -> None:
        """Note that a batch of this size was as predicted."""
        self.samples.pop(rows, None)

    def clear(self) -> None:
        """Forget all."""
        self.samples.clear()

    def take_learned(self, known: Container[int], now_ns: int) -> list[tuple[int, float]]:
        """Take out the sizes that are not on the curve, with their least time; `known` were seen."""
        learned: list[tuple[int, float]] = []
        for rows, samples in self.samples.items():
            times = [took_ns for _, took_ns in samples]
            enough = JUMP_SAMPLES if rows in known else SAMPLES_OF_NEW_SIZE
            alike = max(times) < JUMP * min(times) and samples[0][0] >= now_ns - FORGET_NS
            if len(times) >= enough and alike:
                learned.append((rows, min(times)))
        for rows, _ in learned:
            del self.samples[rows]
        return learned

    def _derive(self) -> None:
        self.samples = {rows: list(samples) for rows, samples in self.samples.items()}
