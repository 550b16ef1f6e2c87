"""The bounds of a queue, and which waiting requests make room for one of a better rank.

In a full queue the request that would be served last makes room for one that is served before it. A
check and what follows from it are one step of the scheduler, so that no bound can be exceeded.
"""

from __future__ import annotations

from batcher.core.commands import Reason
from batcher.core.model import Model
from batcher.core.queueing.queue import ModelQueue
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.promotion import rank_before_promotion
from batcher.core.settings import QueueLimits


def broken_bound(request: LiveRequest, model: Model) -> Reason | None:
    """The bound that this request would exceed, or None when there is room for it."""
    limits, queue = model.settings.queue, model.queue
    requests = queue.requests
    if queue.held:
        requests += len(queue.held)
    if requests >= limits.max_requests:
        return Reason.QUEUE_REQUESTS
    if limits.max_rows is not None:
        rows = queue.all_rows + queue.held_rows + request.arrived.rows
        if rows > limits.max_rows:
            return Reason.QUEUE_ROWS
    if limits.max_bytes is not None:
        nbytes = queue.nbytes + queue.held_bytes + request.nbytes
        if nbytes > limits.max_bytes:
            return Reason.QUEUE_BYTES
    if len(queue.groups) >= limits.max_groups and request.group_key not in queue.groups:
        return Reason.QUEUE_GROUPS
    return None


def room_for(request: LiveRequest, model: Model) -> list[LiveRequest]:
    """Waiting requests that would be served after this one, and whose room it needs.

    Empty when they would not make enough room: then the new request is refused. It is empty, too,
    while more waits than a lowered bound allows: a change of settings refuses no waiting request.
    """
    limits, queue = model.settings.queue, model.queue
    if not (queue.requests or queue.held) or _over_a_bound(queue, limits):
        return []
    requests = queue.requests + len(queue.held) + 1 - limits.max_requests
    rows = nbytes = 0
    if limits.max_rows is not None:
        rows = queue.all_rows + queue.held_rows + request.arrived.rows - limits.max_rows
    if limits.max_bytes is not None:
        nbytes = queue.nbytes + queue.held_bytes + request.nbytes - limits.max_bytes
    if queue.worst <= (request.rank, request.finish_by_ns):
        return []
    victims: list[LiveRequest] = []
    for victim in queue.worst_first():
        if requests <= 0 and rows <= 0 and nbytes <= 0:
            return victims
        if (victim.rank, victim.finish_by_ns) <= (request.rank, request.finish_by_ns):
            return []
        if victim.begun:
            # Some of its rows have run already, or run now.
            continue
        victims.append(victim)
        requests -= 1
        rows -= victim.arrived.rows
        nbytes -= victim.nbytes
    return victims if requests <= 0 and rows <= 0 and nbytes <= 0 else []


def group_for(request: LiveRequest, model: Model) -> list[LiveRequest]:
    """The request whose batch group makes room for another: that of the oldest group with one request.

    The bound is meant for groups of a single request. Empty where all such requests have a better
    rank than the new one, or have begun to run.
    """
    if len(model.queue.groups) > model.settings.queue.max_groups:
        return []
    own = rank_before_promotion(request, model)
    for group in model.queue.groups.values():
        other = group.head
        if len(group) == 1 and not other.begun and rank_before_promotion(other, model) >= own:
            return [other]
    return []


def _over_a_bound(queue: ModelQueue, limits: QueueLimits) -> bool:
    """Whether more waits than is allowed: this happens only after a bound was lowered."""
    return (
        queue.requests + len(queue.held) > limits.max_requests
        or (limits.max_rows is not None and queue.all_rows + queue.held_rows > limits.max_rows)
        or (limits.max_bytes is not None and queue.nbytes + queue.held_bytes > limits.max_bytes)
    )
