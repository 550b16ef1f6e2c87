"""How models share a device: what each has used of it, and how long one may keep the others out.

Where a device runs a limited number of batches at once, a batch of one model makes the others wait.
Two rules keep that fair. A batch is no longer than leaves time for the requests that the other models
expect (`longest_wait_ns`). And where two batches cannot both be in time, the model goes first that has
used less of the device lately (`DeviceUse`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batcher.core.captured import Captured
from batcher.core.times import LATELY_NS

MIN_EXPECTED_ROWS = 0.01
"""A model that expects fewer rows than this within its target does not limit the others' batches."""

ARRIVAL_SIGMAS = 2.0
"""Of Poisson arrivals, the mean and so many standard deviations more must be served in time: with two, one
wait in about 40 sees more. With none, an urgent model at 0.3 beside one that wants everything is in time for
98.8 % instead of 99.9 %."""


class DeviceUse(Captured):
    """What one model has used of its devices lately.

    `used_ns` counts what the rows of its batches take in the batch size that serves most, so batches
    that others keep short cost no more. `share` is the model's share of the device by that.
    """

    __slots__ = ("share", "used_ns")

    def __init__(self, used_ns: float = 0.0, share: float = 1.0) -> None:
        self.used_ns = used_ns
        self.share = share


def charge(
    use: DeviceUse, cost_ns: float, every: Iterable[DeviceUse], on_device: Sequence[DeviceUse]
) -> None:
    """Add a batch to what its model has used. `every`: all models; `on_device`: those that share it."""
    use.used_ns += cost_ns
    if use.used_ns > LATELY_NS:
        # Halved, so that about so much is remembered.
        for each in every:
            each.used_ns /= 2
    total_ns = sum([each.used_ns for each in on_device])
    for each in on_device:
        each.share = max(each.used_ns / total_ns if total_ns else 1.0, 1 / len(on_device))


def longest_wait_ns(rate: float, target_ns: int, p95: Sequence[float]) -> float | None:
    """Returns the longest wait for the device after which a model can still be in time.

    That is, all that arrives meanwhile can be served within the target by one batch. `rate` is in rows
    per nanosecond, `p95` the time of a batch by its rows. None where the model sets no limit: it
    expects nothing, or not even one row can be in time.
    """
    if rate * target_ns < MIN_EXPECTED_ROWS:
        return None
    wait_ns = 0.0
    for rows, done_ns in enumerate(p95[1:], 1):
        if done_ns >= target_ns:
            break
        wait_ns = target_ns - done_ns
        arriving = rate * wait_ns
        if arriving + ARRIVAL_SIGMAS * arriving**0.5 <= rows:
            break
    return wait_ns if wait_ns > 0.0 else None
