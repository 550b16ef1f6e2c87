"""The starvation guard: what a request gains by waiting, and when a best-effort request is promoted.

A waiting request gains one priority level for every `promote_after`. A best-effort request is served
in time that no other request needs. When it has waited for `priority_levels * promote_after`, it is
promoted: promoted requests come first, with one row in `PROMOTED_ONE_IN` reserved for them. Those
which that part could not serve within another `promote_after` are refused. So no request waits for
much longer than `(priority_levels + 1) * promote_after`: how much that part serves is predicted, and a
request that has begun, or finds no other promoted one, is promoted in any case.
"""

from __future__ import annotations

from collections.abc import Iterable

from batcher.core.devices.fleet import Fleet
from batcher.core.model import Model
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.ranks import (
    BEST_EFFORT,
    PROMOTED,
    PROMOTED_ONE_IN,
    promotion_ns_of,
    rank_of,
)
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.splitting import split
from batcher.core.times import NEVER_NS


def make_best_effort(request: LiveRequest, model: Model) -> None:
    """Make a request best-effort, and set when it is promoted; the caller puts it into the queue."""
    limits = model.settings.queue
    request.rank = BEST_EFFORT
    request.promote_at_ns = (
        request.arrived.arrival_ns + limits.promote_after_ns * limits.priority_levels
    )


def promote(group: BatchGroup, model: Model, fleet: Fleet, now_ns: int) -> list[LiveRequest]:
    """Move requests of a group up whose `promote_at_ns` has come: a level, or from best-effort.

    Returns the best-effort requests for which too many are promoted already. They still wait.
    """
    limits = model.settings.queue
    group.promote_at_ns = NEVER_NS
    over: list[LiveRequest] = []
    promoted = sum(
        priority_class.rows for priority_class in group.classes if priority_class.rank == PROMOTED
    )
    room = _promoted_rows(model, fleet)
    for request in list(group):
        if request.promote_at_ns > now_ns:
            group.promote_at_ns = min(group.promote_at_ns, request.promote_at_ns)
            continue
        if request.rank == BEST_EFFORT:
            if promoted + request.rows > room and promoted and not request.begun:
                over.append(request)
                continue
            promoted += request.rows
        group.discard(request)
        if request.rank == BEST_EFFORT:
            request.rank, request.promote_at_ns = PROMOTED, NEVER_NS
        else:
            # A level is two ranks; a request over its tenant's share gains all levels at once.
            gained = 1 + (now_ns - request.promote_at_ns) // limits.promote_after_ns
            since_ns = request.promote_at_ns + (gained - 1) * limits.promote_after_ns
            better = 0 if request.rank % 2 else request.rank - 2 * gained
            request.rank = max(model.best_rank, better)
            request.promote_at_ns = promotion_ns_of(request, since_ns, limits)
        group.add(request)
    return over


def next_promotion_at_ns(models: Iterable[Model]) -> int:
    """When the first best-effort request is to be promoted; `NEVER_NS` if there is none.

    Gaining a level needs no wakeup: it matters only when the next batch is formed.
    """
    soonest_ns = NEVER_NS
    for model in models:
        for group in model.queue.groups.values():
            priority_class = group.classes[-1]
            if priority_class.rank == BEST_EFFORT:
                moment_ns = min([request.promote_at_ns for request in priority_class.requests])
                soonest_ns = min(soonest_ns, moment_ns)
    return soonest_ns


def _promoted_rows(model: Model, fleet: Fleet) -> float:
    """How many promoted rows are served within `promote_after`, in the part reserved for them.

    Half of that, because batches are not always of the most efficient size.
    """
    rate = model.times.best_rate() * fleet.slots(model.name)
    return (
        rate * model.settings.queue.promote_after_ns / PROMOTED_ONE_IN / 2 if rate else float("inf")
    )


def reorder(model: Model, now_ns: int, *, was_deadline_aware: bool, resized: bool = False) -> None:
    """Put all waiting requests where the model's new settings want them.

    Their own times stay as they were when they were admitted. A request without a due time gets one
    where the settings now have a target, counted from now, so that no request misses its target
    because of the change. A request that fits no batch any more is split; where the largest batch
    was `resized`, requests that are split go on in pieces of the new size.
    """
    for request in model.queue.take_all():
        _place(request, model, now_ns, was_deadline_aware=was_deadline_aware)
        if resized or request.rows > model.settings.max_batch_size:
            split(request, model)
        model.queue.add(request)


def requeue(request: LiveRequest, model: Model, now_ns: int) -> None:
    """Put a request whose batch failed back into the queue, where it was before it was dispatched.

    The settings may have changed meanwhile.
    """
    request.requeues += 1
    _place(request, model, now_ns, was_deadline_aware=True)
    if model.deadline_aware and request.finish_by_ns >= NEVER_NS:
        _set_due_again(request, model)
    if request.rows > model.settings.max_batch_size:
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
    # Without due times there are no best-effort requests.
    _rank_anew(request, model, now_ns, was_ranked=request.rank != BEST_EFFORT)


def _rank_anew(request: LiveRequest, model: Model, now_ns: int, *, was_ranked: bool) -> None:
    """Give a request its rank under new settings, and wait no longer for a better one than they say.

    A best-effort request stays one. A request that was not ranked by these rules enters its level.
    """
    if not was_ranked:
        enter_level(request, model)
        return
    request.rank = model.rank_now(request.rank)
    if request.rank != BEST_EFFORT:
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
