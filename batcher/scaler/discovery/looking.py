"""What the ways to find replicas share: how they tell, and how they wait after a failure."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from batcher.clock import Clock
from batcher.errors import BatcherError
from batcher.scaler.discovery.interface import Endpoint, Found

MAX_REPLICAS: Final = 1000
"""The most replicas of a fleet. More count as a failure: a part of a fleet would be taken for all of it."""

Pause = Callable[[float], Awaitable[None]]
"""Waits so many seconds: `asyncio.sleep`, or what a test has instead."""


class DiscoveryError(BatcherError):
    """Why it is not known which replicas there are. The message says what to do."""


class Teller:
    """Tells what one discovery finds."""

    def __init__(self, update: Callable[[Found], None], clock: Clock) -> None:
        self._update = update
        self._clock = clock

    def found(self, endpoints: Iterable[Endpoint]) -> None:
        """These are all. Raises `DiscoveryError`, and tells nothing, if they are too many."""
        once = {each.address: each for each in endpoints}
        if len(once) > MAX_REPLICAS:
            raise too_many()
        all_of_them = tuple(once[address] for address in sorted(once))
        self._update(Found(all_of_them, ok=True, at_ns=self._clock()))

    def failed(self, why: str) -> None:
        """It is not known which there are."""
        self._update(Found((), ok=False, error=why, at_ns=self._clock()))


def too_many() -> DiscoveryError:
    """More than `MAX_REPLICAS` were found."""
    return DiscoveryError(
        f"more than {MAX_REPLICAS} replicas are listed, the most that a fleet may have: divide it, or"
        " correct the name if it is that of something else"
    )


FIRST_S: Final = 0.5
"""The pause after a first failure."""

LONGEST_S: Final = 8.0
"""The longest pause between attempts: what is up again is found within it."""


class Backoff:
    """Pauses after failures: twice as long each time, and random, so that not all come back at once."""

    def __init__(self, pause: Pause, rng: random.Random | None = None) -> None:
        self._pause = pause
        self._rng = random.Random() if rng is None else rng  # noqa: S311 - no secret
        self._due_s = FIRST_S

    async def wait(self) -> None:
        """Pause, for between half and all of the time that is due."""
        due, self._due_s = self._due_s, min(LONGEST_S, 2 * self._due_s)
        await self._pause(due * (0.5 + self._rng.random() / 2))

    def reset(self) -> None:
        """An attempt succeeded."""
        self._due_s = FIRST_S
