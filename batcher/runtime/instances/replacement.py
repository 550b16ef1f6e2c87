"""Loads a replacement of an incarnation that was lost, with pauses, and not too often.

The first one is loaded at once. While replacements are lost again soon, or cannot be loaded, the pauses
before them double. An instance that has used up its restarts stays down, until its model is loaded again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from batcher.clock import SECOND
from batcher.core.record import record
from batcher.errors import BackendUnavailable

Made = TypeVar("Made")

log = logging.getLogger(__name__)


@record
class RestartPlan:
    """How often, and after which pauses, a replacement is loaded: `models[].restart`."""

    backoff_ns: int = SECOND // 2
    max_backoff_ns: int = 30 * SECOND
    limit: int | None = 10
    window_ns: int = 600 * SECOND


class Replacement(Generic[Made]):
    """Loads replacements of one instance, one at a time. Call every method on the event loop.

    `held` says why none may be loaded now, empty if one may; it is asked again after each pause. `load`
    loads an incarnation, `loaded` has it serve, `failed` is told why there is none yet, or none any more.
    `draw` returns a number from 0 to 1.
    """

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        plan: RestartPlan,
        load: Callable[[], Awaitable[Made]],
        loaded: Callable[[Made], None],
        failed: Callable[[Exception], None],
        *,
        held: Callable[[], str] = str,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._name = name
        self._loop = loop
        self._plan = plan
        self._load = load
        self._loaded = loaded
        self._failed = failed
        self._held = held
        self._draw = draw
        self._tries_s: deque[float] = deque()
        """When replacements were loaded, within the window."""
        self._in_a_row = 0
        """Those of them since an incarnation served for long."""
        self._task: asyncio.Task[None] | None = None
        self.stays_down = False
        """Whether it will not be tried again, or not until something else has ended."""

    def begin(self, served_s: float) -> None:
        """Load a replacement of an incarnation that served for so long, instead of one that is being loaded."""
        if served_s * SECOND >= self._plan.max_backoff_ns:
            self._in_a_row = 0
        if self._task is not None:
            self._task.cancel()
        self.stays_down = False
        self._task = self._loop.create_task(self._run(), name=f"{self._name} replacement")

    async def stop(self, timeout_s: float) -> None:
        """End the load, if there is one; wait for that at most so many seconds."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,), timeout=timeout_s)

    async def _run(self) -> None:
        while True:
            if self.used_up:
                self._give_up()
                return
            await asyncio.sleep(self._pause_s())
            if why := self._held():
                self._in_a_row += 1
                self._hold(why)
                continue
            self.stays_down = False
            self._tries_s.append(self._loop.time())
            self._in_a_row += 1
            try:
                self._loaded(await self._load())
            except Exception as error:  # noqa: BLE001 - logged; the next attempt may succeed
                if isinstance(error, BackendUnavailable):
                    self._tries_s.pop()  # what comes back by itself is waited for
                log.error(  # noqa: TRY400 - the message has the reason
                    "%s: the replacement could not be loaded: %s; trying again in about %.1f s",
                    self._name,
                    error,
                    self._backoff_s(),
                )
                self._tell(error)
            else:
                return

    @property
    def used_up(self) -> bool:
        """Whether the limit of restarts within the window is reached."""
        since_s = self._loop.time() - self._plan.window_ns / SECOND
        while self._tries_s and self._tries_s[0] <= since_s:
            self._tries_s.popleft()
        return self._plan.limit is not None and len(self._tries_s) >= self._plan.limit

    def _backoff_s(self) -> float:
        """The pause before the next load, without what is drawn."""
        if not self._in_a_row:
            return 0.0
        plan = self._plan
        doubled_ns = plan.backoff_ns << min(self._in_a_row - 1, 64)
        return min(doubled_ns, plan.max_backoff_ns) / SECOND

    def _pause_s(self) -> float:
        """Half of the pause and part of the other half, so that what was lost together loads one by one."""
        return self._backoff_s() * (0.5 + 0.5 * self._draw())

    def _give_up(self) -> None:
        plan, self.stays_down = self._plan, True
        why = (
            f"it was started {len(self._tries_s)} times again within {plan.window_ns / SECOND:g} s"
            " (restart.limit); it stays down until the model is loaded again"
        )
        log.critical("%s: %s", self._name, why)
        self._tell(StaysDownError(why))

    def _hold(self, why: str) -> None:
        if not self.stays_down:
            log.critical("%s: it stays down: %s", self._name, why)
        self.stays_down = True
        self._tell(StaysDownError(why))

    def _tell(self, error: Exception) -> None:
        try:
            self._failed(error)
        except Exception:
            log.exception("%s: internal error: the failure was not reported", self._name)


class StaysDownError(Exception):
    """No replacement is loaded; the message says why."""
