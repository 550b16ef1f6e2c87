"""Whether an incarnation that is up is also well.

Two signs say that it is not. Its executor says so (`healthy()`, asked at an interval while no batch
runs). Or every one of its last batches failed for a reason that is not the caller's; before that counts,
a canary batch, one of those of the warm-up, has to fail as well, so that callers who send nothing but bad
values cannot take a model out of service.

An instance that is not well still executes what it is given: its first success makes it well again, and
so does the executor's own word or a canary batch at the next look. Where neither exists, it counts as
well again after one interval, on trial: its next failure is enough.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from batcher.clock import SECOND
from batcher.core.events import FailureCause
from batcher.runtime.execution.execute import ExecutedBatch

log = logging.getLogger(__name__)

Look = Callable[[], Awaitable[str]]
"""Returns why it is not well; empty where it is."""


@dataclass(frozen=True, slots=True)
class HealthCheckPlan:
    """How often to look, how long an executor may take to answer, how many failed batches count."""

    interval_ns: int = 5 * SECOND
    timeout_ns: int = SECOND
    failed_batches: int | None = 5


class HealthChecks:
    """Looks after one incarnation from `start` to `stop`; every method is called on the loop.

    `ask` is None for an executor that has no word of its own, `canary` where no warm-up says what a
    model takes. `idle` says whether no batch runs, and `changed` is called when `why` has changed.
    """

    def __init__(
        self,
        name: str,
        plan: HealthCheckPlan,
        *,
        ask: Look | None,
        canary: Look | None,
        idle: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        self.why = ""
        """Why it is not well; empty while it is."""
        self._name = name
        self._plan = plan
        self._ask = ask
        self._canary = canary
        self._idle = idle
        self._changed = changed
        self._failed = 0
        self._failure = ""
        self._suspected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on, where there is somebody to ask."""
        if self._ask is not None:
            self._begin()

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def batch_ended(self, executed: ExecutedBatch) -> None:
        """Draw conclusions from a batch."""
        if executed.result is not None:
            if self._failed or self.why:
                self._well()
        elif executed.cause is not FailureCause.INPUT:
            self._failed += 1
            self._failure = executed.failure
            if self._many_failed and not self.why:
                self._suspected.set()
                self._begin()

    @property
    def _many_failed(self) -> bool:
        most = self._plan.failed_batches
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
                await self._look()
            except Exception:
                log.exception("%s: its health could not be looked at", self._name)
            if self._ask is None and not self.why and not self._many_failed:
                self._task = None
                return

    async def _look(self) -> None:
        asked = self._ask is not None and (self._idle() or self._many_failed or bool(self.why))
        if self._ask is not None and asked and (why := await self._ask()):
            self._say(why)
        elif self._many_failed:
            await self._judge(asked=asked)
        elif asked:
            self._say("")

    async def _judge(self, *, asked: bool) -> None:
        """Every one of the last batches failed."""
        failed = f"its last {self._failed} batches failed: {self._failure}"
        if self._canary is not None:
            failures = self._failed
            why = await self._canary()
            if why:
                self._say(f"{failed}; so did a canary batch: {why}")
            elif self._failed == failures:
                self._well()
        elif asked:
            self._well()
        elif self.why:
            # On trial: nothing but traffic can tell.
            self._failed = (self._plan.failed_batches or 1) - 1
            self._say("")
        else:
            self._say(failed)

    def _well(self) -> None:
        self._failed = 0
        self._say("")

    def _say(self, why: str) -> None:
        if why == self.why:
            return
        if not why:
            log.info("%s: well again", self._name)
        elif not self.why:
            log.error("%s: not well: %s", self._name, why)
        self.why = why
        self._changed()
