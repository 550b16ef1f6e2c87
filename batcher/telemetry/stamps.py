"""The times at which one request passed from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Stamps:
    """Monotonic nanoseconds; 0 means that the request ended before.

    Every latency metric is a difference of two of these, computed once, when the request ends.
    Stages: admission (arrival to enqueued), queue (to dispatched), gather (to execute start), execute
    (to execute end), scatter (to settled), reply (to replied).
    """

    arrival_ns: int
    enqueued_ns: int = 0
    dispatched_ns: int = 0
    execute_start_ns: int = 0
    execute_end_ns: int = 0
    settled_ns: int = 0
    replied_ns: int = 0
    batch_rows: int = 0
    """Rows of the batch the request ran in."""
