"""Runs a scheduler under virtual time.

Time jumps from one moment at which something happens to the next: an arrival, a completion, a
wakeup the scheduler asked for. All that happens at one moment is taken in together, completions
before arrivals, as the runtime does when both are ready in one turn of its loop.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from batcher.core.commands import Command, Dispatch
from batcher.core.events import BatchProgress, Event
from batcher.core.record import record
from batcher.core.scheduler import Scheduler


@record
class LoggedStep:
    """One call of `Scheduler.handle`: when, and what came out."""

    now_ns: int
    commands: tuple[Command, ...]


class Driver:
    """Feeds timed events to a scheduler and completes its batches after their service time.

    `service_time` returns how many nanoseconds an instance is busy with a dispatched batch.
    """

    def __init__(self, scheduler: Scheduler, service_time: Callable[[Dispatch], int]) -> None:
        self.scheduler = scheduler
        self.log: list[LoggedStep] = []
        self._service_time = service_time
        self._completions: list[tuple[int, int, tuple[int, ...]]] = []

    def run(self, events: Iterable[tuple[int, Event]]) -> list[LoggedStep]:
        """Play `(at_ns, event)` pairs, in order of time, until nothing is left to happen."""
        source = iter(events)
        upcoming = next(source, None)
        while True:
            moments = [
                upcoming[0] if upcoming else None,
                self._completions[0][0] if self._completions else None,
                self.scheduler.next_wakeup_ns(),
            ]
            pending = [moment for moment in moments if moment is not None]
            if not pending:
                return self.log
            now_ns = max(min(pending), self.scheduler.now_ns)
            batch: list[Event] = self._completed(now_ns)
            while upcoming is not None and upcoming[0] <= now_ns:
                batch.append(upcoming[1])
                upcoming = next(source, None)
            self.step(batch, now_ns)

    def step(self, events: list[Event], now_ns: int) -> list[Command]:
        """Feed events at one moment and start what the scheduler dispatches."""
        commands = self.scheduler.handle(events, now_ns)
        self.log.append(LoggedStep(now_ns, tuple(commands)))
        for command in commands:
            if isinstance(command, Dispatch):
                done_ns = now_ns + self._service_time(command)
                ids = tuple(part.id for part in command.parts)
                heapq.heappush(self._completions, (done_ns, command.batch_id, ids))
        return commands

    def _completed(self, now_ns: int) -> list[Event]:
        done: list[Event] = []
        while self._completions and self._completions[0][0] <= now_ns:
            _, batch_id, ids = heapq.heappop(self._completions)
            done.append(BatchProgress(batch_id, ids))
        return done
