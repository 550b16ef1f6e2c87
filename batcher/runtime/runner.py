"""The asyncio shell around the scheduler: feeds it events, carries out its commands.

Arrivals of one turn of the event loop are taken in together, so a burst is batched as a burst.
Everything else is fed at once. When a batch ends, the scheduler's answer is carried out in two
steps: dispatches first, so that the instance is busy again, then the replies. There is one timer,
armed for `next_wakeup_ns()`, and every method runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from batcher.clock import MILLISECOND, Clock
from batcher.core.commands import (
    Command,
    Dispatch,
    FailureStorm,
    Outcome,
    Part,
    PolicyFailed,
    SettingsRefused,
    Settle,
)
from batcher.core.events import (
    BatchProgress,
    CancelCause,
    Event,
    Failure,
    FailureCause,
    InstanceDown,
    InstanceUp,
    ModelConfigured,
    RepliesTook,
    RequestArrived,
    RequestCancelled,
    Timings,
)
from batcher.core.observation import Observation
from batcher.core.record import record
from batcher.core.scheduler import Scheduler
from batcher.errors import ChangeFailed
from batcher.executor import BatchResult
from batcher.runtime.dispatch import Executed, Slice, join, scatter
from batcher.runtime.outcomes import error_for
from batcher.runtime.padding import Padding
from batcher.runtime.pending import Pending, Replies, ReplyPort, Target
from batcher.runtime.request import InferenceReply, InferenceRequest
from batcher.runtime.signature import Measure
from batcher.runtime.timer import Timer

log = logging.getLogger(__name__)

Record: TypeAlias = Callable[[int, Sequence[Event], Sequence[Command]], None]
"""Told the moment of a step, what went in and what came out; it changes none of it."""


class BatchRunner(Protocol):
    """An instance, as the runner sees it."""

    def run(self, batch_id: int, slices: Sequence[Slice], done: Callable[[Executed], None]) -> None:
        """Execute a batch. `done` is called on the loop, once, and never after the instance went down."""
        ...


@record
class _RunningBatch:
    """A dispatched batch: where it went, and which rows of whom are in it, in order."""

    instance: str
    pendings: list[Pending]
    parts: tuple[Part, ...]
    rows: int
    padding: Padding | None


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
    ) -> None:
        self._scheduler = scheduler
        self._loop = loop
        self._clock = clock
        self._timer = timer(self.wake)
        self._on_policy_failed = on_policy_failed
        self._record: Record | None = None
        self._ids = itertools.count(1)
        self._pending: dict[int, Pending] = {}
        self._instances: dict[str, BatchRunner] = {}
        self._running: dict[int, _RunningBatch] = {}
        self._arrived: list[Event] = []
        self._idle = asyncio.Event()
        self._idle.set()

    # Requests

    def submit(
        self, request: InferenceRequest, target: Target, measure: Measure, reply: ReplyPort
    ) -> Pending:
        """Hand a valid request to the scheduler; its end comes through `reply`."""
        pending = Pending(next(self._ids), request, target, measure, reply)
        self._pending[pending.id] = pending
        queue_until_ns = None
        if request.timeout_ns is not None:
            queue_until_ns = request.arrival_ns + request.timeout_ns
        if not self._arrived:
            self._loop.call_soon(self._take_in_arrivals)
        self._arrived.append(
            RequestArrived(
                pending.id,
                target.key,
                measure.rows,
                measure.nbytes,
                measure.shapes,
                measure.batch_key,
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

    def cancel(self, pending: Pending, cause: CancelCause) -> None:
        """The caller left. Its batch-mates notice nothing."""
        if pending.outcome is None:
            self.feed(RequestCancelled(pending.id, cause))

    def replied(self, pending: Pending, now_ns: int) -> None:
        """An answer has left; after the last of its batch, the scheduler learns what that took."""
        replies = pending.replies
        if replies is None:
            return
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
        del self._instances[event.instance]
        lost = [i for i, batch in self._running.items() if batch.instance == event.instance]
        for batch_id in lost:
            del self._running[batch_id]
        self.feed(event)

    # Models

    def configure(self, event: ModelConfigured) -> None:
        """Change a model's settings; what arrived before is taken in under the old ones.

        Raises `ChangeFailed` when the scheduler cannot take them: the old ones stay in force.
        """
        for command in self.feed(event):
            if isinstance(command, SettingsRefused):
                raise ChangeFailed(f"{event.model}: its policy could not be made: {command.error}")
        self._warn_of_target(event.model)

    def _warn_of_target(self, key: str, took: str = "longer") -> None:
        for model in self.observe().models:
            if model.model != key:
                continue
            target_ms = (model.target_ns or 0) / MILLISECOND
            if model.reachable and model.late_buckets:
                log.warning(
                    "%s cannot meet its target of %.3g ms in %d of its buckets, where one row alone"
                    " takes longer; such requests are served late rather than refused",
                    key,
                    target_ms,
                    model.late_buckets,
                )
            if not model.reachable:
                log.warning(
                    "%s cannot meet its target of %.3g ms: one row alone takes %s;"
                    " it is served late rather than refused",
                    key,
                    target_ms,
                    took,
                )

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
        self._timer.close()

    def _take_in_arrivals(self) -> None:
        if self._arrived:
            self.feed()

    def _handle(self, events: list[Event]) -> list[Command]:
        now_ns = self._clock()
        for event in events:
            if isinstance(event, RequestArrived):
                self._pending[event.id].stamps.enqueued_ns = now_ns
        commands = self._scheduler.handle(events, now_ns)
        if self._record is not None:
            self._record(now_ns, events, commands)
        self._carry_out(commands, now_ns)
        self._timer.arm(self._scheduler.next_wakeup_ns())
        return commands

    def _carry_out(self, commands: list[Command], now_ns: int) -> None:
        for command in commands:
            if isinstance(command, Dispatch):
                self._dispatch(command, now_ns)
        for command in commands:
            if isinstance(command, Settle):
                self._settle(command)
            elif isinstance(command, PolicyFailed):
                log.error(
                    "policy of %s failed, batching is off for it: %s", command.model, command.error
                )
                self._on_policy_failed(command)
            elif isinstance(command, FailureStorm):
                _log_storm(command)

    # Batches

    def _dispatch(self, command: Dispatch, now_ns: int) -> None:
        batch: list[Pending] = []
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
        self._running[batch_id] = _RunningBatch(
            command.instance, batch, command.parts, rows, padding
        )
        self._instances[command.instance].run(
            batch_id, slices, lambda executed: self._executed(batch_id, executed)
        )

    def _executed(self, batch_id: int, executed: Executed) -> None:
        """Report a batch; the answers leave while its result is held."""
        batch = self._running.pop(batch_id)
        result = executed.result
        failed: list[Failure] = []
        done: list[int] = []
        whole: list[Pending] = []
        offset = 0
        for pending, part in zip(batch.pendings, batch.parts, strict=True):
            stamps = pending.stamps
            if not stamps.execute_start_ns:
                stamps.execute_start_ns = executed.execute_start_ns
            stamps.execute_end_ns = executed.execute_end_ns
            stop = offset + part.stop - part.start
            if result is None:
                pending.failure = executed.failure
            elif result.row_errors and (error := _row_error(part, offset, result.row_errors)):
                pending.failure = error
                failed.append(Failure(pending.id, FailureCause.INPUT))
            else:
                done.append(pending.id)
                if stop - offset == pending.measure.rows:
                    pending.result, pending.offset = result, offset
                    # What the answer is cut by is what its batch was padded by.
                    pending.padding = batch.padding
                    whole.append(pending)
                else:
                    _keep(pending, part.start, result, offset, stop, batch.padding)
            offset = stop
        if whole:
            replies = Replies(len(whole), batch.rows, self._clock())
            for pending in whole:
                pending.replies = replies
        self.feed(
            BatchProgress(
                batch_id,
                tuple(done),
                tuple(failed),
                last=True,
                timings=Timings(
                    executed.started_ns, executed.execute_start_ns, executed.execute_end_ns
                ),
                error=executed.cause if result is None else None,
            )
        )
        executed.release()

    # Ends

    def _settle(self, settle: Settle) -> None:
        for request_id in settle.ids:
            pending = self._pending.pop(request_id)
            pending.outcome = settle.outcome
            pending.reason = settle.reason
            if settle.outcome is Outcome.OK:
                self._answer(pending)
            else:
                pending.stamps.settled_ns = self._clock()
                pending.reply.fail(error_for(settle, pending.target.name, pending.failure))
        if not self._pending:
            self._idle.set()

    def _answer(self, pending: Pending) -> None:
        request, target = pending.request, pending.target
        if pending.pieces is not None:
            outputs = join(pending.pieces)
            pending.pieces = None
        else:
            assert pending.result is not None  # noqa: S101 - the core settled what was reported done
            stop = pending.offset + pending.measure.rows
            outputs = scatter(
                pending.result,
                pending.offset,
                stop,
                request.outputs,
                target.layout,
                _cuts(pending, pending.padding),
            )
            pending.result = None
        pending.stamps.settled_ns = self._clock()
        reply = InferenceReply(target.name, target.version, request.id, outputs, pending.stamps)
        pending.reply.send(reply, last=True)


def _log_storm(storm: FailureStorm) -> None:
    if storm.over:
        log.info("%s: batches succeed again; those that fail are bisected again", storm.model)
    else:
        log.error(
            "%s: too many batches fail to look for the requests at fault;"
            " batches fail as a whole until it calms",
            storm.model,
        )


def _cuts(pending: Pending, padding: Padding | None) -> dict[str, tuple[slice, ...]] | None:
    """What of an answer is the request's own."""
    return None if padding is None else padding.cuts(pending.measure.shapes)


def _keep(
    pending: Pending,
    start: int,
    result: BatchResult,
    offset: int,
    stop: int,
    padding: Padding | None,
) -> None:
    """Hold the outputs of some of a request's rows until all of them are done."""
    if pending.pieces is None:
        pending.pieces = {}
    wanted, layout = pending.request.outputs, pending.target.layout
    cuts = _cuts(pending, padding)
    pending.pieces[start] = scatter(result, offset, stop, wanted, layout, cuts)


def _row_error(part: Part, offset: int, row_errors: Mapping[int, str]) -> str | None:
    """The first error among a request's own rows, naming the row as the caller counts it."""
    for row in range(part.start, part.stop):
        message = row_errors.get(offset + row - part.start)
        if message is not None:
            return f"row {row}: {message}"
    return None
