"""Forms the batch that runs next, over all models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from batcher.core.batching.filling import PlannedBatch, fill_up
from batcher.core.batching.late_entitlement import late_entitlement_ns
from batcher.core.batching.policy_calls import Answers, ask, expected_rate
from batcher.core.batching.prefetching import prefetch
from batcher.core.batching.proposal import Proposal
from batcher.core.batching.retries import retry_of
from batcher.core.batching.selection import candidates, first, groups_to_ask
from batcher.core.devices.fleet import Fleet
from batcher.core.devices.instances import Instance
from batcher.core.devices.sharing import longest_wait_ns
from batcher.core.model import Model
from batcher.core.policies import PolicyInput
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.request import LiveRequest


@dataclass(slots=True)
class Formation(Answers):
    """The batch that runs next, if one is ready; what policies gave up; when to ask them again."""

    proposal: Proposal | None = None


def form(
    models: Mapping[str, Model], fleet: Fleet, live: Mapping[int, LiveRequest], now_ns: int
) -> Formation:
    """Ask every policy that has something waiting and a free instance; returns the next batch.

    Dispatch it, end what was given up, and call again, until there is neither.
    """
    formation = Formation()
    ready: list[Proposal] = []
    retries: list[Proposal] = []
    for model in models.values():
        if not (model.queue.requests or model.bisections.open):
            continue
        instance = None if model.blocked else fleet.free_instance(model.name)
        if instance is None:
            ready += prefetch(model, fleet, formation, now_ns)
            continue
        longest_ns = None
        exclusive_device = len(models) == 1 or not fleet.shares_device(model.name)
        if not exclusive_device:
            longest_ns = _longest_ns(model, models.values(), fleet, instance.up.device, now_ns)
        free_ns = fleet.free_ns(model.name, now_ns)
        proposals = _ask_all(
            model,
            instance,
            formation,
            longest_ns,
            free_ns,
            now_ns,
            exclusive_device=exclusive_device,
        )
        ready += candidates(model, proposals, len(free_ns), now_ns)
        suspects = model.bisections.next() if model.bisections.open else None
        if suspects is not None:
            retries.append(retry_of(model, suspects, instance, live, now_ns))
    if retries:
        given_up = {request.id for _, requests in formation.given_up for request in requests}
        # Without what was given up, a group that runs again is another one: ask again.
        ready = [
            r for r in retries if not given_up.intersection(each.id for each in r.requests)
        ] + ready
    if ready:
        formation.proposal = first(ready, now_ns)
    _fill(formation, fleet, now_ns)
    return formation


def _ask_all(
    model: Model,
    instance: Instance,
    formation: Formation,
    longest_ns: float | None,
    free_ns: Sequence[float],
    now_ns: int,
    *,
    exclusive_device: bool,
) -> list[Proposal]:
    """Returns the batches that a model's policy wants now, on an instance that is free."""
    batch_cap = model.bisections.batch_cap
    batch_capped = batch_cap.bounds(model.settings.max_batch_size)
    slots, waiting = len(free_ns), model.queue.rows
    proposals: list[Proposal] = []
    late_ns = late_entitlement_ns(model, slots, now_ns)
    late_claim = model.late.claim if late_ns else 0.0
    groups, many_groups = groups_to_ask(model.queue, model.late.turn_ns)
    for group in groups:
        times = model.times.of(group.key[1])
        most_rows = None
        if batch_capped:
            most_rows = batch_cap.most_rows(times.curve, slots, waiting, now_ns)
        given = PolicyInput(
            now_ns,
            free_ns,
            times,
            model.reachable,
            _bound_ns(group, times.curve, longest_ns, most_rows),
            batch_capped,
            exclusive_device,
            many_groups,
            late_ns,
            late_claim,
        )
        proposal = ask(model, instance, group, given, formation, most_rows)
        if proposal is not None:
            proposals.append(proposal)
    return proposals


def _fill(formation: Formation, fleet: Fleet, now_ns: int) -> None:
    """Add requests of other padding buckets to the batch, unless another slot takes them now."""
    proposal = formation.proposal
    if proposal is None or proposal.model.buckets is None or len(proposal.model.queue.groups) < 2:
        return
    model, group = proposal.model, proposal.group
    begins_ns = proposal.begins_ns
    free_ns = fleet.free_ns(model.name, now_ns)
    another_is_free = len(free_ns) > 1 and free_ns[1] <= begins_ns
    if group is None or proposal.filled is not None or another_is_free:
        return
    given_up = {r.id for _, requests in formation.given_up for r in requests}
    planned = PlannedBatch(
        group, proposal.requests, proposal.rows, given_up, proposal.longest_ns, begins_ns
    )
    filling = fill_up(model, planned)
    if filling is not None:
        proposal.shapes, proposal.extra = filling.bucket, filling.extra
        proposal.rows, proposal.expected_ns = filling.rows, filling.expected_ns


def _bound_ns(
    group: BatchGroup, curve: Sequence[float], longest_ns: float | None, most_rows: int | None
) -> float | None:
    """Returns the longest batch: `longest_ns` beside other models, `most_rows` while requests fail."""
    if longest_ns is None and most_rows is None:
        return None
    if group.rows > len(group):
        # A request of several rows must fit some batch, however long.
        if longest_ns is None or not curve:
            return longest_ns
        largest = max(request.rows for request in group)
        return max(longest_ns, curve[min(largest, len(curve) - 1)])
    if most_rows is None or most_rows >= len(curve):
        return longest_ns
    return curve[most_rows] if longest_ns is None else min(curve[most_rows], longest_ns)


def _longest_ns(
    model: Model, models: Iterable[Model], fleet: Fleet, device: str, now_ns: int
) -> float | None:
    """Returns the longest batch after which the device's other models can still be in time."""
    longest_ns: float | None = None
    for other in models:
        target_ns = other.target_ns
        if other is model or target_ns is None or not other.reachable:
            continue
        if not fleet.on_device(other.name, device):
            continue
        rate = expected_rate(other, now_ns)
        times = next((t for t in other.times.values() if t), None)
        if times is None:
            continue
        wait_ns = longest_wait_ns(rate, target_ns, times.p95)
        if wait_ns is not None and (longest_ns is None or wait_ns < longest_ns):
            longest_ns = wait_ns
    return longest_ns
