"""Feeds the scheduler events and carries out its commands, on the event loop's thread.

Requests that arrive in one iteration of the event loop are fed together, so that the scheduler sees a
burst as a burst; all other events are fed at once. When a batch ends, the commands are carried out
in two passes: dispatches first, so that the instance is busy again, then the replies. One timer is
armed for the scheduler's `next_wakeup_ns()`.

A step is `_handle`: decide, record, carry out, arm the timer. An exception in one part of a step
does not skip the other parts, and no exception leaves it. A request that cannot be ended as the
scheduler says fails with `InternalError`, and no other does; a batch that cannot be started is
reported as failed. If the scheduler itself raises, its state may be inconsistent: all requests
fail, those that arrive later too (`broken`), until the process is restarted.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from batcher.clock import MILLISECOND, Clock
from batcher.core.commands import (
    BatchCeiling,
    Command,
    Dispatch,
    FailureStorm,
    Outcome,
    PolicyFailed,
    SettingsRefused,
    Settle,
)
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    Event,
    FailureCause,
    InstanceDown,
    InstanceUp,
    ModelConfigured,
    RepliesTook,
    RequestArrived,
    RequestCancelled,
)
from batcher.core.observation import Observation
from batcher.core.scheduler import Scheduler
from batcher.errors import ChangeFailed, describe
from batcher.runtime.drain import Drain
from batcher.runtime.execution.batch_runner import BatchRunner
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.execution.results import RunningBatch, nothing_executed, prepare_batch, report
from batcher.runtime.execution.steps import settle_steps, stop_steps
from batcher.runtime.execution.traced import TracedBatches
from batcher.runtime.interface.signature import RequestSummary
from batcher.runtime.pending import PendingRequest, ReplySink, TargetModel
from batcher.runtime.replies import end_request, fail_request
from batcher.runtime.request import InferenceRequest
from batcher.runtime.scheduler_log import log_ceiling, log_failure_storm, warn_unreachable_target
from batcher.runtime.sequences import SequenceTable, Step
from batcher.runtime.timer import Timer
from batcher.telemetry.reasons import ReplyReason
from batcher.telemetry.tracing import Tracer

log = logging.getLogger(__name__)

Record: TypeAlias = Callable[[int, Sequence[Event], Sequence[Command]], None]
"""Called with a step of the scheduler: its time, events and commands. Must not change them."""


REARM_S = 0.01
"""Seconds until the next step when the timer could not be armed."""


class Runner:
    """Owns the scheduler and every pending request. `timer` makes a timer that calls its argument.

    Call every method on the event loop's thread.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        timer: Callable[[Callable[[], None]], Timer],
        *,
        on_policy_failed: Callable[[PolicyFailed], None] = lambda _: None,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._scheduler = scheduler
        self._loop = loop
        self._clock = clock
        self._timer = timer(self.wake)
        self._on_policy_failed = on_policy_failed
        self._on_broken = on_broken
        self.broken = ""
        """Why nothing can be served until a restart (an internal error); empty in normal operation."""
        self._rearm: asyncio.TimerHandle | None = None
        self._record: Record | None = None
        self._traced: TracedBatches | None = None
        self._ids = itertools.count(1)
        self._pending: dict[int, PendingRequest] = {}
        self._instances: dict[str, BatchRunner] = {}
        self._running: dict[int, RunningBatch] = {}
        self._arrived: list[Event] = []
        self._left = False
        """Whether requests have ended without an answer, so that batches may be of no use now."""
        self.sequences = SequenceTable(clock, loop)
        """The open sequences of all models."""
        self._steps = 0
        """How many steps of sequences have not ended."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining: dict[str, Drain] = {}
        self._batch_ended: asyncio.Event | None = None
        self._began_ns: dict[str, int] = {}
        """Instance -> when its last batch began."""

    # Requests

    def submit(
        self,
        request: InferenceRequest,
        target: TargetModel,
        summary: RequestSummary,
        reply: ReplySink,
        step: Step | None = None,
    ) -> PendingRequest:
        """Feed a validated request to the scheduler; `reply` gets its reply or its error.

        `step` says which step of a sequence it is.
        """
        pending = PendingRequest(next(self._ids), request, target, summary, reply, step)
        if step is not None:
            self._steps += 1
        self._pending[pending.id] = pending
        if self._draining and (drain := self._draining.get(target.key)) is not None:
            drain.left += 1
        queue_until_ns = None
        if request.timeout_ns is not None:
            queue_until_ns = request.arrival_ns + request.timeout_ns
        self._feed_soon(
            RequestArrived(
                pending.id,
                target.key,
                summary.rows,
                summary.nbytes,
                summary.shapes,
                summary.batch_key,
                request.arrival_ns,
                None,
                request.deadline_ns,
                request.priority,
                request.tenant,
                None if step is None else step.sequence.number,
                queue_until_ns,
            )
        )
        return pending

    def cancel(self, pending: PendingRequest, cause: CancelCause) -> None:
        """Cancel a request. The other requests of its batch are answered as usual."""
        if pending.outcome is None:
            self.feed(RequestCancelled(pending.id, cause))

    def replied(self, pending: PendingRequest, now_ns: int) -> None:
        """Note that a reply was sent or dropped; after a batch's last one, feed how long they took."""
        replies = pending.replies
        if replies is None:
            return
        pending.replies = None
        replies.left -= 1
        if not replies.left:
            took_ns = now_ns - replies.done_ns
            self.feed(RepliesTook(pending.target.key, replies.rows, took_ns))

    async def idle(self) -> None:
        """Wait until every request has ended."""
        while self._pending:
            self._idle.clear()
            await self._idle.wait()

    async def drained(self, model: str) -> None:
        """Wait until every request for a model (`TargetModel.key`) has ended."""
        drain = self._draining.get(model)
        if drain is None:
            left = sum(pending.target.key == model for pending in self._pending.values())
            drain = self._draining[model] = Drain(left)
        drain.waiting += 1
        try:
            while drain.left:
                drain.ended.clear()
                await drain.ended.wait()
        finally:
            drain.waiting -= 1
            if not drain.waiting:
                self._draining.pop(model, None)

    @property
    def unanswered(self) -> int:
        """How many requests have not ended."""
        return len(self._pending)

    # Instances

    def instance_up(self, event: InstanceUp, instance: BatchRunner) -> None:
        """Add an incarnation to the scheduler; `instance` runs its batches."""
        self._instances[event.instance] = instance
        self.feed(event)
        profiles = [event.profile, *(profile for _, profile in event.buckets)]
        took_ns = min((ns for profile in profiles for _, ns in profile), default=0)
        warn_unreachable_target(self.observe, event.model, f"{took_ns / MILLISECOND:.3g} ms")

    def instance_down(self, event: InstanceDown) -> None:
        """Remove an incarnation; its running batches have failed and will not report."""
        self._instances.pop(event.instance, None)
        self._began_ns.pop(event.instance, None)
        lost = [i for i, batch in self._running.items() if batch.instance == event.instance]
        for batch_id in lost:
            pendings = self._running.pop(batch_id).pendings
            stop_steps(pendings)
            for pending in pendings:
                if pending.outcome is None:
                    pending.stamps.unreported()
        if self._traced is not None:
            self._traced.lost(lost, self._clock(), "instance_down")
        self.feed(event)
        self._tell_batch_ended()

    def idle_ns(self, instances: Iterable[str]) -> float:
        """For how long none of these instances has begun a batch; infinite where none ever has."""
        began_ns = max(
            (self._began_ns.get(each, -math.inf) for each in instances), default=-math.inf
        )
        return self._clock() - began_ns

    async def batch_ended(self) -> None:
        """Wait until the next batch has ended, or an instance has gone."""
        if self._batch_ended is None:
            self._batch_ended = asyncio.Event()
        await self._batch_ended.wait()

    def _tell_batch_ended(self) -> None:
        if self._batch_ended is not None:
            self._batch_ended.set()
            self._batch_ended = None

    # Models

    def configure(self, event: ModelConfigured) -> None:
        """Change a model's settings; requests that arrived earlier are fed under the old ones.

        Raises `ChangeFailed` if the scheduler refuses the settings; the old ones stay in force.
        """
        commands = self.feed(event)
        if self.broken:
            raise ChangeFailed(f"{event.model}: {self.broken}")
        for command in commands:
            if isinstance(command, SettingsRefused):
                raise ChangeFailed(
                    f"{event.model}: the batching policy refuses the settings: {command.error}"
                )
        warn_unreachable_target(self.observe, event.model)

    # Feeding the scheduler

    def feed(self, *events: Event) -> list[Command]:
        """Feed events now, after the requests that arrived before them.

        Returns the scheduler's commands, which have been carried out.
        """
        arrived, self._arrived = self._arrived, []
        return self._handle([*arrived, *events])

    def wake(self) -> None:
        """Run a step at the time that the scheduler asked for."""
        self.feed()

    def record_with(self, record: Record) -> None:
        """Call `record` with every step from now on, before its commands are carried out."""
        self._record = record

    def trace_with(self, tracer: Tracer) -> None:
        """Tell `tracer` of every batch from now on."""
        self._traced = TracedBatches(tracer)

    def observe(self) -> Observation:
        """The scheduler's current queue depths and ages."""
        return self._scheduler.observe(self._clock())

    def close(self) -> None:
        """Stop the timer. No request may be pending."""
        if self._rearm is not None:
            self._rearm.cancel()
        self._timer.close()
        self.sequences.close()

    def _feed_soon(self, event: Event) -> None:
        """Feed an event at the end of this iteration of the event loop."""
        if not self._arrived:
            self._loop.call_soon(self._feed_arrivals)
        self._arrived.append(event)

    def _feed_arrivals(self) -> None:
        if self._arrived:
            self.feed()

    # One step

    def _handle(self, events: list[Event]) -> list[Command]:
        if self.broken:
            self._fail_all()
            return []
        now_ns = self._clock()
        try:
            for event in events:
                if isinstance(event, RequestArrived):
                    self._pending[event.id].stamps.enqueued_ns = now_ns
            commands = self._scheduler.handle(events, now_ns)
        except Exception as error:  # noqa: BLE001 - logged with its traceback; every request must end
            self._break(error)
            return []
        self._record_step(now_ns, events, commands)
        self._carry_out(commands, now_ns)
        self._arm()
        return commands

    def _record_step(
        self, now_ns: int, events: Sequence[Event], commands: Sequence[Command]
    ) -> None:
        if self._record is None:
            return
        try:
            self._record(now_ns, events, commands)
        except Exception:
            # A log that misses a step would replay something that never happened.
            log.exception(
                "internal error: a step could not be recorded; nothing is recorded until a restart"
            )
            self._record = None

    def _carry_out(self, commands: list[Command], now_ns: int) -> None:
        if self._steps:
            # Before the next steps begin, which need the state.
            for command in commands:
                if isinstance(command, Settle):
                    self._steps -= settle_steps(command, self._pending)
        for command in commands:
            if isinstance(command, Dispatch):
                try:
                    self._dispatch(command, now_ns)
                except Exception as error:  # noqa: BLE001 - logged with its traceback; the batch has failed
                    self._not_dispatched(command, error)
        for command in commands:
            if isinstance(command, Settle):
                self._settle(command, now_ns)
            elif isinstance(command, PolicyFailed | FailureStorm | BatchCeiling):
                try:
                    self._report(command)
                except Exception:
                    log.exception(
                        "internal error: a message of the scheduler could not be logged or counted"
                    )

        if self._left:
            self._left = False
            self._cancel_batches()

    def _cancel_batches(self) -> None:
        """Cancel the running batches that no request waits for any more."""
        for batch_id, batch in list(self._running.items()):
            if any(pending.outcome is None for pending in batch.pendings):
                continue
            try:
                self._instances[batch.instance].cancel(batch_id)
            except Exception:
                log.exception("%s: internal error: a batch could not be cancelled", batch.instance)

    def _report(self, command: PolicyFailed | FailureStorm | BatchCeiling) -> None:
        if isinstance(command, FailureStorm):
            log_failure_storm(command)
            return
        if isinstance(command, BatchCeiling):
            log_ceiling(command)
            return
        log.error(
            "%s: its batching policy failed; batches are formed greedily until its settings change: %s;"
            " `batcher tune` sets another batching.policy",
            command.model,
            command.error,
        )
        self._on_policy_failed(command)

    def _arm(self) -> None:
        try:
            wakeup_ns = self._scheduler.next_wakeup_ns()
        except Exception as error:  # noqa: BLE001 - logged with its traceback
            self._break(error)
            return
        try:
            self._timer.arm(wakeup_ns)
        except Exception:
            if self._rearm is None:
                log.exception(
                    "internal error: the timer could not be armed; trying again in %g s", REARM_S
                )
                self._rearm = self._loop.call_later(REARM_S, self._arm_again)

    def _arm_again(self) -> None:
        self._rearm = None
        self.wake()

    def _break(self, error: Exception) -> None:
        """Fail everything after the scheduler raised: its state may be inconsistent."""
        self.broken = f"internal error of the scheduler: {describe(error)}"
        log.critical(
            "internal error: the scheduler failed; every request fails until the process is"
            " restarted",
            exc_info=error,
        )
        self._fail_all()
        try:
            self._on_broken()
        except Exception:
            log.exception("internal error: the failure of the scheduler could not be reported")

    def _fail_all(self) -> None:
        pendings, self._pending = list(self._pending.values()), {}
        for pending in pendings:
            fail_request(pending, self.broken, ReplyReason.INTERNAL, self._clock)
        for drain in self._draining.values():
            drain.end(drain.left)
        self._idle.set()

    # Batches

    def _dispatch(self, command: Dispatch, now_ns: int) -> None:
        instance = self._instances[command.instance]
        batch, slices = prepare_batch(command, self._pending, now_ns, lambda: instance.incarnation)
        batch_id = command.batch_id
        if not slices:
            self._feed_soon(nothing_executed(batch_id, batch))
            return
        if self._traced is not None:
            slices = self._traced.began(command, batch, slices, now_ns)
        self._running[batch_id] = batch
        self._began_ns[command.instance] = now_ns
        instance.run(batch_id, slices, lambda executed: self._executed(batch_id, executed))

    def _not_dispatched(self, command: Dispatch, error: Exception) -> None:
        """Report a batch that could not be started as failed, after the current step."""
        log.error(
            "%s: internal error: a batch could not be started; its requests fail",
            command.instance,
            exc_info=error,
        )
        self._running.pop(command.batch_id, None)
        if self._traced is not None:
            self._traced.lost((command.batch_id,), self._clock(), "not_started")
        for part in command.parts:
            pending = self._pending.get(part.id)
            if pending is not None:
                pending.failure = describe(error)
                stop_steps((pending,))
        self._feed_soon(BatchProgress(command.batch_id, (), error=FailureCause.UNKNOWN))

    def _executed(self, batch_id: int, executed: ExecutedBatch) -> None:
        """Report a batch and send its replies; release its result after that."""
        try:
            batch = self._running.pop(batch_id, None)
            if batch is not None:
                if self._traced is not None:
                    self._traced.ended(batch_id, executed)
                progress = report(batch_id, batch, executed, self._clock)
                if batch.pendings[0].step is not None:
                    stop_steps(batch.pendings)
                self.feed(progress)
                self._tell_batch_ended()
        finally:
            executed.release()

    def _settle(self, settle: Settle, now_ns: int) -> None:
        if settle.outcome is not Outcome.OK:
            self._left = True
        for request_id in settle.ids:
            pending = self._pending.pop(request_id, None)
            if pending is None:
                log.error("internal error: request %d was settled twice; ignored", request_id)
                continue
            end_request(pending, settle, self._clock, now_ns)
            if self._draining and (drain := self._draining.get(pending.target.key)) is not None:
                drain.end()
        if not self._pending:
            self._idle.set()
