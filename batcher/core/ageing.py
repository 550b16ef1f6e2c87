"""How waiting changes a request's worth: levels gained, and the way out for what is late."""

from __future__ import annotations

from batcher.core.model import Model
from batcher.core.queue import AGED, LATE, Lane
from batcher.core.request import NEVER_NS, LiveRequest
from batcher.core.settings import Adaptive


def make_late(request: LiveRequest, model: Model) -> None:
    """Put a request among those that can only be late, until it has waited for too long."""
    limits = model.settings.queue
    request.rank = LATE
    request.promotes_ns = request.arrived.arrival_ns + limits.ageing_ns * limits.priority_levels


def promote(lane: Lane, model: Model, now_ns: int) -> None:
    """Move what has waited for long enough a level up; what is late, to the front."""
    limits = model.settings.queue
    lane.promotes_ns = NEVER_NS
    for request in list(lane):
        if request.promotes_ns > now_ns:
            lane.promotes_ns = min(lane.promotes_ns, request.promotes_ns)
            continue
        lane.discard(request)
        if request.rank == LATE:
            request.rank, request.promotes_ns = AGED, NEVER_NS
        else:
            # Over its share or not, a level is two ranks.
            gained = 1 + (now_ns - request.promotes_ns) // limits.ageing_ns
            request.rank = max(model.best_rank, request.rank - 2 * gained)
            request.promotes_ns += gained * limits.ageing_ns
            if request.rank == model.best_rank:
                request.promotes_ns = NEVER_NS
        lane.add(request)


def reorder(model: Model) -> None:
    """Put what waits where a changed policy would have put it."""
    for request in list(model.queue):
        model.queue.discard(request)
        if isinstance(model.settings.policy, Adaptive):
            request.order_by_due()
        else:
            request.order = NEVER_NS + request.arrived.arrival_ns
        model.queue.add(request)
