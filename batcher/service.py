"""The middle of the house: a request comes in, passes the gate, and its answer goes out.

An edge calls `infer` with a parsed request. The gate asks three questions in constant time: are we
draining, is the model served, does the request fit it. What passes belongs to the scheduler until
it ends; leaving early (cancelling the coroutine) gives the request up and touches nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from batcher import triton
from batcher.clock import Clock
from batcher.core.commands import Outcome, Reason
from batcher.core.events import CancelCause
from batcher.errors import (
    AnswerTooLarge,
    Draining,
    InvalidRequest,
    ModelUnavailable,
    NoRoom,
    RequestError,
)
from batcher.runtime.health import Health
from batcher.runtime.models import ModelRegistry, ServedModel
from batcher.runtime.pending import Pending
from batcher.runtime.request import InferenceReply, InferenceRequest
from batcher.runtime.runner import Runner
from batcher.runtime.signature import Measure
from batcher.telemetry import GateReason, ReplyReason, Telemetry, UnreadReason
from batcher.telemetry.stamps import Stamps

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

RETRY_DRAINING_NS = 1_000_000_000
"""What a caller is told to wait when this server drains; another one may answer at once."""


class SingleReply:
    """A reply port for answers that come in one part: a future."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[InferenceReply]) -> None:
        self.future = future

    def send(self, part: InferenceReply, *, last: bool) -> None:  # noqa: ARG002 - the port's shape
        """Resolve the future."""
        if not self.future.done():
            self.future.set_result(part)

    def fail(self, error: RequestError) -> None:
        """Fail the future."""
        if not self.future.done():
            self.future.set_exception(error)


class Batcher:
    """Answers inference requests. Every method runs on the event loop's thread."""

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
        """Whether newcomers are refused, because the server shuts down."""
        self._runner = runner
        self._telemetry = telemetry
        self._clock = clock
        self._loop = asyncio.get_running_loop()

    async def infer(self, request: InferenceRequest) -> InferenceReply:
        """Answer one request in one part.

        Raises a `RequestError` of the kind that says why not. Cancelling this coroutine cancels the
        request.
        """
        return await self.answer(request, _as_it_is)

    async def answer(
        self, request: InferenceRequest, encode: Callable[[InferenceReply], Awaitable[Answer]]
    ) -> Answer:
        """The same, with the answer as `encode` makes it: it ends well only if that does.

        Raises what `encode` raises, too: then the request counts as failed.
        """
        model, measure = self._gate(request)
        # What it is admitted with counts, whatever the settings are when it is answered.
        target_ns = model.settings.target_ns
        due_ns = None if target_ns is None else request.arrival_ns + target_ns
        reply: asyncio.Future[InferenceReply] = self._loop.create_future()
        pending = self._runner.submit(request, model, measure, SingleReply(reply))
        try:
            return await encode(await reply)
        except asyncio.CancelledError:
            if self._late(pending):
                _not_answered(pending, Outcome.EXPIRED, Reason.CALLER_DEADLINE)
            else:
                _not_answered(pending, Outcome.CANCELLED, Reason.CALLER_CANCELLED)
            raise
        except InvalidRequest:
            # What was asked of the answer does not suit it.
            _not_answered(pending, Outcome.FAILED, Reason.INPUT_FAILURE)
            raise
        except AnswerTooLarge:
            _not_answered(pending, Outcome.FAILED, ReplyReason.ANSWER_TOO_LARGE)
            raise
        except NoRoom:
            _not_answered(pending, Outcome.FAILED, ReplyReason.NO_ROOM)
            raise
        except Exception:
            _not_answered(pending, Outcome.FAILED, ReplyReason.INTERNAL)
            raise
        finally:
            self._ended(pending, model, due_ns)
            # An error knows this frame by its traceback. If the frame knew the error too, by the
            # reply, only the garbage collector could part them: 10 ms for a second's refusals.
            del reply, pending

    def refused(
        self, name: str, version: str, arrival_ns: int, reason: GateReason | ReplyReason
    ) -> None:
        """Count a request that ended before or at the gate; by a mistake of ours it has failed."""
        ours = isinstance(reason, ReplyReason)
        try:
            model = self.models.find(name, version)
        except RequestError:
            unread = UnreadReason.UNKNOWN_MODEL
            if not name:
                unread = UnreadReason.INTERNAL if ours else UnreadReason.INVALID
            self._telemetry.refused_unread(unread)
            return
        stamps = Stamps(arrival_ns)
        stamps.settled_ns = self._clock()
        outcome = Outcome.FAILED if ours else Outcome.REJECTED
        model.telemetry.request_ended(outcome, reason, 0, stamps, None)

    def refused_too_large(self, what: str) -> None:
        """Count a request that the transport refused before it was read: a `message`, or `metadata`."""
        self._telemetry.refused_unread(UnreadReason(f"{what}_too_large"))

    @property
    def unanswered(self) -> int:
        """Accepted requests that have not ended."""
        return self._runner.unanswered

    def _gate(self, request: InferenceRequest) -> tuple[ServedModel, Measure]:
        name, version = request.model, request.version
        if self.draining:
            self.refused(name, version, request.arrival_ns, GateReason.DRAINING)
            raise Draining(f"{name}: the server is shutting down", retry_after_ns=RETRY_DRAINING_NS)
        reason: GateReason | ReplyReason = GateReason.UNAVAILABLE
        try:
            model = self.models.find(name, version)
            return model, model.signature.measure(request)
        except Exception as error:
            if isinstance(error, InvalidRequest):
                reason = GateReason.INVALID
            elif not isinstance(error, RequestError):
                reason = ReplyReason.INTERNAL
            elif isinstance(error, ModelUnavailable) and not version:
                error.triton = triton.no_versions(name)
            self.refused(name, version, request.arrival_ns, reason)
            raise

    def _late(self, pending: Pending) -> bool:
        """Whether the caller's deadline has passed."""
        deadline_ns = pending.request.deadline_ns
        return deadline_ns is not None and self._clock() >= deadline_ns

    def _ended(self, pending: Pending, model: ServedModel, due_ns: int | None) -> None:
        """Give up what the caller left behind, and count the request. Never raises."""
        try:
            now_ns = self._clock()
            if pending.outcome is None:
                cause = CancelCause.DEADLINE if self._late(pending) else CancelCause.CANCELLED
                self._runner.cancel(pending, cause)
            self._runner.replied(pending, now_ns)
            stamps = pending.stamps
            stamps.replied_ns = now_ns
            assert pending.outcome is not None  # noqa: S101 - the scheduler has ended it by now
            model.telemetry.request_ended(
                pending.outcome, pending.reason, pending.measure.rows, stamps, due_ns
            )
        except Exception:
            log.exception("%s: the end of a request was not counted", model.name)


async def _as_it_is(reply: InferenceReply) -> InferenceReply:
    return reply


def _not_answered(pending: Pending, outcome: Outcome, reason: Reason | ReplyReason) -> None:
    """The scheduler's answer did not become one of the caller's."""
    if pending.outcome is Outcome.OK:
        pending.outcome, pending.reason = outcome, reason
