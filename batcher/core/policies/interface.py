"""What a policy is told, and what it can answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from batcher.core.queueing.request import LiveRequest
from batcher.core.record import record
from batcher.core.service_time.estimator import ServiceTimes


@record
class PolicyInput:
    """The moment of a decision.

    `free_ns` says when each place of the model's instances can take a batch, the soonest first:
    one that is free now stands there with `now_ns`. `times` predicts what a batch takes; it may
    know nothing yet. `reachable` is False when not even one row can be done inside the target: then
    there is nothing to be in time for.
    A batch that takes longer than `longest_ns` would make requests of a model that shares the device
    late, or is too likely to fail. While `batch_capped`, failing requests keep batches small, and no
    batch is worth waiting for: it may well have to run again. Without an `exclusive_device` other
    models may take the device while this one waits. `many_groups`: more batch groups wait than are
    asked in one decision; each is a batch of its own, so a free instance waits for none of them.
    """

    now_ns: int
    free_ns: Sequence[float]
    times: ServiceTimes
    reachable: bool = True
    longest_ns: float | None = None
    batch_capped: bool = False
    exclusive_device: bool = True
    many_groups: bool = False


@record
class Take:
    """Refuse the first `drop` requests of the lane, and form a batch of the next `count`, now."""

    count: int
    drop: int = 0


@record
class Wait:
    """Refuse the first `drop` requests; form nothing before `until_ns`, or something changes."""

    until_ns: int
    drop: int = 0


@record
class Choose:
    """Refuse `drop` and form a batch of `take`, both from anywhere in the lane.

    With nothing to take, ask again at `until_ns`.
    """

    take: tuple[LiveRequest, ...]
    drop: tuple[LiveRequest, ...] = ()
    until_ns: int | None = None


Decision: TypeAlias = Take | Wait | Choose
