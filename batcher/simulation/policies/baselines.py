"""Policies of other systems and papers, to compare with in simulations; a server has none of them.

Each plans batches from the front of a batch group, with the service times that the scheduler has
learned. They differ in which requests they give up and when they wait:

| policy | gives up | then |
|---|---|---|
| `lazy-drop` | requests that would be late even alone | takes the largest batch that is in time for its first request |
| `defer` (as Clockwork) | the same | starts at the last moment that is in time |
| `nexus` (Shen et al., SOSP 2019, early drop) | first requests, until a batch of the target size is in time | takes that batch; the target size is the largest of which two fit into the latency target |
| `full-clear` | first requests with which the backlog cannot be cleared in time | as `lazy-drop` |
| `roll-out` | what the best roll-out gives up | plays the backlog out for each batch size and takes the one that serves most |
| `bento` (BentoML's cork) | first requests that a batch of all would make late | waits while waiting costs less than requests usually wait |

In what follows, `i` is a place in the backlog and `t` a moment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from batcher.clock import MILLISECOND, SECOND
from batcher.core.policies import (
    BatchPolicy,
    Decision,
    PolicyFactory,
    PolicyInput,
    Take,
    Wait,
)
from batcher.core.queueing.batch_groups import BatchGroup
from batcher.core.settings import ModelSettings
from batcher.core.times import NEVER_NS

_TICK_NS: Final = MILLISECOND
"""After so long, `bento` decides again."""

_FIRST_WAIT_NS: Final = 10 * MILLISECOND
"""The average wait that `bento` starts with."""

_DECAY: Final = 0.95
"""How much of the average wait `bento` may spend."""

_WAIT_WEIGHT: Final = 0.05
"""The weight of one batch in the average wait of `bento`."""


class Backlog:
    """The requests of a group, in order, and what batches of them take."""

    __slots__ = ("arrivals_ns", "before", "due_ns", "max_rows", "now_ns", "size", "took_ns")

    def __init__(self, group: BatchGroup, given: PolicyInput, max_rows: int) -> None:
        requests = list(group)
        self.now_ns = given.now_ns
        self.size = len(requests)
        self.due_ns = [NEVER_NS if r.due_ns is None else r.due_ns for r in requests]
        self.arrivals_ns = [r.arrived.arrival_ns for r in requests]
        self.before = [0, *accumulate(r.rows for r in requests)]
        times = given.times
        # While nothing is known, batches take no time, so that the first ones are greedy.
        self.took_ns = (
            [time * times.margin for time in times.curve] if times else [0.0] * (max_rows + 1)
        )
        self.max_rows = min(max_rows, len(self.took_ns) - 1)

    def most(self, i: int, rows: int) -> int:
        """How many requests from `i` on have at most `rows` rows together."""
        return bisect_right(self.before, self.before[i] + rows) - 1 - i

    def all_from(self, i: int) -> int:
        """How many requests from `i` on one batch can hold."""
        return self.most(i, self.max_rows)

    def time_ns(self, i: int, count: int) -> float:
        """What a batch of `count` requests from `i` on takes."""
        return self.took_ns[self.before[i + count] - self.before[i]]

    def fitting(self, i: int, t: float) -> int:
        """How many requests from `i` on are done by the due time of `i` in a batch that starts at `t`."""
        rows = bisect_right(self.took_ns, self.due_ns[i] - t) - 1
        return self.most(i, rows) if rows > 0 else 0

    def startable(self) -> int:
        """The first place whose request would be in time alone and at once; `size` if there is none."""
        i = 0
        while i < self.size and self.now_ns + self.time_ns(i, 1) > self.due_ns[i]:
            i += 1
        return i


def _decision(backlog: Backlog, drop: int, count: int) -> Decision:
    """Give up the first `drop` and take the next `count`; with a count of 0, wait for arrivals."""
    if count:
        return Take(count, drop)
    return Wait(backlog.now_ns + SECOND, drop)


class _Planner(BatchPolicy):
    """A policy that plans from the backlog."""

    __slots__ = ("_max_rows", "_target_ns")

    def __init__(self, settings: ModelSettings) -> None:
        self._max_rows = settings.max_batch_size
        self._target_ns = NEVER_NS if settings.target_ns is None else settings.target_ns

    def decide(self, group: BatchGroup, given: PolicyInput) -> Decision:
        """Plan the group as it is now."""
        return self.plan(Backlog(group, given, self._max_rows))

    def plan(self, backlog: Backlog) -> Decision:
        """What to do with this backlog."""
        raise NotImplementedError


class LazyDrop(_Planner):
    """Give up what would be late even alone; then the largest batch that is in time for its first."""

    __slots__ = ()

    def plan(self, backlog: Backlog) -> Decision:
        """Look at the first batch alone."""
        i = backlog.startable()
        return _decision(backlog, i, backlog.fitting(i, backlog.now_ns) if i < backlog.size else 0)


class Defer(_Planner):
    """As `LazyDrop`, but wait for more until the last start that is in time, if there is a due time."""

    __slots__ = ()

    def plan(self, backlog: Backlog) -> Decision:
        """Wait while the whole backlog could still start later."""
        i = backlog.startable()
        if i == backlog.size:
            return _decision(backlog, i, 0)
        count, whole = backlog.fitting(i, backlog.now_ns), backlog.all_from(i)
        full = i + whole < backlog.size or backlog.before[-1] - backlog.before[i] >= self._max_rows
        latest_ns = int(backlog.due_ns[i] - backlog.time_ns(i, whole))
        due = backlog.due_ns[i] < NEVER_NS
        if due and count == whole and not full and latest_ns > backlog.now_ns:
            return Wait(latest_ns, i)
        return Take(count, i)


class Nexus(_Planner):
    """Give up first requests until a batch of the target size is in time."""

    __slots__ = ("_batch",)

    def __init__(self, settings: ModelSettings, batch: int | None = None) -> None:
        super().__init__(settings)
        self._batch = None if batch is None else min(batch, self._max_rows)

    def plan(self, backlog: Backlog) -> Decision:
        """Find the first place from which a batch of the target size is in time."""
        batch = self._batch or self._target_batch(backlog)
        for i in range(backlog.size):
            count = max(1, backlog.most(i, batch))
            if backlog.now_ns + backlog.time_ns(i, count) <= backlog.due_ns[i]:
                return Take(count, i)
        return _decision(backlog, backlog.size, 0)

    def _target_batch(self, backlog: Backlog) -> int:
        """The largest batch of which two, one after the other, fit into the target."""
        return max(1, bisect_right(backlog.took_ns, self._target_ns / 2) - 1)


class FullClear(_Planner):
    """Give up first requests with which the backlog cannot be cleared in time, and no others."""

    __slots__ = ()

    def plan(self, backlog: Backlog) -> Decision:
        """Find the first place from which all can be served in time."""
        i = 0
        while i < backlog.size and not _clears(backlog, i):
            i += 1
        return _decision(backlog, i, backlog.fitting(i, backlog.now_ns) if i < backlog.size else 0)


def _clears(backlog: Backlog, i: int) -> bool:
    """Whether batches that are in time for their first requests can serve all from `i` on."""
    t: float = backlog.now_ns
    while i < backlog.size:
        count = backlog.fitting(i, t)
        if not count:
            return False
        t += backlog.time_ns(i, count)
        i += count
    return True


class RollOut(_Planner):
    """Batches of one size through the whole backlog, for every size; the one that serves most."""

    __slots__ = ()

    def plan(self, backlog: Backlog) -> Decision:
        """Begin the best roll-out: most served, then soonest done, then the largest batch."""
        found = (self._roll(backlog, rows) for rows in self._sizes(backlog))
        _, _, drop, count = max(found, key=lambda rolled: (rolled[0], -rolled[1]))
        return _decision(backlog, drop, count)

    def _sizes(self, backlog: Backlog) -> Iterator[int]:
        return iter(range(min(self._max_rows, backlog.before[-1]), 0, -1))

    @staticmethod
    def _roll(backlog: Backlog, rows: int) -> tuple[int, float, int, int]:
        """Requests served, when the last is done, how many to give up first, and the first batch."""
        t: float = backlog.now_ns
        served = i = drop = first = 0
        while i < backlog.size:
            count = max(1, backlog.most(i, rows))
            ends = t + backlog.time_ns(i, count)
            if ends > backlog.due_ns[i]:
                i += 1
                continue
            if not first:
                drop, first = i, count
            t = ends
            served += count
            i += count
        return served, t, drop if first else backlog.size, first


class Bento(_Planner):
    """Wait for one more request while that costs less than what requests usually wait."""

    __slots__ = ("_wait_ns",)

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._wait_ns = float(_FIRST_WAIT_NS)

    def plan(self, backlog: Backlog) -> Decision:
        """Give up what a batch of all would make late, then wait or take all that fits."""
        i = self._in_time_from(backlog)
        if i == backlog.size:
            return _decision(backlog, i, 0)
        waiting, now_ns = backlog.size - i, backlog.now_ns
        full = backlog.before[-1] - backlog.before[i] >= self._max_rows
        slope = (backlog.took_ns[-1] - backlog.took_ns[1]) / max(1, self._max_rows - 1)
        price = waiting * (now_ns - backlog.arrivals_ns[-1] + _TICK_NS + slope)
        if not full and price <= self._wait_ns * _DECAY:
            return Wait(now_ns + _TICK_NS, i)
        count = backlog.all_from(i)
        waited = now_ns - sum(backlog.arrivals_ns[i : i + count]) / count
        self._wait_ns += _WAIT_WEIGHT * (waited - self._wait_ns)
        return Take(count, i)

    @staticmethod
    def _in_time_from(backlog: Backlog) -> int:
        """The first place from which a batch of all is in time. The last request may be late."""
        i = 0
        while i < backlog.size - 1:
            if backlog.now_ns + backlog.time_ns(i, backlog.all_from(i)) <= backlog.due_ns[i]:
                return i
            i += 1
        return i + (backlog.now_ns > backlog.due_ns[i])


BASELINES: dict[str, PolicyFactory] = {
    "lazy-drop": LazyDrop,
    "defer": Defer,
    "full-clear": FullClear,
    "roll-out": RollOut,
    "bento": Bento,
}
"""By the names that `--policy` takes. A script may add policies of its own before it runs a command.
`nexus`, which has a parameter, is read elsewhere."""
