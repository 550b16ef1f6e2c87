"""Requests with more rows than a batch holds: their pieces, and the order after each piece.

A split request has one place in its batch group, with as many rows as may go into one batch. When
these have run, the rest of it takes a new place, as if it had just arrived. So requests that came
meanwhile go first, those that come later wait for at most one batch of it, and it starves no more
than others. Room that is left in other batches is filled with its rows, where that delays no request
beyond its target.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from batcher.core.events import Shapes
from batcher.core.model import Model
from batcher.core.policies import PolicyInput
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.ranks import (
    LATE,
    late_turn_ns,
    latest_finish_ns,
    promotion_ns_of,
    rank_of,
)
from batcher.core.queueing.request import LiveRequest, Split
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.times import NEVER_NS, TOLERANCE_NS


def piece_rows(model: Model, shapes: Shapes) -> int:
    """The most rows of one piece: a whole batch, or fewer where others could not meet their targets."""
    most = model.most_rows(shapes)
    times = model.times.get(shapes)
    target_ns = model.target_ns if model.deadline_aware else None
    if target_ns is None or not model.reachable or not times:
        return most
    # Who comes just after a piece began waits for half of its target, and has the other half to run in.
    return min(most, max(1, bisect_right(times.curve, target_ns / 2) - 1))


def split(request: LiveRequest, model: Model) -> None:
    """Set how many rows of a waiting request go into its next batch, where they do not fit as a whole."""
    left = request.arrived.rows - request.start
    if request.split is None:
        if left <= model.most_rows(request.bucket):
            return
        request.split = Split(left)
    request.rows = min(left, piece_rows(model, request.bucket))


def later_pieces_ns(request: LiveRequest, times: ServiceTimes, slots: int) -> float:
    """Nanoseconds that the batches after a request's first one take, on all `slots` at once."""
    piece = request.rows
    batches = 1 + -(-request.later_rows // piece)
    rounds = -(-batches // slots) - 1
    return rounds * times.curve[min(piece, times.max_rows)]


def leave_time_for_rest(request: LiveRequest, after_ns: float) -> None:
    """Move `finish_by_ns` of the first piece forward, to leave `after_ns` for the others."""
    if request.finish_by_ns < NEVER_NS:
        request.finish_by_ns -= int(after_ns)


def next_turn(request: LiveRequest, model: Model, now_ns: int) -> None:
    """Give the rest of a request the place of a request that arrives now; the caller enqueues it."""
    target_ns, limit_ns = model.target_ns, request.limit_ns
    deadline_aware = model.deadline_aware
    request.finish_by_ns = (
        NEVER_NS + now_ns if target_ns is None or not deadline_aware else now_ns + target_ns
    )
    if deadline_aware and limit_ns < min(NEVER_NS, request.finish_by_ns):
        request.finish_by_ns = limit_ns
    if deadline_aware and request.rank == LATE:
        rank = rank_of(model.level(request.arrived.priority), over_share=False)
        request.finish_by_ns = late_turn_ns(rank, now_ns, model.settings.queue)
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
    """The split request whose rows fill the room that a batch has left, and how many of them.

    `take` are the batch's requests, of `rows` rows; `drop` are those that the policy gives up. None
    where nothing is split, or where the policy left other requests waiting: the batch would take
    longer at their cost.
    """
    if not model.fills_batches:
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
    if given.times and model.deadline_aware:
        curve, p95 = given.times.curve, given.times.p95
        # Only the limit of the split request counts: its rows run sooner than their turn.
        last_ns = min(rest.limit_ns, *map(latest_finish_ns, take))
        most = min(most, bisect_right(p95, last_ns - given.now_ns + TOLERANCE_NS) - 1)
        if given.longest_ns is not None:
            most = min(most, bisect_right(curve, given.longest_ns) - 1)
    room = min(most - rows, rest.arrived.rows - rest.start)
    return (rest, room) if room > 0 else None


def note_dispatched(request: LiveRequest, batch_id: int) -> bool:
    """Note that rows of a request run in a batch; returns whether none of its rows waits any more."""
    split = request.split
    if split is not None:
        split.batches.add(batch_id)
        if split.queued or request.suspect_parts:
            return False
    if request.suspect_parts:
        return False
    request.batch_id = batch_id
    return True


def note_done(request: LiveRequest, split: Split, batch_id: int, rows: int) -> bool:
    """Note that rows of a split request are done; returns whether all of them are."""
    split.left -= rows
    split.batches.discard(batch_id)
    if split.left and request.batch_id == batch_id:
        request.batch_id = min(split.batches)
    return not split.left
