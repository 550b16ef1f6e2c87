"""Requests arrive, are cancelled by their callers, and expire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from batcher.core.commands import Outcome, Reason
from batcher.core.contents import Contents
from batcher.core.events import CancelCause, RequestArrived, RequestCancelled
from batcher.core.history import InvalidTransition
from batcher.core.model import Model
from batcher.core.queueing.ranks import LATE
from batcher.core.queueing.request import LiveRequest, queued
from batcher.core.requests.admission import admit
from batcher.core.requests.blame import refuse_late
from batcher.core.requests.bounds import broken_bound, group_for, room_for
from batcher.core.requests.refusals import (
    QUEUE_FULL_RETRY_NS,
    UNKNOWN_MODEL,
    Refusal,
    expiry_reason,
)
from batcher.core.requests.splitting import split
from batcher.core.times import NEVER_NS

NO_QUESTION_OF_LOAD: Final = {
    Reason.TOO_MANY_ROWS,
    Reason.TOO_MANY_BYTES,
    Reason.DEADLINE_TOO_SHORT,
}
"""Refusals that would be the same whatever the capacity: such requests are not offered work."""

NEAR_NS = 10_000_000
"""Requests that reach their limits within so long after the next one are found together. Where thousands
wait, to look for each alone takes all of a core."""


def arrive(contents: Contents, event: RequestArrived) -> None:
    """Enqueue a request or refuse it, in one step; others may have to make room for it."""
    if event.id in contents.live:
        raise InvalidTransition(event.id, f"arrived, but is live: {contents.live[event.id]}")
    model = contents.models.get(event.model)
    if model is None:
        contents.ledger.turn_away(event.id, UNKNOWN_MODEL)
        return
    if model.bisections.batch_cap.faults:
        model.bisections.batch_cap.arrived(event.rows, contents.now_ns)
    request = admit(event, model, contents.fleet, contents.now_ns)
    if type(request) is not LiveRequest:
        _turn_away(contents, model, event, request)
        return
    model.offered.count(request.bucket, event.rows, contents.now_ns)
    while (reason := broken_bound(request, model)) is not None:
        make_room = group_for if reason is Reason.QUEUE_GROUPS else room_for
        victims = make_room(request, model)
        if not victims:
            retry_ns = QUEUE_FULL_RETRY_NS
            contents.ledger.settle((event.id,), Outcome.REJECTED, reason, retry_ns=retry_ns)
            return
        contents.ledger.refuse(victims, reason, retry_ns=QUEUE_FULL_RETRY_NS)
        contents.undecided |= bool(contents.ledger.sequences.released)
    contents.live[request.id] = request
    if event.sequence is not None and contents.ledger.sequences.add(request):
        model.queue.hold(request)
    else:
        model.queue.add(request)
    expires_ns, limit_ns = request.expires_ns, request.limit_ns
    if expires_ns is not None:
        contents.expiry.add(request)
    if limit_ns < contents.near_until_ns and (expires_ns is None or limit_ns < expires_ns):
        contents.note_limit(limit_ns)
    if not model.blocked:
        contents.undecided = True
    elif model.prefetch_at_ns < NEVER_NS:
        contents.ask_at_prefetch(model)


def _turn_away(contents: Contents, model: Model, event: RequestArrived, refusal: Refusal) -> None:
    """Refuse a request on arrival; it counts as offered where more capacity would have served it."""
    deadline_ns = event.deadline_ns
    expired = deadline_ns is not None and deadline_ns <= event.arrival_ns
    if refusal.reason not in NO_QUESTION_OF_LOAD and not expired:
        model.offered.count(model.bucket_of(event.shapes), event.rows, contents.now_ns)
    contents.ledger.turn_away(event.id, refusal)


def release_steps(contents: Contents) -> None:
    """Queue the steps of sequences whose predecessors have ended."""
    for request in contents.ledger.sequences.take_released():
        model = contents.models[request.arrived.model]
        model.queue.release(request)
        if request.rank == LATE:
            model.late.waiting = True
        if request.rows > model.most_rows(request.bucket):
            split(request, model)
        model.queue.add(request)


def cancel(contents: Contents, event: RequestCancelled) -> None:
    """End a request that its caller gave up; one that has ended already is ignored."""
    request = contents.live.get(event.id)
    if request is None:
        return
    contents.ledger.forget(request)
    model = contents.models.get(request.arrived.model)
    if model is not None and request.batch_id is None:
        model.late.left(request.arrived.rows - request.start)
    if event.cause is CancelCause.DEADLINE:
        contents.ledger.settle((event.id,), Outcome.EXPIRED, Reason.CALLER_DEADLINE)
    else:
        contents.ledger.settle((event.id,), Outcome.CANCELLED, Reason.CALLER_CANCELLED)


def expire(contents: Contents, now_ns: int) -> None:
    """End all waiting requests that have expired by `now_ns`."""
    for request in contents.expiry.due(now_ns):
        contents.undecided = True
        contents.ledger.forget(request)
        contents.ledger.settle(
            (request.id,), Outcome.EXPIRED, expiry_reason(request.arrived, request.expires_ns)
        )


def end_at_limit(contents: Contents, now_ns: int) -> None:
    """Refuse all waiting requests whose limits have come by `now_ns`: no answer would be of use any more.

    A retry may find less load. Those whose limits are their callers' deadlines have expired before.
    """
    live = contents.live
    waiting = [each for each in contents.near_limit if live.get(each.id) is each and _waits(each)]
    next_ns = _next_limit_ns(waiting, now_ns)
    if next_ns == NEVER_NS:
        waiting = [each for each in live.values() if each.limit_ns < NEVER_NS and _waits(each)]
        next_ns = _next_limit_ns(waiting, now_ns)
        contents.near_until_ns = min(next_ns + NEAR_NS, NEVER_NS)
    until_ns = contents.near_until_ns
    contents.next_limit_ns = next_ns
    contents.near_limit = [each for each in waiting if now_ns < each.limit_ns < until_ns]
    refused: dict[str, list[LiveRequest]] = {}
    for request in waiting:
        if request.limit_ns <= now_ns:
            refused.setdefault(request.arrived.model, []).append(request)
    contents.undecided |= bool(refused)
    for name, requests in refused.items():
        refuse_late(requests, contents.models[name], contents.ledger, now_ns)


def _waits(request: LiveRequest) -> bool:
    return queued(request) or request.held or request.suspect_parts > 0


def _next_limit_ns(requests: Sequence[LiveRequest], now_ns: int) -> int:
    """The first limit after `now_ns` that comes before a request expires."""
    return min(
        [
            limit_ns
            for each in requests
            if (limit_ns := each.limit_ns) > now_ns
            and (each.expires_ns is None or limit_ns < each.expires_ns)
        ],
        default=NEVER_NS,
    )
