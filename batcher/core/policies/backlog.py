"""Which requests to give up and how many to take, so that most are in time.

The backlog is laid out in the order of its due times and cut into batches that follow each other, each
on the instance that is free soonest. A batch must be done before its first request is due. For each
number of requests given up and each number of batches, it is enough to know how far one can get: what
reaches further has served all that the others have. So the best plan is found in (batches x requests
given up) steps, most often a handful.

Of two plans that serve as many requests, the one that keeps the instances busy for less time is better;
and a plan that serves one more may cost too much time of requests that have not arrived yet. `Price` says
what time costs: nothing while the instances have time to spare, and what arrives in it once they have
not. The bend between the two lies where a backlog would outgrow the target.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import exp, log1p

from batcher.core.record import record
from batcher.core.times import TOLERANCE_NS

MOST_REQUESTS = 2048
"""Of a longer backlog, so many requests are planned; the others follow in a later decision."""

LONG = 128
"""A backlog of more requests is planned more coarsely, with several instances as for one that is as many
times as fast, and requests are given up several at a time: one in so many. Both save time only."""


class Price:
    """What keeping the instances busy costs, in requests.

    A softplus: 0 before `bend_ns`, then `rate` requests a nanosecond, bending over `softness_ns`.
    """

    __slots__ = ("_at_once", "_bend_ns", "_scale", "_softness_ns")

    def __init__(self, rate: float, bend_ns: float, softness_ns: float) -> None:
        self._bend_ns, self._softness_ns, self._scale = bend_ns, softness_ns, rate * softness_ns
        self._at_once = 0.0
        self._at_once = self(0.0)

    def __call__(self, busy_ns: float) -> float:
        """Requests lost if the instances are busy for `busy_ns` from now on, on average."""
        z = (busy_ns - self._bend_ns) / self._softness_ns
        soft = log1p(exp(z)) if z < 0.0 else z + log1p(exp(-z))
        return self._scale * soft - self._at_once


@record
class Plan:
    """Give up the first `drop` requests, then batch the next `take`."""

    drop: int
    take: int


def plan(
    finish_by: Sequence[float],
    rows_before: Sequence[int] | None,
    free_ns: Sequence[float],
    curve: Sequence[float],
    p95: Sequence[float],
    price: Price,
    now_ns: int,
) -> Plan:
    """The best first step: how many requests to give up, and how many to take then.

    `finish_by` says when each request must be done, ascending; `rows_before[i]` is the rows of the
    first i requests, None where every request has one row. `free_ns` says when each instance is free,
    ascending. An instance is busy with b rows for `curve[b]`; the last of the curve is the largest
    batch. All requests of a batch are answered after `p95[b]`. All times are nanoseconds.
    """
    count = min(len(finish_by), MOST_REQUESTS)
    # What would be late even alone and at once is given up first.
    rows = 1
    if rows_before is not None:
        least = min([after - before for before, after in pairwise(rows_before)])
        rows = min(least, len(curve) - 1)
    late = bisect_left(finish_by, free_ns[0] + p95[rows] - TOLERANCE_NS, 0, count)
    if late == count:
        return Plan(count, 0)
    if len(free_ns) == 1 and rows_before is None:
        return _plan_one(finish_by, count, late, free_ns[0], curve, p95, price, now_ns)
    if rows_before is None and count - late > LONG:
        instances = len(free_ns)
        faster = [time / instances for time in curve]
        return _plan_one(finish_by, count, late, free_ns[0], faster, p95, price, now_ns)
    count = min(count, late + 2 * LONG)
    return _plan_in_general(finish_by, rows_before, count, late, free_ns, curve, p95, price, now_ns)


def _plan_one(  # noqa: C901, PLR0912, PLR0915 - calls in this loop would double what a decision costs
    finish_by: Sequence[float],
    count: int,
    late: int,
    start_ns: float,
    curve: Sequence[float],
    p95: Sequence[float],
    price: Price,
    now_ns: int,
) -> Plan:
    """The plan for one instance and requests of one row: the common case, with few steps for each."""
    best = float("-inf")
    found = False
    drop, take = count, 0
    ends = len(curve)
    largest = ends - 1
    row_ns = min([curve[rows] / rows for rows in (largest, max(1, largest // 2))])
    offset_ns = start_ns - now_ns
    reached: list[int] = []
    at_ns: list[float] = []
    firsts: list[tuple[int, int]] = []
    # A step is small beside a batch, or it would miss plans that serve only a few.
    fits = bisect_right(p95, finish_by[count - 1] - start_ns + TOLERANCE_NS, 0, ends) - 1
    step = max(1, min((count - late) // LONG, fits // 4))
    for given_up in range(late, count, step):
        left = count - given_up
        if found and left - price(offset_ns + left * row_ns) <= best + 1e-9:
            break
        position, time_ns, first = given_up, start_ns, (given_up, 0)
        known = len(reached)
        batches = 0
        while True:
            place = -1
            if batches < known:
                # As far as the same number of batches reached before, with `step` more given up.
                place = reached[batches] + step
                then_ns = at_ns[batches]
                via = firsts[batches]
            if position < count:
                # Comparisons, not `min`: this is most of a decision in overload.
                fit = bisect_right(p95, finish_by[position] - time_ns + TOLERANCE_NS, 0, ends) - 1
                if fit > 0:
                    further = position + fit
                    if further > count:
                        further = count
                        fit = count - position
                    done_ns = time_ns + curve[fit]
                    if further > place or (further == place and done_ns < then_ns):
                        place, then_ns = further, done_ns
                        via = first if batches else (given_up, fit)
            if place < 0:
                break
            if place > count:  # noqa: PLR1730 - see above
                place = count
            if batches < known:
                reached[batches], at_ns[batches], firsts[batches] = place, then_ns, via
            else:
                reached.append(place)
                at_ns.append(then_ns)
                firsts.append(via)
                known += 1
            if place == count:
                worth = left - price(then_ns - now_ns)
                if worth > best + 1e-9:
                    best = worth
                    found = True
                    drop, take = via
                del reached[batches + 1 :], at_ns[batches + 1 :], firsts[batches + 1 :]
                break
            position, time_ns, first = place, then_ns, via
            batches += 1
    return Plan(drop, take)


def _plan_in_general(
    finish_by: Sequence[float],
    rows_before: Sequence[int] | None,
    count: int,
    late: int,
    free_ns: Sequence[float],
    curve: Sequence[float],
    p95: Sequence[float],
    price: Price,
    now_ns: int,
) -> Plan:
    """The plan for several instances, or for requests of several rows."""
    before = range(count + 1) if rows_before is None else rows_before
    instances = len(free_ns)
    largest = len(curve) - 1
    row_ns = min(curve[rows] / rows for rows in (largest, max(1, largest // 2))) / instances
    offset_ns = sum(free_ns) / instances - now_ns
    best = float("-inf")
    drop, take = count, 0
    # By number of batches: requests reached, when each instance is free then, the first step.
    reached: list[tuple[int, tuple[float, ...], tuple[int, int]]] = []
    for given_up in range(late, count):
        left = count - given_up
        rows_left = before[count] - before[given_up]
        if left - price(offset_ns + rows_left * row_ns) <= best + 1e-9:
            break
        position, free, first = given_up, tuple(free_ns), (given_up, 0)
        batches = 0
        while True:
            step: tuple[int, tuple[float, ...], tuple[int, int]] | None = None
            if batches < len(reached):
                further, then, via = reached[batches]
                step = min(further + 1, count), then, via
            if position < count:
                slack_ns = finish_by[position] - free[0] + TOLERANCE_NS
                most_rows = min(largest, bisect_right(p95, slack_ns) - 1)
                end = bisect_right(before, before[position] + most_rows, 0, count + 1) - 1
                if end > position:
                    done_ns = free[0] + curve[before[end] - before[position]]
                    then = tuple(sorted((*free[1:], done_ns)))
                    if (
                        step is None
                        or end > step[0]
                        or (end == step[0] and sum(then) < sum(step[1]))
                    ):
                        step = end, then, first if batches else (given_up, end - position)
            if step is None:
                break
            if batches < len(reached):
                reached[batches] = step
            else:
                reached.append(step)
            position, free, first = step
            batches += 1
            if position == count:
                worth = left - price(sum(free) / instances - now_ns)
                if worth > best + 1e-9:
                    best = worth
                    drop, take = first
                del reached[batches:]
                break
    return Plan(drop, take)
