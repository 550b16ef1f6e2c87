"""Tells when the requests of a model that drains have ended."""

from __future__ import annotations

import asyncio


class Drain:
    """Counts the requests of one model that have not ended, while something waits for their end."""

    __slots__ = ("ended", "left", "waiting")

    def __init__(self, left: int) -> None:
        self.left = left
        self.waiting = 0
        self.ended = asyncio.Event()

    def end(self, count: int = 1) -> None:
        """`count` more requests have ended."""
        self.left -= count
        if not self.left:
            self.ended.set()
