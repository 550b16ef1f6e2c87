"""One instance of a blocking executor, on a thread of its own.

The event loop hands jobs over through a `SimpleQueue` and gets each outcome back by
`call_soon_threadsafe`: one wake-up in each direction for a batch, no locks and no polling. Calls
run in the order they were submitted, one at a time, so device contexts and session objects stay on
the thread that made them.

A call may hang, and a thread cannot be killed. So an instance can be abandoned: from then on it
reports nothing, and its thread (a daemon, which never holds up the end of the process) closes the
executor and ends if the call ever returns.
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
    """One incarnation of an instance: load once, submit jobs, then close or abandon.

    Every method is called on `loop`, and every `done` runs there. `name` names the thread, for
    logs and profilers.
    """

    def __init__(self, executor: Executor, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._executor = executor
        self._name = name
        self._loop = loop
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

        Raises `ModelLoadError` (whatever the executor raised); the thread has then ended, and there
        is nothing to close. When the caller is cancelled, the instance is abandoned.
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
        """Run `job(executor)` on the thread, after the jobs before it; then `done(outcome)` here.

        The outcome is what `job` returned or raised. `done` is called exactly once, unless the
        instance is abandoned or the loop closed first: then never. Raises RuntimeError after
        `close` or `abandon`.
        """
        if self._closing:
            raise RuntimeError(f"{self!r} takes no more jobs")
        self._jobs.put(_Job(job, done))

    async def close(self, timeout_s: float | None) -> None:
        """Finish the submitted jobs, close the executor on its thread, and wait for the thread.

        Raises TimeoutError when that takes longer than `timeout_s` seconds (None: no bound); the
        instance is then abandoned. What the executor's `close` raises is logged. May be called
        again; it returns at once before `load` and after `abandon`.
        """
        if not self._closing:
            self._closing = True
            self._jobs.put(None)
        if self._abandoned or self._thread.ident is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                # Shielded, because two callers may wait for the one end.
                await asyncio.shield(self._ended)
        except TimeoutError:
            self.abandon()
            raise TimeoutError(f"{self._name} did not close within {timeout_s:g} s") from None
        if not self._abandoned:
            self._thread.join()

    def abandon(self) -> None:
        """Give the instance up without waiting for anything; no `done` is called any more.

        Jobs that have not started are dropped. The thread closes the executor and ends as soon as
        the call that it is in returns.
        """
        self._closing = True
        self._abandoned = True
        self._jobs.put(None)
        _set_ended(self._ended)

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
            except BaseException as error:  # noqa: BLE001 - a plugin's SystemExit ends a batch, not a thread
                outcome = error
            self._post(self._deliver, task.done, outcome)
            # A batch's arrays must not live on in this frame until the next batch comes.
            del task, outcome
        if self._loaded:
            try:
                self._executor.close()
            except BaseException:  # noqa: BLE001 - logged whole; the thread must still report its end
                _log.exception("%s: the executor raised when it was closed", self._name)
        self._post(_set_ended, self._ended)

    def _post(self, callback: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            # The loop is closed: nobody is left to tell.
            return

    def _deliver(self, done: Callable[[Any], None], outcome: object) -> None:
        if not self._abandoned:
            done(outcome)


class _Job(Generic[T]):
    """What to run, and whom to tell."""

    __slots__ = ("done", "job")

    def __init__(
        self, job: Callable[[Executor], T], done: Callable[[T | BaseException], None]
    ) -> None:
        self.job = job
        self.done = done


def _resolve(future: asyncio.Future[T | BaseException]) -> Callable[[T | BaseException], None]:
    """A `done` that keeps an exception as a value, whatever its type: see `Future.set_exception`."""

    def done(outcome: T | BaseException) -> None:
        if not future.done():
            future.set_result(outcome)

    return done


def _set_ended(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
