"""A model's settings, as far as the scheduler reads them. Times in nanoseconds."""

from __future__ import annotations

from typing import TypeAlias

from batcher.core.record import record


@record
class Adaptive:
    """The policy `adaptive`: windows that follow from the target and from what was measured.

    While the device is busier than `utilization_target`, requests wait for larger batches. While it is
    less busy, they wait only for one that is so near that serving both together saves device time.

    An answer is of use until `limit_ns` after a request's arrival, and not after its caller's deadline;
    None: only the deadline counts. What cannot be answered by then is refused. What can, but not by the
    target, is late: it may take `late_share` of the device from requests that are in time.
    """

    utilization_target: float = 0.8
    limit_ns: int | None = None
    late_share: float = 0.02


@record
class FixedWindow:
    """The policy `fixed`: a window of `max_delay_ns`, the semantics that Triton users know.

    A batch is formed when an instance is free: at once if a preferred size (or the maximum) can be
    filled, else when the oldest request has waited for `max_delay_ns`.
    """

    max_delay_ns: int = 0
    preferred_sizes: tuple[int, ...] = ()


@record
class NoBatching:
    """The policy `none`: every request is executed alone, in order of arrival."""


PolicySettings: TypeAlias = Adaptive | FixedWindow | NoBatching


@record
class QueueLimits:
    """How much may wait, and which requests are served first.

    At most `max_groups` batch groups wait, `max_requests` requests, and `max_rows` and `max_bytes` of
    them; None means no limit. A request has at most the rows of `max_batches_per_request` full
    batches. `timeout_ns` is the longest time in the queue, None for no limit; a caller may ask for
    less where `allow_timeout_override` says so.

    Level 1 of `priority_levels` is the most urgent. A request that names none has `default_priority`.
    A waiting request gains a level for every `promote_after_ns`, unless its tenant is over its share.
    `tenants` holds (name, weight) pairs. Without any, tenants are not told apart; a tenant that is not
    named shares the weight of `default`.
    """

    max_requests: int = 1024
    max_groups: int = 256
    max_batches_per_request: int = 32
    max_rows: int | None = None
    max_bytes: int | None = None
    timeout_ns: int | None = None
    priority_levels: int = 3
    default_priority: int = 2
    promote_after_ns: int = 1_000_000_000
    tenants: tuple[tuple[str, float], ...] = ()
    allow_timeout_override: bool = True


@record
class PaddedAxis:
    """An axis that is padded to the least of `buckets` (ascending) that holds it.

    `input` is the input's place in `RequestArrived.shapes`; `axis` counts as in the tensor, where 0
    is the rows.
    """

    input: int
    axis: int
    buckets: tuple[int, ...]


@record
class ModelSettings:
    """What one model asks of the scheduler. `target_ns` is the soft latency target.

    A batch runs with the next of `batch_sizes` (ascending) that holds its rows; () is any size.
    With `idempotent`, a request whose instance goes down while it executes may be executed once more.
    """

    max_batch_size: int
    policy: PolicySettings
    queue: QueueLimits = QueueLimits()
    target_ns: int | None = None
    padding: tuple[PaddedAxis, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    idempotent: bool = False

    @property
    def max_request_rows(self) -> int:
        """The most rows of one request; those beyond one batch are split over several.

        A request with more rows than may wait at all could never be admitted.
        """
        most = self.max_batch_size * self.queue.max_batches_per_request
        return most if self.queue.max_rows is None else min(most, self.queue.max_rows)
