"""How waiting changes a request's worth: levels gained, and the way out for what is late.

What is late waits for time that nobody else needs. When it has waited for as long as its levels last
it comes first, in the part of all rows that is kept for such requests. Those that would have to wait
for that part for another level's time are over: their callers are told. So nobody waits for longer
than `(priority_levels + 1) * ageing`.
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
    """Put a request among those that can only be late, until it has waited for too long."""
    limits = model.settings.queue
    request.rank = BEST_EFFORT
    request.promote_at_ns = (
        request.arrived.arrival_ns + limits.promote_after_ns * limits.priority_levels
    )


def promote(group: BatchGroup, model: Model, fleet: Fleet, now_ns: int) -> list[LiveRequest]:
    """Move what has waited for long enough a level up; what is late, to the front.

    Returns the late ones for which there is no room at the front. They still wait.
    """
    limits = model.settings.queue
    group.promote_at_ns = NEVER_NS
    over: list[LiveRequest] = []
    aged = sum(
        priority_class.rows for priority_class in group.classes if priority_class.rank == PROMOTED
    )
    room = _aged_rows(model, fleet)
    for request in list(group):
        if request.promote_at_ns > now_ns:
            group.promote_at_ns = min(group.promote_at_ns, request.promote_at_ns)
            continue
        if request.rank == BEST_EFFORT:
            if aged + request.rows > room and aged and not request.begun:
                over.append(request)
                continue
            aged += request.rows
        group.discard(request)
        if request.rank == BEST_EFFORT:
            request.rank, request.promote_at_ns = PROMOTED, NEVER_NS
        else:
            # A level is two ranks; who was over its share gains all at once.
            gained = 1 + (now_ns - request.promote_at_ns) // limits.promote_after_ns
            since_ns = request.promote_at_ns + (gained - 1) * limits.promote_after_ns
            better = 0 if request.rank % 2 else request.rank - 2 * gained
            request.rank = max(model.best_rank, better)
            request.promote_at_ns = promotion_ns_of(request, since_ns, limits)
        group.add(request)
    return over


def next_promotion_at_ns(models: Iterable[Model]) -> int:
    """When the first of those who are late has waited for long enough.

    Gaining a level needs no such moment: it tells only when the next batch is formed.
    """
    soonest_ns = NEVER_NS
    for model in models:
        for group in model.queue.groups.values():
            priority_class = group.classes[-1]
            if priority_class.rank == BEST_EFFORT:
                moment_ns = min([request.promote_at_ns for request in priority_class.requests])
                soonest_ns = min(soonest_ns, moment_ns)
    return soonest_ns


def _aged_rows(model: Model, fleet: Fleet) -> float:
    """How many rows of what has waited too long are surely served within a level's time.

    Half of what could be, because batches are not always those that serve most.
    """
    rate = model.times.best_rate() * fleet.slots(model.name)
    return (
        rate * model.settings.queue.promote_after_ns / PROMOTED_ONE_IN / 2 if rate else float("inf")
    )


def reorder(model: Model, now_ns: int, *, was_deadline_aware: bool, resized: bool = False) -> None:
    """Put what waits where the model's new settings want it.

    Its own times stay as they were when it was admitted. Only who has no due time gets one where
    the settings now have a target, counted from now: nobody is late because of the change. What fits
    no batch any more is cut into pieces that do; where the largest batch was `resized`, what was cut
    goes on in pieces of the new size.
    """
    for request in model.queue.take_all():
        _place(request, model, now_ns, was_deadline_aware=was_deadline_aware)
        if resized or request.rows > model.settings.max_batch_size:
            split(request, model)
        model.queue.add(request)


def come_back(request: LiveRequest, model: Model, now_ns: int) -> None:
    """Have a request that has run in vain wait again, where it would stand had it never left.

    The settings may have changed meanwhile.
    """
    request.requeues += 1
    _place(request, model, now_ns, was_deadline_aware=True)
    if request.rows > model.settings.max_batch_size:
        split(request, model)
    model.queue.add(request)


def _place(request: LiveRequest, model: Model, now_ns: int, *, was_deadline_aware: bool) -> None:
    """Give a request that is not in the queue its bucket, order and rank under the settings of now.

    `was_deadline_aware`: it waited under a deadline-aware policy, in the order of its due time.
    """
    target_ns = model.target_ns
    request.bucket = model.bucket_of(request.arrived.shapes)
    due_ns = request.due_ns
    if due_ns is None and target_ns is not None:
        request.due_ns = now_ns + target_ns
    if model.policy.deadline_aware:
        if request.due_ns != due_ns or not was_deadline_aware:
            request.set_finish_by()
        _rank_anew(request, model, now_ns, was_ranked=was_deadline_aware)
        return
    if was_deadline_aware and (not request.start or request.finish_by_ns < NEVER_NS):
        # In the order in which they came, or in which it is their turn again.
        request.finish_by_ns = NEVER_NS + request.arrived.arrival_ns
    # Nothing is late where nothing is planned.
    _rank_anew(request, model, now_ns, was_ranked=request.rank != BEST_EFFORT)


def _rank_anew(request: LiveRequest, model: Model, now_ns: int, *, was_ranked: bool) -> None:
    """A request's line under new settings; it waits for a better one no longer than they say.

    What is late is served as the settings of then have promised. What was not ranked by these rules
    enters its level.
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
    """Give a request the rank of its level, and the moment at which it has earned a better one."""
    request.rank = rank_of(model.level(request.arrived.priority), over_share=False)
    came_ns = request.arrived.arrival_ns
    request.promote_at_ns = promotion_ns_of(request, came_ns, model.settings.queue)


def rank_before_promotion(request: LiveRequest, model: Model) -> int:
    """A request's rank without the levels that it has gained by waiting.

    Else the groups of one caller would all come first, once that one has made enough of them.
    """
    return max(rank_of(model.level(request.arrived.priority), over_share=False), request.rank)
