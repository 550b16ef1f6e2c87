"""Which requests go into a batch, and how large it may be: steps that need no plan."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from batcher.core.policies.interface import Choose, PolicyInput
from batcher.core.queueing.batch_groups import BatchGroup, PriorityClass
from batcher.core.queueing.ranks import latest_finish_ns
from batcher.core.queueing.request import LiveRequest
from batcher.core.times import NEVER_NS, TOLERANCE_NS


def all_within_deadlines(group: BatchGroup, given: PolicyInput, max_rows: int) -> Choose:
    """All that fits one batch, in order; for where there is no target that could be met.

    A request whose deadline comes before it could be answered, even alone, is given up.
    """
    curve = given.times.curve
    p95, expected = given.times.p95, given.times.expected
    take: list[LiveRequest] = []
    drop: list[LiveRequest] = []
    rows = 0
    last_ns = NEVER_NS
    most = largest_beside_others(given, max_rows)
    for request in group:
        grown = rows + request.rows
        if grown > max_rows or (take and grown > most):
            break
        deadline_ns = request.limit_ns
        if curve and given.now_ns + expected[request.rows] > deadline_ns:
            drop.append(request)
            continue
        last_ns = min(last_ns, deadline_ns)
        if take and curve and given.now_ns + p95[grown] > last_ns:
            break
        take.append(request)
        rows = grown
    if not take and drop:
        # The instance is free: one that the fastest batch lately would be in time for runs.
        place = next(
            (at for at, each in enumerate(drop) if may_be_in_time(each.limit_ns, given)), None
        )
        if place is not None:
            take.append(drop.pop(place))
    return Choose(tuple(take), tuple(drop))


def may_be_in_time(until_ns: int, given: PolicyInput) -> bool:
    """Whether a request may be answered by `until_ns` beside an idle instance, whatever is predicted.

    That is so unless its bucket was measured lately, and no batch was quick enough.
    """
    times, now_ns = given.times, given.now_ns
    return now_ns + times.least_ns(now_ns) <= until_ns or times.is_stale(now_ns)


def fill(
    requests: Sequence[LiveRequest], most: int, take: list[LiveRequest], given: PolicyInput
) -> None:
    """Add requests to `take`, up to `most` rows, as long as all of the batch are in time."""
    times = given.times
    rows = sum([request.rows for request in take])
    last_ns = min(map(latest_finish_ns, take), default=NEVER_NS)
    for request in requests:
        grown = rows + request.rows
        if grown > most:
            break
        must_ns = latest_finish_ns(request)
        if last_ns < must_ns:  # noqa: PLR1730 - for each request
            must_ns = last_ns
        # The first of a batch may run where it is late by the safety margin alone.
        takes_ns = (times.p95 if take else times.expected)[grown]
        done_ns = given.now_ns + takes_ns
        if done_ns > must_ns + TOLERANCE_NS:
            if must_ns == last_ns:
                break
            continue
        take.append(request)
        rows, last_ns = grown, must_ns


def first_in_time(
    priority_class: PriorityClass, given: PolicyInput, *, serves_late: bool
) -> int | None:
    """The place of the first request that would be in time alone and without the safety margin.

    Where there is none, of the first that would be refused, but may be in time nevertheless.
    `serves_late`: what has time until its limit is not refused, but becomes late.
    """
    for place, request in enumerate(priority_class.requests):
        slack_ns = priority_class.finish_by[place] - given.free_ns[0] + TOLERANCE_NS
        if given.times.expected[request.rows] <= slack_ns:
            return place
    for place, request in enumerate(priority_class.requests):
        becomes_late = serves_late and request.limit_ns > request.finish_by_ns
        if not becomes_late and may_be_in_time(request.finish_by_ns, given):
            return place
    return None


def largest_within(spare_ns: float, given: PolicyInput) -> int:
    """The most rows of a batch that takes no longer than `spare_ns`."""
    return bisect_right(given.times.p95, spare_ns) - 1


def largest_beside_others(given: PolicyInput, max_rows: int) -> int:
    """The most rows of a batch that the models which share the device leave time for; at least 1."""
    if given.longest_ns is None:
        return max_rows
    return max(1, bisect_right(given.times.curve, given.longest_ns) - 1)


def largest_for_arrivals(rate: float, target_ns: int, given: PolicyInput) -> int:
    """The most rows of a batch after which all that arrives while it runs can be in time.

    `rate`: rows a nanosecond that arrive for each instance. Two standard deviations of a Poisson
    process more than the mean are allowed for. Where not even one row leaves time for them, and late
    requests have a claim to the device, it is the largest batch.
    """
    curve, p95 = given.times.curve, given.times.p95
    largest = len(curve) - 1

    def all_done_ns(most: int) -> float:
        coming = rate * curve[most]
        return curve[most] + p95[min(largest, int(coming + 2.0 * coming**0.5) + 1)]

    if given.late_claim and all_done_ns(1) > target_ns:
        # Late after the shortest batch as well: the largest serves most.
        return largest
    return bisect_right(range(largest + 1), float(target_ns), 2, key=all_done_ns) - 1
