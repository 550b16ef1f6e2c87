"""Ranks: which requests are served first, and until when a request must be done.

First come the priority levels, two ranks for each (tenants within their share before those over it);
then late requests. A lower rank is served first.
"""

from __future__ import annotations

from typing import Final

from batcher.core.queueing.request import LiveRequest
from batcher.core.settings import QueueLimits
from batcher.core.times import NEVER_NS

LATE: Final = 1 << 20
"""The rank of requests that can no longer be answered by their due times, but within their limits."""


def rank_of(level: int, *, over_share: bool) -> int:
    """The rank of a priority level (1 is the most urgent), behind that of tenants within their share."""
    return 2 * level + over_share


def default_rank(limits: QueueLimits) -> int:
    """The rank of a request that names no priority and whose tenant is within its share."""
    return rank_of(min(limits.default_priority, limits.priority_levels), over_share=False)


def promotion_ns_of(request: LiveRequest, since_ns: int, limits: QueueLimits) -> int:
    """When a request that waits since `since_ns` gains a better rank; `NEVER_NS` if it never does.

    A request over its tenant's share is served from capacity that the others leave. It gains rank only
    where no due time or deadline ends its wait, and only after the longest wait that is allowed.
    """
    rank = request.rank
    if not rank_of(1, over_share=False) < rank < LATE:
        return NEVER_NS
    if rank % 2 == 0:
        return since_ns + limits.promote_after_ns
    if request.finish_by_ns < NEVER_NS:
        return NEVER_NS
    return since_ns + (limits.priority_levels + 1) * limits.promote_after_ns


def latest_finish_ns(request: LiveRequest) -> int:
    """When a request must be done: at `finish_by_ns`, or at its limit where it is late. `NEVER_NS` if never."""
    # From `NEVER_NS` on, `finish_by_ns` is no time, only a place among others.
    if request.rank == LATE or request.finish_by_ns >= NEVER_NS:
        return request.limit_ns
    return request.finish_by_ns


def late_turn_ns(rank: int, since_ns: int, limits: QueueLimits) -> int:
    """The turn of a late request that was of this rank, and waits since `since_ns`.

    A lesser level counts as having come `promote_after` later, a tenant over its share half of that.
    """
    return since_ns + (rank - rank_of(1, over_share=False)) * limits.promote_after_ns // 2
