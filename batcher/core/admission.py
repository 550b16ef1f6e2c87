"""Who may enter a queue.

Bounds only: the requests, rows and bytes that may wait. A refusal costs constant time and happens
in the same step as enqueueing would, so no bound can be overrun between a check and its use.
"""

from __future__ import annotations

from batcher.core.commands import Reason
from batcher.core.events import RequestArrived
from batcher.core.queue import ModelQueue
from batcher.core.request import LiveRequest
from batcher.core.settings import ModelSettings

QUEUE_FULL_RETRY_NS = 100_000_000
"""What a caller is told to wait when a queue is full: long against a window, short for a person."""

UNAVAILABLE_RETRY_NS = 1_000_000_000
"""What a caller is told to wait when no instance is up: about the time a small model loads in."""


def refusal(arrived: RequestArrived, settings: ModelSettings, queue: ModelQueue) -> Reason | None:
    """The bound that this request would break, or None when it may enter."""
    limits = settings.queue
    if arrived.rows > settings.max_batch_size:
        return Reason.TOO_MANY_ROWS
    if queue.requests >= limits.max_requests:
        return Reason.QUEUE_REQUESTS
    if limits.max_rows is not None and queue.rows + arrived.rows > limits.max_rows:
        return Reason.QUEUE_ROWS
    if limits.max_bytes is not None and queue.nbytes + arrived.nbytes > limits.max_bytes:
        return Reason.QUEUE_BYTES
    return None


def with_times(arrived: RequestArrived, settings: ModelSettings) -> LiveRequest:
    """The request with its due time and its expiry, the earlier of deadline and queue timeout."""
    due_ns = arrived.due_ns
    if due_ns is None and settings.target_ns is not None:
        due_ns = arrived.arrival_ns + settings.target_ns
    expires_ns = arrived.expires_ns
    if settings.queue.timeout_ns is not None:
        timeout_ns = arrived.arrival_ns + settings.queue.timeout_ns
        expires_ns = timeout_ns if expires_ns is None else min(expires_ns, timeout_ns)
    return LiveRequest(arrived, due_ns, expires_ns)
