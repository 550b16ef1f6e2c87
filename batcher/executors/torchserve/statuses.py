"""What a status of TorchServe means for the batch.

TorchServe uses few statuses, and not as others do; what it says of itself ends with the name of a Java class.

| status and text | cause | why |
|---|---|---|
| UNAVAILABLE, "Prediction failed", and any other text of TorchServe's own | `unknown` | the handler raised |
| UNAVAILABLE otherwise | `unavailable` | the connection was lost |
| INTERNAL, "has no worker to serve" | `overloaded` | the queue of the model is full, or it has no workers |
| INTERNAL, "Worker died." | `unavailable` | the process of the worker is gone; TorchServe starts another |
| INTERNAL, "Model not found", "Model version ... not found" | `unavailable` | it was unregistered |
| RESOURCE_EXHAUSTED, "exceeds maximum size" | `input` | larger than `max_request_size`; a smaller batch may fit |
| INTERNAL otherwise, as "Out of resources" | `unknown` | a smaller batch may do |
| others | as for every gRPC server | |
"""

from __future__ import annotations

from typing import Final

import grpc
import grpc.aio

from batcher.errors import on_one_line
from batcher.executor import ExecutionError
from batcher.executors.remote.statuses import cause_of, retry_hint_ns

__all__ = ["NO_TOKEN", "failure", "said"]

NO_TOKEN: Final = "Token Authorization failed"  # noqa: S105 - a text of TorchServe's
"""How TorchServe begins a refusal (PERMISSION_DENIED) for a wrong or expired token."""

_JAVA: Final = "org.pytorch.serve."

_GONE: Final = ("Worker died.", "ModelNotFoundException", "ModelVersionNotFoundException")
"""Parts of the texts for a worker or a model that is not there any more."""


def failure(neighbor: str, error: grpc.aio.AioRpcError, *, workers: int | None) -> ExecutionError:
    """The `ExecutionError` for a call; `workers` are the model's that are ready, None if not known."""
    cause = torchserve_cause(error.code(), error.details() or "", workers)
    hint_ns = retry_hint_ns(error.trailing_metadata() or ())
    text = on_one_line(f"{neighbor} answered {error.code().name}: {said(error)}")
    return ExecutionError(text, cause=cause, retry_after_ns=hint_ns)


def said(error: grpc.aio.AioRpcError) -> str:
    """What TorchServe says, without the Java class at the end."""
    lines = (error.details() or "").splitlines()
    if len(lines) > 1 and lines[-1].startswith(_JAVA):
        del lines[-1]
    return on_one_line(" ".join(lines)) or "no reason given"


def torchserve_cause(code: grpc.StatusCode, details: str, workers: int | None) -> str:
    """The cause that a status is."""
    if code is grpc.StatusCode.UNAVAILABLE and _JAVA in details:
        return "unknown"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "exceeds maximum size" in details:
        return "input"
    if code is not grpc.StatusCode.INTERNAL:
        return cause_of(code, details)
    if "has no worker to serve" in details:
        return "unavailable" if workers == 0 else "overloaded"
    if any(each in details for each in _GONE):
        return "unavailable"
    return "unknown" if _JAVA in details else cause_of(code, details)
