"""A proposed batch becomes a running one: its requests leave the queue, its instance gets it."""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.batching.prefetching import block
from batcher.core.batching.proposal import Proposal
from batcher.core.batching.selection import DUE_FIRST_ONE_IN
from batcher.core.commands import Dispatch, Part
from batcher.core.contents import Contents
from batcher.core.devices.instances import RunningBatch
from batcher.core.devices.prefetch import schedule_prefetch
from batcher.core.devices.sharing import charge
from batcher.core.faults.bisection import Bisection
from batcher.core.model import Model
from batcher.core.queueing.ranks import LATE
from batcher.core.requests.splitting import next_turn, note_dispatched, piece_rows

EASY_PART = 0.8
"""More than this part of what full batches serve is not counted on: below it there is no overload, though small
batches for the sake of due times serve less. With 0.9, 8 points fewer are in time at 0.95 of the device; with 0.0,
5 % are refused at 0.8 of it where the target is four times what one row takes."""


def dispatch(contents: Contents, proposal: Proposal, now_ns: int) -> None:
    """Take the batch's requests out of where they wait, and give it to its instance."""
    batch_id = contents.next_batch_id
    contents.next_batch_id += 1
    model = proposal.model
    name = proposal.instance.up.instance
    could = _could_serve(proposal)
    parts, split = _take(contents, proposal, batch_id)
    model.late.begun(could)
    model.running += 1
    model.dispatch_count = (model.dispatch_count + 1) % DUE_FIRST_ONE_IN
    times = model.times.get(proposal.shapes)
    if times is not None:
        times.last_batch_ns = now_ns
        if model.late.waiting:
            _charge_late(contents, model, parts, times.curve)
    if len(contents.models) > 1 and contents.fleet.has_limit(proposal.instance.up.device):
        _charge(contents, proposal)
    batch = RunningBatch(
        batch_id,
        model.name,
        name,
        proposal.begins_ns,
        {part.id for part in parts},
        proposal.rows,
        proposal.begins_ns + proposal.expected_ns,
        proposal.shapes,
        parts,
        split,
        proposal.suspects,
        None if proposal.filled is None else proposal.filled[0].id,
        not proposal.instance.free,
        given_ns=now_ns,
    )
    schedule_prefetch(batch, model.handling, times, now_ns)
    contents.fleet.start(batch)
    model.blocked = False
    if contents.fleet.free_instance(model.name) is None:
        block(model, contents.fleet, now_ns)
    attempt = 1 if proposal.suspects is None else proposal.suspects.failures + 1
    contents.ledger.commands.append(
        Dispatch(batch_id, model.name, name, proposal.shapes, parts, attempt)
    )


def _could_serve(proposal: Proposal) -> float:
    """The rows of a batch, or those that waited and could easily be served in its time by a larger one."""
    model, rows = proposal.model, proposal.rows
    times = model.times.get(proposal.shapes)
    waiting = 0 if proposal.group is None else proposal.group.rows
    if times is None or not times.curve or waiting <= rows:
        return rows
    could = min(waiting, len(model.times.inside_target(times)) - 1)
    return max(rows, EASY_PART * times.curve[rows] * could / times.curve[could])


def _charge_late(
    contents: Contents, model: Model, parts: Sequence[Part], curve: Sequence[float]
) -> None:
    """Take from the time of late requests what their rows in a batch make it longer."""
    live = contents.live
    late = sum([part.stop - part.start for part in parts if live[part.id].rank == LATE])
    if late and curve:
        rows = sum([part.stop - part.start for part in parts])
        model.late.charge(curve[rows] - curve[rows - late])


def _charge(contents: Contents, proposal: Proposal) -> None:
    """Add a batch to what its model has used of the device that it shares."""
    model, fleet = proposal.model, contents.fleet
    device = proposal.instance.up.device
    models = contents.models.values()
    charge(
        model.device_use,
        model.times.cost_ns(proposal.shapes, proposal.rows),
        [each.device_use for each in models],
        [each.device_use for each in models if fleet.on_device(each.name, device)],
    )


def _take(contents: Contents, proposal: Proposal, batch_id: int) -> tuple[tuple[Part, ...], bool]:
    """Take a batch's requests out; returns its parts, and whether some are of split requests."""
    requests, queue = proposal.requests, proposal.model.queue
    if proposal.suspects is not None:
        parts = _take_suspects(contents, proposal, proposal.suspects, batch_id)
        return parts, any(request.split is not None for request in requests)
    if queue.splits:
        return _take_pieces(contents, proposal, batch_id), True
    assert proposal.group is not None
    queue.take(proposal.group, requests)
    if proposal.extra:
        for request in proposal.extra:
            queue.discard(request)
        requests = [*requests, *proposal.extra]
    for request in requests:
        request.batch_id = batch_id
        if request.expires_ns is not None:
            contents.expiry.discard(request)
    return tuple([Part(request.id, 0, request.rows) for request in requests]), False


def _take_pieces(contents: Contents, proposal: Proposal, batch_id: int) -> tuple[Part, ...]:
    """Take a batch out where some request may be split; its rest waits for another turn."""
    model = proposal.model
    parts: list[Part] = []
    sizes = [(r, r.rows, True) for r in (*proposal.requests, *proposal.extra)]
    if proposal.filled is not None:
        sizes.append((*proposal.filled, False))
    for request, rows, turn in sizes:
        model.queue.discard(request)
        parts.append(Part(request.id, request.start, request.start + rows))
        left = 0
        if request.split is not None:
            request.start += rows
            left = request.arrived.rows - request.start
        if left:
            request.rows = min(left, piece_rows(model, request.bucket))
            if turn:
                next_turn(request, model, contents.now_ns)
            model.queue.add(request)
        if note_dispatched(request, batch_id) and request.expires_ns is not None:
            contents.expiry.discard(request)
    return tuple(parts)


def _take_suspects(
    contents: Contents, proposal: Proposal, suspects: Bisection, batch_id: int
) -> tuple[Part, ...]:
    """Take a group of a failed batch out, which runs again."""
    proposal.model.bisections.start(suspects, proposal.parts)
    for request in proposal.requests:
        request.suspect_parts -= 1
        if note_dispatched(request, batch_id) and request.expires_ns is not None:
            contents.expiry.discard(request)
    return proposal.parts
