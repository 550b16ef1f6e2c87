"""Promotion: a waiting request gains one priority level for every `promote_after`, and new settings."""

from __future__ import annotations

from batcher.core.model import Model
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.ranks import LATE, promotion_ns_of, rank_of
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.splitting import split
from batcher.core.times import NEVER_NS


def promote(group: BatchGroup, model: Model, now_ns: int) -> None:
    """Move requests of a group up a level whose `promote_at_ns` has come."""
    limits = model.settings.queue
    group.promote_at_ns = NEVER_NS
    for request in list(group):
        if request.promote_at_ns > now_ns:
            group.promote_at_ns = min(group.promote_at_ns, request.promote_at_ns)
            continue
        group.discard(request)
        # A level is two ranks; a request over its tenant's share gains all levels at once.
        gained = 1 + (now_ns - request.promote_at_ns) // limits.promote_after_ns
        since_ns = request.promote_at_ns + (gained - 1) * limits.promote_after_ns
        better = 0 if request.rank % 2 else request.rank - 2 * gained
        request.rank = max(model.best_rank, better)
        request.promote_at_ns = promotion_ns_of(request, since_ns, limits)
        group.add(request)


def reorder(model: Model, now_ns: int, *, was_deadline_aware: bool, resized: bool = False) -> None:
    """Put all waiting requests where the model's new settings want them.

    Their own times stay as they were when they were admitted. A request without a due time gets one
    where the settings now have a target, counted from now, so that no request misses its target
    because of the change. A request that fits no batch any more is split; where the largest batch
    was `resized`, requests that are split go on in pieces of the new size.
    """
    for request in model.queue.take_all():
        _place(request, model, now_ns, was_deadline_aware=was_deadline_aware)
        if resized or request.rows > model.most_rows(request.bucket):
            split(request, model)
        model.queue.add(request)
    for request in model.queue.held.values():
        _place(request, model, now_ns, was_deadline_aware=was_deadline_aware)


def requeue(request: LiveRequest, model: Model, now_ns: int) -> None:
    """Put a request whose batch failed back into the queue, where it was before it was dispatched.

    The settings may have changed meanwhile.
    """
    request.requeues += 1
    _place(request, model, now_ns, was_deadline_aware=True)
    if model.deadline_aware and request.finish_by_ns >= NEVER_NS:
        _set_due_again(request, model)
    if request.rows > model.most_rows(request.bucket):
        split(request, model)
    model.queue.add(request)


def _set_due_again(request: LiveRequest, model: Model) -> None:
    """Give a request its due time that was dispatched under a policy which knows none."""
    has_one = request.due_ns is not None or request.deadline_ns is not None
    # Without a target, the rest of a split request waits for its turn.
    if has_one and (not request.start or model.target_ns is not None):
        request.set_finish_by()


def _place(request: LiveRequest, model: Model, now_ns: int, *, was_deadline_aware: bool) -> None:
    """Give a request that is not in the queue its bucket, order and rank under the settings of now.

    `was_deadline_aware`: it waited under a deadline-aware policy, in the order of its due time.
    """
    target_ns = model.target_ns
    request.bucket = model.bucket_of(request.arrived.shapes)
    due_ns = request.due_ns
    if due_ns is None and target_ns is not None:
        request.due_ns = now_ns + target_ns
    if model.deadline_aware:
        if request.due_ns != due_ns or not was_deadline_aware:
            request.set_finish_by()
        _rank_anew(request, model, now_ns, was_ranked=was_deadline_aware)
        return
    if was_deadline_aware and (not request.start or request.finish_by_ns < NEVER_NS):
        # In order of arrival, or of the turns of split requests.
        request.finish_by_ns = NEVER_NS + request.arrived.arrival_ns
    # Without due times no request is late.
    _rank_anew(request, model, now_ns, was_ranked=request.rank != LATE)


def _rank_anew(request: LiveRequest, model: Model, now_ns: int, *, was_ranked: bool) -> None:
    """Give a request its rank under new settings, and wait no longer for a better one than they say.

    A late request stays one. A request that was not ranked by these rules enters its level.
    """
    if not was_ranked:
        enter_level(request, model)
        return
    request.rank = model.rank_now(request.rank)
    if request.rank == LATE:
        model.late.waiting = True
    else:
        moment_ns = promotion_ns_of(request, now_ns, model.settings.queue)
        request.promote_at_ns = min(request.promote_at_ns, moment_ns)
        if moment_ns == NEVER_NS:
            request.promote_at_ns = NEVER_NS


def enter_level(request: LiveRequest, model: Model) -> None:
    """Give a request the rank of its level, and the moment at which it gains a better one."""
    request.rank = rank_of(model.level(request.arrived.priority), over_share=False)
    came_ns = request.arrived.arrival_ns
    request.promote_at_ns = promotion_ns_of(request, came_ns, model.settings.queue)


def rank_before_promotion(request: LiveRequest, model: Model) -> int:
    """A request's rank without the levels that it has gained by waiting.

    Else the groups of one caller would all come first, once that one has made enough of them.
    """
    return max(rank_of(model.level(request.arrived.priority), over_share=False), request.rank)
