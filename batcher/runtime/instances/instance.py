"""One instance of a model: loads an executor, runs batches on it, replaces it when it hangs.

An `Instance` lives as long as its model is served. Each executor that it loads, on its worker, is
one incarnation. If `execute` does not return within `execute_timeout`, or its child process ends, the
incarnation is lost: the scheduler ends its batches, and another one is loaded (`replacement`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from functools import partial

from batcher.clock import MILLISECOND, SECOND
from batcher.core.events import (
    InstanceDown,
    InstanceDraining,
    InstanceUp,
    Profile,
    Shapes,
)
from batcher.errors import InterfaceChanged, ModelLoadError, describe
from batcher.executor import Capabilities, ModelMetadata
from batcher.executors.isolated.hosted import ChildEnd
from batcher.runtime.execution.execute import Cancel, ExecutedBatch
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.worker import Worker
from batcher.runtime.health import InstanceHealth, InstanceState
from batcher.runtime.instances.batch_ends import BatchEnds
from batcher.runtime.instances.children import ChildOutput, ChildWorker
from batcher.runtime.instances.fitted_load import load_fitted, worker_of
from batcher.runtime.instances.health_checks import HealthChecks
from batcher.runtime.instances.instance_checks import instance_checks
from batcher.runtime.instances.load_attempt import LoadAttempt
from batcher.runtime.instances.on_device import OnDevice
from batcher.runtime.instances.plan import InstancePlan, ProcessContext
from batcher.runtime.instances.replacement import Replacement, StaysDownError
from batcher.runtime.instances.warmup import (
    Copies,
    WarmupTimes,
    at_once,
    warm_up,
    warm_up_buckets,
)
from batcher.runtime.instances.watching import Watching
from batcher.runtime.interface.layout import Layout, layout_of
from batcher.runtime.interface.padding import Padding
from batcher.runtime.interface.row_axis import with_row_axes
from batcher.telemetry import ModelTelemetry
from batcher.telemetry.reasons import LossReason

log = logging.getLogger(__name__)


class Instance:
    """One instance of a model; implements the runner's `BatchRunner`.

    `pad` is called with the executor's metadata before anything is executed and returns how the
    model is padded. `max_rows` returns the maximum rows of a batch now. `stays_down` is called when it was
    lost and no replacement is loaded any more.
    """

    def __init__(
        self,
        plan: InstancePlan,
        process: ProcessContext,
        telemetry: ModelTelemetry,
        pad: Callable[[ModelMetadata], Padding | None],
        max_rows: Callable[[], int],
        stays_down: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self._stays_down = stays_down
        self._pad = pad
        self._max_rows = max_rows
        self._process = process
        self._telemetry = telemetry
        self._incarnation = 0
        self._capabilities = Capabilities()
        self._checks: HealthChecks | None = None
        self._watching: Watching | None = None
        self._down = "not loaded yet"
        self._worker: Worker | None = None
        self._layout = Layout()
        self._padding: Padding | None = None
        self._in_flight: dict[int, asyncio.TimerHandle | None] = {}
        """Batch id -> its `execute_timeout`, oldest first; None while it waits for an earlier batch."""
        self._cancels: dict[int, Cancel] = {}
        """Batch id -> what cancels it. Those that were cancelled are in `_cancelled`."""
        self._cancelled: set[int] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._ends = BatchEnds(plan.name, plan.context.device, telemetry, process.clock)
        self._output = ChildOutput(plan.name, process.clock)
        self._came_up_s = 0.0
        self._kept = 0
        """The incarnation that stays unhealthy, because its restarts are used up."""
        self._loss = ""
        self._loading: Worker | None = None
        """The worker that was made last."""
        self._lost_early = ""
        """Why that was lost before it came up."""
        self._on_device = OnDevice(plan, process, self._device_failed, self._device_back)
        self._replacement = Replacement(
            plan.name,
            process.loop,
            plan.restart,
            self._load,
            self._replaced,
            self._not_replaced,
            held=self._on_device.held,
        )

    @property
    def incarnation(self) -> int:
        """Grows each time that it is loaded."""
        return self._incarnation

    @property
    def up(self) -> bool:
        """Whether an incarnation is loaded and can run batches."""
        return self._worker is not None

    @property
    def takes_raw(self) -> bool:
        """Whether its executor takes inputs as they are on the wire; False before the first load."""
        return self._capabilities.raw

    @property
    def why(self) -> str:
        """Why it is down or unhealthy; empty if it is healthy."""
        if self._checks is None:
            return self._down
        return self._checks.why or ("" if self._watching is None else self._watching.why)

    @property
    def state(self) -> InstanceState:
        """What it is doing."""
        if self.up:
            return InstanceState.UNHEALTHY if self.why else InstanceState.UP
        if self._stopping:
            return InstanceState.STOPPED
        if self._replacement.stays_down:
            return InstanceState.FAILED
        return InstanceState.RESTARTING if self._incarnation else InstanceState.LOADING

    @property
    def health(self) -> InstanceHealth:
        """Its state, and why it is in that."""
        return InstanceHealth(self.plan.context.instance, self.state, self.why)

    async def load(self) -> ModelMetadata:
        """Load and warm up an incarnation, and announce it to the scheduler.

        Raises `ModelLoadError` for every kind of failure. After a failure or a cancellation,
        nothing stays loaded.
        """
        made = await self._load()
        self._come_up(*made)
        return made[1]

    async def _load(self) -> tuple[Worker, ModelMetadata, WarmupTimes]:
        """Load and warm up an incarnation; raises as `load`."""
        started_ns = self._process.clock()
        try:
            made = await self._make_incarnation()
        except Exception as error:
            log.debug("%s: the load failed", self.plan.name, exc_info=True)
            self._telemetry.load_failed()
            self._note_abandoned(self._loading)
            if isinstance(error, ModelLoadError):
                raise
            raise ModelLoadError(
                f"model {self.plan.context.model!r}: the executor could not load: {describe(error)}"
            ) from error
        ended_ns = self._process.clock()
        self._telemetry.load_finished(
            (ended_ns - started_ns) / SECOND, (ended_ns - made[2].began_ns) / SECOND
        )
        return made

    def run(
        self, batch_id: int, slices: Sequence[Slice], done: Callable[[ExecutedBatch], None]
    ) -> None:
        """Start a batch; `done` gets its result within `execute_timeout` of its execution.

        Raises if the batch cannot be started; then `done` is not called.
        """
        assert self._worker is not None  # noqa: S101 - the scheduler knows when it is down
        waits = self._worker.queues and bool(self._in_flight)
        self._in_flight[batch_id] = None if waits else self._watch()
        self._idle.clear()
        max_rows = self._max_rows()
        try:
            device, now_ns = self.plan.context.device, self._process.clock()
            self._telemetry.execution_started(batch_id, device, now_ns)
            self._cancels[batch_id] = self._worker.run(
                slices,
                self._layout,
                lambda executed: self._finished(batch_id, slices, executed, done, max_rows),
            )
        except BaseException:
            self._forget(batch_id)
            self._telemetry.execution_ended(batch_id, self._process.clock())
            raise

    def cancel(self, batch_id: int) -> None:
        """Cancel a batch that no request waits for. What a thread executes goes on.

        It is reported as abandoned, when it has ended.
        """
        cancel = self._cancels.get(batch_id)
        if cancel is not None and batch_id not in self._cancelled and cancel():
            self._cancelled.add(batch_id)

    async def stop(self, timeout_s: float) -> None:
        """Drain: refuse new batches, let running ones end within `timeout_s` seconds, close.

        Batches that still run then are abandoned; when this coroutine is cancelled, at once.
        """
        self._stopping = True
        self._on_device.close()
        await self._replacement.stop(timeout_s)
        if self._worker is not None:
            self._stopping = True  # one may have come up
            await self._drain(timeout_s)

    async def _drain(self, timeout_s: float) -> None:
        self._process.runner.feed(InstanceDraining(self.plan.name, self._incarnation))
        loop = self._process.loop
        ends = loop.time() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning(
                "%s: a batch still runs after %.1f s of draining; the instance is abandoned",
                self.plan.name,
                timeout_s,
            )
            self._abandon()
        except asyncio.CancelledError:
            self._abandon()
            raise
        if not self.up:
            return  # abandoned above, or because its last batch hung
        watching, worker = self._watching, self._go_down()
        try:
            if watching is not None:
                await watching.ended(max(0.0, ends - loop.time()))
            await worker.close(max(0.0, ends - loop.time()))
        except TimeoutError as error:
            log.warning("%s; the instance is abandoned", error)

    # Incarnations

    async def _make_incarnation(self) -> tuple[Worker, ModelMetadata, WarmupTimes]:
        self._on_device.check()
        attempt = LoadAttempt(self.plan.context.model, self.plan.load_timeout_ns)
        async with attempt.bounded():
            return await self._attempt(attempt)

    async def _attempt(self, attempt: LoadAttempt) -> tuple[Worker, ModelMetadata, WarmupTimes]:
        process = self._process
        worker, loaded, plan = await load_fitted(self.plan, self._make_worker)
        self.plan = plan
        self._capabilities = worker.capabilities
        try:
            metadata = with_row_axes(loaded, plan.context, self._capabilities)
            padding = self._padding = self._pad(metadata)
            self._layout = replace(layout_of(metadata), batch_sizes=plan.batch_sizes)
            arguments = worker, plan.context.model, metadata, self._layout, plan.warmup
            began_ns, turn = process.clock(), attempt.turn(self._turn)
            copies: Copies = {}
            profile: Profile = ()
            buckets: tuple[tuple[Shapes, Profile], ...] = ()
            if padding is None:
                profile = await warm_up(*arguments, turn, copies)
            else:
                alone = process.measuring.setdefault(plan.context.device, asyncio.Lock())
                async with attempt.uncounted(alone):
                    buckets = await warm_up_buckets(*arguments, padding, turn, copies)
            measured = WarmupTimes(profile, buckets, tuple(copies.items()), began_ns)
        except BaseException:
            worker.abandon()
            raise
        return worker, metadata, measured

    def _make_worker(self) -> Worker:
        worker = worker_of(self.plan, self._process.loop, self._process.clock)
        self._loading, self._lost_early = worker, ""
        if isinstance(worker, ChildWorker):
            worker.lost = partial(self._child_lost, worker)
            worker.line = self._output.line
        return worker

    def _turn(self, rows: int) -> AbstractAsyncContextManager[bool]:
        """The context of one warm-up batch: it takes turns with what serves on the device."""
        turns = self._process.turns
        return at_once(rows) if turns is None else turns.turn(self.plan.context.device)

    def _come_up(self, worker: Worker, metadata: ModelMetadata, measured: WarmupTimes) -> None:
        plan = self.plan
        if self._lost_early:  # the child, after its warm-up
            worker.abandon()
            raise ModelLoadError(f"{plan.context.model}: {self._lost_early}")
        self._worker = worker
        self._came_up_s = self._process.loop.time()
        self._stopping = False
        self._incarnation += 1
        up = InstanceUp(
            plan.name,
            self._incarnation,
            plan.key,
            plan.context.device,
            plan.max_in_flight,
            measured.profile,
            measured.buckets,
            worker.prefetches,
            measured.copies,
            worker.overlaps,
        )
        self._process.runner.instance_up(up, self)
        self._checks = instance_checks(
            worker,
            metadata,
            self._layout,
            self._padding,
            plan,
            self._process.clock,
            idle=self._idle.is_set,
            changed=self._process.changed,
            hung=self._hung,
            restart=self._restart,
        )
        self._checks.start()
        if worker.watch is not None:
            self._watching = Watching(
                plan.name,
                worker.watch,
                changed=self._process.changed,
                ended=lambda: self._process.load_again(plan.key),
            )
            self._watching.start()
        self._on_device.uses(metadata.gpu)
        self._process.changed()

    def _go_down(self) -> Worker:
        """End this incarnation. Returns its worker, which the caller closes or abandons."""
        worker, self._worker = self._worker, None
        if self._checks is not None:
            self._checks.stop()
            self._checks = None
        if self._watching is not None:
            self._watching.stop()
            self._watching = None
        assert worker is not None  # noqa: S101 - the caller has checked that it is up
        in_flight, self._in_flight = self._in_flight, {}
        self._cancels.clear()
        self._cancelled.clear()
        self._idle.set()
        self._process.runner.instance_down(InstanceDown(self.plan.name, self._incarnation))
        now_ns = self._process.clock()
        for batch_id, timer in in_flight.items():
            if timer is not None:
                timer.cancel()
            self._telemetry.execution_ended(batch_id, now_ns)
        self._process.changed()
        return worker

    def _abandon(self) -> None:
        """End this incarnation, if there is one, without waiting for its calls."""
        if self._worker is not None:
            worker = self._go_down()
            worker.abandon()
            self._note_abandoned(worker)

    def _note_abandoned(self, worker: Worker | None) -> None:
        if worker is not None:
            context = self.plan.context
            self._process.abandoned.add(context.model, context.version, worker)

    def _watch(self) -> asyncio.TimerHandle:
        """Start the `execute_timeout` of the batch that begins now."""
        timeout_ns = self.plan.execute_timeout_ns
        return self._process.loop.call_later(
            timeout_ns / SECOND, self._hung, "a batch did not end", timeout_ns, "execute_timeout"
        )

    def _hung(self, what: str, timeout_ns: int, limit: str) -> None:
        """Abandon the incarnation, because a call that cannot be stopped took too long; reload.

        `limit` names the setting that `timeout_ns` follows from.
        """
        why = f"{what} within {timeout_ns // MILLISECOND} ms"
        self._lost(LossReason.HUNG, why, f"{why} ({limit}); it is abandoned")

    async def _restart(self, why: str) -> None:
        """Replace an unhealthy incarnation, once what it runs has ended; not if its restarts are used up."""
        if self._stopping:
            return
        if self._replacement.used_up:
            if self._kept != self._incarnation:
                log.critical("%s: %s; its restarts are used up, and it stays", self.plan.name, why)
            self._kept = self._incarnation
            return
        self._process.runner.feed(InstanceDraining(self.plan.name, self._incarnation))
        with suppress(TimeoutError):
            async with asyncio.timeout(self.plan.execute_timeout_ns / SECOND):
                await self._idle.wait()
        if not self._stopping:
            self._lost(LossReason.UNHEALTHY, why, f"{why}; it is killed")

    def _lost(self, reason: LossReason, why: str, line: str) -> None:
        """End an incarnation that can run nothing any more; load a replacement."""
        self._loss, self._down = why, f"{why}; a replacement is being loaded"
        self._telemetry.instance_lost(reason)
        log.error("%s: %s, and a replacement is loaded", self.plan.name, line)
        served_s = self._process.loop.time() - self._came_up_s
        self._output.tell_dropped()
        try:
            self._abandon()
        finally:
            if not self._stopping:
                self._replacement.begin(served_s)

    def _child_lost(self, worker: Worker, end: ChildEnd) -> None:
        """The child process of a worker is gone."""
        if worker is self._worker:
            # What it wrote is for the log, and not for those who ask for the state of a model.
            self._lost(end.reason, end.why, end.in_full)
        elif worker is self._loading:
            self._lost_early = end.in_full

    def _device_failed(self, why: str) -> None:
        """Its device has failed, or for another reason than before."""
        if self.up and not self._stopping:
            self._lost(LossReason.DEVICE, why, f"{why}; it is abandoned")

    def _device_back(self) -> None:
        """Its device can be used again."""
        if self._replacement.stays_down and not (self.up or self._stopping):
            self._replacement.begin(float("inf"))

    def _not_replaced(self, error: Exception) -> None:
        """Say why no replacement could be loaded."""
        if isinstance(error, StaysDownError):
            self._down = str(error) if self._loss in str(error) else f"{self._loss}; {error}"
            self._process.changed()
            self._stays_down()
            return
        self._down = f"its replacement could not be loaded: {error}"
        self._process.changed()
        if isinstance(error, InterfaceChanged):
            self._process.load_again(self.plan.key)

    def _replaced(self, made: tuple[Worker, ModelMetadata, WarmupTimes]) -> None:
        self._come_up(*made)
        log.info("%s: the replacement is up, incarnation %d", self.plan.name, self._incarnation)

    # The end of a batch

    def _forget(self, batch_id: int) -> None:
        """Remove a batch from those in flight and start the timeout of the next one."""
        timer = self._in_flight.pop(batch_id, None)
        self._cancels.pop(batch_id, None)
        if timer is not None:
            timer.cancel()
        if not self._in_flight:
            self._idle.set()
        else:
            oldest = next(iter(self._in_flight))
            if self._in_flight[oldest] is None:
                self._in_flight[oldest] = self._watch()

    def _finished(
        self,
        batch_id: int,
        slices: Sequence[Slice],
        executed: ExecutedBatch,
        done: Callable[[ExecutedBatch], None],
        max_rows: int,
    ) -> None:
        """Report a batch, whatever raises; the event loop logs the exception."""
        try:
            self._forget(batch_id)
            if batch_id in self._cancelled:
                self._cancelled.discard(batch_id)
                executed.abandon()
            self._telemetry.execution_ended(batch_id, executed.execute_end_ns)
            if self._checks is not None:
                self._checks.batch_ended(executed)
            self._ends.log(executed, len(slices))
        finally:
            done(executed)
        self._ends.count(executed, slices, self._layout, max_rows)
