"""The policy `adaptive`: windows that follow from a latency target, not from a setting.

With a backlog, no instance is idle: `backlog.plan` cuts what waits into the batches that serve most
requests in time, and says which requests to give up so that the others are. With an idle instance and
a short queue the policy may wait for more requests (`waiting.py`), but never past the moment at which
the first request would be late.

Requests of one priority class are planned as one backlog (`_one_class`). Where there are several
classes (priorities, tenants over their share), all are planned together; only where not all can be in
time, class by class, the most valuable first (`_several_classes`). Late requests get the time that would
be waited away, the room that a batch has left, and first of all what they are entitled to (`core/late.py`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from batcher.core.policies.arrivals import ArrivalStats
from batcher.core.policies.backlog import Plan, Price, plan
from batcher.core.policies.batch_contents import (
    all_within_deadlines,
    fill,
    first_in_time,
    largest_beside_others,
    largest_for_arrivals,
    largest_within,
    may_be_in_time,
)
from batcher.core.policies.batch_rates import BatchRates
from batcher.core.policies.interface import (
    BatchPolicy,
    Choose,
    Decision,
    PolicyInput,
    Take,
    Wait,
)
from batcher.core.policies.waiting import Waiting
from batcher.core.queueing.batch_groups import BatchGroup, PriorityClass
from batcher.core.queueing.ranks import LATE
from batcher.core.queueing.request import LiveRequest
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.settings import Adaptive
from batcher.core.times import NEVER_NS, TOLERANCE_NS

SOFTNESS = 0.2
"""How gently the price of time bends, in targets. 30 % more costs 0.3 points of requests in time under
overload; less changes nothing."""

SHIFT = -0.05
"""How much later than the fluid limit it bends, in targets; below 0, earlier."""

MOST_LOAD = 0.93
"""The highest load, as a part of what can be served, that the price is computed for: with a higher one
every plan would lie at the bend. 30 % less costs up to 3.2 points of requests in time; more changes one
instance by nothing, and with two under overload gains 1.1 points."""


BURST_RATE = 2.0
"""A batch that late requests go along in leaves time for so many times the arrivals of now. With 1.0, those in
time lose 1.2 % of the rate at which 99 % are where arrivals come in spells; more than 2.0 changes nothing."""


class AdaptivePolicy(BatchPolicy):
    """One model's windows. Its state is the arrival statistics and the wait that is on."""

    __slots__ = (
        "_max_rows",
        "_rates",
        "_target_ns",
        "_waiting",
        "arrivals",
        "deadline_aware",
        "late_share",
        "learns_arrivals",
        "limit_ns",
        "on_arrival",
        "serves_late",
    )

    def __init__(
        self, settings: Adaptive, max_batch_size: int, target_ns: int | None, default_rank: int
    ) -> None:
        # Attributes of the instance, because they are read for each request.
        self.deadline_aware = True
        self.learns_arrivals = target_ns is not None
        self.serves_late = target_ns is None or settings.limit_ns != target_ns
        self.limit_ns = settings.limit_ns
        self.late_share = settings.late_share
        # Without a target, none of what follows is used.
        self._target_ns = target_ns or 1
        self._count(ArrivalStats(self._target_ns, default_rank))
        self._rates = BatchRates(self._target_ns)
        self._waiting = Waiting(max_batch_size, self._target_ns, settings.utilization_target)
        self._max_rows = max_batch_size

    def decide(self, group: BatchGroup, given: PolicyInput) -> Decision:
        """Plan the backlog; wait only where that saves time of the device."""
        priority_class = group.classes[0]
        if not self.learns_arrivals or not given.times:
            return all_within_deadlines(group, given, self._largest(given))
        self.arrivals.fold(given.now_ns)
        if len(group.classes) == 1 and priority_class.rank < LATE and not self.arrivals.ranks:
            return self._one_class(priority_class, given)
        return self._several_classes(group, given)

    def _largest(self, given: PolicyInput) -> int:
        """The most rows of a batch: fewer than the settings allow while the device lacks memory."""
        return min(self._max_rows, given.times.max_rows)

    # Arrivals

    def _count(self, arrivals: ArrivalStats) -> None:
        """Count arrivals in these statistics; `on_arrival` is their method, for each request."""
        self.arrivals = arrivals
        self.on_arrival = arrivals.arrived  # type: ignore[method-assign]

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

    # One priority class: the common case

    def _one_class(self, priority_class: PriorityClass, given: PolicyInput) -> Take | Wait:
        times, requests = given.times, priority_class.requests
        slack_ns = priority_class.finish_by[0] - given.now_ns + TOLERANCE_NS
        fits = priority_class.rows <= self._largest(given) and given.longest_ns is None
        if fits and times.p95[priority_class.rows] <= slack_ns:
            # One batch, in time: nothing to plan.
            self._rates.follow(times.curve)
            until_ns = self._wait(requests, priority_class.rows, given)
            return Take(len(requests)) if until_ns is None else Wait(until_ns)
        chosen = self._plan(priority_class.finish_by, requests, priority_class.rows, given)
        if not chosen.take:
            # The instance is free: one request that may be in time runs.
            place = first_in_time(priority_class, given, serves_late=self.serves_late)
            chosen = Plan(len(requests), 0) if place is None else Plan(place, 1)
        drop, take = chosen.drop, chosen.take
        until_ns = None
        if take and drop + take == len(requests):
            left = requests[drop:]
            until_ns = self._wait(left, sum([request.rows for request in left]), given)
        else:
            self._waiting.began_ns = None
        if until_ns is None:
            return Take(take, drop) if take else Wait(NEVER_NS, drop)
        return Wait(until_ns, drop)

    def _wait(self, requests: Sequence[LiveRequest], rows: int, given: PolicyInput) -> int | None:
        """When to ask again about requests that fit one batch; None if they go at once."""
        return self._waiting.until_ns(requests, rows, given, self.arrivals, self._rates)

    def _plan(
        self,
        finish_by: Sequence[int],
        requests: Sequence[LiveRequest],
        rows: int,
        given: PolicyInput,
        after_ns: float = 0.0,
        most_rows: int | None = None,
    ) -> Plan:
        """What to give up and what to take, if the instance were free `after_ns` later."""
        times = given.times
        curve = times.curve
        free_ns = given.free_ns
        self._rates.follow(curve)
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
        return plan(finish_by, before, free_ns, curve, times.p95, price, given.now_ns)

    def _price(self, instances: int, times: ServiceTimes) -> Price:
        """What time costs: it bends where a backlog at the rate of now would outgrow the target."""
        target_ns = self._target_ns
        rate = min(self.arrivals.rate / instances, MOST_LOAD * self._rates.best)
        size = min(self._rates.smallest_batch(rate), len(times.curve) - 1)
        bend_ns = target_ns - times.alone[size] + SHIFT * target_ns
        return Price(rate * instances / self.arrivals.rows_each, bend_ns, SOFTNESS * target_ns)

    # Several priority classes, or late requests

    def _several_classes(self, group: BatchGroup, given: PolicyInput) -> Decision:
        """Requests in time come first, but for the share of late ones; these go along where there is room."""
        last = group.classes[-1]
        late = last.requests if last.rank == LATE else ()
        normal = group.classes[:-1] if late else group.classes
        take: list[LiveRequest] = []
        drop: list[LiveRequest] = []
        if not normal:
            return self._late_only(late, NEVER_NS, drop, given)
        if late and given.late_ns:
            self._rates.follow(given.times.curve)
            rows = int(given.late_ns * self._rates.best)
            fill(late, min(rows, self._most_rows(normal, given)), take, given)
        alone = len(normal) == 1 and not take
        if alone and not self.arrivals.share_up_to(normal[0].rank - 1):
            requests, decision = normal[0].requests, self._one_class(normal[0], given)
            stop = decision.drop + decision.count if isinstance(decision, Take) else len(requests)
            if stop < len(requests):
                # Others in time wait: no late ones go along.
                return decision
            drop += requests[: decision.drop]
            take += requests[decision.drop :]
            until_ns: int | None = None if isinstance(decision, Take) else decision.until_ns
        else:
            until_ns = self._in_time(normal, take, drop, given)
            if drop and not take and until_ns is None:
                self._try_one(normal, take, drop, given)
        if until_ns is None and take:
            if late:
                self._take_along(late, normal, take, drop, given)
            return Choose(tuple(take), tuple(drop))
        return self._late_only(late, NEVER_NS if until_ns is None else until_ns, drop, given)

    def _late_only(
        self,
        late: Sequence[LiveRequest],
        until_ns: int,
        drop: Sequence[LiveRequest],
        given: PolicyInput,
    ) -> Choose:
        """Run late requests while those in time wait until `until_ns`; `NEVER_NS` where none waits."""
        if until_ns < NEVER_NS:
            most = largest_within(until_ns - given.now_ns, given)
        elif given.reachable:
            most = self._most_for_share(1.0, given)
        else:
            most = self._largest(given)
        take: list[LiveRequest] = []
        if late and until_ns == NEVER_NS:
            most = max(most, late[0].rows)
        fill(late, min(most, largest_beside_others(given, self._largest(given))), take, given)
        if take:
            return Choose(tuple(take), tuple(drop))
        gone: list[LiveRequest] = []
        if until_ns == NEVER_NS:
            # No prediction refuses a request beside an idle instance.
            for request in late:
                if may_be_in_time(request.limit_ns, given):
                    return Choose((request,), (*drop, *gone))
                gone.append(request)
        return Choose((), (*drop, *gone), until_ns)

    def _take_along(
        self,
        late: Sequence[LiveRequest],
        normal: Sequence[PriorityClass],
        take: list[LiveRequest],
        drop: Sequence[LiveRequest],
        given: PolicyInput,
    ) -> None:
        """Fill up a batch that has all requests in time with late ones."""
        taken = {request.id for request in take if request.rank == LATE}
        in_time = sum([len(priority_class.requests) for priority_class in normal])
        if len(take) - len(taken) + len(drop) < in_time:
            return
        beside = largest_beside_others(given, self._largest(given))
        most = min(self._most_for_share(BURST_RATE, given), beside)
        fill([each for each in late if each.id not in taken], most, take, given)

    def _in_time(
        self,
        normal: Sequence[PriorityClass],
        take: list[LiveRequest],
        drop: list[LiveRequest],
        given: PolicyInput,
    ) -> int | None:
        """Choose among several classes. Returns when to ask again if waiting is better."""
        # A request with more rows than such a batch must still fit some batch.
        largest = max([priority_class.largest_rows for priority_class in normal])
        beside = largest_beside_others(given, self._largest(given))
        most = max(self._most_rows(normal, given), min(largest, beside))
        return self._add_in_time(normal, most, take, drop, given)

    def _most_rows(self, normal: Sequence[PriorityClass], given: PolicyInput) -> int:
        """The largest batch that lets requests of better classes, which arrive meanwhile, be in time."""
        first = normal[0].rank
        share = self.arrivals.share_up_to(first if len(normal) > 1 else first - 1)
        return self._most_for_share(share, given)

    def _most_for_share(self, share: float, given: PolicyInput) -> int:
        """The largest batch that lets this share of what arrives meanwhile be in time."""
        share *= 1.0 - given.late_claim
        if share <= 0.0:
            return len(given.times.curve) - 1
        rate = self.arrivals.rate / len(given.free_ns) * share
        return largest_for_arrivals(rate, self._target_ns, given)

    def _add_in_time(
        self,
        normal: Sequence[PriorityClass],
        most: int,
        take: list[LiveRequest],
        drop: list[LiveRequest],
        given: PolicyInput,
    ) -> int | None:
        """All classes together if all can be in time; else class by class, the most valuable first.

        Returns when to ask again if waiting is better.
        """
        merged, finish_by = normal[0].requests, normal[0].finish_by
        if len(normal) > 1:
            merged = sorted(
                [r for priority_class in normal for r in priority_class.requests], key=_finish_by_ns
            )
            finish_by = [request.finish_by_ns for request in merged]
        rows = sum([priority_class.rows for priority_class in normal])
        room = most - sum([request.rows for request in take])
        if room < 1:
            return None
        after_ns, alone = _delay_ns(take, given), not take
        chosen = self._plan(finish_by, merged, rows, given, after_ns, room)
        if not chosen.drop or len(normal) == 1:
            if alone and chosen.take == len(merged):
                until_ns = self._wait(merged, rows, given)
                if until_ns is not None:
                    return until_ns
            drop.extend(merged[: chosen.drop])
            requests = merged[chosen.drop : chosen.drop + chosen.take]
            if alone:
                take.extend(requests)
            else:
                fill(requests, most, take, given)
            return None
        first_most = self._most_rows(normal[:1], given)
        planned = 0
        for priority_class in normal:
            limit = first_most if priority_class is normal[0] else most
            room = limit - sum(request.rows for request in take)
            if room < 1:
                break
            planned += 1
            requests = priority_class.requests
            chosen = self._plan(
                priority_class.finish_by,
                requests,
                priority_class.rows,
                given,
                _delay_ns(take, given),
                room,
            )
            end = chosen.drop + chosen.take
            drop.extend(requests[: chosen.drop])
            fill(requests[chosen.drop : end], limit, take, given)
            if end < len(requests):
                break
        # What cannot be in time any more would wait in vain in the classes that were not planned.
        soonest_ns = given.free_ns[0] + given.times.expected[1] - TOLERANCE_NS
        for priority_class in normal[planned:]:
            gone = bisect_left(priority_class.finish_by, soonest_ns)
            drop.extend(priority_class.requests[:gone])
        return None

    def _try_one(
        self,
        normal: Sequence[PriorityClass],
        take: list[LiveRequest],
        drop: list[LiveRequest],
        given: PolicyInput,
    ) -> None:
        """Take one of the requests that were given up, the most valuable that may be in time."""
        given_up = {request.id for request in drop}
        for priority_class in normal:
            place = first_in_time(priority_class, given, serves_late=self.serves_late)
            if place is not None and priority_class.requests[place].id in given_up:
                take.append(priority_class.requests[place])
                drop.remove(priority_class.requests[place])
                return

    # State

    def take_over(self, previous: BatchPolicy, new_rank: Callable[[int], int]) -> None:
        """Keep the arrival statistics and the current wait of a policy of this kind."""
        if isinstance(previous, AdaptivePolicy):
            self._go_on_from(previous, new_rank)

    def _go_on_from(self, previous: AdaptivePolicy, new_rank: Callable[[int], int]) -> None:
        self._waiting.began_ns = previous._waiting.began_ns
        # Without a target nothing is learned of arrivals.
        if self.learns_arrivals and previous.learns_arrivals:
            default_rank = self.arrivals.default_rank
            self._count(previous.arrivals)
            self.arrivals.target_ns = self._target_ns
            self.arrivals.rank_anew(new_rank, default_rank)

    def capture(self) -> tuple[object, ...]:
        """The whole state as a plain value, for `restore`."""
        return self._waiting.began_ns, *self.arrivals.capture()

    def restore(self, state: tuple[object, ...]) -> None:
        """Go on where the policy that was captured stood."""
        began_ns, *values = state
        assert began_ns is None or isinstance(began_ns, int)
        self._waiting.began_ns = began_ns
        self.arrivals.restore(tuple(values))


def _delay_ns(take: Sequence[LiveRequest], given: PolicyInput) -> float:
    """How much longer a batch takes because of the requests that are in it already."""
    curve = given.times.curve
    rows = sum([request.rows for request in take])
    return curve[min(rows + 1, len(curve) - 1)] - curve[1]


def _finish_by_ns(request: LiveRequest) -> int:
    return request.finish_by_ns
