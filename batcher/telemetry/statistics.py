"""Cumulative statistics of one model, in the terms of the Open Inference Protocol's extension.

Requests count in the durations once each, rows in `inference_count`, executed batches in
`execution_count`. Only answered requests and batches that succeeded count, except in `fail`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Duration:
    """How many there were, and how long they took together (nanoseconds)."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """The executions of one batch size. The three counts are equal."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


@dataclass(frozen=True, slots=True)
class ModelStatisticsSnapshot:
    """What `ModelStatistics` answers; everything is cumulative since the model was first loaded.

    `last_inference_ms` is the arrival of the latest answered request, in milliseconds since the
    epoch, 0 when there was none. There is no response cache, so its counts stay zero.
    """

    last_inference_ms: int
    inference_count: int
    execution_count: int
    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    batch_stats: tuple[BatchStatistics, ...]
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()


@dataclass(slots=True)
class _Executions:
    """Running totals of one batch size."""

    count: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0


class StatisticsCounters:
    """The running totals behind a `ModelStatisticsSnapshot`."""

    __slots__ = (
        "_answered",
        "_batches",
        "_failed",
        "_failed_ns",
        "_infer_ns",
        "_input_ns",
        "_last_arrival_ns",
        "_output_ns",
        "_queue_ns",
        "_rows",
        "_success_ns",
    )

    def __init__(self) -> None:
        self._rows = 0
        self._answered = 0
        self._success_ns = 0
        self._failed = 0
        self._failed_ns = 0
        self._queue_ns = 0
        self._input_ns = 0
        self._infer_ns = 0
        self._output_ns = 0
        self._last_arrival_ns = 0
        self._batches: dict[int, _Executions] = {}

    def answered(self, rows: int, requests: int, spent_ns: Sequence[int], last_ns: int) -> None:
        """Count requests that were answered.

        `spent_ns` adds up what they spent in admission, the queue, gathering, executing, scattering
        and replying; the last of them arrived at `last_ns`.
        """
        _, queue_ns, gather_ns, execute_ns, scatter_ns, _ = spent_ns
        self._rows += rows
        self._answered += requests
        self._success_ns += sum(spent_ns)
        self._queue_ns += queue_ns
        self._input_ns += gather_ns
        self._infer_ns += execute_ns
        self._output_ns += scatter_ns
        self._last_arrival_ns = last_ns

    def failed(self, duration_ns: int) -> None:
        """Count a request that ended in any other way."""
        self._failed += 1
        self._failed_ns += duration_ns

    def executed(self, rows: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count a batch that succeeded."""
        batch = self._batches.get(rows)
        if batch is None:
            batch = self._batches[rows] = _Executions()
        batch.count += 1
        batch.input_ns += input_ns
        batch.infer_ns += infer_ns
        batch.output_ns += output_ns

    def snapshot(self, now_ns: int, epoch_ns: int) -> ModelStatisticsSnapshot:
        """The totals now; `now_ns` and `epoch_ns` are this moment on both clocks."""
        answered = self._answered
        last_ns = self._last_arrival_ns
        return ModelStatisticsSnapshot(
            last_inference_ms=(epoch_ns - now_ns + last_ns) // 1_000_000 if last_ns else 0,
            inference_count=self._rows,
            execution_count=sum(batch.count for batch in self._batches.values()),
            success=Duration(answered, self._success_ns),
            fail=Duration(self._failed, self._failed_ns),
            queue=Duration(answered, self._queue_ns),
            compute_input=Duration(answered, self._input_ns),
            compute_infer=Duration(answered, self._infer_ns),
            compute_output=Duration(answered, self._output_ns),
            batch_stats=tuple(
                BatchStatistics(
                    rows,
                    Duration(batch.count, batch.input_ns),
                    Duration(batch.count, batch.infer_ns),
                    Duration(batch.count, batch.output_ns),
                )
                for rows, batch in sorted(self._batches.items())
            ),
        )
