"""Runs a scheduler under virtual time.

Time jumps from one event to the next: an event that `run` was given, one that was posted (such as a
completion), or a wakeup that the scheduler asked for. All events of one moment go to the scheduler
in one call, posted events first, as the runtime does when both are ready in one turn of its loop.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from batcher.core.commands import Command, Dispatch
from batcher.core.events import BatchProgress, Event, RepliesTook, Timings
from batcher.core.record import record
from batcher.core.scheduler import Scheduler
from batcher.core.times import NEVER_NS

Observer: TypeAlias = Callable[[int, list[Command]], None]
"""Called after each step that gave commands, with its moment in nanoseconds and the commands."""


@record
class LoggedStep:
    """One call of `Scheduler.handle`: when, and the commands that it returned."""

    now_ns: int
    commands: tuple[Command, ...]


def succeed(dispatch: Dispatch, timings: Timings) -> BatchProgress:
    """The report of a batch in which every request succeeded."""
    ids = tuple([part.id for part in dispatch.parts])
    return BatchProgress(dispatch.batch_id, ids, timings=timings)


class Driver:
    """Feeds timed events to a scheduler and completes its batches after their service time.

    `service_time` returns how many nanoseconds pass until a dispatched batch is done. `observe` is
    called with the scheduler's commands; without it, every step is kept in `log`. `timer_delay` draws
    how many nanoseconds late the shell's timer fires; without it timers are exact. The answers of a
    batch are sent one after the other, each `reply_ns` after the one before, and the scheduler is told
    when the last one is sent, as the runtime does. `outcome` returns what a batch reports at its end;
    without it every batch succeeds. `pauses` are (start, end) pairs, ascending and apart, in which the
    shell does nothing: what happens in a pause is handled at its end. Answers on their way are sent all
    the same.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        service_time: Callable[[Dispatch], int],
        *,
        observe: Observer | None = None,
        timer_delay: Callable[[], int] | None = None,
        reply_ns: int = 0,
        outcome: Callable[[Dispatch, Timings], BatchProgress] = succeed,
        pauses: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.scheduler = scheduler
        self.log: list[LoggedStep] = []
        self._service_time = service_time
        self._observe = observe
        self._timer_delay = timer_delay
        self._reply_ns = reply_ns
        self._outcome = outcome
        self._pauses = pauses
        self._posted: list[tuple[int, int, Event]] = []
        self._posts = 0
        self._asked_ns: int | None = None
        self._fires_ns = NEVER_NS

    def post(self, at_ns: int, event: Event) -> None:
        """Let an event happen at `at_ns`, in addition to those that `run` plays."""
        self._posts += 1
        heapq.heappush(self._posted, (at_ns, self._posts, event))

    def run(
        self, events: Iterable[tuple[int, Event]], until_ns: int = NEVER_NS
    ) -> list[LoggedStep]:
        """Play `(at_ns, event)` pairs, in order of time, until no event is left. Returns `log`.

        The iterable is read as time advances. With `until_ns`, which lies in no pause, only what happens before
        it is played, as are all of the events; a further call goes on from there.
        """
        posted = self._posted
        pop = heapq.heappop
        scheduler = self.scheduler
        handle = scheduler.handle
        wakeup = scheduler.next_wakeup_ns if self._timer_delay is None else self._wakeup_ns
        source = iter(events)
        end: tuple[int, Event | None] = (NEVER_NS, None)
        at_ns, event = next(source, end)
        pauses = iter((*self._pauses, (NEVER_NS, NEVER_NS)))
        pauses_ns, goes_on_ns = next(pauses)
        while True:
            now_ns = wakeup()
            if now_ns is None or at_ns < now_ns:
                now_ns = at_ns
            if posted and posted[0][0] < now_ns:
                now_ns = posted[0][0]
            if now_ns >= until_ns:
                return self.log
            if now_ns >= pauses_ns:
                while now_ns >= goes_on_ns:
                    pauses_ns, goes_on_ns = next(pauses)
                if now_ns >= pauses_ns:
                    now_ns = goes_on_ns
            if now_ns < scheduler.now_ns:  # noqa: PLR1730 - see above
                now_ns = scheduler.now_ns
            batch: list[Event] = []
            while posted and posted[0][0] <= now_ns:
                batch.append(pop(posted)[2])
            while event is not None and at_ns <= now_ns:
                batch.append(event)
                at_ns, event = next(source, end)
            commands = handle(batch, now_ns)
            if commands or self._observe is None:
                self._carry_out(commands, now_ns)

    def next_ns(self) -> int:
        """When something happens next without further events; `NEVER_NS` if nothing does."""
        wakeup_ns = self._wakeup_ns()
        posted_ns = self._posted[0][0] if self._posted else NEVER_NS
        return posted_ns if wakeup_ns is None else min(wakeup_ns, posted_ns)

    def step(self, events: list[Event], now_ns: int) -> list[Command]:
        """Feed events at one moment and start what the scheduler dispatches."""
        commands = self.scheduler.handle(events, now_ns)
        self._carry_out(commands, now_ns)
        return commands

    def _carry_out(self, commands: list[Command], now_ns: int) -> None:
        if self._observe is None:
            self.log.append(LoggedStep(now_ns, tuple(commands)))
        elif commands:
            self._observe(now_ns, commands)
        for command in commands:
            if type(command) is Dispatch:
                self.start(command, now_ns)

    def start(self, dispatch: Dispatch, now_ns: int) -> None:
        """Start a batch now: post the report of its end."""
        done_ns = now_ns + self._service_time(dispatch)
        self.report(dispatch, Timings(now_ns, now_ns, done_ns), done_ns)

    def report(self, dispatch: Dispatch, timings: Timings, at_ns: int) -> None:
        """Post at `at_ns` how a batch ended, and after that when its answers were sent."""
        progress = self._outcome(dispatch, timings)
        self.post(at_ns, progress)
        if self._reply_ns and progress.done:
            rows = sum([part.stop - part.start for part in dispatch.parts])
            took_ns = len(progress.done) * self._reply_ns
            self.post(at_ns + took_ns, RepliesTook(dispatch.model, rows, took_ns))

    def _wakeup_ns(self) -> int | None:
        """When the shell's timer fires: late by one draw for each moment that the scheduler asks for."""
        asked_ns = self.scheduler.next_wakeup_ns()
        if asked_ns is None or self._timer_delay is None:
            return asked_ns
        if asked_ns != self._asked_ns:
            self._asked_ns = asked_ns
            self._fires_ns = asked_ns + self._timer_delay()
        return self._fires_ns
