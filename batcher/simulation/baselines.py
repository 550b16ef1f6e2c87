"""Policies of other systems and papers, to compare with. Production has none of them.

They are what is known to be good at one thing: each plans batches from the head of the lane, with
the service times that the scheduler has learned, and differs in whom it gives up and when it waits.
A backlog is a lane seen that way; `t` is a moment and `i` a place in it.

- `lazy-drop` gives up only what could not even start alone any more.
- `nexus` (Shen et al., SOSP 2019, early drop) has one target batch, the largest of which two fit
  into the latency target, and gives up heads until a batch of that size could finish in time.
- `defer` (Clockwork-like) gives up as `lazy-drop` does and starts at the last moment that is safe.
- `full-clear` gives up heads only where the backlog cannot be cleared with them.
- `roll-out` rolls the backlog out for every batch size and takes the one that serves most.
- `bento` (BentoML's cork) waits while waiting costs the queue less than a typical wait.
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
"""How long `bento` sleeps before it looks again."""

_FIRST_WAIT_NS: Final = 10 * MILLISECOND
_DECAY: Final = 0.95
_WAIT_WEIGHT: Final = 0.05
"""What the average wait of `bento` starts with, how much of it may be spent, and how fast it moves."""


class Backlog:
    """What waits, in order, and what batches of it would take."""

    __slots__ = ("arrivals_ns", "before", "due_ns", "max_rows", "now_ns", "size", "took_ns")

    def __init__(self, group: BatchGroup, given: PolicyInput, max_rows: int) -> None:
        requests = list(group)
        self.now_ns = given.now_ns
        self.max_rows = max_rows
        self.size = len(requests)
        self.due_ns = [NEVER_NS if r.due_ns is None else r.due_ns for r in requests]
        self.arrivals_ns = [r.arrived.arrival_ns for r in requests]
        self.before = [0, *accumulate(r.rows for r in requests)]
        times = given.times
        # Before anything is known every batch seems free, so that the first ones are greedy.
        self.took_ns = (
            [time * times.margin for time in times.curve] if times else [0.0] * (max_rows + 1)
        )

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
        """The largest batch from `i` on that ends by the due time of `i` if it starts at `t`."""
        rows = bisect_right(self.took_ns, self.due_ns[i] - t) - 1
        return self.most(i, rows) if rows > 0 else 0

    def startable(self) -> int:
        """The first place whose request could end in time if it started alone, now."""
        i = 0
        while i < self.size and self.now_ns + self.time_ns(i, 1) > self.due_ns[i]:
            i += 1
        return i


def _verdict(backlog: Backlog, drop: int, count: int) -> Decision:
    """Drop some heads and take the next `count`; where nothing is left, wait for arrivals."""
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
        """Plan the lane as it is now."""
        return self.plan(Backlog(group, given, self._max_rows))

    def plan(self, backlog: Backlog) -> Decision:
        """What to do with this backlog."""
        raise NotImplementedError


class LazyDrop(_Planner):
    """Give up what cannot start any more; the largest batch that ends by its head's due time."""

    __slots__ = ()

    def plan(self, backlog: Backlog) -> Decision:
        """Plan without a roll-out."""
        i = backlog.startable()
        return _verdict(backlog, i, backlog.fitting(i, backlog.now_ns) if i < backlog.size else 0)


class Defer(_Planner):
    """As `LazyDrop`, but wait for company until the head's last safe start, if it has a due time."""

    __slots__ = ()

    def plan(self, backlog: Backlog) -> Decision:
        """Wait while the whole backlog could still start later."""
        i = backlog.startable()
        if i == backlog.size:
            return _verdict(backlog, i, 0)
        count, whole = backlog.fitting(i, backlog.now_ns), backlog.all_from(i)
        full = i + whole < backlog.size or backlog.before[-1] - backlog.before[i] >= self._max_rows
        latest_ns = int(backlog.due_ns[i] - backlog.time_ns(i, whole))
        due = backlog.due_ns[i] < NEVER_NS
        if due and count == whole and not full and latest_ns > backlog.now_ns:
            return Wait(latest_ns, i)
        return Take(count, i)


class Nexus(_Planner):
    """Give up heads until a batch of the target size could end by its head's due time."""

    __slots__ = ("_batch",)

    def __init__(self, settings: ModelSettings, batch: int | None = None) -> None:
        super().__init__(settings)
        self._batch = None if batch is None else min(batch, self._max_rows)

    def plan(self, backlog: Backlog) -> Decision:
        """Slide the window to the first place where it fits."""
        batch = self._batch or self._target_batch(backlog)
        for i in range(backlog.size):
            count = max(1, backlog.most(i, batch))
            if backlog.now_ns + backlog.time_ns(i, count) <= backlog.due_ns[i]:
                return Take(count, i)
        return _verdict(backlog, backlog.size, 0)

    def _target_batch(self, backlog: Backlog) -> int:
        """The largest batch that a request can wait for, and then be in, within the target."""
        return max(1, bisect_right(backlog.took_ns, self._target_ns / 2) - 1)


class FullClear(_Planner):
    """Give up heads that stand in the way of clearing the backlog, and no others."""

    __slots__ = ()

    def plan(self, backlog: Backlog) -> Decision:
        """Find the first place from which everything can be served in time."""
        i = 0
        while i < backlog.size and not _clears(backlog, i):
            i += 1
        return _verdict(backlog, i, backlog.fitting(i, backlog.now_ns) if i < backlog.size else 0)


def _clears(backlog: Backlog, i: int) -> bool:
    """Whether batches that each end by their head's due time get through all from `i` on."""
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
        """Start the best roll-out: most served, then soonest through, then the largest batch."""
        found = (self._roll(backlog, rows) for rows in self._sizes(backlog))
        _, _, drop, count = max(found, key=lambda rolled: (rolled[0], -rolled[1]))
        return _verdict(backlog, drop, count)

    def _sizes(self, backlog: Backlog) -> Iterator[int]:
        return iter(range(min(self._max_rows, backlog.before[-1]), 0, -1))

    @staticmethod
    def _roll(backlog: Backlog, rows: int) -> tuple[int, float, int, int]:
        """Requests served, when that is done, and the heads to drop and batch to start with."""
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
    """Wait while the wait of all, for one more request, is below what one usually waits."""

    __slots__ = ("_wait_ns",)

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._wait_ns = float(_FIRST_WAIT_NS)

    def plan(self, backlog: Backlog) -> Decision:
        """Drop heads that their batch would make late, then cork or take all that fits."""
        i = self._late(backlog)
        if i == backlog.size:
            return _verdict(backlog, i, 0)
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
    def _late(backlog: Backlog) -> int:
        """The first place from which a batch of all would be in time; the last one may be late."""
        i = 0
        while i < backlog.size - 1:
            if backlog.now_ns + backlog.time_ns(i, backlog.all_from(i)) <= backlog.due_ns[i]:
                return i
            i += 1
        return i + (backlog.now_ns > backlog.due_ns[i])


BASELINES: Final[dict[str, PolicyFactory]] = {
    "lazy-drop": LazyDrop,
    "defer": Defer,
    "full-clear": FullClear,
    "roll-out": RollOut,
    "bento": Bento,
}
"""By the names that `--policy` takes. `nexus` has a parameter, and is read apart."""
