"""Follows the health of a neighbor: asks it regularly, and at once when something looks wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from batcher.errors import describe

log = logging.getLogger(__name__)

RECHECK: Final = 10
"""Of so many questions for its health, one also asks whether the neighbor's model is still the same:
servers can replace a model without being unready for a moment."""


class NeighborWatch:
    """The health of one neighbor.

    `ask` returns why the neighbor cannot serve, or an empty text; it ends within a bound of its own.
    `changed` tells, when the neighbor can serve again or `doubt` was called, why the model has to be
    loaded again; an empty text if it has not. An exception of either counts as a reason not to serve.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[str]],
        changed: Callable[[], Awaitable[str]],
        interval_s: float,
        recheck: int = RECHECK,
        hide: Callable[[str], str] = str,
    ) -> None:
        """Ask every `interval_s` seconds; every `recheck` times, whether the model has changed, too.

        `hide` takes secrets out of what is reported.
        """
        self._ask = ask
        self._changed = changed
        self._interval_s = interval_s
        self._recheck = recheck
        self._hide = hide
        self._doubted = asyncio.Event()

    def doubt(self) -> None:
        """Ask at once: a connection was lost, or an answer does not fit the model."""
        self._doubted.set()

    async def run(self, report: Callable[[str], None]) -> str:
        """Report why the neighbor is unhealthy (empty: healthy) until the model has to be loaded again.

        Returns why. Cancel it to end it.
        """
        unsure, asked = False, 0
        while True:
            unsure = unsure or self._doubted.is_set()
            self._doubted.clear()
            why = await self._asked(self._ask)
            asked += 1
            if not why and (unsure or asked % self._recheck == 0):
                try:
                    again = await self._changed()
                except Exception as error:  # noqa: BLE001 - told to people; asked again
                    why = describe(error)
                else:
                    if again:
                        return self._hide(again)
            unsure = bool(why)
            report(self._hide(why))
            await self._pause()

    async def _pause(self) -> None:
        # Whatever is doubted, the neighbor is asked at most ten times in an interval.
        await asyncio.sleep(self._interval_s / 10)
        try:
            async with asyncio.timeout(self._interval_s):
                await self._doubted.wait()
        except TimeoutError:
            return

    @staticmethod
    async def _asked(ask: Callable[[], Awaitable[str]]) -> str:
        try:
            return await ask()
        except Exception as error:
            log.debug("asking a neighbor for its health failed", exc_info=True)
            return describe(error)
