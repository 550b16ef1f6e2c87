"""Instances that wait for what they are given, under virtual time."""

from __future__ import annotations

from collections.abc import Callable

from batcher.core.commands import Dispatch
from batcher.core.events import BatchProgress, InstanceUp, Timings
from batcher.core.scheduler import Scheduler
from batcher.simulation.driver import Driver, Observer, succeed


class SlowHandover(Driver):
    """A driver whose instances begin a batch half of `gap_ns` after they got it, or after the last.

    The scheduler hears of its end the other half later. `executes_ns(rows)` is what a batch takes
    alone. Devices are not shared.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executes_ns: Callable[[int], int],
        gap_ns: int,
        observe: Observer,
        outcome: Callable[[Dispatch, Timings], BatchProgress] = succeed,
    ) -> None:
        super().__init__(scheduler, lambda _: 0, observe=observe, outcome=outcome)
        self.executed: list[tuple[int, int]] = []
        """When each batch began and ended."""
        self.in_hand = 0
        """How many batches an instance got while it ran another."""
        self._executes_ns = executes_ns
        self.gap_ns = gap_ns
        self._free_ns: dict[InstanceUp, int] = {}

    def start(self, dispatch: Dispatch, now_ns: int) -> None:
        """Post a batch's end."""
        rows = sum([part.stop - part.start for part in dispatch.parts])
        up = self.scheduler.fleet.instances[dispatch.instance].up
        free_ns = self._free_ns.get(up, 0)
        self.in_hand += free_ns > now_ns
        begins_ns = max(now_ns + self.gap_ns // 2, free_ns)
        ends_ns = self._free_ns[up] = begins_ns + self._executes_ns(rows)
        self.executed.append((begins_ns, ends_ns))
        progress = self._outcome(dispatch, Timings(begins_ns, begins_ns, ends_ns))
        self.post(ends_ns + self.gap_ns // 2, progress)
