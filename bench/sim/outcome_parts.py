"""What the scenes of `outcomes` are made of: policies, loads, padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from scripted import Scene

from batcher.clock import MILLISECOND
from batcher.core.settings import Adaptive, FixedWindow, NoBatching, PaddedAxis, PolicySettings

Make: TypeAlias = Callable[[], Scene]
Named: TypeAlias = Iterator[tuple[str, Make]]

REFUSING: Final = Adaptive(limit_ns=0)
"""Refuses what can only be late: `Scene.configure` puts the target in place of this limit of 0."""

SERVING: Final = Adaptive()
POLICIES: Final[dict[str, PolicySettings]] = {
    "none": NoBatching(),
    "fixed 0 ms": FixedWindow(),
    "fixed 8 ms": FixedWindow(8 * MILLISECOND, (4, 8, 16)),
    "adaptive, refuse": REFUSING,
    "adaptive, serve": SERVING,
}
FEW: Final = {n: POLICIES[n] for n in ("fixed 8 ms", "adaptive, refuse", "adaptive, serve")}
LOADS: Final = (0.5, 0.9, 1.5)

LENGTHS: Final = (16, 64, 256)
"""The buckets of the padded axis, where there is one."""

PADDING: Final = (PaddedAxis(0, 1, LENGTHS),)


def ms(count: float) -> int:
    """Nanoseconds of `count` milliseconds."""
    return round(count * MILLISECOND)
