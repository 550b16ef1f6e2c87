"""Chooses among batches that could all start now.

Batch groups cannot share a batch, so each costs the device a batch of its own. A caller that makes many
groups of one or two requests must cost neither the decision nor other callers much:

- A model's policy is asked about at most `MAX_GROUPS_ASKED` groups in one decision.
- Up to `MAX_KINDS` groups count as kinds of requests, each with a claim of its own. All their batches
  are candidates. Padding buckets are not counted: a model has no more than its configuration says.
- Of more groups, one batch is the candidate. Where all can be in time, it is the one that is due
  first. Else it has the best rank and, among equals, uses its time best: see `_efficiency`.
- Without due times, it is of the best priority class and uses its time best.
- One batch in `DUE_FIRST_ONE_IN` is the one that is due first, and without due times one in
  `OLDEST_FIRST_ONE_IN` the oldest. So every group is served, whatever other callers do.

Of the candidates of all models, the one that must start first goes first (`first`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from batcher.core.batching.proposal import Proposal, is_late_turn, must_start_ns
from batcher.core.events import Shapes
from batcher.core.model import Model
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.queue import ModelQueue
from batcher.core.queueing.ranks import LATE
from batcher.core.requests.promotion import rank_before_promotion
from batcher.core.times import TOLERANCE_NS

MAX_GROUPS_ASKED = 16
"""The batch groups of a model that its policy is asked about in one decision. It bounds the time of a
decision; half of them are the most urgent, half the largest."""

MAX_KINDS = 4
"""So many groups count as kinds of requests. With 6, one caller's groups cost the others a tenth more;
with 3, groups that could all be served wait longer (`bench/sim groups`)."""

DUE_FIRST_ONE_IN, OLDEST_FIRST_ONE_IN = 8, 2
"""One batch of a model in so many is the one that is due first, or without due times the oldest. The
first is a multiple of the second. With 4 and 2, a stream at 70 % of the device loses 3 % instead of 2 %
beside groups of one that ask for twice what the device can serve (`bench/sim groups`)."""


def groups_to_ask(queue: ModelQueue, late_turn_ns: int = 0) -> tuple[Collection[BatchGroup], bool]:
    """Returns the groups that a policy is asked about, and whether others wait beside them.

    Half of them are the most urgent, half are those of the best rank that have most requests. With
    them goes the one whose late request is next, whose turn is at `late_turn_ns`.
    """
    groups = queue.groups.values()
    if len(groups) <= MAX_GROUPS_ASKED:
        return groups, False
    by_urgency = sorted(
        [
            (group.classes[0].rank, group.classes[0].finish_by[0], place, group)
            for place, group in enumerate(groups)
        ]
    )
    by_size = sorted(
        [
            (rank, -len(group.classes[0].requests), place, group)
            for rank, _, place, group in by_urgency
            if len(group.classes[0].requests) > 1
        ]
    )
    half = MAX_GROUPS_ASKED // 2
    chosen = {place: group for _, _, place, group in (*by_urgency[:half], *by_size[:half])}
    for _, _, place, group in by_urgency[half:]:
        if len(chosen) == MAX_GROUPS_ASKED:
            break
        chosen[place] = group
    for place, group in enumerate(groups):
        last = group.classes[-1]
        if last.rank == LATE and last.finish_by[0] <= late_turn_ns:
            chosen[place] = group
            break
    return chosen.values(), True


def candidates(
    model: Model, ready: Sequence[Proposal], slots: int, now_ns: int
) -> Sequence[Proposal]:
    """Returns those of one model's batches that may start now; `slots` run batches at once.

    Of up to `MAX_KINDS` kinds, all; without due times, those of the best rank. Of more, one.
    """
    deadline_aware = model.deadline_aware
    planned = deadline_aware and model.target_ns is not None and model.reachable
    kinds = len(ready)
    if model.buckets is not None and kinds > MAX_KINDS:
        # Buckets are the configuration's, and no caller can make more of them.
        kinds = len({each.requests[0].arrived.batch_key for each in ready})
    if len(ready) < 2 or (kinds <= MAX_KINDS and deadline_aware):
        return ready
    if kinds <= MAX_KINDS:
        best = min([each.requests[0].rank for each in ready])
        return [each for each in ready if each.requests[0].rank == best]
    if not planned:
        return [_without_due_times(model, ready, now_ns)]
    for each in ready:
        if is_late_turn(each):
            return [each]
    return [_by_due_time(model, ready, slots, now_ns)]


def _without_due_times(model: Model, ready: Sequence[Proposal], now_ns: int) -> Proposal:
    """Returns the most efficient batch of the best priority class, or in its turn the oldest.

    A turn is for that class, too, and for requests that have waited long enough to gain a level.
    """
    ranks = [rank_before_promotion(each.requests[0], model) for each in ready]
    best = min(ranks)
    came_ns = [each.requests[0].arrived.arrival_ns for each in ready]
    if model.dispatch_count % OLDEST_FIRST_ONE_IN:
        efficiency = _efficiency(ready)
        return min(
            [
                (-efficiency[place], came_ns[place], place, each)
                for place, each in enumerate(ready)
                if ranks[place] == best
            ]
        )[3]
    promotable_ns = now_ns - model.settings.queue.promote_after_ns
    return min(
        [
            (came_ns[place], place, each)
            for place, each in enumerate(ready)
            if ranks[place] == best or came_ns[place] <= promotable_ns
        ]
    )[2]


def _by_due_time(model: Model, ready: Sequence[Proposal], slots: int, now_ns: int) -> Proposal:
    """Returns the batch that is due first, if all can be in time or it is its turn.

    Else the batch of the best rank, and among equals the most efficient one.
    """
    must_ns = [must_start_ns(each, now_ns) for each in ready]
    by_due = sorted(
        [
            (must_ns[place] + each.expected_ns, each.requests[0].arrived.arrival_ns, place)
            for place, each in enumerate(ready)
        ]
    )
    if model.dispatch_count % DUE_FIRST_ONE_IN == 0:
        return ready[by_due[0][2]]
    begins_ns = float(now_ns)
    for _, _, place in by_due:
        if begins_ns > must_ns[place] + TOLERANCE_NS:
            break
        begins_ns += ready[place].expected_ns / slots
    else:
        return ready[by_due[0][2]]
    efficiency = _efficiency(ready)
    ranks = [min([request.rank for request in each.requests]) for each in ready]
    worths = [
        (ranks[place], -efficiency[place], turn, place) for turn, (*_, place) in enumerate(by_due)
    ]
    return ready[min(worths)[3]]


def _efficiency(ready: Sequence[Proposal]) -> list[float]:
    """Returns for each batch: the time of its rows in the best batch size / the time of the batch.

    1 is best. Rounded to a hundredth, so that batches that are as good as equal go by their due times.
    """
    cheapest_ns: dict[Shapes, float] = {}
    efficiency: list[float] = []
    for each in ready:
        bucket = each.shapes
        if each.expected_ns <= 0:
            efficiency.append(round(each.rows / each.model.settings.max_batch_size, 2))
            continue
        if bucket not in cheapest_ns:
            cheapest_ns[bucket] = each.model.times.cost_ns(bucket, 1)
        efficiency.append(round(each.rows * cheapest_ns[bucket] / each.expected_ns, 2))
    return efficiency


def first(ready: Sequence[Proposal], now_ns: int) -> Proposal:
    """Returns the batch that starts first, of any model; `ready` is not empty.

    It is the one that must start first, unless another one on its device cannot wait for it, and it
    can wait for the other. Where neither can, the model goes first that has used less of the device,
    and within a model the batch of the best rank.
    """
    if len(ready) == 1:
        return ready[0]
    by_start = sorted(
        [
            (must_start_ns(each, now_ns), each.requests[0].arrived.arrival_ns, place)
            for place, each in enumerate(ready)
        ]
    )
    must_ns, _, place = by_start[0]
    best = ready[place]
    for other_must_ns, _, place in by_start[1:]:
        other = ready[place]
        if other.instance.up.device != best.instance.up.device:
            continue
        if now_ns + best.expected_ns <= other_must_ns:
            continue
        can_wait = now_ns + other.expected_ns <= must_ns
        if other.model is best.model:
            comes_first = _best_rank(other) < _best_rank(best)
        else:
            comes_first = other.model.device_use.used_ns < best.model.device_use.used_ns
        if can_wait or comes_first:
            best, must_ns = other, other_must_ns
    return best


def _best_rank(proposal: Proposal) -> tuple[int, int]:
    """Returns the best rank in a batch, and when the first request of that rank must finish.

    Late requests whose share of the device is due come before all others of their model.
    """
    if is_late_turn(proposal):
        return -1, 0
    return min([(request.rank, request.finish_by_ns) for request in proposal.requests])
