"""The one table from errors to gRPC status codes, in two styles (`server.status_codes`).

`standard` has the codes of gRPC's documentation. `triton` has the codes and texts of Triton, so that
clients written against it need no change. Both tell retry policies when to retry, or not to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import grpc

from batcher import errors, protocol, triton
from batcher.clock import MILLISECOND, SECOND
from batcher.core.commands import Reason
from batcher.http2.grpc_headers import NO_RETRY, PUSHBACK_KEY
from batcher.runtime.refusals import error_classes
from batcher.telemetry import AdmissionReason, ReplyReason, UnreadReason

Style: TypeAlias = Literal["standard", "triton"]

DETAILS_KEY = "grpc-status-details-bin"

RETRYABLE = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
"""Codes that callers list as `retryableStatusCodes`; where a retry is useless, these carry `NO_RETRY`."""

MAX_MESSAGE = 1024
"""The most characters of a message: it is sent as a header, and clients limit those."""

_STANDARD = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.ModelUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Draining: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExpired: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.RequestCancelled: grpc.StatusCode.CANCELLED,
    errors.InputRefused: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ExecutionFailed: grpc.StatusCode.INTERNAL,
    errors.SequenceError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InternalError: grpc.StatusCode.INTERNAL,
    errors.BufferFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.AnswerTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.InstanceUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.NotPermitted: grpc.StatusCode.PERMISSION_DENIED,
    errors.ChangeFailed: grpc.StatusCode.INTERNAL,
    errors.NotSupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.FlightRecordFailed: grpc.StatusCode.INTERNAL,
}

CODES: Mapping[Style, Mapping[type[errors.RequestError], grpc.StatusCode]] = {
    "standard": _STANDARD,
    "triton": _STANDARD
    | {
        errors.Overloaded: grpc.StatusCode.UNAVAILABLE,
        errors.BufferFull: grpc.StatusCode.UNAVAILABLE,
        errors.DeadlineExpired: grpc.StatusCode.UNAVAILABLE,
        errors.InputRefused: grpc.StatusCode.INTERNAL,
    },
}
"""Style -> error -> status code. A new subclass of RequestError needs a line here."""


_OUTSIDE: Mapping[str, type[errors.RequestError]] = {
    AdmissionReason.INVALID: errors.InvalidRequest,
    AdmissionReason.UNAVAILABLE: errors.ModelUnavailable,
    AdmissionReason.DRAINING: errors.Draining,
    AdmissionReason.SEQUENCE: errors.SequenceError,
    AdmissionReason.SEQUENCE_LIMIT: errors.Overloaded,
    ReplyReason.ANSWER_TOO_LARGE: errors.AnswerTooLarge,
    ReplyReason.BUFFER_FULL: errors.BufferFull,
    ReplyReason.INTERNAL: errors.InternalError,
    ReplyReason.ANSWER_LOST: errors.RequestCancelled,
    ReplyReason.ANSWER_STALLED: errors.DeadlineExpired,
    UnreadReason.UNKNOWN_MODEL: errors.UnknownModel,
    UnreadReason.MESSAGE_TOO_LARGE: errors.Overloaded,
    UnreadReason.METADATA_TOO_LARGE: errors.Overloaded,
}
"""Reasons that are not the scheduler's -> the error that the caller gets."""

_SCHEDULER = error_classes()
"""The same of the scheduler's."""


def code_of_reason(reason: str, style: Style = "standard") -> str:
    """The name of the status code of a request that ended for this reason; `UNKNOWN` for others."""
    if not reason:
        return "OK"
    # Some words are of both kinds.
    error = (_SCHEDULER if isinstance(reason, Reason) else _OUTSIDE).get(reason)
    return "UNKNOWN" if error is None else str(CODES[style][error].name)


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a call: the arguments of `context.abort`, in order."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()


def to_status(
    error: errors.RequestError, style: Style = "standard", *, request_id: str = ""
) -> Status:
    """The status of a call that ended with this error. `request_id` is the caller's.

    An error with a retry delay gets the pushback metadata that retry policies of gRPC clients follow,
    and in the standard style a refusal for overload also a `google.rpc.RetryInfo`. An error without
    one gets a negative pushback, which means no retry, if its code is one that is retried.
    """
    code = CODES[style][type(error)]
    message = shortened(_triton_message(error, request_id) if style == "triton" else str(error))
    delay_ns = error.retry_after_ns
    if delay_ns is None:
        return Status(code, message, NO_RETRY if code in RETRYABLE else ())
    delay_ms = -(-delay_ns // MILLISECOND)
    metadata: list[tuple[str, str | bytes]] = [(PUSHBACK_KEY, str(delay_ms))]
    if style == "standard" and isinstance(error, errors.Overloaded):
        metadata.append((DETAILS_KEY, _retry_info(code, message, delay_ms)))
    return Status(code, message, tuple(metadata))


def _triton_message(error: errors.RequestError, request_id: str) -> str:
    """The text that clients written for Triton compare with or search for."""
    if isinstance(error, errors.DeadlineExpired):
        return "Request timeout expired"
    if isinstance(error, errors.Overloaded):
        return f"Exceeds maximum queue size ({error})"
    if error.triton is None:
        return str(error)
    return error.triton.replace(triton.UNKNOWN_ID, request_id or triton.UNKNOWN_ID, 1)


def shortened(message: str) -> str:
    """The message, cut to `MAX_MESSAGE` characters and made valid UTF-8."""
    message = errors.encodable(message)
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 3]}..."


@lru_cache(maxsize=4096)
def _retry_info(code: grpc.StatusCode, message: str, delay_ms: int) -> bytes:
    """A serialized google.rpc.Status with RetryInfo as its one detail.

    Cached, because under overload the same few are sent again and again.
    """
    info = protocol.error_details.RetryInfo()
    info.retry_delay.seconds, info.retry_delay.nanos = divmod(delay_ms * MILLISECOND, SECOND)
    status = protocol.status.Status(code=code.value[0], message=message)
    status.details.add().Pack(info)
    return status.SerializeToString()
