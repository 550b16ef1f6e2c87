"""Runs the `watch` of an executor that has one, as long as its incarnation is up.

What it reports is why the instance is unhealthy. When it returns, the backend has another model, and the
model is loaded again: a new generation beside this one, which serves until then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeAlias

from batcher.errors import describe, on_one_line
from batcher.runtime.execution.loop_worker import WatchCall

log = logging.getLogger(__name__)

Report: TypeAlias = Callable[[str], None]

FIRST_PAUSE_S: Final = 1.0


LONGEST_PAUSE_S: Final = 30.0
"""Seconds before a watch that raised is called again, and before a load that has not replaced this
incarnation is asked for again: at first, and at most. They double each time."""

SETTLED_S: Final = 5.0
"""Seconds that an incarnation serves at least before it is loaded again, so that a watch which returns at
once each time does not keep the server loading."""


class Watching:
    """The watch of one incarnation, from `start` to `stop`. Call every method on the event loop.

    `changed` is called when `why` changes; `ended` when the watch has returned, and again after pauses
    while it is not stopped: the load that it asks for may fail.
    """

    def __init__(
        self,
        name: str,
        watch: WatchCall,
        *,
        changed: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self.why = ""
        """What the watch reported last: why it is unhealthy, empty while it is healthy."""
        self._name = name
        self._watch = watch
        self._changed = changed
        self._wants_load = ended
        self._stopped = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Call the watch."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name=f"{self._name} watch")

    def stop(self) -> None:
        """Cancel the watch; what it still reports is ignored."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()

    async def ended(self, timeout_s: float) -> None:
        """Wait until a watch that was stopped has ended, at most so many seconds."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=timeout_s)

    async def _run(self) -> None:
        pause_s, failed = FIRST_PAUSE_S, False
        loop = asyncio.get_running_loop()
        up_s = loop.time()
        while not self._stopped:
            # One that raised is well when it runs on for as long as the pause before it.
            well = loop.call_later(pause_s, self._report, "") if failed else None
            began_s = loop.time()
            try:
                await self._watch(self._reporter(well))
            except BaseException as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                log.debug("%s: watch() raised", self._name, exc_info=True)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S) if failed else FIRST_PAUSE_S
                if loop.time() - began_s > LONGEST_PAUSE_S:
                    pause_s = FIRST_PAUSE_S
                failed = True
                log.warning(
                    "%s: watch() raised %s; it is called again in %g s",
                    self._name,
                    describe(error),
                    pause_s,
                )
                self._report(f"watch() raised {describe(error)}")
            else:
                await asyncio.sleep(up_s + SETTLED_S - loop.time())
                await self._ask_for_load()
            finally:
                if well is not None:
                    well.cancel()
            await asyncio.sleep(pause_s)

    async def _ask_for_load(self) -> None:
        log.info("%s: its backend has another model; the model is loaded again", self._name)
        pause_s = FIRST_PAUSE_S
        while not self._stopped:
            try:
                self._wants_load()
            except Exception:
                log.exception("%s: internal error: no load could be asked for", self._name)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _reporter(self, well: asyncio.TimerHandle | None) -> Report:
        def report(why: str) -> None:
            if well is not None:
                well.cancel()
            self._report(why)

        return report

    def _report(self, why: object) -> None:
        if self._stopped:
            return
        text = on_one_line(why if isinstance(why, str) else f"watch() reported {why!r}, not a text")
        if text == self.why:
            return
        if not text:
            log.info("%s: healthy again, says its executor's watch()", self._name)
        elif not self.why:
            log.error("%s: unhealthy: %s", self._name, text)
        self.why = text
        self._changed()
