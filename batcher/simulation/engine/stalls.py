"""Stalls of the machine: spells in which one part of the server does nothing, under virtual time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from batcher.core.commands import Dispatch
from batcher.core.events import Timings
from batcher.core.scheduler import Scheduler
from batcher.simulation.engine.driver import Observer
from batcher.simulation.engine.prefetch import PrefetchDriver, Run

Spells: TypeAlias = Sequence[tuple[int, int]]
"""(start, end) pairs in nanoseconds, ascending and apart."""


@dataclass(frozen=True, slots=True)
class Stalls:
    """When each part stands still.

    `loop`: every event is handled late. `dispatch`: a batch begins late. `reply`: the end of a batch is
    heard late. `device`: a running batch, or one that begins, makes no progress.
    """

    loop: Spells = ()
    dispatch: Spells = ()
    reply: Spells = ()
    device: Spells = ()


class StalledDriver(PrefetchDriver):
    """A driver whose parts stall. What an instance measures of a batch holds stalls of the device alone."""

    def __init__(
        self,
        scheduler: Scheduler,
        run: Run,
        gap_ns: int,
        stalls: Stalls,
        *,
        observe: Observer | None = None,
    ) -> None:
        super().__init__(scheduler, run, gap_ns, observe=observe, pauses=stalls.loop)
        self._stalls = stalls

    def start(self, dispatch: Dispatch, now_ns: int) -> None:
        """Give a batch to its instance now: post the report of its end."""
        from_ns = after(now_ns, self._stalls.dispatch) + self.gap_ns // 2
        if self.scheduler.fleet.instances[dispatch.instance].up.max_in_flight == 1:
            free_ns = self._free_ns.get(dispatch.instance, 0)
            self.prefetched += free_ns > now_ns
            from_ns = max(from_ns, free_ns)
        begins_ns, ends_ns = self._run(dispatch, from_ns)
        ends_ns = ends_of(begins_ns, ends_ns - begins_ns, self._stalls.device)
        self._free_ns[dispatch.instance] = ends_ns
        heard_ns = after(ends_ns, self._stalls.reply) + self.gap_ns // 2
        self.report(dispatch, Timings(begins_ns, begins_ns, ends_ns), heard_ns)


def after(at_ns: int, spells: Spells) -> int:
    """That moment, or the end of the spell that it lies in."""
    place = bisect_right(spells, (at_ns, at_ns)) - 1
    if place + 1 < len(spells) and spells[place + 1][0] == at_ns:
        place += 1
    return max(at_ns, spells[place][1]) if place >= 0 else at_ns


def ends_of(begins_ns: int, takes_ns: int, spells: Spells) -> int:
    """When work of so many nanoseconds ends that makes no progress in the spells."""
    ends_ns = begins_ns + takes_ns
    for starts_ns, until_ns in spells:
        if starts_ns >= ends_ns:
            break
        if until_ns > begins_ns:
            ends_ns += until_ns - max(starts_ns, begins_ns)
    return ends_ns
