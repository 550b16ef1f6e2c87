"""Decides whether an incarnation that is up is healthy.

It is unhealthy if its executor says so (`healthy()`, called at an interval while no batch runs), or
if its last `failure_threshold` batches all failed for a reason other than their input. Batches that a
backend refused because it is overloaded or unavailable do not count, nor do those that were cancelled:
an executor that watches its backend says what is unhealthy. In the second
case a test batch, the smallest one of the warm-up, must fail too, so that clients which send
nothing but bad values cannot take a model out of service.

An unhealthy incarnation still executes the batches that it gets. It is healthy again after the
first success, or when `healthy()` or a test batch succeeds at the next check. Without either
(an executor without `healthy`, a model without warm-up), it counts as healthy after one interval,
on trial: one more failed batch makes it unhealthy again.

Where a new process can help, `restart` is called when `restart_after` checks in a row found it unhealthy, and
no batch or check succeeded between them. A check that was not answered does not count: it waits behind a
batch, or the incarnation hangs, which is found otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from batcher.clock import SECOND
from batcher.core.events import UNTOLD, FailureCause
from batcher.runtime.execution.execute import ExecutedBatch

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[str]]
"""Returns why it is unhealthy; empty if it is healthy."""


@dataclass(frozen=True, slots=True)
class HealthCheckPlan:
    """How often to check, how long `healthy()` may take, how many failed batches are too many."""

    interval_ns: int = 5 * SECOND
    timeout_ns: int = SECOND
    failure_threshold: int | None = 5
    restart_after: int | None = None
    """After how many checks in a row that found it unhealthy it is replaced; None: never."""


class HealthChecks:
    """Checks one incarnation from `start` to `stop`. Call every method on the event loop.

    `ask` calls the executor's `healthy`, None if it has none; with `only_asked` there is nothing to call, and
    an answer says no more than that the child lives. `answered` says whether what was asked last was answered.
    `test` runs a test batch, None without warm-up. `idle` says whether no batch runs. `changed` is called when
    `why` changes. `restart` is called with why it is to be replaced, and may return if it is not.
    """

    def __init__(
        self,
        name: str,
        plan: HealthCheckPlan,
        *,
        ask: Check | None,
        test: Check | None,
        idle: Callable[[], bool],
        changed: Callable[[], None],
        only_asked: bool = False,
        answered: Callable[[], bool] = lambda: True,
        restart: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self.why = ""
        """Why it is unhealthy; empty while it is healthy."""
        self._name = name
        self._plan = plan
        self._ask = ask
        self._test = test
        self._idle = idle
        self._changed = changed
        self._only_asked = only_asked
        self._answered = answered
        self._restart = restart
        self._unhealthy = 0
        """Checks in a row that found it so."""
        self._failed = 0
        self._failure = ""
        self._suspected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin the regular checks, if the executor has a `healthy` method."""
        if self._ask is not None:
            self._begin()

    def stop(self) -> None:
        """End the checks."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def batch_ended(self, executed: ExecutedBatch) -> None:
        """Count the failures in a row, and check at once when there are too many."""
        if executed.result is not None:
            if self._failed or self.why or self._unhealthy:
                self._set_healthy()
        elif executed.cause is not FailureCause.INPUT and executed.cause not in UNTOLD:
            self._failed += 1
            self._failure = executed.failure
            if self._many_failed and not self.why:
                self._suspected.set()
                self._begin()

    @property
    def _many_failed(self) -> bool:
        most = self._plan.failure_threshold
        return most is not None and self._failed >= most

    def _begin(self) -> None:
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name=f"{self._name} checks")

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._plan.interval_ns / SECOND):
                    await self._suspected.wait()
            except TimeoutError:
                pass
            self._suspected.clear()
            try:
                await self._check()
                if self.why and self._answered():
                    await self._count_unhealthy()
            except Exception:
                log.exception(
                    "%s: internal error: its health check failed; it is repeated after the interval",
                    self._name,
                )
            if self._ask is None and not self.why and not self._many_failed:
                self._task = None
                return

    async def _check(self) -> None:
        asked = self._ask is not None and (self._idle() or self._many_failed or bool(self.why))
        if self._ask is not None and asked and (why := await self._ask()):
            self._set(why)
        elif self._many_failed:
            await self._check_failures(asked=asked and not self._only_asked)
        elif asked:
            self._set("")
            if not self._only_asked:
                self._unhealthy = 0

    async def _count_unhealthy(self) -> None:
        """Count a check that found it unhealthy; have it replaced after too many."""
        self._unhealthy += 1
        most = self._plan.restart_after
        if self._restart is not None and most is not None and self._unhealthy >= most:
            await self._restart(f"it was unhealthy at {most} checks in a row: {self.why}")

    async def _check_failures(self, *, asked: bool) -> None:
        """Decide after too many failed batches in a row."""
        failed = f"its last {self._failed} batches failed, the last one with: {self._failure}"
        if self._test is not None:
            failures = self._failed
            why = await self._test()
            if why:
                self._set(f"{failed}; a test batch failed too: {why}")
            elif self._failed == failures:
                self._set_healthy()
        elif asked:
            self._set_healthy()
        elif self.why:
            # On trial: only the next batch can tell.
            self._failed = (self._plan.failure_threshold or 1) - 1
            self._set("")
        else:
            self._set(failed)

    def _set_healthy(self) -> None:
        self._failed = self._unhealthy = 0
        self._set("")

    def _set(self, why: str) -> None:
        if why == self.why:
            return
        if not why:
            log.info("%s: healthy again", self._name)
        elif not self.why:
            log.error(
                "%s: unhealthy: %s; checked again in %g s, or when a batch succeeds",
                self._name,
                why,
                self._plan.interval_ns / SECOND,
            )
        self.why = why
        self._changed()
