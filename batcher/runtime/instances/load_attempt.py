"""Bounds one attempt to load an instance and to warm it up: `models[].load_timeout`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

from batcher.clock import SECOND
from batcher.config.units import format_duration
from batcher.errors import ModelLoadError
from batcher.runtime.instances.warmup import Turn

T = TypeVar("T")


class LoadAttempt:
    """One attempt to load a model within `timeout_ns` (None: without a bound), and what it does now."""

    def __init__(self, model: str, timeout_ns: int | None) -> None:
        self._model = model
        self._timeout_ns = timeout_ns
        self._doing = "loading"
        self._bound = asyncio.timeout(None if timeout_ns is None else timeout_ns / SECOND)

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """The context of the whole attempt, to be entered once.

        When the time is over, what runs in it is cancelled, and `ModelLoadError` is raised, whatever
        that made of being cancelled.
        """
        try:
            async with self._bound:
                yield
        except Exception as error:
            if self._timeout_ns is None or not self._bound.expired():
                raise
            limit = format_duration(self._timeout_ns)
            raise ModelLoadError(
                f"model {self._model!r}: the load was given up after {limit} (load_timeout), while it was"
                f" {self._doing}"
            ) from error

    def turn(self, begin: Turn) -> Turn:
        """The same turns; that they are waited for does not count."""

        def begin_turn(rows: int) -> AbstractAsyncContextManager[bool]:
            self._doing = f"warming up with a batch of {rows} rows"
            return self.uncounted(begin(rows))

        return begin_turn

    @asynccontextmanager
    async def uncounted(self, context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        """`context`, for which others may have to be waited for: only the time inside of it counts."""
        left_s = self._stop()
        try:
            async with context as entered:
                self._go_on(left_s)
                try:
                    yield entered
                finally:
                    left_s = self._stop()
        finally:
            self._go_on(left_s)

    def _stop(self) -> float | None:
        """Stop counting; returns the seconds that are left, None where nothing is to be counted."""
        at_s = self._bound.when()
        if at_s is None or self._bound.expired():
            return None
        self._bound.reschedule(None)
        return at_s - asyncio.get_running_loop().time()

    def _go_on(self, left_s: float | None) -> None:
        if left_s is not None:
            self._bound.reschedule(asyncio.get_running_loop().time() + left_s)
