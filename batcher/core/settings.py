"""A model's settings, as far as the scheduler reads them. Times in nanoseconds."""

from __future__ import annotations

from typing import TypeAlias

from batcher.core.record import record


@record
class FixedWindow:
    """The policy `fixed`: a window of `max_delay_ns`, the semantics that Triton users know.

    A batch is formed late, when an instance is free: at once if a preferred size (or the maximum)
    can be filled, else when the oldest request has waited for `max_delay_ns`.
    """

    max_delay_ns: int = 0
    preferred_sizes: tuple[int, ...] = ()


@record
class NoBatching:
    """The policy `none`: every request is executed alone, in order of arrival."""


PolicySettings: TypeAlias = FixedWindow | NoBatching


@record
class QueueLimits:
    """How much may wait. `timeout_ns` is the longest time in the queue; None means no limit."""

    max_requests: int = 1024
    max_rows: int | None = None
    max_bytes: int | None = None
    timeout_ns: int | None = None


@record
class ModelSettings:
    """What one model asks of the scheduler. `target_ns` is the soft latency target."""

    max_batch_size: int
    policy: PolicySettings
    queue: QueueLimits = QueueLimits()
    target_ns: int | None = None
