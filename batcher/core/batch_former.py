"""Which batch comes next: the door between policies and the fleet.

While some instance is free, every lane of its model is put to the policy; of all batches that are
ready, the one whose oldest request is most urgent goes first, over all models, because they may
share a device. What is not ready says when to ask again.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from operator import index
from typing import assert_never

from batcher.core.fleet import Fleet, Instance
from batcher.core.model import Model
from batcher.core.policies import Take, Wait
from batcher.core.queue import Lane
from batcher.core.record import record
from batcher.core.request import LiveRequest

NEVER_NS = 1 << 62
"""Later than any due time."""

SPIN_NS = 1_000_000
"""When a policy that waits for a moment in the past is asked again."""


@record
class Proposal:
    """A batch that could be dispatched now."""

    model: Model
    instance: Instance
    requests: tuple[LiveRequest, ...]


@record
class PolicyError:
    """A policy raised, or answered nonsense; its model runs without batching from now on."""

    model: str
    error: str


@record
class Formation:
    """The most urgent batch, if any is ready; and when a lane wants to be asked again."""

    proposal: Proposal | None
    ask_again_ns: int | None
    errors: tuple[PolicyError, ...]


def form(models: Iterable[Model], fleet: Fleet, now_ns: int) -> Formation:
    """Ask every policy that has something waiting and an instance to run it on."""
    best: tuple[tuple[int, int], Model, Instance, Lane, int] | None = None
    ask_again_ns: int | None = None
    errors: list[PolicyError] = []
    for model in models:
        if not model.queue.requests:
            continue
        instance = fleet.free_instance(model.name)
        if instance is None:
            continue
        for lane in model.queue.lanes.values():
            count, until_ns, error = _ask(model, lane, now_ns)
            if error is not None:
                errors.append(error)
            if not count:
                ask_again_ns = until_ns if ask_again_ns is None else min(ask_again_ns, until_ns)
                continue
            urgency = _urgency(lane.head)
            if best is None or urgency < best[0]:
                best = urgency, model, instance, lane, count
    if best is None:
        return Formation(None, ask_again_ns, tuple(errors))
    _, model, instance, lane, count = best
    proposal = Proposal(model, instance, tuple(islice(lane, count)))
    return Formation(proposal, ask_again_ns, tuple(errors))


def _ask(model: Model, lane: Lane, now_ns: int) -> tuple[int, int, PolicyError | None]:
    """How many requests to take (0: none), when to ask again, and what went wrong."""
    try:
        verdict = model.policy.decide(lane, now_ns)
        if isinstance(verdict, Take):
            _check(lane, verdict.count, model.settings.max_batch_size)
            return verdict.count, 0, None
        if isinstance(verdict, Wait):
            until_ns = index(verdict.until_ns)
            # A policy that asks to be woken in the past would spin.
            return 0, until_ns if until_ns > now_ns else now_ns + SPIN_NS, None
        assert_never(verdict)
    except Exception as exc:  # noqa: BLE001 - whatever a policy does, nobody may hang
        model.fall_back()
        return 1, 0, PolicyError(model.name, f"{type(exc).__name__}: {exc}")


def _check(lane: Lane, count: int, max_rows: int) -> None:
    """Hold a policy to its contract before anything is dispatched."""
    if not 1 <= count <= len(lane):
        raise ValueError(f"took {count} of {len(lane)} waiting requests")
    rows = sum(r.rows for r in islice(lane, count))
    if rows > max_rows:
        raise ValueError(f"took {rows} rows for a batch of at most {max_rows}")


def _urgency(request: LiveRequest) -> tuple[int, int]:
    """Earliest due first; without a due time, oldest first after all that have one."""
    due_ns = NEVER_NS if request.due_ns is None else request.due_ns
    return due_ns, request.arrived.arrival_ns
