"""Which batch comes next: the door between policies and the fleet.

While some instance is free, every lane of its model is put to the policy. Of all batches that are
ready, the one that must start first goes first, over all models, because they may share a device.
What is not ready says when to ask again. Where shapes are padded, the batch that goes is filled up
from other lanes (`fill.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import index
from typing import assert_never

from batcher.core.batching.filling import Chosen, fill_up
from batcher.core.batching.selection import Proposal, asked, candidates, first, must_start_ns
from batcher.core.devices.fleet import Fleet, Instance
from batcher.core.model import Model
from batcher.core.policies import Choose, PolicyInput, Take, Wait
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.queueing.ranks import BEST_EFFORT
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.splitting import fill
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.times import NEVER_NS

SPIN_NS = 1_000_000
"""When a policy that waits for a moment in the past is asked again."""

LEAST_EXPECTED_ROWS = 0.01
"""A model that gets fewer rows than this in a target's time is not waited for."""

NOBODY: tuple[LiveRequest, ...] = ()


@dataclass(slots=True)
class Formation:
    """The batch that comes next, if any is ready; whom policies gave up; when to ask again."""

    proposal: Proposal | None = None
    ask_again_ns: int | None = None
    given_up: list[tuple[Model, Sequence[LiveRequest]]] = field(default_factory=list)


def form(
    models: Mapping[str, Model], fleet: Fleet, live: Mapping[int, LiveRequest], now_ns: int
) -> Formation:
    """Ask every policy that has something waiting and an instance to run it on."""
    formation = Formation()
    ready: list[Proposal] = []
    again: list[Proposal] = []
    for model in models.values():
        if not (model.queue.requests or model.bisections.suspect_groups):
            continue
        instance = None if model.blocked else fleet.free_instance(model.name)
        if instance is None:
            ready += _beforehand(model, fleet, formation, now_ns)
            continue
        longest_ns = None
        exclusive_device = len(models) == 1 or not fleet.shares(model.name)
        if not exclusive_device:
            longest_ns = _longest_ns(model, models.values(), fleet, instance.up.device, now_ns)
        free_ns = fleet.free_ns(model.name, now_ns)
        proposals = _at_once(
            model,
            instance,
            formation,
            longest_ns,
            free_ns,
            now_ns,
            exclusive_device=exclusive_device,
        )
        ready += candidates(model, proposals, len(free_ns), now_ns)
        if model.bisections.suspect_groups:
            again.append(_again(model, instance, live, now_ns))
    if ready:
        formation.proposal = first(ready, now_ns)
    for proposal in again:
        if _goes_before(proposal, formation, now_ns):
            formation.proposal = proposal
    _fill(formation, fleet, now_ns)
    return formation


def _at_once(
    model: Model,
    instance: Instance,
    formation: Formation,
    longest_ns: float | None,
    free_ns: Sequence[float],
    now_ns: int,
    *,
    exclusive_device: bool,
) -> list[Proposal]:
    """The batches that a model's policy wants now, on an instance that is free."""
    batch_cap = model.bisections.batch_cap
    batch_capped = batch_cap.bounds(model.settings.max_batch_size)
    slots, waiting = len(free_ns), model.queue.rows
    proposals: list[Proposal] = []
    groups, many_groups = asked(model.queue)
    for group in groups:
        times = model.times.of(group.key[1])
        most_rows = None
        if batch_capped:
            most_rows = batch_cap.most_rows(times.curve, slots, waiting, now_ns)
        most_ns = _most_ns(group, times.curve, longest_ns, most_rows)
        given = PolicyInput(
            now_ns,
            free_ns,
            times,
            model.reachable,
            most_ns,
            batch_capped,
            exclusive_device,
            many_groups,
        )
        proposal = _ask(model, instance, group, given, formation)
        if proposal is not None:
            proposals.append(proposal)
    return proposals


def block(model: Model, fleet: Fleet, now_ns: int) -> None:
    """Nothing can begin until a batch ends; the next may be in its instance's hand before."""
    model.blocked = True
    model.prefetch_at_ns = NEVER_NS
    if model.prefetch.gap_ns:
        instance = fleet.next_to_prefetch(model.name, now_ns)
        if instance is not None:
            model.prefetch_at_ns = fleet.prefetch_at_ns(instance)


def _beforehand(model: Model, fleet: Fleet, formation: Formation, now_ns: int) -> list[Proposal]:
    """The batch, if any, that the instance which is free soonest may have in hand until it is.

    The policy is asked what it will do at that moment. If nobody who comes until then would be in
    its batch, because that is full or leaves somebody behind, it may as well be done now. What is
    saved by having it in hand, it is told as an instance that is free so much sooner.
    """
    if not model.blocked:
        block(model, fleet, now_ns)
    if model.prefetch_at_ns > now_ns:
        return []
    prefetch_at_ns, model.prefetch_at_ns = model.prefetch_at_ns, NEVER_NS
    instance = fleet.next_to_prefetch(model.name, now_ns)
    if instance is None or not model.fills_a_batch:
        return []
    if fleet.prefetch_at_ns(instance) > now_ns:
        # It was another that was to be free first, which takes longer than expected.
        model.prefetch_at_ns = fleet.prefetch_at_ns(instance)
        return []
    free_ns = fleet.free_ns(model.name, now_ns)
    begins_ns = int(free_ns[0])
    free_ns = [free_ns[0] - model.prefetch.saved_ns, *free_ns[1:]]
    found = Formation()
    ready: list[Proposal] = []
    groups, _ = asked(model.queue)
    for group in groups:
        times = model.times.of(group.key[1])
        given = PolicyInput(int(free_ns[0]), free_ns, times, model.reachable)
        proposal = _ask(model, instance, group, given, found)
        if proposal is not None:
            proposal.begins_ns = begins_ns
            ready.append(proposal)
    if not ready:
        return []
    best = first(candidates(model, ready, len(free_ns), begins_ns), begins_ns)
    if not _settled(best, found):
        return []
    # Whom the policy gives up goes with it; else it may still be asked at the moment itself.
    formation.given_up += found.given_up
    model.prefetch_at_ns = prefetch_at_ns
    return [best]


def _settled(proposal: Proposal, found: Formation) -> bool:
    """Whether a batch that begins later is the same whoever comes, or leaves, until then."""
    group, requests = proposal.group, proposal.requests
    assert group is not None
    begins_ns = proposal.begins_ns
    if requests[0].canary or any(
        r.expires_ns is not None and r.expires_ns <= begins_ns for r in requests
    ):
        return False
    left = group.rows
    for _, given_up in found.given_up:
        left -= sum([r.rows for r in given_up if r.group_key == group.key])
    return proposal.rows >= proposal.model.settings.max_batch_size or proposal.rows < left


def _fill(formation: Formation, fleet: Fleet, now_ns: int) -> None:
    """Take requests of other buckets along, where another place does not take them at once."""
    proposal = formation.proposal
    if proposal is None or proposal.model.buckets is None or len(proposal.model.queue.groups) < 2:
        return
    model, group = proposal.model, proposal.group
    begins_ns = proposal.begins_ns
    free_ns = fleet.free_ns(model.name, now_ns)
    elsewhere = len(free_ns) > 1 and free_ns[1] <= begins_ns
    if group is None or proposal.filled is not None or elsewhere:
        return
    given_up = {r.id for _, requests in formation.given_up for r in requests}
    chosen = Chosen(
        group, proposal.requests, proposal.rows, given_up, proposal.longest_ns, begins_ns
    )
    filling = fill_up(model, chosen)
    if filling is not None:
        proposal.shapes, proposal.extra = filling.bucket, filling.extra
        proposal.rows, proposal.expected_ns = filling.rows, filling.expected_ns


def _most_ns(
    group: BatchGroup, curve: Sequence[float], longest_ns: float | None, most_rows: int | None
) -> float | None:
    """The longest batch, where neighbours or requests that make their batches fail bound it."""
    if longest_ns is None and most_rows is None:
        return None
    if group.rows > len(group):
        # A request of several rows fits no batch that is too short for it, and must fit some.
        if longest_ns is None or not curve:
            return longest_ns
        largest = max(request.rows for request in group)
        return max(longest_ns, curve[min(largest, len(curve) - 1)])
    if most_rows is None or most_rows >= len(curve):
        return longest_ns
    return curve[most_rows] if longest_ns is None else min(curve[most_rows], longest_ns)


def _again(
    model: Model, instance: Instance, live: Mapping[int, LiveRequest], now_ns: int
) -> Proposal:
    """The group of a failed batch that has waited longest."""
    suspects = model.bisections.suspect_groups[0]
    requests = [live[part.id] for part in suspects.parts]
    rows = sum([part.stop - part.start for part in suspects.parts])
    times = model.times.get(suspects.shapes)
    expected_ns = times.curve[rows] if times and times.curve else 0.0
    return Proposal(
        model,
        instance,
        None,
        suspects.shapes,
        requests,
        rows,
        expected_ns,
        now_ns,
        suspects=suspects,
    )


def _goes_before(again: Proposal, formation: Formation, now_ns: int) -> bool:
    """Whether what runs again goes before another batch.

    It does unless the other cannot wait for it, but it can wait for the other, or can only be late.
    Nothing has to give way for longer than it takes to gain a level.
    """
    if any(r in again.requests for _, given_up in formation.given_up for r in given_up):
        return False  # Its group will not be the same without them: ask again.
    other = formation.proposal
    if other is None:
        return True
    suspects = again.suspects
    assert suspects is not None
    if now_ns - suspects.since_ns >= again.model.settings.queue.promote_after_ns:
        return True
    if now_ns + again.expected_ns <= must_start_ns(other, now_ns):
        return True
    if now_ns + other.expected_ns <= must_start_ns(again, now_ns):
        return False
    return _made_late(other, again, now_ns) <= _made_late(again, other, now_ns)


def _made_late(waits: Proposal, other: Proposal, now_ns: int) -> int:
    """How many of a batch's requests would be late if it waited for another, and else are not."""
    done_ns = now_ns + waits.expected_ns
    due_ns = [r.due_ns for r in waits.requests if r.due_ns is not None and r.rank != BEST_EFFORT]
    return sum([done_ns <= due < done_ns + other.expected_ns for due in due_ns])


def _ask(
    model: Model, instance: Instance, group: BatchGroup, given: PolicyInput, formation: Formation
) -> Proposal | None:
    """The lane's batch, if its policy wants one now; the rest is noted in `formation`."""
    try:
        take, rows, drop, until_ns = _decision(model, group, given)
    except Exception as exc:  # noqa: BLE001 - whatever a policy does, no request may hang
        model.policy_raised(exc)
        take, rows, drop, until_ns = _decision(model, group, given)
    if drop:
        formation.given_up.append((model, drop))
    if until_ns is not None and until_ns < NEVER_NS:
        # A policy that asks to be woken in the past would spin.
        until_ns = until_ns if until_ns > given.now_ns else given.now_ns + SPIN_NS
        again_ns = formation.ask_again_ns
        formation.ask_again_ns = until_ns if again_ns is None else min(again_ns, until_ns)
    if not take:
        return None
    filled = None
    if model.queue.splits and rows < model.settings.max_batch_size:
        filled = fill(group, take, drop, rows, model, given)
        if filled is not None:
            rows += filled[1]
    curve = given.times.curve
    expected_ns = curve[rows] if curve else 0.0
    shapes = group.key[1]
    return Proposal(
        model,
        instance,
        group,
        shapes,
        take,
        rows,
        expected_ns,
        given.now_ns,
        filled,
        longest_ns=given.longest_ns,
    )


def _decision(
    model: Model, group: BatchGroup, given: PolicyInput
) -> tuple[Sequence[LiveRequest], int, Sequence[LiveRequest], int | None]:
    """Whom to take and their rows, whom to give up, and when to ask again, held to the contract."""
    decision = model.policy.decide(group, given)
    if isinstance(decision, Take):
        count, drop = index(decision.count), index(decision.drop)
        if count < 1 or drop < 0 or drop + count > len(group):
            raise ValueError(f"took {count} behind {drop} of {len(group)} waiting requests")
        chosen = _first_of(group, drop + count)
        take = chosen[drop:] if drop else chosen
        return take, _rows(take, model), chosen[:drop], None
    if isinstance(decision, Wait):
        if not 0 <= decision.drop <= len(group):
            raise ValueError(f"gave up {decision.drop} of {len(group)} waiting requests")
        return NOBODY, 0, _first_of(group, decision.drop), index(decision.until_ns)
    if isinstance(decision, Choose):
        _check_choice(group, decision)
        return decision.take, _rows(decision.take, model), decision.drop, decision.until_ns
    assert_never(decision)


def _rows(take: Sequence[LiveRequest], model: Model) -> int:
    """The rows of a batch that a policy asks for. Raises `ValueError` where there are too many."""
    rows = sum([request.rows for request in take])
    most = model.settings.max_batch_size
    if rows > most:
        raise ValueError(f"took {rows} rows for a batch of at most {most}")
    return rows


def _first_of(group: BatchGroup, count: int) -> Sequence[LiveRequest]:
    first = group.classes[0].requests
    return first[:count] if len(first) >= count else list(islice(group, count))


def _check_choice(group: BatchGroup, choice: Choose) -> None:
    named = {request.id for request in choice.take} | {request.id for request in choice.drop}
    if len(named) != len(choice.take) + len(choice.drop):
        raise ValueError("named a request twice")
    waiting = {request.id for request in group}
    if not named <= waiting:
        raise ValueError("named a request that does not wait in this lane")
    if not choice.take and choice.until_ns is None and len(choice.drop) < len(waiting):
        raise ValueError("took nothing, and did not say when to ask again")


def _longest_ns(
    model: Model, models: Iterable[Model], fleet: Fleet, device: str, now_ns: int
) -> float | None:
    """The longest batch that lets what the device's other models expect be in time."""
    longest_ns: float | None = None
    for other in models:
        target_ns = other.target_ns
        if other is model or target_ns is None or not other.reachable:
            continue
        if not fleet.on_device(other.name, device):
            continue
        rate = _expected_rate(other, now_ns)
        times = next((t for t in other.times.values() if t), None)
        if times is None or rate * target_ns < LEAST_EXPECTED_ROWS:
            continue
        room_ns = _room_ns(rate, target_ns, times)
        if room_ns > 0.0:
            longest_ns = room_ns if longest_ns is None else min(longest_ns, room_ns)
    return longest_ns


def _expected_rate(model: Model, now_ns: int) -> float:
    """Rows a nanosecond that a model's policy expects; 0.0 where the policy fails."""
    try:
        return model.policy.expected_rate(now_ns)
    except Exception as exc:  # noqa: BLE001 - a policy's own code; the model goes on without it
        model.policy_raised(exc)
        return 0.0


def _room_ns(rate: float, target_ns: int, times: ServiceTimes) -> float:
    """The longest wait for the device after which all that came meanwhile can be done in time.

    Of what comes, two standard deviations more than the mean is reckoned with.
    """
    room_ns = 0.0
    for rows, answered_ns in enumerate(times.p95[1:], 1):
        if answered_ns >= target_ns:
            break
        room_ns = target_ns - answered_ns
        coming = rate * room_ns
        if coming + 2.0 * coming**0.5 <= rows:
            break
    return room_ns
