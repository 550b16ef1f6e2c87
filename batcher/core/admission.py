"""Who may enter a queue.

Bounds: the requests, rows and bytes that may wait; a full queue makes room for what is worth more
than the least valuable request in it. And predictions: who can only be late, whatever happens, is
told so at once, while a retry elsewhere still helps. A refusal happens in the same step as
enqueueing would, so no bound can be overrun between a check and its use.
"""

from __future__ import annotations

from batcher.core.commands import Reason
from batcher.core.events import RequestArrived
from batcher.core.model import Model
from batcher.core.policies.reach import TOLERANCE_NS
from batcher.core.queue import LATE, ModelQueue, rank_of
from batcher.core.request import NEVER_NS, LiveRequest
from batcher.core.settings import Adaptive, ModelSettings

QUEUE_FULL_RETRY_NS = 100_000_000
"""What a caller is told to wait when a queue is full: long against a window, short for a person."""

UNAVAILABLE_RETRY_NS = 1_000_000_000
"""What a caller is told to wait when no instance is up: about the time a small model loads in."""


PROBE_NS = 1_000_000_000
"""While every prediction says late, one request this often runs all the same, to see."""


def refusal(arrived: RequestArrived, settings: ModelSettings, queue: ModelQueue) -> Reason | None:
    """The bound that this request would break, or None when it may enter."""
    limits = settings.queue
    if arrived.rows > settings.max_batch_size:
        return Reason.TOO_MANY_ROWS
    if queue.requests >= limits.max_requests:
        return Reason.QUEUE_REQUESTS
    if limits.max_rows is not None and queue.rows + arrived.rows > limits.max_rows:
        return Reason.QUEUE_ROWS
    if limits.max_bytes is not None and queue.nbytes + arrived.nbytes > limits.max_bytes:
        return Reason.QUEUE_BYTES
    return None


def with_times(arrived: RequestArrived, settings: ModelSettings, now_ns: int) -> LiveRequest:
    """The request with its due time and its expiry, the earlier of deadline and queue timeout."""
    due_ns = arrived.due_ns
    if due_ns is None and settings.target_ns is not None:
        due_ns = arrived.arrival_ns + settings.target_ns
    expires_ns = arrived.expires_ns
    if settings.queue.timeout_ns is not None:
        timeout_ns = arrived.arrival_ns + settings.queue.timeout_ns
        expires_ns = timeout_ns if expires_ns is None else min(expires_ns, timeout_ns)
    request = LiveRequest(arrived, due_ns, expires_ns)
    # In the order in which they came, which is not always that of their stamps.
    request.order = NEVER_NS + now_ns
    if type(settings.policy) is Adaptive:
        request.order_by_due()
    return request


def room_for(request: LiveRequest, model: Model) -> list[LiveRequest]:
    """Waiting requests that are worth less than this one, and whose room it needs.

    Empty when they would not make enough room; then the newcomer is the one to be refused.
    """
    limits, queue = model.settings.queue, model.queue
    requests = queue.requests + 1 - limits.max_requests
    rows = 0 if limits.max_rows is None else queue.rows + request.rows - limits.max_rows
    nbytes = 0 if limits.max_bytes is None else queue.nbytes + request.nbytes - limits.max_bytes
    victims: list[LiveRequest] = []
    for victim in queue.worst_first():
        if requests <= 0 and rows <= 0 and nbytes <= 0:
            return victims
        if (victim.rank, victim.order) <= (request.rank, request.order):
            return []
        victims.append(victim)
        requests -= 1
        rows -= victim.rows
        nbytes -= victim.nbytes
    return victims if requests <= 0 and rows <= 0 and nbytes <= 0 else []


def rank(request: LiveRequest, model: Model, instances: int, now_ns: int) -> int:
    """The request's line: its priority level, and whether its tenant is over its share."""
    limits = model.settings.queue
    level = request.arrived.priority or limits.default_priority
    level = min(level, limits.priority_levels)
    over_share = False
    if model.shares:
        capacity = model.best_rate() * instances
        over_share = model.shares.over(request.arrived.tenant, request.rows, capacity, now_ns)
    return rank_of(level, over_share=over_share)


def done_ns(request: LiveRequest, model: Model, soonest_ns: float) -> float | None:
    """When the request would be done at best, None where nothing is known of what it takes."""
    times = model.times.get(request.arrived.shapes)
    if times is None or not times.curve:
        return None
    return soonest_ns + times.curve[request.rows] * times.margin - TOLERANCE_NS


def late_rank(request: LiveRequest, model: Model, done_ns: float) -> int | None:
    """The rank of a request that can only be late: `LATE` where it is served, None where not."""
    expires_ns = NEVER_NS if request.expires_ns is None else request.expires_ns
    return LATE if model.serves_late and done_ns <= expires_ns else None
