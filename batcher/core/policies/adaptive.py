"""The policy `adaptive`: windows that follow from a target, not from a setting.

With a backlog it works without pause: `reach.plan` cuts the backlog into the batches that serve
most in time, and says whom to give up so that the others are. With an idle instance and a short
queue it may wait, for two reasons only: because another request is likely to come so soon that
serving both together takes less of the device than serving them apart; or until the smallest batch
that keeps the device less busy than the set point is there. It never waits past the moment at which
the first request would be late, and not at all for callers who send nothing while they wait.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import accumulate

from batcher.core.policies.arrivals import ArrivalStats
from batcher.core.policies.backlog import Plan, Price, plan
from batcher.core.policies.interface import (
    BatchPolicy,
    Choose,
    Decision,
    PolicyInput,
    Take,
    Wait,
)
from batcher.core.queueing.batch_groups import BatchGroup, PriorityClass
from batcher.core.queueing.ranks import BEST_EFFORT, PROMOTED, PROMOTED_ONE_IN, latest_finish_ns
from batcher.core.queueing.request import LiveRequest
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.settings import Adaptive, WhenLate
from batcher.core.times import NEVER_NS, TOLERANCE_NS

SOFTNESS = 0.2
"""How gently the price of time bends, in targets."""

SHIFT = -0.05
"""How much earlier than the fluid limit it bends, in targets."""

MOST_LOAD = 0.93
"""The price takes a higher load for this one: beyond it every plan would be at the bend."""

MERGE_AGE = 0.8
"""Waiting for the next request ends when the first is so old, in what merging saves."""

WINDOW_AGE = 0.45
"""Waiting for a batch ends when the first could just be done at this age, in targets."""

BURST_CAUTION = 0.2
"""How much shorter such waits are for each unit of burstiness."""

PATIENCE = 2.0
"""How much longer than expected the wait for a batch may last."""

LATE_PART = 0.33
"""What can only be late runs in batches that take no longer than this, in targets."""

MOST_IN_TURN = 256
"""A longer backlog is planned as if all of a batch were answered when the last of it is: whose answer
leaves when costs as much to work out as the plan."""

TIMER_NS = 1_000_000
"""Nobody is waited for up to the moment at which a request has waited for too long: the timer that
ends the wait may be so late."""


class AdaptivePolicy(BatchPolicy):
    """One model's windows. Its state is the model's pace and where the last wait began."""

    __slots__ = (
        "_best",
        "_curve",
        "_default_rank",
        "_max_rows",
        "_owed",
        "_rates",
        "_set_point",
        "_waits_from",
        "arrivals",
        "learns_arrivals",
        "serves_late",
        "target_ns",
    )

    deadline_aware = True

    def __init__(
        self, settings: Adaptive, max_batch_size: int, target_ns: int | None, default_rank: int
    ) -> None:
        self.target_ns = target_ns
        self.learns_arrivals = target_ns is not None
        self.serves_late = settings.when_late is WhenLate.SERVE
        self._default_rank = default_rank
        self.arrivals = ArrivalStats(target_ns or 1)
        self._set_point = settings.utilization_target
        self._max_rows = max_batch_size
        self._waits_from: int | None = None
        self._owed = 0.0
        self._curve: Sequence[float] = ()
        self._rates: list[float] = []
        self._best = 0.0

    def decide(self, group: BatchGroup, given: PolicyInput) -> Decision:
        """Plan the backlog; wait only where waiting buys something."""
        priority_class = group.classes[0]
        if priority_class.requests[0].canary:
            return Take(1)
        if self.target_ns is None or not given.times or not given.reachable:
            return self._take_what_is_there(group, given)
        self.arrivals.fold(given.now_ns)
        if (
            len(group.classes) == 1
            and PROMOTED < priority_class.rank < BEST_EFFORT
            and not self.arrivals.ranks
        ):
            return self._one_class(priority_class, given)
        return self._several_classes(group, given)

    # Arrivals

    def on_arrival(self, rows: int, rank: int, now_ns: int, *, active: bool) -> None:
        """Count an arrival, and its rank once ranks differ."""
        arrivals = self.arrivals
        arrivals.arrived(rows, now_ns, active)
        if arrivals.ranks or rank != self._default_rank:
            arrivals.count_rank(rank, rows)

    def on_batch_done(self, rows: int, now_ns: int) -> None:
        """Note the moment: what arrives soon after it may arrive because of its answers."""
        if self.learns_arrivals:
            self.arrivals.ended(rows, now_ns)

    def expected_rate(self, now_ns: int) -> float:
        """Rows a nanosecond, as they arrived lately; 0.0 without a target."""
        if not self.learns_arrivals:
            return 0.0
        self.arrivals.fold(now_ns)
        return self.arrivals.rate

    # Without a target

    def _take_what_is_there(self, group: BatchGroup, given: PolicyInput) -> Decision:
        """Late formation: all that fits, less what its caller would not wait for."""
        curve = given.times.curve
        p95, expected = given.times.p95, given.times.expected
        take: list[LiveRequest] = []
        drop: list[LiveRequest] = []
        rows = 0
        last_ns = NEVER_NS
        most = self._most_beside(given)
        for request in group:
            grown = rows + request.rows
            if grown > self._max_rows or (take and grown > most):
                break
            deadline_ns = NEVER_NS if request.deadline_ns is None else request.deadline_ns
            if curve and given.now_ns + expected[request.rows] > deadline_ns:
                drop.append(request)
                continue
            last_ns = min(last_ns, deadline_ns)
            if take and curve and given.now_ns + p95[grown] > last_ns:
                break
            take.append(request)
            rows = grown
        return Choose(tuple(take), tuple(drop))

    # One line: the common case

    def _one_class(self, priority_class: PriorityClass, given: PolicyInput) -> Decision:
        times, requests = given.times, priority_class.requests
        slack_ns = priority_class.finish_by[0] - given.now_ns + TOLERANCE_NS
        fits = priority_class.rows <= self._max_rows and given.longest_ns is None
        if fits and times.p95[priority_class.rows] <= slack_ns:
            # One batch, in time: nothing to plan.
            self._know(times.curve)
            until_ns = self._wait(requests, priority_class.rows, given)
            return Take(len(requests)) if until_ns is None else Wait(until_ns)
        chosen = self._plan(priority_class.finish_by, requests, priority_class.rows, given)
        if not chosen.take:
            chosen = _last_hope(priority_class, given)
        drop, take = chosen.drop, chosen.take
        until_ns = None
        if take and drop + take == len(requests):
            left = requests[drop:]
            until_ns = self._wait(left, sum([request.rows for request in left]), given)
        else:
            self._waits_from = None
        if until_ns is None:
            return Take(take, drop) if take else Wait(NEVER_NS, drop)
        return Wait(until_ns, drop)

    def _plan(
        self,
        finish_by: Sequence[int],
        requests: Sequence[LiveRequest],
        rows: int,
        given: PolicyInput,
        after_ns: float = 0.0,
        most_rows: int | None = None,
        *,
        in_turn: bool = True,
    ) -> Plan:
        """What to give up and what to take, if the instance were free `after_ns` later.

        `in_turn`: the batch is answered in this order. Else all are to be in time when all have been.
        """
        times = given.times
        curve = times.curve
        free_ns = given.free_ns
        self._know(curve)
        if given.longest_ns is not None:
            curve = curve[: max(2, bisect_right(curve, given.longest_ns))]
        if most_rows is not None:
            curve = curve[: most_rows + 1]
        if after_ns:
            free_ns = sorted((free_ns[0] + after_ns, *free_ns[1:]))
        before = None
        if rows != len(requests):
            before = [0, *accumulate([request.rows for request in requests])]
        price = self._price(len(free_ns), times)
        p95, reply_ns, replies_ns = times.p95, times.reply_ns, 0.0
        if in_turn and len(finish_by) <= MOST_IN_TURN:
            largest, p95 = len(curve) - 1, times.first_p95
            replies_ns = times.p95[largest] - p95[largest]
        now_ns = given.now_ns
        return plan(finish_by, before, free_ns, curve, p95, price, now_ns, reply_ns, replies_ns)

    def _know(self, curve: Sequence[float]) -> None:
        """Rates of the batch sizes, each at least that of the smaller ones."""
        if curve is self._curve:
            return
        self._curve = curve
        self._rates = list(accumulate([b / ns if ns else 0.0 for b, ns in enumerate(curve)], max))
        inside = bisect_right(curve, self.target_ns or 0) - 1
        self._best = self._rates[max(1, inside)]

    def _price(self, instances: int, times: ServiceTimes) -> Price:
        target_ns = self.target_ns or 0
        rate = min(self.arrivals.rate / instances, MOST_LOAD * self._best)
        size = min(bisect_left(self._rates, rate), len(self._rates) - 1)
        bend_ns = target_ns - times.curve[size] + SHIFT * target_ns
        return Price(rate * instances / self.arrivals.rows_each, bend_ns, SOFTNESS * target_ns)

    # Waiting

    def _wait(self, requests: Sequence[LiveRequest], rows: int, given: PolicyInput) -> int | None:
        """When to ask again about requests that fit one batch; None if they go at once."""
        if rows >= self._max_rows or given.batch_capped or given.many_groups:
            self._waits_from = None
            return None
        now_ns = given.now_ns
        first = requests[0]
        times = given.times
        curve = times.curve
        grown_ns = times.p95[rows + 1]
        arrivals = self.arrivals
        instances = len(given.free_ns)
        began_ns = now_ns if self._waits_from is None else self._waits_from
        merge_ns = curve[1] + curve[rows] - curve[rows + 1]
        until_ns = 0.0
        since_ns = first.arrived.arrival_ns
        behind = len(requests) if since_ns < began_ns else 0
        gap_ns = arrivals.gap(requests[-1].arrived.arrival_ns, now_ns, merge_ns, behind)
        if gap_ns is not None:
            until_ns = min(gap_ns, since_ns + MERGE_AGE * merge_ns)
        if behind and given.exclusive_device:
            gap_ns = arrivals.gap_behind()
            if gap_ns is not None and self._all_fit(requests, began_ns, given):
                until_ns = max(until_ns, min(gap_ns, began_ns + MERGE_AGE * merge_ns))
        rate = arrivals.steady_rate / instances
        if rate > 0.0:
            wanted = bisect_left(self._rates, rate / self._set_point)
            if rows < min(wanted, self._max_rows):
                expected_ns = PATIENCE * (wanted - 1) / (rate * instances)
                age = WINDOW_AGE / (1.0 + BURST_CAUTION * arrivals.burstiness)
                age_ns = first.arrived.arrival_ns + age * (self.target_ns or 0) - grown_ns
                until_ns = max(until_ns, min(began_ns + expected_ns, age_ns))
        until_ns = min(until_ns, first.finish_by_ns - grown_ns - TOLERANCE_NS)
        if until_ns > now_ns + TOLERANCE_NS:
            for request in requests:
                if request.expires_ns is not None:
                    until_ns = min(until_ns, request.expires_ns - TIMER_NS)
        if until_ns <= now_ns + TOLERANCE_NS:
            self._waits_from = None
            return None
        self._waits_from = began_ns
        return int(until_ns)

    def _all_fit(self, requests: Sequence[LiveRequest], since_ns: int, given: PolicyInput) -> bool:
        """Whether a batch would be in time for who waited then and as many rows as ended then."""
        waited = [request.rows for request in requests if request.arrived.arrival_ns <= since_ns]
        rows = sum(waited) + self.arrivals.ended_rows
        if rows > self._max_rows:
            return False
        done_ns = since_ns + given.times.p95[rows]
        return done_ns <= requests[0].finish_by_ns + TOLERANCE_NS

    # Several lines: priorities, tenants over their share, the late and the aged

    def _several_classes(self, group: BatchGroup, given: PolicyInput) -> Decision:
        """What is in time comes first; what is late gets the time that would be waited away."""
        normal = [
            priority_class
            for priority_class in group.classes
            if PROMOTED < priority_class.rank < BEST_EFFORT
        ]
        late = [
            r
            for priority_class in group.classes
            if priority_class.rank in (PROMOTED, BEST_EFFORT)
            for r in priority_class.requests
        ]
        take: list[LiveRequest] = []
        drop: list[LiveRequest] = []
        ranked = len(normal) == 1 and self.arrivals.share_up_to(normal[0].rank - 1) > 0.0
        if len(normal) == 1 and group.classes[0] is normal[0] and not ranked:
            decision = self._one_class(normal[0], given)
            if isinstance(decision, Take) and not late:
                return decision
            assert isinstance(decision, Take | Wait)
            drop += normal[0].requests[: decision.drop]
            stop = decision.drop + decision.count if isinstance(decision, Take) else None
            take += normal[0].requests[decision.drop : stop]
            until_ns: int | None = None if isinstance(decision, Take) else decision.until_ns
        else:
            until_ns = self._in_time(group, normal, take, drop, given)
            if drop and not take and until_ns is None:
                _try_one(normal, take, drop, given)
        if until_ns is None and take:
            if late:
                self._take_along(late, normal, take, drop, given)
            return Choose(tuple(take), tuple(drop))
        # While those in time wait, what is late may run, if it is done by then.
        waiting_ns = until_ns if until_ns is not None and until_ns < NEVER_NS else None
        if waiting_ns is None:
            most = self._rows_within(LATE_PART * (self.target_ns or 0), given)
            most = max(most, late[0].rows) if late else 0
        else:
            most = self._rows_within(waiting_ns - given.now_ns, given)
        filling: list[LiveRequest] = []
        self._fill(late, most, filling, given)
        if filling:
            return Choose(tuple(filling), tuple(drop))
        return Choose((), tuple(drop), NEVER_NS if waiting_ns is None else waiting_ns)

    def _take_along(
        self,
        late: Sequence[LiveRequest],
        normal: Sequence[PriorityClass],
        take: list[LiveRequest],
        drop: Sequence[LiveRequest],
        given: PolicyInput,
    ) -> None:
        """Fill a batch of all who are in time with who is late, as far as nobody else needs it."""
        aged = [request for request in take if request.rank == PROMOTED]
        if len(take) - len(aged) + len(drop) < sum(
            len(priority_class.requests) for priority_class in normal
        ):
            return
        most = min(self._most_rows_for(given, 1.0), self._most_beside(given))
        self._fill([each for each in late if each not in aged], most, take, given)

    def _rows_within(self, spare_ns: float, given: PolicyInput) -> int:
        """The largest batch that takes no longer than this."""
        return bisect_right(given.times.p95, spare_ns) - 1

    def _in_time(
        self,
        group: BatchGroup,
        normal: Sequence[PriorityClass],
        take: list[LiveRequest],
        drop: list[LiveRequest],
        given: PolicyInput,
    ) -> int | None:
        """Choose among several ranks. Returns when to ask again if nothing is better sent yet."""
        if not normal:
            return None
        # What has more rows than such a batch fits none that is short enough, and must fit some.
        largest = max(
            [request.rows for priority_class in normal for request in priority_class.requests]
        )
        most = max(self._most_rows(normal, given), min(largest, self._most_beside(given)))
        first = group.classes[0]
        if first.rank == PROMOTED and self._owed >= first.requests[0].rows:
            take.append(first.requests[0])
            self._owed -= first.requests[0].rows
        until_ns = self._add_in_time(normal, most, take, drop, given)
        if first.rank == PROMOTED and take:
            self._owed += sum(request.rows for request in take) / PROMOTED_ONE_IN
        return until_ns

    def _most_beside(self, given: PolicyInput) -> int:
        """The largest batch that the models which share the device leave time for."""
        if given.longest_ns is None:
            return self._max_rows
        return max(1, bisect_right(given.times.curve, given.longest_ns) - 1)

    def _most_rows(self, normal: Sequence[PriorityClass], given: PolicyInput) -> int:
        """A batch that lets what is worth more, and comes while it runs, be in time."""
        self._know(given.times.curve)
        first = normal[0].rank
        share = self.arrivals.share_up_to(first if len(normal) > 1 else first - 1)
        return self._most_rows_for(given, share)

    def _most_rows_for(self, given: PolicyInput, share: float) -> int:
        """The largest batch that lets this share of all that comes meanwhile be in time."""
        curve = given.times.curve
        most = len(curve) - 1
        if share <= 0.0:
            return most
        target_ns = self.target_ns or 0
        p95 = given.times.p95
        rate = self.arrivals.rate / len(given.free_ns) * share
        while most > 1:
            coming = rate * curve[most]
            rows = min(len(curve) - 1, int(coming + 2.0 * coming**0.5) + 1)
            if curve[most] + p95[rows] <= target_ns:
                break
            most -= 1
        return most

    def _add_in_time(
        self,
        normal: Sequence[PriorityClass],
        most: int,
        take: list[LiveRequest],
        drop: list[LiveRequest],
        given: PolicyInput,
    ) -> int | None:
        """Everybody if everybody can be in time; else line by line, the most valuable first."""
        merged = sorted(
            [r for priority_class in normal for r in priority_class.requests], key=_order
        )
        finish_by = [request.finish_by_ns for request in merged]
        rows = sum(priority_class.rows for priority_class in normal)
        curve = given.times.curve
        taken_rows = sum(request.rows for request in take)
        after_ns = curve[min(taken_rows + 1, len(curve) - 1)] - curve[1]
        room = most - taken_rows
        if room < 1:
            return None
        alone = not take
        chosen = self._plan(finish_by, merged, rows, given, after_ns, room, in_turn=alone)
        if not chosen.drop:
            if not take:
                until_ns = None
                if chosen.take == len(merged):
                    until_ns = self._wait(merged, rows, given)
                if until_ns is not None:
                    return until_ns
            take.extend(merged[: chosen.take])
            return None
        first_most = self._most_rows(normal[:1], given)
        for priority_class in normal:
            taken_rows = sum(request.rows for request in take)
            limit = first_most if priority_class is normal[0] else most
            room = limit - taken_rows
            if room < 1:
                break
            after_ns = curve[min(taken_rows + 1, len(curve) - 1)] - curve[1]
            # Who is worth less may be due first.
            chosen = self._plan(
                priority_class.finish_by,
                priority_class.requests,
                priority_class.rows,
                given,
                after_ns,
                room,
                in_turn=False,
            )
            drop.extend(priority_class.requests[: chosen.drop])
            self._fill(
                priority_class.requests[chosen.drop : chosen.drop + chosen.take], limit, take, given
            )
            if chosen.drop + chosen.take < len(priority_class.requests):
                break
        return None

    def _fill(
        self,
        requests: Sequence[LiveRequest],
        most: int,
        take: list[LiveRequest],
        given: PolicyInput,
    ) -> None:
        """Add what neither is late nor makes anybody late who is in the batch already."""
        times = given.times
        rows = sum(request.rows for request in take)
        last_ns = min((latest_finish_ns(request) for request in take), default=NEVER_NS)
        for request in requests:
            grown = rows + request.rows
            if grown > most or grown > self._max_rows:
                break
            must_ns = min(last_ns, latest_finish_ns(request))
            # Who begins a batch may be let try where only the margin says no.
            takes_ns = (times.p95 if take else times.expected)[grown]
            done_ns = given.now_ns + takes_ns
            if done_ns > must_ns + TOLERANCE_NS:
                if must_ns == last_ns:
                    break
                continue
            take.append(request)
            rows, last_ns = grown, must_ns

    # State

    def take_over(self, previous: BatchPolicy, new_rank: Callable[[int], int]) -> None:
        """Keep the arrival statistics and the current wait of a policy of this kind."""
        if isinstance(previous, AdaptivePolicy):
            self._go_on_from(previous, new_rank)

    def _go_on_from(self, previous: AdaptivePolicy, new_rank: Callable[[int], int]) -> None:
        self._waits_from, self._owed = previous._waits_from, previous._owed
        # Without a target nothing is learned of arrivals.
        if self.target_ns is not None and previous.target_ns is not None:
            self.arrivals = previous.arrivals
            self.arrivals.retarget(self.target_ns)
            self.arrivals.rank_anew(new_rank, self._default_rank)

    def capture(self) -> tuple[object, ...]:
        """The whole state as a plain value, for `restore`."""
        values = [_plain(getattr(self.arrivals, f.name)) for f in fields(ArrivalStats)]
        return (self._waits_from, self._owed, *values)

    def restore(self, state: tuple[object, ...]) -> None:
        """Go on where the policy that was captured stood."""
        waits_from, owed, *values = state
        assert waits_from is None or isinstance(waits_from, int)
        assert isinstance(owed, float)
        self._waits_from, self._owed = waits_from, owed
        for f, value in zip(fields(ArrivalStats), values, strict=True):
            if f.name == "ranks" and isinstance(value, tuple):
                self.arrivals.ranks = dict(value)
            else:
                setattr(self.arrivals, f.name, list(value) if isinstance(value, tuple) else value)


def _last_hope(priority_class: PriorityClass, given: PolicyInput) -> Plan:
    """Whom to serve of a line that a plan has given up: who would be in time without the margin.

    The instance is free, and so one of them may try.
    """
    for place, request in enumerate(priority_class.requests):
        slack_ns = priority_class.finish_by[place] - given.free_ns[0] + TOLERANCE_NS
        if given.times.expected[request.rows] <= slack_ns:
            return Plan(place, 1)
    return Plan(len(priority_class.requests), 0)


def _try_one(
    normal: Sequence[PriorityClass],
    take: list[LiveRequest],
    drop: list[LiveRequest],
    given: PolicyInput,
) -> None:
    """Have one of those whom the plans gave up run all the same, the most valuable first."""
    given_up = {request.id for request in drop}
    for priority_class in normal:
        hope = _last_hope(priority_class, given)
        if hope.take and priority_class.requests[hope.drop].id in given_up:
            take.append(priority_class.requests[hope.drop])
            drop.remove(priority_class.requests[hope.drop])
            return


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list) else value


def _order(request: LiveRequest) -> int:
    return request.finish_by_ns
