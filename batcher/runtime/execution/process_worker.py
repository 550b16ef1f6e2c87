"""Runs an executor in a child process, and talks with it from the event loop, without a thread between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from batcher.clock import SECOND, Clock
from batcher.errors import BackendUnavailable, ModelLoadError, OutOfMemory, on_one_line
from batcher.executor import Capabilities, LoadContext, ModelMetadata
from batcher.executors.isolated import messages, replies
from batcher.executors.isolated.hosted import ChildEnd, HostedChild, Line
from batcher.executors.isolated.replies import LyingChildError, parts
from batcher.executors.isolated.values import packed_context
from batcher.runtime.execution.child_batches import ChildBatches
from batcher.runtime.execution.execute import Cancel, Done
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.loop_worker import WatchCall
from batcher.runtime.execution.reports_health import no_answer
from batcher.runtime.interface.layout import Layout, LayoutFor

log = logging.getLogger(__name__)

_LOAD_ERRORS: Final = {
    "ModelLoadError": ModelLoadError,
    "OutOfMemory": OutOfMemory,
    "BackendUnavailable": BackendUnavailable,
}


class WatchFailedError(Exception):
    """What the `watch` of an executor in a child raised."""


class ProcessWorker:
    """An executor in a child process. `path` is where the child finds its class: `module:Class`.

    With more `max_in_flight` than the executor can run, it does not load. `pipelining`: as for
    `make_worker`.
    """

    def __init__(
        self,
        path: str,
        name: str,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        *,
        fail_nan: bool = False,
        max_in_flight: int = 1,
        pipelining: bool = True,
    ) -> None:
        self.queues = True
        self.prefetches = True
        self.overlaps = False
        self.asks = False
        self.watch: WatchCall | None = None
        self.asked_ns = 0
        self.lost: Callable[[ChildEnd], None] | None = None
        """Called once, when the child has ended by itself, or was killed because of what it
        sent. Its batches fail after that, unless the worker is abandoned in it."""
        self.line: Line = self._log_line
        """Called with each line that the child writes to its `stdout` or `stderr`."""
        self._path = path
        self._name = name
        self._loop = loop
        self._clock = clock
        self._fail_nan = fail_nan
        self._max_in_flight = max_in_flight
        self._pipelining = pipelining
        self._model = name
        self._child = HostedChild(loop, self._received, self._ended, self._on_line)
        self.capabilities = Capabilities()
        self._fitted = LayoutFor(self.capabilities)
        self._context: LoadContext | None = None
        self._loaded: asyncio.Future[ModelMetadata | ModelLoadError] | None = None
        self._said_hello = False
        self._batches: ChildBatches | None = None
        self._asked: asyncio.Future[str] | None = None
        self._questions = 0
        self._report: Callable[[str], None] | None = None
        self._watched: asyncio.Future[str] | None = None
        self._closing = False
        self._why = ""
        """Why there is no child any more."""
        self._lying = False
        self._abandoned = False
        self._handlers: dict[int, Callable[[list[Any]], None]] = {
            messages.HELLO: self._on_hello,
            messages.LOADED: self._on_loaded,
            messages.NOT_LOADED: self._on_not_loaded,
            messages.HEALTH: self._on_health,
            messages.WATCHED: self._on_watched,
            messages.WATCH_ENDED: self._on_watch_ended,
            messages.CLOSED: self._on_closed,
        }

    def __repr__(self) -> str:
        return f"<ProcessWorker {self._name} {self._why or self._child.pid}>"

    @property
    def hangs(self) -> bool:
        """Whether a thread of this process is in a call of the executor: never."""
        return False

    @property
    def pid(self) -> int:
        """The child's process id; 0 before it has one."""
        return self._child.pid

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Start the child, and load the executor there.

        Raises `ModelLoadError`, whatever went wrong: then the child is gone. If this coroutine is
        cancelled, it is killed.
        """
        self._context = context
        self._model = f"model {context.model!r}"
        packed = packed_context(context)
        loaded = self._loaded = self._loop.create_future()
        level = log.getEffectiveLevel()
        outcome: ModelMetadata | ModelLoadError
        try:
            await self._child.start(self._name)
            how = [level, self._max_in_flight, self._pipelining]
            self._child.send([messages.LOAD, self._path, *how, packed])
            outcome = await loaded
        except OSError as error:
            outcome = ModelLoadError(f"{self._model}: {error}")
        except BaseException:
            self.abandon()
            raise
        if isinstance(outcome, ModelMetadata):
            return outcome
        self.abandon()
        await self._child.gone.wait()  # so that what it had on a device is free
        raise outcome

    async def healthy(self, timeout_s: float) -> str:
        """Ask the child; a question that it has not answered is not repeated."""
        if self._why or self._abandoned:
            return self._why or "it was abandoned"
        asked = self._asked
        if asked is None:
            asked = self._asked = self._loop.create_future()
            self.asked_ns = self._clock()
            self._questions += 1
            self._child.send([messages.HEALTHY, self._questions, int(timeout_s * SECOND)])
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(asked)
        except TimeoutError:
            return no_answer(timeout_s)

    def run(
        self, slices: Sequence[Slice], layout: Layout, done: Done, *, alone: bool = False
    ) -> Cancel:
        """Execute it in the child."""
        if self._closing or self._batches is None:
            raise RuntimeError(f"{self!r} takes no batches")
        return self._batches.run(slices, self._fitted(layout), done, alone=alone)

    async def close(self, timeout_s: float) -> None:
        """Let the batches end that were started, and the child close its executor and end."""
        if self._abandoned or self._why or self._batches is None:
            return
        if not self._closing:
            self._closing = True
            self._batches.after_all(lambda: self._child.send([messages.CLOSE]))
        try:
            async with asyncio.timeout(timeout_s):
                await self._child.gone.wait()
        except TimeoutError:
            self.abandon()
            raise TimeoutError(f"{self._name} did not close within {timeout_s:g} s") from None

    def abandon(self) -> None:
        """Kill the child, and all that it has started."""
        if self._abandoned:
            return
        self._abandoned = True
        self._child.kill()
        if self._batches is not None:
            self._batches.drop_all()
        self._answer_all(self._why or "it was abandoned")

    async def gone(self) -> None:
        """Wait until nothing is left of a child that was abandoned or lost."""
        await self._child.gone.wait()

    # The end of the child

    def _ended(self, end: ChildEnd) -> None:
        """It has ended, by itself or killed for what it sent."""
        if self._abandoned:
            return
        self._why = f"its child process is gone: {end.why}"
        end = replace(end, why=self._why)
        batches = self._batches
        self._answer_all(end.in_full)
        if batches is None:
            return
        if self.lost is not None and (batches.running or not self._closing):
            try:
                self.lost(end)
            except Exception:
                log.exception("%s: internal error: a lost child was not reported", self._name)
        if not self._abandoned:
            batches.fail_all(self._why)  # callers get no lines of its stderr

    def _answer_all(self, why: str) -> None:
        """Answer all that wait for the child, with the reason why it does not."""
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_result(ModelLoadError(f"{self._model}: {why}"))
        for waits in (self._asked, self._watched):
            if waits is not None and not waits.done():
                waits.set_result(why)
        self._asked = None
        self.asked_ns = 0

    # What the child says

    def _received(self, message: list[Any]) -> None:
        if self._lying or self._abandoned:
            return
        try:
            self._handlers.get(message[0], _unknown)(message)
        except LyingChildError as error:
            self._lied(error)
        except Exception:
            log.exception("%s: internal error: a message of its child was not read", self._name)
            self._lied(LyingChildError("a message that could not be read"))

    def _lied(self, error: LyingChildError) -> None:
        self._lying = True
        self._child.kill(f"it sent {error}")

    def _on_hello(self, message: list[Any]) -> None:
        if self._said_hello or self._loaded is None or self._context is None:
            raise LyingChildError("a second HELLO")
        self._said_hello = True
        hello = replies.hello(message)
        self.capabilities = hello.capabilities
        self._fitted = LayoutFor(hello.capabilities)
        self._fitted.loaded(self._context.max_batch_size)
        self.queues = not hello.is_async
        self.prefetches = self.queues or self.capabilities.max_in_flight > 1
        self.asks = hello.asks
        self.watch = self._watch if hello.watches else None

    def _on_loaded(self, message: list[Any]) -> None:
        if self._loaded is None or not self._said_hello or self._batches is not None:
            raise LyingChildError("a model that was not asked for")
        metadata, pipelined = replies.loaded(message)
        self.overlaps = pipelined or not self.queues
        batches = self._batches = ChildBatches(
            self._child.arena,
            self._loop,
            self._clock,
            self._child.send,
            self._lied,
            fail_nan=self._fail_nan,
            queues=self.queues,
        )
        self._handlers |= {
            messages.RESULT: batches.result,
            messages.FAILED: batches.failure,
            messages.SKIPPED: batches.skipped,
            messages.NEEDS_ROOM: batches.needs_room,
        }
        if not self._loaded.done():
            self._loaded.set_result(metadata)

    def _on_not_loaded(self, message: list[Any]) -> None:
        if self._loaded is None or self._batches is not None:
            raise LyingChildError("an error of a load that was not asked for")
        name, text = replies.not_loaded(message)
        if not self._loaded.done():
            self._loaded.set_result(_LOAD_ERRORS[name](text))

    def _on_health(self, message: list[Any]) -> None:
        number, why = parts(message, int, str)
        if self._asked is None or number != self._questions:
            raise LyingChildError("an answer that was not asked for")
        asked, self._asked = self._asked, None
        self.asked_ns = 0
        asked.set_result(on_one_line(why))

    def _on_watched(self, message: list[Any]) -> None:
        (why,) = parts(message, str)
        if self._report is not None:
            self._report(why)

    def _on_watch_ended(self, message: list[Any]) -> None:
        (why,) = parts(message, str)
        if self._watched is not None and not self._watched.done():
            self._watched.set_result(why)

    def _on_closed(self, message: list[Any]) -> None:
        (why,) = parts(message, str)
        if not self._closing:
            raise LyingChildError("its end, which was not asked for")
        if why:
            log.error(
                "%s: the executor's close() raised %s; the instance is gone all the same",
                self._name,
                on_one_line(why),
            )

    async def _watch(self, report: Callable[[str], None]) -> None:
        self._report = report
        watched = self._watched = self._loop.create_future()
        self._child.send([messages.WATCH, True])
        try:
            why = await watched
        except asyncio.CancelledError:
            self._child.send([messages.WATCH, False])
            raise
        finally:
            self._report = self._watched = None
        if why:
            raise WatchFailedError(on_one_line(why))

    def _on_line(self, stream: str, line: str) -> None:
        self.line(stream, line)

    def _log_line(self, stream: str, line: str) -> None:
        log.info("%s: %s: %s", self._name, stream, line)


def _unknown(message: list[Any]) -> None:
    raise LyingChildError(f"a message of kind {message[0]}, which it may not send now")
