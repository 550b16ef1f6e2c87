"""Instances on a thread of their own, with prefetched batches, under virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from batcher.core.commands import Dispatch
from batcher.core.events import BatchProgress, Timings
from batcher.core.scheduler import Scheduler
from batcher.simulation.engine.driver import Driver, Observer, succeed

Run: TypeAlias = Callable[[Dispatch, int], tuple[int, int]]
"""From a batch and the moment it could begin at the earliest, when it begins and when it ends."""


class PrefetchDriver(Driver):
    """A driver whose batches take `gap_ns` to reach an instance and to be reported, half each way.

    An instance that runs one batch at a time may have the next one prefetched. It begins that one when
    the batch before it ends, as a thread of the runtime does, so that its device does not wait.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        run: Run,
        gap_ns: int,
        *,
        observe: Observer | None = None,
        timer_delay: Callable[[], int] | None = None,
        reply_ns: int = 0,
        outcome: Callable[[Dispatch, Timings], BatchProgress] = succeed,
        pauses: Sequence[tuple[int, int]] = (),
    ) -> None:
        super().__init__(
            scheduler,
            lambda _: 0,
            observe=observe,
            timer_delay=timer_delay,
            reply_ns=reply_ns,
            outcome=outcome,
            pauses=pauses,
        )
        self.gap_ns = gap_ns
        self.prefetched = 0
        """How many batches an instance got while it ran another."""
        self._run = run
        self._free_ns: dict[str, int] = {}

    def start(self, dispatch: Dispatch, now_ns: int) -> None:
        """Give a batch to its instance now: post the report of its end."""
        from_ns = now_ns + self.gap_ns // 2
        if self.scheduler.fleet.instances[dispatch.instance].up.max_in_flight == 1:
            free_ns = self._free_ns.get(dispatch.instance, 0)
            self.prefetched += free_ns > now_ns
            from_ns = max(from_ns, free_ns)
        begins_ns, ends_ns = self._run(dispatch, from_ns)
        self._free_ns[dispatch.instance] = ends_ns
        self.report(dispatch, Timings(begins_ns, begins_ns, ends_ns), ends_ns + self.gap_ns // 2)
