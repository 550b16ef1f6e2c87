"""Answers inference requests: admission, the scheduler, the reply, and what metrics count of it.

A transport calls `Batcher.infer` with a parsed request. Admission makes three checks in constant
time: is the server draining, is the model ready, does the request fit the model's signature. An
admitted request belongs to the scheduler until it ends. Cancelling the coroutine cancels that one
request; the other requests of its batch are answered as usual.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from batcher import triton
from batcher.clock import MILLISECOND, Clock
from batcher.core.commands import Outcome, Reason
from batcher.core.events import CancelCause
from batcher.errors import (
    AnswerLoss,
    AnswerTooLarge,
    BufferFull,
    Draining,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    RequestError,
    SequenceError,
)
from batcher.runtime.health import Health
from batcher.runtime.interface.signature import RequestSummary
from batcher.runtime.models.model import ServedModel
from batcher.runtime.models.registry import ModelRegistry
from batcher.runtime.pending import PendingRequest
from batcher.runtime.request import Arrival, InferenceReply, InferenceRequest
from batcher.runtime.runner import Runner
from batcher.runtime.sequences import Step
from batcher.telemetry import (
    AdmissionReason,
    EndedRequest,
    ReplyReason,
    Telemetry,
    UnreadReason,
)
from batcher.telemetry.budget import Budget, Hop
from batcher.telemetry.stamps import Stamps

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_LOST: Mapping[AnswerLoss, tuple[Outcome, Reason | ReplyReason]] = {
    AnswerLoss.LEFT: (Outcome.CANCELLED, ReplyReason.ANSWER_LOST),
    AnswerLoss.DEADLINE: (Outcome.EXPIRED, Reason.CALLER_DEADLINE),
    AnswerLoss.STALLED: (Outcome.CANCELLED, ReplyReason.ANSWER_STALLED),
    AnswerLoss.NO_ROOM: (Outcome.FAILED, ReplyReason.BUFFER_FULL),
    AnswerLoss.TOO_LARGE: (Outcome.FAILED, ReplyReason.ANSWER_TOO_LARGE),
    AnswerLoss.INTERNAL: (Outcome.FAILED, ReplyReason.INTERNAL),
}
"""How a request ends whose answer was made, and not handed to the transport."""

IMPOSSIBLE = -1
"""In place of a time that the caller says was spent before: it cannot be."""

RETRY_DRAINING_NS = 1_000_000_000
"""The retry hint (nanoseconds) in a refusal while this server drains: by then a client that
reconnects has found another server."""

_RESET_EARLY_NS = 10 * MILLISECOND
"""How much earlier than our deadline a reset may come that means the caller's: what a busy machine lets
the headers of a call wait. Beside it gRPC rounds times up by as much as 1 %. With less, callers whose
deadline has passed count as `cancelled`."""


class SingleReply:
    """A `ReplySink` for an answer in one part, which resolves a future."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[InferenceReply]) -> None:
        self.future = future

    def send(self, part: InferenceReply, *, last: bool) -> None:  # noqa: ARG002 - the protocol's signature
        """Resolve the future."""
        if not self.future.done():
            self.future.set_result(part)

    def fail(self, error: RequestError) -> None:
        """Fail the future."""
        if not self.future.done():
            self.future.set_exception(error)


class Exchange:
    """One request and its reply, from its arrival until its last byte is with the transport, or lost."""

    __slots__ = (
        "_end",
        "arrival_ns",
        "due_ns",
        "loss",
        "model",
        "pending",
        "refused",
        "upstream_ns",
    )

    def __init__(self, end: Callable[[Exchange, AnswerLoss | None], None], arrival_ns: int) -> None:
        self._end: Callable[[Exchange, AnswerLoss | None], None] | None = end
        self.arrival_ns = arrival_ns
        self.pending: PendingRequest | None = None
        """None before it is admitted, and where it was refused."""
        self.refused: EndedRequest | None = None
        self.model: ServedModel | None = None
        self.due_ns: int | None = None
        self.upstream_ns: int | None = None
        """What the caller says that was spent before; `IMPOSSIBLE` where that cannot be."""
        self.loss: AnswerLoss | None = None
        """Set where an error is sent instead of the answer."""

    @property
    def about(self) -> PendingRequest | EndedRequest | None:
        """What is known of the request, for its log records; None before it is read."""
        return self.pending or self.refused

    @property
    def budget(self) -> Budget | None:
        """How its target is split; None without a target."""
        if self.due_ns is None or self.model is None:
            return None
        return Budget(self.due_ns - self.arrival_ns, self.model.telemetry.budget.shares)

    @property
    def late_from_ns(self) -> int | None:
        """When its answer is late: what the caller has spent counts where the budget has a share for it."""
        if not self.upstream_ns or self.due_ns is None or self.model is None:
            return self.due_ns
        if Hop.UPSTREAM not in self.model.telemetry.budget.shares:
            return self.due_ns
        return self.due_ns - (self.claimed_ns or 0)

    @property
    def claimed_ns(self) -> int | None:
        """What the caller says that was spent before, where that can be."""
        return None if self.upstream_ns == IMPOSSIBLE else self.upstream_ns

    def ended(self, loss: AnswerLoss | None) -> None:
        """Its last byte was handed to the transport, or that is why not. Counts once. Never raises."""
        end, self._end = self._end, None
        if end is not None:
            end(self, loss or self.loss)
            # An error of the request refers to frames that refer to this, and its future to the error.
            self.pending = self.refused = None


class Batcher:
    """Answers inference requests. Call every method on the event loop's thread."""

    def __init__(
        self,
        models: ModelRegistry,
        runner: Runner,
        telemetry: Telemetry,
        clock: Clock,
        health: Health | None = None,
    ) -> None:
        self.models = models
        self.health = health or Health()
        self.health.of(models)
        self.draining = False
        """Whether new requests are refused, because the server shuts down."""
        self._runner = runner
        self._telemetry = telemetry
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._open = 0
        """Requests that have not ended: those of `Runner.unanswered`, and all whose reply is not sent."""
        self._none_open = asyncio.Event()

    async def infer(self, request: InferenceRequest) -> InferenceReply:
        """Return the reply to one request, which ends with that.

        Raises the subclass of `RequestError` that says why there is none. Cancelling this coroutine
        cancels the request.
        """
        exchange = self.begin(request.arrival_ns)
        try:
            return await self.answer(request, _unchanged, exchange)
        finally:
            exchange.ended(None)

    def begin(self, arrival_ns: int) -> Exchange:
        """A request has arrived. The caller must call `Exchange.ended` once, whatever happens."""
        self._open += 1
        return Exchange(self._end, arrival_ns)

    async def answer(
        self,
        request: InferenceRequest,
        encode: Callable[[InferenceReply], Awaitable[Answer]],
        exchange: Exchange,
    ) -> Answer:
        """Return what `encode` makes of the reply to one request.

        Raises what `infer` raises. Where `encode` raises, so does this, and the request counts as
        failed. It has ended when `exchange` is told so.
        """
        model, summary, step = self._admit(request, exchange)
        if step is not None:
            request = step.asked(request)
        # The target at admission counts, even if a setting changes before the answer.
        target_ns = model.settings.target_ns
        exchange.due_ns = None if target_ns is None else request.arrival_ns + target_ns
        exchange.model = model
        reply: asyncio.Future[InferenceReply] = self._loop.create_future()
        pending = self._runner.submit(request, model, summary, SingleReply(reply), step)
        exchange.pending = pending
        try:
            return await encode(await reply)
        except asyncio.CancelledError:
            if self._deadline_passed(pending):
                _not_answered(pending, Outcome.EXPIRED, Reason.CALLER_DEADLINE)
            else:
                _not_answered(pending, Outcome.CANCELLED, Reason.CALLER_CANCELLED)
            raise
        except InvalidRequest:
            # The request asks for something that this answer does not allow (classification).
            _not_answered(pending, Outcome.FAILED, Reason.INPUT_FAILURE)
            raise
        except AnswerTooLarge:
            _not_answered(pending, Outcome.FAILED, ReplyReason.ANSWER_TOO_LARGE)
            raise
        except BufferFull:
            _not_answered(pending, Outcome.FAILED, ReplyReason.BUFFER_FULL)
            raise
        except Exception:
            _not_answered(pending, Outcome.FAILED, ReplyReason.INTERNAL)
            raise
        finally:
            self._made(pending)
            # The error's traceback refers to this frame. Were the frame to refer to the error, by the
            # reply, that cycle would wait for the garbage collector: 10 ms for a second's refusals.
            del reply, pending

    def refused(
        self,
        exchange: Exchange,
        name: str,
        version: str,
        arrival: Arrival,
        reason: AdmissionReason | ReplyReason,
    ) -> None:
        """Note that a request is refused at admission or before it was read.

        It counts as rejected, with a `ReplyReason` (an internal error) as failed.
        """
        internal = isinstance(reason, ReplyReason)
        outcome = Outcome.FAILED if internal else Outcome.REJECTED
        stamps = Stamps(arrival.arrival_ns)
        stamps.settled_ns = self._clock()
        refused = EndedRequest(
            name,
            version,
            outcome,
            reason,
            0,
            stamps,
            id=arrival.id,
            metadata=arrival.metadata,
            tenant=arrival.tenant,
            stream=arrival.stream,
        )
        exchange.refused = refused
        try:
            exchange.model = model = self.models.find(name, version)
            refused.model, refused.version = model.name, model.version
        except RequestError:
            refused.reason = UnreadReason.UNKNOWN_MODEL
            if not name:
                refused.reason = UnreadReason.INTERNAL if internal else UnreadReason.INVALID
            refused.model = refused.version = ""
            refused.outcome = Outcome.REJECTED

    def refused_too_large(self, what: str) -> None:
        """Count a request that the transport refused unread; `what` is `message` or `metadata`."""
        self._telemetry.requests.refused_unread(UnreadReason(f"{what}_too_large"))

    def takes_raw(self, name: str, version: str) -> bool:
        """Whether the executor of this model takes inputs as they are on the wire; False if it is unknown.

        Where that changes until the request is admitted, its inputs are converted.
        """
        try:
            return self.models.find(name, version).takes_raw
        except RequestError:
            return False

    async def idle(self) -> None:
        """Wait until every request has ended: its reply is with the transport, or lost."""
        await self._runner.idle()
        while self._open:
            self._none_open.clear()
            await self._none_open.wait()

    @property
    def unanswered(self) -> int:
        """How many admitted requests have not ended."""
        return self._runner.unanswered

    def _admit(
        self, request: InferenceRequest, exchange: Exchange
    ) -> tuple[ServedModel, RequestSummary, Step | None]:
        """The model that the request is for, its size, and which step of a sequence it is.

        Raises `RequestError`.
        """
        name, version = request.model, request.version
        if self.draining:
            self.refused(exchange, name, version, request.arrival, AdmissionReason.DRAINING)
            raise Draining(f"{name}: the server is shutting down", retry_after_ns=RETRY_DRAINING_NS)
        reason: AdmissionReason | ReplyReason = AdmissionReason.UNAVAILABLE
        try:
            if request.sequence is not None:
                return self._admit_step(request)
            model = self.models.find(name, version)
            if model.sequences is not None:
                return self._admit_step(request)
            return model, model.signature.validate(request), None
        except Exception as error:
            if isinstance(error, InvalidRequest):
                reason = AdmissionReason.INVALID
                if isinstance(error, SequenceError):
                    reason = AdmissionReason.SEQUENCE
            elif isinstance(error, Overloaded):
                reason = AdmissionReason.SEQUENCE_LIMIT
            elif not isinstance(error, RequestError):
                reason = ReplyReason.INTERNAL
            elif isinstance(error, ModelUnavailable) and not version:
                error.triton = triton.no_versions(name)
            self.refused(exchange, name, version, request.arrival, reason)
            raise

    def _admit_step(
        self, request: InferenceRequest
    ) -> tuple[ServedModel, RequestSummary, Step | None]:
        """The same for a request with parameters of sequences: it goes where its sequence is."""
        sequences = self._runner.sequences
        model = sequences.serving(request)
        if isinstance(model, ServedModel):
            signature = model.any_signature
        else:
            model = self.models.find(request.model, request.version)
            signature = model.signature
        summary = signature.validate(request)
        return model, summary, sequences.admit(request, summary.rows, model)

    def _deadline_passed(self, pending: PendingRequest) -> bool:
        """Whether the caller's deadline has passed, by its clock or by ours.

        A caller's library ends a call by a reset when its own time is over, and that comes a little before
        our deadline: gRPC rounds the time up that it sends, and begins to count when the call is made.
        """
        request = pending.request
        if request.deadline_ns is None:
            return False
        allowed_ns = request.deadline_ns - request.arrival_ns
        early_ns = min(allowed_ns // 100 + _RESET_EARLY_NS, allowed_ns // 4)
        return self._clock() >= request.deadline_ns - early_ns

    def _made(self, pending: PendingRequest) -> None:
        """Its reply is made, or there is none; cancel a request that its caller gave up. Never raises."""
        try:
            if pending.outcome is None:
                cause = (
                    CancelCause.DEADLINE
                    if self._deadline_passed(pending)
                    else CancelCause.CANCELLED
                )
                self._runner.cancel(pending, cause)
            # Not at the end of the reply: a caller that reads slowly must not change predictions.
            self._runner.replied(pending, self._clock())
        except Exception:
            log.exception("%s: internal error after a request", pending.target.name)

    def _end(self, exchange: Exchange, loss: AnswerLoss | None) -> None:
        """Count a request that has ended. Never raises."""
        self._open -= 1
        if not self._open:
            self._none_open.set()
        try:
            pending = exchange.pending
            if pending is None:
                self._end_refused(exchange)
                return
            now_ns = self._clock()
            if loss is not None and pending.outcome is Outcome.OK:
                pending.outcome, pending.reason = _LOST[loss]
                if loss is AnswerLoss.LEFT and self._deadline_passed(pending):
                    pending.outcome, pending.reason = _LOST[AnswerLoss.DEADLINE]
            stamps = pending.stamps
            stamps.replied_ns = now_ns
            outcome, model = pending.outcome, exchange.model
            if pending.step is not None:
                pending.step.replied(answered=outcome is Outcome.OK)
            assert outcome is not None  # noqa: S101 - the scheduler has ended it by now
            assert model is not None  # noqa: S101 - it was set with `pending`
            if model.first_answer_due and outcome is Outcome.OK:
                model.first_answer_due = False
                model.telemetry.first_answer.observe(now_ns - stamps.arrival_ns)
            model.telemetry.request_ended(
                outcome,
                pending.reason,
                pending.summary.rows,
                stamps,
                exchange.due_ns,
                pending.blame,
                pending.request.tenant,
                exchange.claimed_ns or 0,
            )
            if exchange.upstream_ns == IMPOSSIBLE:
                model.telemetry.budget.ignored += 1
            hooks = self._telemetry.ended
            if hooks and (wanting := hooks.wanting(pending, exchange.late_from_ns)):
                hooks.tell(_ended_request(pending, exchange), wanting)
        except Exception:
            log.exception("internal error: the end of a request is missing in the metrics")

    def _end_refused(self, exchange: Exchange) -> None:
        refused = exchange.refused
        if refused is None:
            return  # its caller left before it was read
        refused.stamps.replied_ns = self._clock()
        if isinstance(refused.reason, UnreadReason):
            self._telemetry.requests.refused_unread(refused.reason)
        else:
            assert exchange.model is not None  # noqa: S101 - else it would have that reason
            exchange.model.telemetry.request_ended(
                refused.outcome, refused.reason, 0, refused.stamps, None, None, refused.tenant
            )
        self._telemetry.ended.tell(refused)


def _ended_request(pending: PendingRequest, exchange: Exchange) -> EndedRequest:
    target, request = pending.target, pending.request
    assert pending.outcome is not None  # noqa: S101 - it has ended
    return EndedRequest(
        target.name,
        target.version,
        pending.outcome,
        pending.reason,
        pending.summary.rows,
        pending.stamps,
        exchange.due_ns,
        request.id,
        pending.batches,
        exchange.claimed_ns,
        blame=pending.blame,
        budget=exchange.budget,
        metadata=request.metadata,
        trace=pending.trace,
        tenant=request.tenant,
        stream=request.stream,
    )


async def _unchanged(reply: InferenceReply) -> InferenceReply:
    return reply


def _not_answered(pending: PendingRequest, outcome: Outcome, reason: Reason | ReplyReason) -> None:
    """Record another outcome where the scheduler's answer did not reach the caller."""
    if pending.outcome is Outcome.OK:
        pending.outcome, pending.reason = outcome, reason
