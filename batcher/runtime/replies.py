"""Ends a request: sends its reply, or the error that the scheduler's reason stands for."""

from __future__ import annotations

import logging
from typing import Final

from batcher.clock import Clock
from batcher.core.commands import Outcome, Reason, Settle
from batcher.errors import InternalError
from batcher.executor import ExecutionError
from batcher.runtime.execution.results import answer, failure_text
from batcher.runtime.pending import PendingRequest
from batcher.runtime.refusals import error_for
from batcher.telemetry.reasons import ReplyReason
from batcher.telemetry.tracing.log_fields import failed_fields

log = logging.getLogger(__name__)

_OF_INSTANCES: Final = frozenset({Reason.NO_INSTANCE, Reason.INSTANCE_DOWN})
"""Reasons that the failure of a device explains."""


def end_request(pending: PendingRequest, settle: Settle, clock: Clock, step_ns: int) -> None:
    """End a request as the scheduler has settled it, in its step of `step_ns`. Never raises.

    A reply that cannot be made or sent ends this request with `InternalError`, and no other.
    """
    try:
        pending.outcome, pending.reason = settle.outcome, settle.reason
        if settle.outcome is Outcome.OK:
            reply = answer(pending)
            reply.stamps.settled_ns = clock()
            pending.reply.send(reply, last=True)
        else:
            pending.blame = settle.blame
            pending.stamps.not_answered(clock(), step_ns)
            target, failure = pending.target, pending.failure
            if failure is None and settle.reason in _OF_INSTANCES:
                failure = target.device_failure or None
            pending.reply.fail(error_for(settle, target.name, target.settings, failure))
    except Exception as error:
        log.exception(
            "%s: the reply to a request could not be made; it fails",
            pending.target.name,
            extra=failed_fields(pending),
        )
        internal = not isinstance(error, ExecutionError)
        reason = ReplyReason.INTERNAL if internal else Reason.UNKNOWN_FAILURE
        fail_request(pending, f"the reply could not be made: {failure_text(error)}", reason, clock)


def fail_request(
    pending: PendingRequest, why: str, reason: Reason | ReplyReason, clock: Clock
) -> None:
    """End a request with `InternalError`. Never raises."""
    pending.outcome, pending.reason = Outcome.FAILED, reason
    pending.result = pending.pieces = None
    pending.stamps.settled_ns = clock()
    try:
        pending.reply.fail(InternalError(f"{pending.target.name}: {why}"))
    except Exception:
        log.exception(
            "%s: internal error: a request has failed, and the error could not be sent to its caller",
            pending.target.name,
            extra=failed_fields(pending),
        )
