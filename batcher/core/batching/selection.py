"""Whose turn it is: of the batches that could all go now, the one that goes first.

A model's batch groups cannot share a batch, so each of them costs the device a batch of its own. A
caller who makes many groups, each of a request or two, must cost neither the decision nor the others
much. So no more than `MOST_ASKED` groups are put to the policy, and of their batches those that
waste device time give way:

- Few groups (`FEW`) are kinds of requests, each with a claim of its own: the batch that must start
  first goes first, unless it makes a better one late (`first`). Buckets that a model is padded to are
  no more than its configuration has, and do not count.
- Where more are planned for due times and all can be in time, the one that is due first goes. Where
  they cannot, the one with the best rank goes, and among equals the one that makes the most of its
  time.
- Where nothing is planned, the best priority class goes first, and in it the batch that makes the
  most of its time.
- One batch in `DUE_FIRST_ONE_IN` goes to what is due first, or has waited longest. So whatever others do, no
  group waits for ever.

Between models that share a device, the batch that must start first goes first (`first`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from batcher.core.devices.fleet import Fleet, Instance
from batcher.core.events import Shapes
from batcher.core.faults.bisection import SuspectGroup
from batcher.core.model import USED_NS, Model
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.queue import ModelQueue
from batcher.core.queueing.ranks import BEST_EFFORT, PROMOTED
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.promotion import rank_before_promotion
from batcher.core.times import NEVER_NS, TOLERANCE_NS

MOST_ASKED = 16
"""The batch groups of a model that are put to its policy in one decision."""

FEW = 4
"""So many groups are taken for as many kinds of requests, each with a claim of its own. With 6 what one
caller's groups cost the others grows by a tenth; with 3, groups that could all be served wait longer."""

DUE_FIRST_ONE_IN, OLDEST_FIRST_ONE_IN = 8, 2
"""One batch of a model in so many goes to what is due first, whatever it wastes; where nothing is
planned for, to what has waited longest. `bench/sim groups`: with 4 and 2, a stream at 70 % of the device
beside twice what that can serve of groups of one loses 3 % instead of 2 %."""

PATIENT_PART = 0.125
"""A model that has no target, or none that can be met, gets so much of the device for each part of
one that has, while neither can wait."""


@dataclass(slots=True)
class Proposal:
    """A batch that could be dispatched now: requests of a lane, or a group that runs again.

    `filled` is a split request whose rows fill the room that is left, and how many of them.
    """

    model: Model
    instance: Instance
    group: BatchGroup | None
    shapes: Shapes
    requests: Sequence[LiveRequest]
    rows: int
    expected_ns: float
    """What it is expected to take; 0 where nothing is known of that."""
    begins_ns: int
    """When it begins: at once, or when its instance is done with what it runs."""
    filled: tuple[LiveRequest, int] | None = None
    suspects: SuspectGroup | None = None
    longest_ns: float | None = None
    """What it may take beside the models that share the device."""
    extra: tuple[LiveRequest, ...] = ()
    """Requests of other lanes that come along."""


def asked(queue: ModelQueue) -> tuple[Collection[BatchGroup], bool]:
    """The groups that are put to the policy, and whether others wait beside them.

    Half of them are the most urgent, half are those of the best priority class that have most
    requests: what goes first is among these, but for a few of equal worth.
    """
    groups = queue.groups.values()
    if len(groups) <= MOST_ASKED:
        return groups, False
    by_turn = sorted(
        [
            (group.classes[0].rank, group.classes[0].finish_by[0], place, group)
            for place, group in enumerate(groups)
        ]
    )
    by_size = sorted(
        [
            (rank, -len(group.classes[0].requests), place, group)
            for rank, _, place, group in by_turn
            if len(group.classes[0].requests) > 1
        ]
    )
    half = MOST_ASKED // 2
    chosen = {place: group for _, _, place, group in (*by_turn[:half], *by_size[:half])}
    for _, _, place, group in by_turn[half:]:
        if len(chosen) == MOST_ASKED:
            break
        chosen[place] = group
    return chosen.values(), True


def candidates(
    model: Model, ready: Sequence[Proposal], slots: int, now_ns: int
) -> Sequence[Proposal]:
    """Those of one model's batches that may go now; `slots` take batches at once.

    Of few, all that share the best rank where nothing is planned, and all where it is. Of more, one.
    """
    deadline_aware = model.policy.deadline_aware
    planned = deadline_aware and model.target_ns is not None and model.reachable
    kinds = len(ready)
    if model.buckets is not None and kinds > FEW:
        # Buckets are the configuration's, and no caller can make more of them.
        kinds = len({each.requests[0].arrived.batch_key for each in ready})
    if len(ready) < 2 or (kinds <= FEW and deadline_aware):
        return ready
    if kinds <= FEW:
        best = min([each.requests[0].rank for each in ready])
        return [each for each in ready if each.requests[0].rank == best]
    if not planned:
        return [_most_used(model, ready, now_ns)]
    for each in ready:
        if each.requests[0].canary or each.requests[0].rank == PROMOTED:
            return [each]
    return [_in_time(model, ready, slots, now_ns)]


def _most_used(model: Model, ready: Sequence[Proposal], now_ns: int) -> Proposal:
    """The batch of the best class that makes most of its time, or the one that waits longest."""
    classes = [rank_before_promotion(each.requests[0], model) for each in ready]
    best = min(classes)
    came_ns = [each.requests[0].arrived.arrival_ns for each in ready]
    if model.dispatch_count % OLDEST_FIRST_ONE_IN:
        uses = _uses(ready)
        return min(
            [
                (-uses[place], came_ns[place], place, each)
                for place, each in enumerate(ready)
                if classes[place] == best
            ]
        )[3]
    aged_ns = now_ns - model.settings.queue.promote_after_ns
    return min(
        [
            (came_ns[place], place, each)
            for place, each in enumerate(ready)
            if classes[place] == best or came_ns[place] <= aged_ns
        ]
    )[2]


def _in_time(model: Model, ready: Sequence[Proposal], slots: int, now_ns: int) -> Proposal:
    """The first of those batches that are left when all that are left can be in time."""
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
    uses = _uses(ready)
    ranks = [min([request.rank for request in each.requests]) for each in ready]
    worths = [(ranks[place], -uses[place], turn, place) for turn, (*_, place) in enumerate(by_due)]
    return ready[min(worths)[3]]


def _uses(ready: Sequence[Proposal]) -> list[float]:
    """How much of what each batch takes its rows would take in the batches that serve most.

    To a hundredth: what is as good as equal goes by turn.
    """
    cheapest_ns: dict[Shapes, float] = {}
    uses: list[float] = []
    for each in ready:
        bucket = each.shapes
        if each.expected_ns <= 0:
            uses.append(round(each.rows / each.model.settings.max_batch_size, 2))
            continue
        if bucket not in cheapest_ns:
            cheapest_ns[bucket] = each.model.times.cost_ns(bucket, 1)
        uses.append(round(each.rows * cheapest_ns[bucket] / each.expected_ns, 2))
    return uses


def must_start_ns(proposal: Proposal, now_ns: int) -> float:
    """When a batch must start for its most urgent request; `NEVER_NS` if it can wait for others.

    What is late can. So can what has no due time, or none that could be met, until it has given way
    for as long as it takes to gain a level, or for half of its caller's patience.
    """
    model, take = proposal.model, proposal.requests
    must_ns: float = NEVER_NS
    if model.reachable:
        due_ns = [r.due_ns for r in take if r.due_ns is not None and r.rank != BEST_EFFORT]
        must_ns = min(due_ns) - proposal.expected_ns if due_ns else NEVER_NS
        if len(due_ns) == len(take):
            return must_ns
    for request in take:
        if request.rank == BEST_EFFORT or (request.due_ns is not None and model.reachable):
            continue
        came_ns = request.arrived.arrival_ns
        until_ns = came_ns + model.settings.queue.promote_after_ns
        if request.expires_ns is not None:
            until_ns = min(until_ns, (came_ns + request.expires_ns) // 2)
        if until_ns <= now_ns:
            must_ns = min(must_ns, until_ns)
    return must_ns


def first(ready: Sequence[Proposal], now_ns: int) -> Proposal:
    """Of batches that could all go now, the one that goes first."""
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
        # The other cannot wait for the first. If the first cannot wait either, the device goes to
        # the model that had less of it, and within a model to what is worth more.
        waits = now_ns + other.expected_ns <= must_ns
        if other.model is best.model:
            comes_first = _worth(other) < _worth(best)
        else:
            comes_first = _used_ns(other.model) < _used_ns(best.model)
        if waits or comes_first:
            best, must_ns = other, other_must_ns
    return best


def _worth(proposal: Proposal) -> tuple[int, int]:
    """The best line that a batch has somebody of, and when the first of these is due."""
    return min([(request.rank, request.finish_by_ns) for request in proposal.requests])


def _used_ns(model: Model) -> float:
    """What a model had of the device; one without a target that it could meet has a small part."""
    patient = model.target_ns is None or not model.reachable
    return model.used_ns / PATIENT_PART if patient else model.used_ns


def charge(proposal: Proposal, models: Collection[Model], fleet: Fleet) -> None:
    """Note what a batch costs the device that its model shares."""
    model, device = proposal.model, proposal.instance.up.device
    model.used_ns += model.times.cost_ns(proposal.shapes, proposal.rows)
    if model.used_ns > USED_NS:
        for other in models:
            other.used_ns /= 2
    sharing = [each for each in models if fleet.on_device(each.name, device)]
    used_ns = sum([each.used_ns for each in sharing])
    for each in sharing:
        each.part = max(each.used_ns / used_ns if used_ns else 1.0, 1 / len(sharing))
