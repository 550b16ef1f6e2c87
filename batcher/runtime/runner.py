"""The asyncio shell around the scheduler: feeds it events, carries out its commands.

Arrivals of one turn of the event loop are taken in together, so a burst is batched as a burst.
Everything else is fed at once. When a batch ends, the scheduler's answer is carried out in two
steps: dispatches first, so that the instance is busy again, then the replies. There is one timer,
armed for `next_wakeup_ns()`, and every method runs on the loop's thread.

A step is `_handle`: decide, record, carry out, arm the timer. Nothing of it is skipped because
something else of it raised, and nothing raises out of it. A request that cannot be ended as the
scheduler says fails with `InternalError`, alone; a batch that cannot be handed over is reported as
failed. If the scheduler itself raises, what it knows cannot be trusted any more: all requests fail,
and so does whatever comes later (`broken`), until the process is started again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from batcher.clock import MILLISECOND, Clock
from batcher.core.commands import (
    Command,
    Dispatch,
    FailureStorm,
    Outcome,
    PolicyFailed,
    Reason,
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
from batcher.errors import ChangeFailed, InternalError, describe
from batcher.executor import ExecutionError
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.results import RunningBatch, answer, report, why
from batcher.runtime.interface.signature import RequestSummary
from batcher.runtime.pending import PendingRequest, ReplyPort, Target
from batcher.runtime.refusals import error_for
from batcher.runtime.request import InferenceRequest
from batcher.runtime.scheduler_log import log_storm, warn_of_target
from batcher.runtime.timer import Timer
from batcher.telemetry.reasons import ReplyReason

log = logging.getLogger(__name__)

Record: TypeAlias = Callable[[int, Sequence[Event], Sequence[Command]], None]
"""Told the moment of a step, what went in and what came out; it changes none of it."""


REARM_S = 0.01
"""After how long the scheduler is asked again where the timer could not be armed."""


class BatchRunner(Protocol):
    """An instance, as the runner sees it."""

    def run(
        self, batch_id: int, slices: Sequence[Slice], done: Callable[[ExecutedBatch], None]
    ) -> None:
        """Execute a batch. `done` is called on the loop, once, and never after the instance went down."""
        ...


class Runner:
    """Owns the scheduler and every pending request. `timer` gets the runner's `wake`."""

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
        """Why nothing can be served any more, by a mistake of ours; empty while all is well."""
        self._rearm: asyncio.TimerHandle | None = None
        self._record: Record | None = None
        self._ids = itertools.count(1)
        self._pending: dict[int, PendingRequest] = {}
        self._instances: dict[str, BatchRunner] = {}
        self._running: dict[int, RunningBatch] = {}
        self._arrived: list[Event] = []
        self._idle = asyncio.Event()
        self._idle.set()

    # Requests

    def submit(
        self, request: InferenceRequest, target: Target, summary: RequestSummary, reply: ReplyPort
    ) -> PendingRequest:
        """Hand a valid request to the scheduler; its end comes through `reply`."""
        pending = PendingRequest(next(self._ids), request, target, summary, reply)
        self._pending[pending.id] = pending
        queue_until_ns = None
        if request.timeout_ns is not None:
            queue_until_ns = request.arrival_ns + request.timeout_ns
        self._take_in_soon(
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
                request.sequence,
                queue_until_ns,
            )
        )
        return pending

    def cancel(self, pending: PendingRequest, cause: CancelCause) -> None:
        """The caller left. Its batch-mates notice nothing."""
        if pending.outcome is None:
            self.feed(RequestCancelled(pending.id, cause))

    def replied(self, pending: PendingRequest, now_ns: int) -> None:
        """An answer has left, or never will; after a batch's last the scheduler learns what it took."""
        replies = pending.replies
        if replies is None:
            return
        pending.replies = None
        replies.left -= 1
        if not replies.left:
            took_ns = now_ns - replies.done_ns
            self.feed(RepliesTook(pending.target.key, replies.rows, took_ns))

    async def idle(self) -> None:
        """Wait until no request is unanswered."""
        while self._pending:
            self._idle.clear()
            await self._idle.wait()

    @property
    def unanswered(self) -> int:
        """Requests that have not ended."""
        return len(self._pending)

    # Instances

    def instance_up(self, event: InstanceUp, instance: BatchRunner) -> None:
        """Announce an incarnation; its batches go to `instance`."""
        self._instances[event.instance] = instance
        self.feed(event)
        profiles = [event.profile, *(profile for _, profile in event.buckets)]
        took_ns = min((ns for profile in profiles for _, ns in profile), default=0)
        self._warn_of_target(event.model, f"{took_ns / MILLISECOND:.3g} ms")

    def instance_down(self, event: InstanceDown) -> None:
        """An incarnation is gone and will report nothing more: what it ran has failed."""
        self._instances.pop(event.instance, None)
        lost = [i for i, batch in self._running.items() if batch.instance == event.instance]
        for batch_id in lost:
            del self._running[batch_id]
        self.feed(event)

    # Models

    def configure(self, event: ModelConfigured) -> None:
        """Change a model's settings; what arrived before is taken in under the old ones.

        Raises `ChangeFailed` when the scheduler cannot take them: the old ones stay in force.
        """
        commands = self.feed(event)
        if self.broken:
            raise ChangeFailed(f"{event.model}: {self.broken}")
        for command in commands:
            if isinstance(command, SettingsRefused):
                raise ChangeFailed(f"{event.model}: its policy could not be made: {command.error}")
        self._warn_of_target(event.model)

    def _warn_of_target(self, key: str, took: str = "longer") -> None:
        try:
            warn_of_target(self.observe(), key, took)
        except Exception:
            log.exception("%s: whether it can meet its target is not known", key)

    # The scheduler's door

    def feed(self, *events: Event) -> list[Command]:
        """Give the scheduler events now, with everything that arrived before them.

        Returns its commands, which have been carried out.
        """
        arrived, self._arrived = self._arrived, []
        return self._handle([*arrived, *events])

    def wake(self) -> None:
        """The moment that the scheduler asked for has come."""
        self.feed()

    def record_with(self, record: Record) -> None:
        """Tell `record` of every step from now on, before its commands are carried out."""
        self._record = record

    def observe(self) -> Observation:
        """The scheduler now: live depths and ages."""
        return self._scheduler.observe(self._clock())

    def close(self) -> None:
        """Stop the timer. Nothing may be pending any more."""
        if self._rearm is not None:
            self._rearm.cancel()
        self._timer.close()

    def _take_in_soon(self, event: Event) -> None:
        """Feed an event together with everything else of this turn of the loop."""
        if not self._arrived:
            self._loop.call_soon(self._take_in_arrivals)
        self._arrived.append(event)

    def _take_in_arrivals(self) -> None:
        if self._arrived:
            self.feed()

    # A step; the guard of everything on its way

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
        except Exception as error:  # noqa: BLE001 - logged whole; nobody may wait for its end
            self._break(error)
            return []
        self._note(now_ns, events, commands)
        self._carry_out(commands, now_ns)
        self._arm()
        return commands

    def _note(self, now_ns: int, events: Sequence[Event], commands: Sequence[Command]) -> None:
        if self._record is None:
            return
        try:
            self._record(now_ns, events, commands)
        except Exception:
            # A log without one of its steps plays something that has never happened.
            log.exception("a step could not be recorded; recording ends")
            self._record = None

    def _carry_out(self, commands: list[Command], now_ns: int) -> None:
        for command in commands:
            if isinstance(command, Dispatch):
                try:
                    self._dispatch(command, now_ns)
                except Exception as error:  # noqa: BLE001 - logged whole; the batch has failed
                    self._not_dispatched(command, error)
        for command in commands:
            if isinstance(command, Settle):
                self._settle(command)
            elif isinstance(command, PolicyFailed | FailureStorm):
                try:
                    self._tell(command)
                except Exception:
                    log.exception("a report of the scheduler was lost")

    def _tell(self, command: PolicyFailed | FailureStorm) -> None:
        if isinstance(command, FailureStorm):
            log_storm(command)
            return
        log.error(
            "policy of %s failed, its batches are formed greedily until it is configured anew: %s",
            command.model,
            command.error,
        )
        self._on_policy_failed(command)

    def _arm(self) -> None:
        try:
            wakeup_ns = self._scheduler.next_wakeup_ns()
        except Exception as error:  # noqa: BLE001 - logged whole
            self._break(error)
            return
        try:
            self._timer.arm(wakeup_ns)
        except Exception:
            if self._rearm is None:
                log.exception("the timer could not be armed; the next try is in %g s", REARM_S)
                self._rearm = self._loop.call_later(REARM_S, self._arm_again)

    def _arm_again(self) -> None:
        self._rearm = None
        self.wake()

    def _break(self, error: Exception) -> None:
        """The scheduler raised: half of a step may be missing from what it knows."""
        self.broken = f"internal error of the scheduler: {describe(error)}"
        log.critical(
            "the scheduler failed, by a mistake of batcher itself; nothing is served until the"
            " process is started again",
            exc_info=error,
        )
        self._fail_all()
        try:
            self._on_broken()
        except Exception:
            log.exception("a report of the scheduler's failure was lost")

    def _fail_all(self) -> None:
        pendings, self._pending = list(self._pending.values()), {}
        for pending in pendings:
            self._fail(pending, self.broken, ReplyReason.INTERNAL)
        self._idle.set()

    # Batches

    def _dispatch(self, command: Dispatch, now_ns: int) -> None:
        batch: list[PendingRequest] = []
        slices: list[Slice] = []
        rows = 0
        first = self._pending[command.parts[0].id]
        # What runs again is padded as it was: its bucket is that of the batch that failed.
        padding = first.target.padding if command.attempt == 1 else first.padding
        padded = None if padding is None else padding.of(command.bucket)
        for part in command.parts:
            pending = self._pending[part.id]
            # Rows that run later, or again, count as executing since the first ones.
            if not pending.stamps.dispatched_ns:
                pending.stamps.dispatched_ns = now_ns
            pending.padding = padding
            pending.failure = None
            rows += part.stop - part.start
            batch.append(pending)
            slices.append(Slice(pending.request, part.start, part.stop, padded))
        for pending in batch:
            pending.stamps.batch_rows = rows
        batch_id = command.batch_id
        self._running[batch_id] = RunningBatch(
            command.instance, batch, command.parts, rows, padding
        )
        self._instances[command.instance].run(
            batch_id, slices, lambda executed: self._executed(batch_id, executed)
        )

    def _not_dispatched(self, command: Dispatch, error: Exception) -> None:
        """The scheduler has to know that a batch failed, but not in the middle of a step."""
        log.error("%s: a batch could not be handed over", command.instance, exc_info=error)
        self._running.pop(command.batch_id, None)
        for part in command.parts:
            pending = self._pending.get(part.id)
            if pending is not None:
                pending.failure = describe(error)
        self._take_in_soon(BatchProgress(command.batch_id, (), error=FailureCause.UNKNOWN))

    def _executed(self, batch_id: int, executed: ExecutedBatch) -> None:
        """Report a batch; the answers leave while its result is held."""
        try:
            batch = self._running.pop(batch_id, None)
            if batch is not None:
                self.feed(report(batch_id, batch, executed, self._clock))
        finally:
            executed.release()

    # Ends

    def _settle(self, settle: Settle) -> None:
        outcome = settle.outcome
        for request_id in settle.ids:
            pending = self._pending.pop(request_id, None)
            if pending is None:
                log.error("request %d was settled a second time", request_id)
                continue
            try:
                pending.outcome, pending.reason = outcome, settle.reason
                if outcome is Outcome.OK:
                    reply = answer(pending)
                    reply.stamps.settled_ns = self._clock()
                    pending.reply.send(reply, last=True)
                else:
                    pending.stamps.settled_ns = self._clock()
                    pending.reply.fail(error_for(settle, pending.target.name, pending.failure))
            except Exception as error:
                log.exception("%s: a request could not be answered", pending.target.name)
                ours = not isinstance(error, ExecutionError)
                reason = ReplyReason.INTERNAL if ours else Reason.UNKNOWN_FAILURE
                self._fail(pending, f"the answer could not be made: {why(error)}", reason)
        if not self._pending:
            self._idle.set()

    def _fail(self, pending: PendingRequest, why: str, reason: Reason | ReplyReason) -> None:
        """End a request that cannot be ended as it should be. Never raises."""
        pending.outcome, pending.reason = Outcome.FAILED, reason
        pending.result = pending.pieces = None
        pending.stamps.settled_ns = self._clock()
        try:
            pending.reply.fail(InternalError(f"{pending.target.name}: {why}"))
        except Exception:
            log.exception("%s: a caller could not be told of a failure", pending.target.name)
