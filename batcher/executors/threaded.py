"""Runs a blocking executor on a thread of its own.

The event loop passes jobs through a `SimpleQueue` and gets each outcome by `call_soon_threadsafe`:
one wake-up in each direction per batch, no locks and no polling. Jobs run one at a time, in order,
so device contexts and sessions stay on the thread that made them.

A call may hang, and a thread cannot be killed. So it can be abandoned: then it reports nothing any
more, and if the call ever returns, the thread closes the executor and ends. It is a daemon thread,
which does not delay the end of the process.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from batcher.errors import ModelLoadError, describe
from batcher.executor import Executor, LoadContext, ModelMetadata

__all__ = ["ThreadedExecutor"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class ThreadedExecutor:
    """One executor on its thread: load once, submit jobs, then close or abandon.

    Call every method on `loop`; every `done` is called there. `name` names the thread, for
    logs and profilers. `at_end` is called on the thread before it closes the executor, loaded or not.
    """

    def __init__(
        self,
        executor: Executor,
        name: str,
        loop: asyncio.AbstractEventLoop,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._executor = executor
        self._name = name
        self._loop = loop
        self._at_end = at_end
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._ended = loop.create_future()
        self._loaded = False
        self._closing = False
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __repr__(self) -> str:
        state = "abandoned" if self._abandoned else "closing" if self._closing else "open"
        return f"<ThreadedExecutor {self._name} {state}>"

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Start the thread and load the executor on it.

        Raises `ModelLoadError`, whatever the executor raised; the thread has then ended. If this
        coroutine is cancelled, the thread is abandoned.
        """
        loaded: asyncio.Future[ModelMetadata | BaseException] = self._loop.create_future()
        self._thread.start()
        self.submit(lambda executor: self._load(executor, context), _resolve(loaded))
        try:
            outcome = await loaded
        except asyncio.CancelledError:
            self.abandon()
            raise
        if isinstance(outcome, ModelMetadata):
            return outcome
        await self.close(None)
        if isinstance(outcome, ModelLoadError):
            raise outcome
        raise ModelLoadError(
            f"model {context.model!r}: the executor could not load: {describe(outcome)}"
        ) from outcome

    def submit(
        self, job: Callable[[Executor], T], done: Callable[[T | BaseException], None]
    ) -> None:
        """Run `job(executor)` on the thread after earlier jobs, then `done(outcome)` on the loop.

        The outcome is what `job` returned or raised. `done` is called exactly once, except after
        `abandon` or when the loop is closed. Raises `RuntimeError` after `close` or `abandon`.
        """
        if self._closing:
            raise RuntimeError(f"{self!r} takes no more jobs")
        self._jobs.put(_Job(job, done))

    async def close(self, timeout_s: float | None) -> None:
        """Finish the submitted jobs, close the executor on its thread, and wait for the thread.

        Raises `TimeoutError` if that takes longer than `timeout_s` seconds (None: no limit); the
        thread is then abandoned. An exception of the executor's `close` is logged. It may be called
        again, and does nothing before `load` and after `abandon`.
        """
        if not self._closing:
            self._closing = True
            self._jobs.put(None)
        if self._abandoned or self._thread.ident is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                # Shielded, because several callers may wait for it.
                await asyncio.shield(self._ended)
        except TimeoutError:
            self.abandon()
            raise TimeoutError(f"{self._name} did not close within {timeout_s:g} s") from None
        if not self._abandoned:
            self._thread.join()

    def abandon(self) -> None:
        """Give the thread up without waiting; `done` is not called any more.

        Jobs that have not started are dropped. The thread closes the executor and ends as soon as
        the call that it is in returns.
        """
        self._closing = True
        self._abandoned = True
        self._jobs.put(None)
        _set_ended(self._ended)

    @property
    def hangs(self) -> bool:
        """Whether it was abandoned, and its thread still runs: the call that it is in has not returned."""
        return self._abandoned and self._thread.is_alive()

    def _load(self, executor: Executor, context: LoadContext) -> ModelMetadata:
        metadata: object = executor.load(context)
        self._loaded = True
        if not isinstance(metadata, ModelMetadata):
            kind = type(metadata).__name__
            raise TypeError(f"load must return ModelMetadata, not {kind}")
        return metadata

    def _run(self) -> None:
        while (task := self._jobs.get()) is not None and not self._abandoned:
            outcome: object
            try:
                outcome = task.job(self._executor)
            except BaseException as error:  # noqa: BLE001 - a plugin's SystemExit fails a batch, and must not end the thread
                outcome = error
            self.report(task.done, outcome)
            # Otherwise this frame would keep a batch's arrays until the next batch.
            del task, outcome
        self._at_end()
        if self._loaded:
            try:
                self._executor.close()
            except BaseException:  # noqa: BLE001 - logged with its traceback; the thread must still report its end
                _log.exception(
                    "%s: the executor's close() raised; the instance is gone all the same",
                    self._name,
                )
        self._post(_set_ended, self._ended)

    def report(self, done: Callable[[T], None], outcome: T) -> None:
        """Call `done(outcome)` on the loop, unless this is abandoned by then. For any thread."""
        self._post(self._deliver, done, outcome)

    def _post(self, callback: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            # The loop is closed, so no callback can run.
            return

    def _deliver(self, done: Callable[[Any], None], outcome: object) -> None:
        if not self._abandoned:
            done(outcome)


class _Job(Generic[T]):
    """What to run on the thread, and the callback for its outcome."""

    __slots__ = ("done", "job")

    def __init__(
        self, job: Callable[[Executor], T], done: Callable[[T | BaseException], None]
    ) -> None:
        self.job = job
        self.done = done


def _resolve(future: asyncio.Future[T | BaseException]) -> Callable[[T | BaseException], None]:
    """A `done` that sets exceptions as results: `Future.set_exception` refuses some types."""

    def done(outcome: T | BaseException) -> None:
        if not future.done():
            future.set_result(outcome)

    return done


def _set_ended(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
