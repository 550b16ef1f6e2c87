"""Bounds how many calls begin in one iteration of the event loop.

Callers can open thousands of calls in one write. Answered one after the other in a single iteration, they would keep
polls, timers and all other callers waiting for a second and more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

CALLS_PER_ITERATION: Final = 64
"""Calls that begin in one iteration: with some 0.1 ms each, they hold the event loop for less than 10 ms."""


class Turns:
    """One for all calls of a kind: they begin in the order in which they ask."""

    def __init__(self) -> None:
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Return when the call may begin: at once, unless many have begun in this iteration."""
        loop = asyncio.get_running_loop()
        if not self._begun:
            loop.call_soon(self._next)
        if self._begun < CALLS_PER_ITERATION and not self._waiting:
            self._begun += 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        """Let the next ones begin, in this iteration."""
        self._begun = 0
        while self._waiting and self._begun < CALLS_PER_ITERATION:
            turn = self._waiting.popleft()
            # One whose caller has left takes no turn.
            if not turn.done():
                turn.set_result(None)
                self._begun += 1
        if self._begun:
            asyncio.get_running_loop().call_soon(self._next)
