"""Ranks: which requests are served first, and until when a request must be done.

Rank 0 is promoted requests; then come the priority levels, two ranks for each (tenants within their
share before those over it); then best-effort requests. A lower rank is served first.
"""

from __future__ import annotations

from typing import Final

from batcher.core.queueing.request import LiveRequest
from batcher.core.settings import QueueLimits
from batcher.core.times import NEVER_NS

PROMOTED: Final = 0
"""The rank of what has waited for too long, whatever it was before."""

PROMOTED_ONE_IN: Final = 32.0
"""Of all rows, one in so many is for those, whatever else there is to do."""

BEST_EFFORT: Final = 1 << 20
"""The rank of what can only be late."""


def rank_of(level: int, *, over_share: bool) -> int:
    """The rank of a priority level (1 is the most urgent) and of a tenant's standing in it."""
    return 2 * level + over_share


def default_rank(limits: QueueLimits) -> int:
    """The rank of a request that names no priority and whose tenant is within its share."""
    return rank_of(min(limits.default_priority, limits.priority_levels), over_share=False)


def promotion_ns_of(request: LiveRequest, since_ns: int, limits: QueueLimits) -> int:
    """When waiting has earned a request a better line; `NEVER_NS` if it never does.

    What is over its tenant's share is served from what the others leave. It comes to the front only
    where nothing else ends its wait, and when it has waited for longer than anybody should.
    """
    rank = request.rank
    if not rank_of(1, over_share=False) < rank < BEST_EFFORT:
        return NEVER_NS
    if rank % 2 == 0:
        return since_ns + limits.promote_after_ns
    if request.finish_by_ns < NEVER_NS:
        return NEVER_NS
    return since_ns + (limits.priority_levels + 1) * limits.promote_after_ns


def latest_finish_ns(request: LiveRequest) -> int:
    """When a request must be done: in time, or at least before its caller leaves."""
    # From `NEVER_NS` on, an order is no moment, only a place among others.
    if request.rank in (PROMOTED, BEST_EFFORT) or request.finish_by_ns >= NEVER_NS:
        return NEVER_NS if request.deadline_ns is None else request.deadline_ns
    return request.finish_by_ns
