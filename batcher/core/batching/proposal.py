"""A batch that could be dispatched, and when it must start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batcher.core.commands import Part
from batcher.core.devices.instances import Instance
from batcher.core.events import Shapes
from batcher.core.faults.bisection import Bisection
from batcher.core.model import Model
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.ranks import LATE
from batcher.core.queueing.request import LiveRequest
from batcher.core.times import NEVER_NS


@dataclass(slots=True)
class Proposal:
    """A batch that could be dispatched now: requests of one group, or suspects that run again."""

    model: Model
    instance: Instance
    group: BatchGroup | None
    """Where its requests wait; None for suspects."""
    shapes: Shapes
    requests: Sequence[LiveRequest]
    rows: int
    expected_ns: float
    """Its predicted time; 0 while nothing has been measured."""
    begins_ns: int
    """When it begins: now, or when its instance is done with the batch that it runs."""
    filled: tuple[LiveRequest, int] | None = None
    """A split request whose rows fill the room that is left, and how many of them."""
    suspects: Bisection | None = None
    """The failed batch of which it runs a group again."""
    parts: tuple[Part, ...] = ()
    """That group."""
    longest_ns: float | None = None
    """How long it may take beside the models that share the device."""
    extra: tuple[LiveRequest, ...] = ()
    """Requests of other groups that fill it up."""


def is_late_turn(proposal: Proposal) -> bool:
    """Whether a batch is of late requests whose share of the device is due."""
    first, late = proposal.requests[0], proposal.model.late
    in_turn = first.rank == LATE and first.finish_by_ns <= late.turn_ns
    return in_turn and late.due(proposal.expected_ns)


def must_start_ns(proposal: Proposal, now_ns: int) -> float:
    """Returns when a batch must start for its most urgent request; `NEVER_NS` if it can wait.

    Late requests can wait until their share of the device is due. Requests without a due time, or whose
    due time no batch can meet, can wait until they gain a level, or for half of the time until they expire.
    """
    model, take = proposal.model, proposal.requests
    if is_late_turn(proposal):
        return now_ns
    must_ns: float = NEVER_NS
    if model.reachable:
        due_ns = [r.due_ns for r in take if r.due_ns is not None and r.rank != LATE]
        must_ns = min(due_ns) - proposal.expected_ns if due_ns else NEVER_NS
        if len(due_ns) == len(take):
            return must_ns
    for request in take:
        if request.rank == LATE or (request.due_ns is not None and model.reachable):
            continue
        came_ns = request.arrived.arrival_ns
        until_ns = came_ns + model.settings.queue.promote_after_ns
        if request.expires_ns is not None:
            until_ns = min(until_ns, (came_ns + request.expires_ns) // 2)
        if until_ns <= now_ns:
            must_ns = min(must_ns, until_ns)
    return must_ns
