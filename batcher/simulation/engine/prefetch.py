"""Instances on threads of their own, with prefetched batches, under virtual time."""

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
    the batch before it ends, as a thread of the runtime does, so that its device does not wait. Where
    `copy_ns` says that a batch takes time to be copied to its device, batches are pipelined: each is copied
    when its instance and its device have copied what came before, while others compute.
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
        copy_ns: Callable[[Dispatch], int] | None = None,
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
        self._copy_ns = copy_ns
        self._free_ns: dict[str, int] = {}
        self._copied_ns: dict[str, int] = {}
        """By instance and by device, when what it copies is copied."""

    def start(self, dispatch: Dispatch, now_ns: int) -> None:
        """Give a batch to its instance now: post the report of its end."""
        from_ns = now_ns + self.gap_ns // 2
        if self.scheduler.fleet.instances[dispatch.instance].up.max_in_flight == 1:
            free_ns = self._free_ns.get(dispatch.instance, 0)
            self.prefetched += free_ns > now_ns
            from_ns = max(from_ns, free_ns)
        started_ns, submitted_ns = 0, 0
        copy_ns = 0 if self._copy_ns is None else self._copy_ns(dispatch)
        if copy_ns:
            started_ns = self._copy_begins_ns(dispatch, now_ns + self.gap_ns // 2)
            submitted_ns = started_ns + copy_ns
            self._copied_ns[dispatch.instance] = submitted_ns
            self._copied_ns[self._device(dispatch)] = submitted_ns
            from_ns = max(from_ns, submitted_ns)
        begins_ns, ends_ns = self._run(dispatch, from_ns)
        self._free_ns[dispatch.instance] = ends_ns
        timings = Timings(started_ns or begins_ns, begins_ns, ends_ns, ends_ns, submitted_ns)
        self.report(dispatch, timings, ends_ns + self.gap_ns // 2)

    def _copy_begins_ns(self, dispatch: Dispatch, from_ns: int) -> int:
        copied = self._copied_ns
        thread_ns = copied.get(dispatch.instance, 0)
        return max(from_ns, thread_ns, copied.get(self._device(dispatch), 0))

    def _device(self, dispatch: Dispatch) -> str:
        return f"device {self.scheduler.fleet.instances[dispatch.instance].up.device}"
