"""What a refusal for a prediction is blamed on: the load, the margin, the batch itself or the deadline."""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.commands import Blame, MissedTime, Reason, RefusalCause
from batcher.core.model import Model
from batcher.core.queueing.ranks import LATE
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.ledger import Ledger
from batcher.core.requests.refusals import UNAVAILABLE_RETRY_NS, busy_ns
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.times import TIMER_NS

# Looking up a member costs as much as the rest of what follows, and all that is given up comes here.
_QUEUE_AHEAD, _TARGET, _LIMIT = RefusalCause.QUEUE_AHEAD, MissedTime.TARGET, MissedTime.LIMIT


def blame_of(
    request: LiveRequest,
    times: ServiceTimes,
    soonest_ns: float,
    until_ns: float,
    after_ns: float = 0.0,
) -> Blame:
    """Why a request is not answered by `until_ns`, which is one of its own times.

    `soonest_ns`: when its batch can begin, behind what waits and runs before it. `after_ns`: what its
    later batches take, where it is split. `late_by_ns` is 0 where it is in time, but would make others
    late.
    """
    return Blame(*_blamed(request, times, soonest_ns, until_ns, after_ns))


def _blamed(
    request: LiveRequest,
    times: ServiceTimes,
    soonest_ns: float,
    until_ns: float,
    after_ns: float,
) -> tuple[RefusalCause, MissedTime, int]:
    missed = _missed(request, until_ns)
    rows = min(request.rows, times.max_rows)
    takes_ns = times.expected[rows] + after_ns
    late_ns = request.arrived.arrival_ns + takes_ns - until_ns
    if late_ns > 0:
        short = missed is MissedTime.DEADLINE
        cause = RefusalCause.DEADLINE if short else RefusalCause.SERVICE_TIME
    elif (late_ns := soonest_ns + takes_ns - until_ns) > 0:
        cause = _QUEUE_AHEAD
    elif (late_ns := soonest_ns + times.p95[rows] + after_ns - until_ns) > 0:
        cause = RefusalCause.MARGIN
    else:
        return _QUEUE_AHEAD, missed, 0
    # Those that miss the same time by the same milliseconds are refused together.
    return cause, missed, int(late_ns) // TIMER_NS * TIMER_NS


def refuse_late(
    requests: Sequence[LiveRequest],
    model: Model,
    ledger: Ledger,
    now_ns: int,
    wait_ns: float = 0.0,
) -> None:
    """Refuse waiting requests that are not answered by their limits, or would make others late.

    While no instance is up, that is the reason, and no load.
    `wait_ns`: what goes before them, from the moment on at which an instance is free.
    """
    if not requests:
        return
    fleet = ledger.fleet
    if model.name not in fleet.serving:
        ledger.refuse(requests, Reason.NO_INSTANCE, retry_ns=UNAVAILABLE_RETRY_NS)
        return
    found: dict[tuple[RefusalCause, MissedTime, int] | None, list[LiveRequest]] = {}
    retry_ns = busy_ns(model, fleet, now_ns)
    begins_ns = fleet.next_free_ns(model.name, now_ns) + wait_ns
    for request in requests:
        blamed, times = None, model.times.get(request.bucket)
        if times is not None and times.curve:
            until_ns = request.limit_ns
            if not model.serves_late and request.rank < LATE and until_ns > now_ns:
                until_ns = request.finish_by_ns
            elif request.expires_ns is not None and request.expires_ns < until_ns:
                until_ns = request.expires_ns
            blamed = _blamed(request, times, begins_ns, until_ns, 0.0)
        found.setdefault(blamed, []).append(request)
    for blamed, those in found.items():
        blame = None if blamed is None else Blame(*blamed)
        ledger.refuse(those, Reason.PREDICTED_LATE, retry_ns=retry_ns, blame=blame)


def _missed(request: LiveRequest, until_ns: float) -> MissedTime:
    if until_ns == request.arrived.deadline_ns:
        return MissedTime.DEADLINE
    if until_ns == request.expires_ns:
        return MissedTime.QUEUE_TIMEOUT
    due_ns = request.due_ns
    return _TARGET if due_ns is not None and until_ns <= due_ns else _LIMIT
