"""Loads a replacement of an incarnation that was abandoned, until that succeeds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

Made = TypeVar("Made")

log = logging.getLogger(__name__)

FIRST_RESTART_DELAY_S: Final = 0.5


LONGEST_RESTART_DELAY_S: Final = 30.0
"""Seconds before a replacement that could not be loaded is tried again: at first, and at most."""


class Replacement(Generic[Made]):
    """Loads replacements of one instance, one at a time. Call every method on the event loop.

    `load` loads an incarnation, `loaded` has it serve, `failed` is told why it could not be loaded.
    """

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        load: Callable[[], Awaitable[Made]],
        loaded: Callable[[Made], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._name = name
        self._loop = loop
        self._load = load
        self._loaded = loaded
        self._failed = failed
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Load a replacement, instead of one that is being loaded."""
        if self._task is not None:
            self._task.cancel()
        self._task = self._loop.create_task(self._run(), name=f"{self._name} replacement")

    async def stop(self, timeout_s: float) -> None:
        """End the load, if there is one; wait for that at most so many seconds."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,), timeout=timeout_s)

    async def _run(self) -> None:
        delay_s = FIRST_RESTART_DELAY_S
        while True:
            try:
                self._loaded(await self._load())
            except Exception as error:  # noqa: BLE001 - logged; the next attempt may succeed
                log.error(  # noqa: TRY400 - the message has the reason
                    "%s: the replacement could not be loaded: %s; trying again in %.1f s",
                    self._name,
                    error,
                    delay_s,
                )
                try:
                    self._failed(error)
                except Exception:
                    log.exception("%s: internal error: the failure was not reported", self._name)
            else:
                return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LONGEST_RESTART_DELAY_S)
