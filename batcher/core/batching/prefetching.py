"""Forms a batch shortly before its instance is free, so that the instance need not wait for it."""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.batching.late_entitlement import late_entitlement_ns
from batcher.core.batching.policy_calls import Answers, ask
from batcher.core.batching.proposal import Proposal
from batcher.core.batching.selection import candidates, first, groups_to_ask
from batcher.core.devices.fleet import Fleet
from batcher.core.model import Model
from batcher.core.policies import PolicyInput
from batcher.core.times import NEVER_NS


def block(model: Model, fleet: Fleet, now_ns: int) -> None:
    """Note that none of the model's batches can begin until one ends, and when one may be prefetched."""
    model.blocked = True
    model.prefetch_at_ns = NEVER_NS
    if model.handling.gap_ns or model.times.pipelined:
        instance = fleet.next_to_prefetch(model.name, now_ns)
        if instance is not None:
            model.prefetch_at_ns = fleet.prefetch_at_ns(instance)


def prefetch(model: Model, fleet: Fleet, answers: Answers, now_ns: int) -> Sequence[Proposal]:
    """Returns the batch to prefetch on the instance that is free soonest, if there is one.

    The policy is asked what it will decide when that instance is free. Where no later arrival could
    change the batch, because it is full or leaves requests behind, it is formed now; and so is any
    batch where the round trip to a backend is known, which it would idle for, or the time of a copy. The
    policy sees an instance that is free earlier by as much as prefetching saves.
    """
    if not model.blocked:
        block(model, fleet, now_ns)
    if model.prefetch_at_ns > now_ns:
        return ()
    prefetch_at_ns, model.prefetch_at_ns = model.prefetch_at_ns, NEVER_NS
    instance = fleet.next_to_prefetch(model.name, now_ns)
    if instance is None or not model.may_prefetch:
        return ()
    if fleet.prefetch_at_ns(instance) > now_ns:
        # Another instance was to be free first, and takes longer than expected.
        model.prefetch_at_ns = fleet.prefetch_at_ns(instance)
        return ()
    free_ns = fleet.free_ns(model.name, now_ns)
    begins_ns = int(free_ns[0])
    found = Answers()
    ready: list[Proposal] = []
    late_ns = late_entitlement_ns(model, len(free_ns), begins_ns)
    groups, _ = groups_to_ask(model.queue, model.late.turn_ns)
    for group in groups:
        times = model.times.of(group.key[1])
        first_ns = free_ns[0] - model.handling.saved_ns
        if times.copies:
            # It is copied until then, unless it is too late for that.
            first_ns = max(now_ns, free_ns[0] - times.ahead_ns(min(group.rows, times.max_rows)))
        at_ns = sorted([first_ns, *free_ns[1:]])
        given = PolicyInput(int(at_ns[0]), at_ns, times, model.reachable, late_ns=late_ns)
        proposal = ask(model, instance, group, given, found)
        if proposal is not None:
            proposal.begins_ns = begins_ns
            ready.append(proposal)
    if not ready:
        return ()
    best = first(candidates(model, ready, len(free_ns), begins_ns), begins_ns)
    if not _is_final(best, found):
        return ()
    # What the policy gives up is given up with this batch only; else it may change its mind.
    answers.given_up += found.given_up
    model.prefetch_at_ns = prefetch_at_ns
    return (best,)


def _is_final(proposal: Proposal, found: Answers) -> bool:
    """Whether a batch that begins later is formed now.

    Nothing in it expires until then; and it stays the same whatever arrives or ends, or its backend or its
    device would idle for a round trip or a copy if it were sent in its turn.
    """
    group, requests = proposal.group, proposal.requests
    assert group is not None
    begins_ns = proposal.begins_ns
    if any(r.expires_ns is not None and r.expires_ns <= begins_ns for r in requests):
        return False
    left = group.rows
    for _, given_up in found.given_up:
        left -= sum([r.rows for r in given_up if r.group_key == group.key])
    if proposal.model.handling.round_trip_ns or proposal.model.times.pipelined:
        return True
    return proposal.rows >= proposal.model.most_rows(group.key[1]) or proposal.rows < left
