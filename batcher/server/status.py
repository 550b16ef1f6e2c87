"""The one table from our errors to gRPC statuses.

Two styles. `standard` gives each situation the code that gRPC's own documentation gives it, and
tells the caller when to try again. `triton` gives the codes and texts that programs written against
Triton look for, so that such a program needs no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import grpc

from batcher import errors, protocol, triton
from batcher.clock import MILLISECOND, SECOND

Style: TypeAlias = Literal["standard", "triton"]

PUSHBACK_KEY = "grpc-retry-pushback-ms"
DETAILS_KEY = "grpc-status-details-bin"

MAX_MESSAGE = 1024
"""Characters of a message: it travels as a header, and clients limit the size of those."""

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
    errors.InternalError: grpc.StatusCode.INTERNAL,
    errors.BufferFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.AnswerTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeviceLost: grpc.StatusCode.UNAVAILABLE,
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


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends: the arguments of `context.abort`, in order."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()


def to_status(
    error: errors.RequestError, style: Style = "standard", *, request_id: str = ""
) -> Status:
    """The status of a call that ended with this error. `request_id` is the caller's.

    In the standard style an error that says when to try again gets the pushback metadata that
    gRPC's retry policies obey, and a refusal for overload also a google.rpc.RetryInfo.
    """
    code = CODES[style][type(error)]
    message = shortened(_triton_message(error, request_id) if style == "triton" else str(error))
    delay_ns = error.retry_after_ns
    if style == "triton" or delay_ns is None:
        return Status(code, message)
    delay_ms = -(-delay_ns // MILLISECOND)
    metadata: list[tuple[str, str | bytes]] = [(PUSHBACK_KEY, str(delay_ms))]
    if isinstance(error, errors.Overloaded):
        metadata.append((DETAILS_KEY, _retry_info(code, message, delay_ms)))
    return Status(code, message, tuple(metadata))


def _triton_message(error: errors.RequestError, request_id: str) -> str:
    """The text that clients of Triton compare with or search for."""
    if isinstance(error, errors.DeadlineExpired):
        return "Request timeout expired"
    if isinstance(error, errors.Overloaded):
        return f"Exceeds maximum queue size ({error})"
    if error.triton is None:
        return str(error)
    return error.triton.replace(triton.UNKNOWN_ID, request_id or triton.UNKNOWN_ID, 1)


def shortened(message: str) -> str:
    """A message of at most `MAX_MESSAGE` characters, all of which can be sent."""
    message = errors.encodable(message)
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 3]}..."


@lru_cache(maxsize=4096)
def _retry_info(code: grpc.StatusCode, message: str, delay_ms: int) -> bytes:
    """A serialized google.rpc.Status with RetryInfo as its one detail.

    Under overload the same few are sent again and again, when time is shortest.
    """
    info = protocol.error_details.RetryInfo()
    info.retry_delay.seconds, info.retry_delay.nanos = divmod(delay_ms * MILLISECOND, SECOND)
    status = protocol.status.Status(code=code.value[0], message=message)
    status.details.add().Pack(info)
    return status.SerializeToString()
