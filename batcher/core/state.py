"""A scheduler's whole state as one plain value, to be logged, compared and restored from."""

from __future__ import annotations

from typing import Final

from batcher.core.commands import Part
from batcher.core.events import InstanceUp, RequestArrived, Shapes
from batcher.core.faults.bisection import Bisection
from batcher.core.record import record
from batcher.core.settings import ModelSettings
from batcher.core.times import NEVER_NS


@record
class SavedRequest:
    """A live request; `batch_id` is None while it waits. Steps of a sequence are in order of arrival."""

    arrived: RequestArrived
    due_ns: int | None
    expires_ns: int | None
    batch_id: int | None
    finish_by_ns: int
    rank: int
    promote_at_ns: int
    limit_ns: int
    start: int
    rows: int
    suspect_parts: int
    requeues: int
    split: tuple[int, tuple[int, ...]] | None
    """Rows that are not done, and the batches that run some."""
    bucket: Shapes = ()
    """The shape that it is padded to: what runs again keeps that of its first batch, under any settings."""
    held: bool = False
    """Whether it is a step of a sequence that waits for the step before it."""
    lost: bool = False
    """Whether an instance went down with a batch of it."""


CAPTURED: Final = (
    *("device_use", "policy", "shares", "bisections", "handling", "late", "memory", "offered"),
)
"""What a model has learned beside its `times`, each as its owner captured it."""


@record
class SavedModel:
    """A model and the ids of its waiting requests, batch group by batch group, each in order.

    Its `times` and what is `CAPTURED` is what was learned.
    """

    model: str
    settings: ModelSettings
    policy_failed: bool
    groups: tuple[tuple[int, ...], ...]
    blocked: bool
    reachable: bool
    device_use: tuple[object, ...]
    policy: tuple[object, ...]
    times: tuple[tuple[Shapes, tuple[object, ...]], ...]
    shares: tuple[object, ...]
    bisections: tuple[object, ...]
    open_bisections: tuple[Bisection, ...]
    handling: tuple[object, ...]
    prefetch_at_ns: int = NEVER_NS
    dispatch_count: int = 0
    late: tuple[object, ...] = ()
    memory: tuple[object, ...] = ()
    offered: tuple[object, ...] = ()
    replaces: str = ""
    whole: tuple[tuple[str, tuple[str, int]], ...] = ()
    """Its instances, also those that are down: the device and slots of each."""


@record
class SavedInstance:
    """An incarnation and when it was last used (a count of dispatches)."""

    up: InstanceUp
    draining: bool
    last_used: int


@record
class SavedBatch:
    """A running batch and the requests it has not reported."""

    batch_id: int
    model: str
    instance: str
    dispatched_ns: int
    unreported: tuple[int, ...]
    rows: int
    expected_end_ns: float
    shapes: Shapes
    parts: tuple[Part, ...]
    split: bool
    suspects: int | None
    """The id of the failed batch of which it runs a group again."""
    filled: int | None
    prefetched: bool = False
    prefetch_at_ns: int = NEVER_NS
    after_ns: int = 0
    given_ns: int = 0


@record
class State:
    """Everything that decides what a scheduler does next."""

    now_ns: int
    next_batch_id: int
    dispatches: int
    wakeup_ns: int | None
    next_limit_ns: int
    models: tuple[SavedModel, ...]
    requests: tuple[SavedRequest, ...]
    devices: tuple[tuple[str, int], ...]
    instances: tuple[SavedInstance, ...]
    batches: tuple[SavedBatch, ...]
