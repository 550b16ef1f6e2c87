"""The bounds of a queue, and which waiting requests make room for one that is worth more.

A full queue makes room for what is worth more than the least valuable request in it. A refusal
happens in the same step as enqueueing would, so no bound can be overrun between a check and its use.
"""

from __future__ import annotations

from batcher.core.commands import Reason
from batcher.core.model import Model
from batcher.core.queueing.queue import ModelQueue
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.promotion import rank_before_promotion
from batcher.core.settings import QueueLimits


def broken_bound(request: LiveRequest, model: Model) -> Reason | None:
    """The bound that this request would break, or None when there is room for it."""
    limits, queue = model.settings.queue, model.queue
    if queue.requests >= limits.max_requests:
        return Reason.QUEUE_REQUESTS
    if limits.max_rows is not None and queue.all_rows + request.arrived.rows > limits.max_rows:
        return Reason.QUEUE_ROWS
    if limits.max_bytes is not None and queue.nbytes + request.nbytes > limits.max_bytes:
        return Reason.QUEUE_BYTES
    if len(queue.groups) >= limits.max_groups and request.group_key not in queue.groups:
        return Reason.QUEUE_GROUPS
    return None


def room_for(request: LiveRequest, model: Model) -> list[LiveRequest]:
    """Waiting requests that are worth less than this one, and whose room it needs.

    Empty when they would not make enough room; then the newcomer is the one to be refused. So it is
    while more waits than a bound that was lowered allows: what waits is not refused for a change.
    """
    limits, queue = model.settings.queue, model.queue
    if _over_a_bound(queue, limits):
        return []
    requests = queue.requests + 1 - limits.max_requests
    rows = 0
    if limits.max_rows is not None:
        rows = queue.all_rows + request.arrived.rows - limits.max_rows
    nbytes = 0 if limits.max_bytes is None else queue.nbytes + request.nbytes - limits.max_bytes
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
    """The request whose group makes room for one more: the only one in it, that waits longest.

    What has a group of its own is what the bound is for, and a newcomer to a group that is served
    again and again has none at times. Empty where all of that are worth more than the newcomer.
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
    """Whether more waits than may: only a changed bound makes that so."""
    return (
        queue.requests > limits.max_requests
        or (limits.max_rows is not None and queue.all_rows > limits.max_rows)
        or (limits.max_bytes is not None and queue.nbytes > limits.max_bytes)
    )
