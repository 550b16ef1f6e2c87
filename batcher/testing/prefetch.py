"""Instances that wait for what they are given, under virtual time."""

from __future__ import annotations

from collections.abc import Callable

from batcher.core.commands import Dispatch
from batcher.core.events import BatchProgress, Timings
from batcher.core.scheduler import Scheduler
from batcher.simulation.engine.driver import Observer, succeed
from batcher.simulation.engine.prefetch import PrefetchDriver


class PrefetchingShell(PrefetchDriver):
    """Keeps what was executed; `executes_ns(rows)` is what a batch takes alone.

    Devices are not shared.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executes_ns: Callable[[int], int],
        gap_ns: int,
        observe: Observer,
        outcome: Callable[[Dispatch, Timings], BatchProgress] = succeed,
    ) -> None:
        super().__init__(scheduler, self._execute, gap_ns, observe=observe, outcome=outcome)
        self.executed: list[tuple[int, int]] = []
        """When each batch began and ended."""
        self._executes_ns = executes_ns

    def _execute(self, dispatch: Dispatch, from_ns: int) -> tuple[int, int]:
        rows = sum([part.stop - part.start for part in dispatch.parts])
        ran = from_ns, from_ns + self._executes_ns(rows)
        self.executed.append(ran)
        return ran
