"""Requests with more rows than a batch holds: their pieces, and whose turn it is after each.

A split request has one place in its lane, with as many rows as may go into one batch. When these
have run, the rest of it takes a new place, as if it had just arrived: so whoever came meanwhile
goes first, whoever comes later waits for at most one batch of it, and it starves no more than
anybody else. What room others' batches have is filled with its rows, where that makes nobody late.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from batcher.core.events import Shapes
from batcher.core.model import Model
from batcher.core.policies import PolicyInput
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.ranks import (
    BEST_EFFORT,
    PROMOTED,
    latest_finish_ns,
    promotion_ns_of,
    rank_of,
)
from batcher.core.queueing.request import LiveRequest, Split
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.times import NEVER_NS, TOLERANCE_NS

PIECE_PART = 0.5
"""A piece takes no longer than this, in targets: whoever comes while it runs is still in time."""


def piece_rows(model: Model, shapes: Shapes) -> int:
    """The most rows of one piece: a whole batch, or what leaves others time to be in time."""
    most = model.settings.max_batch_size
    times = model.times.get(shapes)
    target_ns = model.target_ns if model.policy.deadline_aware else None
    if target_ns is None or not model.reachable or not times:
        return most
    return min(most, max(1, bisect_right(times.curve, PIECE_PART * target_ns) - 1))


def split(request: LiveRequest, model: Model) -> None:
    """Cut the first piece off a request that waits, where it fits no batch as a whole."""
    left = request.arrived.rows - request.start
    if request.split is None:
        if left <= model.settings.max_batch_size:
            return
        request.split = Split(left)
    request.rows = min(left, piece_rows(model, request.bucket))


def rest_ns(request: LiveRequest, model: Model, times: ServiceTimes, slots: int) -> float:
    """What the batches after the first one take, on all `slots` at once."""
    piece = request.rows
    batches = 1 + -(-request.later_rows // piece)
    rounds = -(-batches // slots) - 1
    return rounds * times.curve[min(piece, model.settings.max_batch_size)]


def start_by(request: LiveRequest, after_ns: float) -> None:
    """Have the first piece be done early enough for those that come after it."""
    if request.finish_by_ns < NEVER_NS:
        request.finish_by_ns -= int(after_ns)


def next_turn(request: LiveRequest, model: Model, now_ns: int) -> None:
    """Give the rest of a request the place of one that arrives now."""
    request.canary = False
    target_ns, deadline_ns = model.target_ns, request.deadline_ns
    deadline_aware = model.policy.deadline_aware
    request.finish_by_ns = (
        NEVER_NS + now_ns if target_ns is None or not deadline_aware else now_ns + target_ns
    )
    if deadline_aware and deadline_ns is not None and deadline_ns < request.finish_by_ns:
        request.finish_by_ns = deadline_ns
    if deadline_aware and request.rank in (PROMOTED, BEST_EFFORT):
        # One piece was served because it had waited for so long; the next has not.
        request.rank = BEST_EFFORT
        request.promote_at_ns = now_ns + model.settings.queue.promote_after_ns
        return
    # Levels that its first rows have gained by waiting are not the rest's.
    over_share = bool(request.rank % 2)
    request.rank = rank_of(model.level(request.arrived.priority), over_share=over_share)
    request.promote_at_ns = promotion_ns_of(request, now_ns, model.settings.queue)


def fill(
    group: BatchGroup,
    take: Sequence[LiveRequest],
    drop: Sequence[LiveRequest],
    rows: int,
    model: Model,
    given: PolicyInput,
) -> tuple[LiveRequest, int] | None:
    """Whose rows fill the room that a batch has left, and how many of them.

    `drop` is given up by the policy. None where a policy left others waiting, for whom the batch
    would become longer.
    """
    if not model.policy.fills_batches:
        return None
    rest: LiveRequest | None = None
    taken = {request.id for request in take}
    given_up = {request.id for request in drop}
    for request in group:
        if request.id in given_up:
            continue
        if request.id in taken:
            if request.split is not None:
                return None
        elif request.split is None:
            return None
        elif rest is None:
            rest = request
    if rest is None:
        return None
    most = max(rows, piece_rows(model, group.key[1]))
    if given.times and model.policy.deadline_aware:
        curve, p95 = given.times.curve, given.times.p95
        # The rest itself is only early: its order is its turn.
        deadline_ns = NEVER_NS if rest.deadline_ns is None else rest.deadline_ns
        last_ns = min(deadline_ns, *map(latest_finish_ns, take))
        most = min(most, bisect_right(p95, last_ns - given.now_ns + TOLERANCE_NS) - 1)
        if given.longest_ns is not None:
            most = min(most, bisect_right(curve, given.longest_ns) - 1)
    room = min(most - rows, rest.arrived.rows - rest.start)
    return (rest, room) if room > 0 else None


def runs(request: LiveRequest, batch_id: int) -> bool:
    """Some rows of a request run in a batch; returns whether none of it waits any more."""
    split = request.split
    if split is not None:
        split.batches.add(batch_id)
        if split.queued or request.suspect_parts:
            return False
    if request.suspect_parts:
        return False
    request.batch_id = batch_id
    return True


def part_done(request: LiveRequest, split: Split, batch_id: int, rows: int) -> bool:
    """Some rows of a split request are done; returns whether all of them are."""
    split.left -= rows
    split.batches.discard(batch_id)
    if split.left and request.batch_id == batch_id:
        request.batch_id = min(split.batches)
    return not split.left
