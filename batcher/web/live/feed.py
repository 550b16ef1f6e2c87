"""`Feed`: samples once a second, and encodes one event for all viewers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

from batcher.telemetry.live.view import Values

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0
"""Seconds between two events."""

MAX_VIEWERS: Final = 50
"""Viewers at once. Each costs a copy of an event a second; with 50 models that is 40 KiB."""


class View(Protocol):
    """What is sampled and shown."""

    def sample(self) -> None:
        """Read everything that history is kept of."""
        ...

    def now(self) -> Values:
        """Everything but the history."""
        ...

    def histories(self) -> list[Values]:
        """The history of each model."""
        ...


class Feed:
    """The events of a view. `run` it in the background; viewers call `enter`, `first` and `following`."""

    def __init__(self, view: View, time: Callable[[], float] | None = None) -> None:
        self._view = view
        self._time = time or asyncio.get_running_loop().time
        self.viewers = 0
        self.number = 0
        """How many samples there were."""
        self.closed = False
        """Whether the server stops: there are no more events."""
        self._event = b""
        self._event_number = -1
        self._first = b""
        self._first_number = -1
        self._next = asyncio.Event()
        self._failing = False
        """Whether the last sample or event failed: only the first of several is logged."""

    async def run(self) -> NoReturn:
        """Sample now and every second, until cancelled."""
        self.sample()  # what changes within the first second is a change, too
        due_s = self._time()
        while True:
            due_s = max(due_s + INTERVAL_S, self._time())
            await asyncio.sleep(due_s - self._time())
            self.sample()

    def sample(self) -> None:
        """Sample, and tell viewers. What raises is logged: the next sample may succeed."""
        try:
            self._view.sample()
        except Exception:
            if not self._failing:
                log.exception("internal error: the live view could not be sampled")
            self._failing = True
            return
        self.number += 1
        self._tell()

    def close(self) -> None:
        """End the stream of every viewer: the server stops."""
        self.closed = True
        self._tell()

    def enter(self) -> bool:
        """One more viewer; False if there are too many already. Call `leave` in the end."""
        if self.viewers >= MAX_VIEWERS or self.closed:
            return False
        self.viewers += 1
        return True

    def leave(self) -> None:
        """One viewer less."""
        self.viewers -= 1

    def first(self) -> bytes:
        """An event with the history, for those who come now; encoded once a second at most."""
        if self._first_number != self.number:
            self._first, self._first_number = self._encoded("first"), self.number
        return self._first

    async def following(self) -> bytes | None:
        """Wait for the next sample, and return its event, the same for all; None at the end."""
        await self._next.wait()
        if self.closed:
            return None
        if self._event_number != self.number:
            self._event, self._event_number = self._encoded("second"), self.number
        return self._event

    def _tell(self) -> None:
        told, self._next = self._next, asyncio.Event()
        told.set()

    def _encoded(self, kind: str) -> bytes:
        """A server-sent event; a comment, which viewers ignore, where the values could not be read.

        One line of data is enough: JSON escapes CR and LF, which alone end a line.
        """
        try:
            values = self._view.now()
            if kind == "first":
                values |= {"history": self._view.histories()}
            body = json.dumps(values, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            event = f"event: {kind}\nid: {self.number}\ndata: {body}\n\n".encode(errors="replace")
        except Exception:
            if not self._failing:
                log.exception("internal error: the live view has nothing to show")
            self._failing = True
            return b": no values\n\n"
        self._failing = False
        return event
