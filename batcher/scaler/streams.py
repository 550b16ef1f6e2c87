"""The open calls of `StreamIsActive`: each gets the state at once, and again when it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

log = logging.getLogger(__name__)

MAX_STREAMS: Final = 512
"""Streams at once: KEDA has one for each trigger of type `external-push`. For one more, the oldest ends with OK, and
its caller may open another: no caller that opens many can lock KEDA out."""

LOOK_S: Final = 0.25
"""How often a state is looked at: a change is pushed so much later, which is little beside a start."""


@dataclass(slots=True)
class _Stream:
    read: Callable[[], bool | None]
    said: bool | None = None
    ended: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_news(self) -> bool:
        state = self.read()
        return state is not None and state is not self.said


class Streams:
    """All of them."""

    def __init__(self) -> None:
        self._open: dict[int, _Stream] = {}
        self._next = 0
        self._closing = False

    def __len__(self) -> int:
        return len(self._open)

    async def states(self, read: Callable[[], bool | None]) -> AsyncIterator[bool]:
        """What `read` says, at once and at each change; what is not known is not said. Ends at `close`."""
        if self._closing:
            return
        if len(self._open) >= MAX_STREAMS:
            self._end(next(iter(self._open)))
        number, self._next = self._next, self._next + 1
        stream = self._open[number] = _Stream(read)
        try:
            while not stream.ended:
                state = read()
                if state is not None and state is not stream.said:
                    stream.said = state
                    yield state
                    continue
                await stream.wake.wait()
                stream.wake.clear()
        finally:
            self._open.pop(number, None)

    async def watch(self) -> None:
        """Look at all states every `LOOK_S`, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Wake the streams of which the state has changed, or cannot be read: the latter's calls end with that error."""
        for stream in self._open.values():
            try:
                news = stream.has_news
            except Exception:
                news = True
                log.debug("the state of a stream cannot be read", exc_info=True)
            if news:
                stream.wake.set()

    def close(self) -> None:
        """End all of them with OK: their callers ask again, and find another scaler."""
        self._closing = True
        for number in list(self._open):
            self._end(number)

    def _end(self, number: int) -> None:
        stream = self._open.pop(number)
        stream.ended = True
        stream.wake.set()
