"""What a gRPC status of a neighbor means for the batch: the cause of an `ExecutionError`.

| status | cause | why |
|---|---|---|
| INVALID_ARGUMENT, OUT_OF_RANGE | `input` | some row is wrong: bisection finds it |
| RESOURCE_EXHAUSTED | `overloaded` | no room; not executed |
| RESOURCE_EXHAUSTED for the size of a message or of headers | `input` | a smaller batch, or other requests, may fit |
| UNAVAILABLE with a text of Triton's queue | `overloaded` | Triton refuses so |
| UNAVAILABLE, CANCELLED, ABORTED, NOT_FOUND | `unavailable` | not there, draining, or the connection was lost |
| DEADLINE_EXCEEDED | `unavailable` | no answer in time; nothing says that a row is wrong |
| UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED, FAILED_PRECONDITION | `unavailable` | the neighbor refuses all alike |
| INTERNAL by a reset of the stream | `unavailable` | the transport failed, not the model |
| INTERNAL, UNKNOWN, DATA_LOSS, ALREADY_EXISTS | `unknown` | the model may have failed on a row |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from batcher import protocol
from batcher.clock import MILLISECOND, SECOND
from batcher.errors import on_one_line
from batcher.executor import ExecutionError

PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"
DETAILS_KEY: Final = "grpc-status-details-bin"

_CAUSES: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: "input",
    grpc.StatusCode.OUT_OF_RANGE: "input",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "overloaded",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.CANCELLED: "unavailable",
    grpc.StatusCode.ABORTED: "unavailable",
    grpc.StatusCode.NOT_FOUND: "unavailable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "unavailable",
    grpc.StatusCode.UNAUTHENTICATED: "unavailable",
    grpc.StatusCode.PERMISSION_DENIED: "unavailable",
    grpc.StatusCode.UNIMPLEMENTED: "unavailable",
    grpc.StatusCode.FAILED_PRECONDITION: "unavailable",
}

_TOO_LARGE: Final = (
    "larger than max",
    "message larger than",
    "max_message",
    "too large",
    "metadata size",
)
"""Parts of the texts by which servers and gRPC itself refuse a message or its headers for their size."""

_QUEUE_FULL: Final = ("exceeds maximum queue size", "request timeout expired")
"""Parts of the texts by which Triton refuses for its queue, with the status UNAVAILABLE."""

_RESET: Final = ("rst_stream", "stream removed", "connection reset", "goaway")
"""Parts of the texts of gRPC itself about a stream or a connection that ended."""


def cause_of(code: grpc.StatusCode, details: str) -> str:
    """The cause that a status is."""
    text = details.lower()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and any(each in text for each in _TOO_LARGE):
        return "input"
    if code is grpc.StatusCode.UNAVAILABLE and any(each in text for each in _QUEUE_FULL):
        return "overloaded"
    if code is grpc.StatusCode.INTERNAL and any(each in text for each in _RESET):
        return "unavailable"
    return _CAUSES.get(code, "unknown")


def failure(neighbor: str, error: grpc.aio.AioRpcError) -> ExecutionError:
    """The `ExecutionError` for a call that ended with a status; `neighbor` names it for callers."""
    code, details = error.code(), error.details() or ""
    hint_ns = retry_hint_ns(error.trailing_metadata() or ())
    text = on_one_line(f"{neighbor} answered {code.name}: {details or 'no reason given'}")
    return ExecutionError(text, cause=cause_of(code, details), retry_after_ns=hint_ns)


def retry_hint_ns(metadata: Iterable[tuple[str, str | bytes]]) -> int | None:
    """How long the neighbor asks its callers to wait, in nanoseconds; None if it does not say.

    It may say so by the pushback of gRPC's retry policies, or by a `google.rpc.RetryInfo`.
    """
    for key, value in metadata:
        if key == PUSHBACK_KEY:
            text = value if isinstance(value, str) else value.decode(errors="replace")
            if text.isascii() and text.isdigit() and len(text) < 10:
                return int(text) * MILLISECOND
        elif key == DETAILS_KEY and isinstance(value, bytes):
            hint_ns = _retry_info_ns(value)
            if hint_ns is not None:
                return hint_ns
    return None


def _retry_info_ns(data: bytes) -> int | None:
    try:
        for detail in protocol.status.Status.FromString(data).details:
            info = protocol.error_details.RetryInfo()
            if detail.Unpack(info):
                delay_ns = info.retry_delay.seconds * SECOND + info.retry_delay.nanos
                return max(0, delay_ns)
    except DecodeError:
        pass
    return None
