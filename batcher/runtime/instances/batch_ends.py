"""What is logged and counted of the batches of an instance when they end."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from batcher.clock import SECOND, Clock
from batcher.core.events import UNTOLD, FailureCause
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.execution.gather import Slice, count_elements
from batcher.runtime.interface.layout import Layout
from batcher.telemetry import ModelTelemetry

log = logging.getLogger(__name__)

REFUSALS_LOGGED_NS = 10 * SECOND
"""Nanoseconds between two lines about batches that a backend refuses, or is not there for."""


class BatchEnds:
    """Logs and counts one instance's batches."""

    def __init__(self, name: str, device: str, telemetry: ModelTelemetry, clock: Clock) -> None:
        self._name = name
        self._device = device
        self._telemetry = telemetry
        self._clock = clock
        self._quiet_until_ns = 0

    def log(self, executed: ExecutedBatch, requests: int) -> None:
        """Write a line about a batch that failed."""
        if executed.result is None and executed.cause is not FailureCause.ABANDONED:
            log.log(
                self._level(executed.cause),
                "%s: a batch failed: %s (%s, %d requests); %s",
                self._name,
                executed.failure,
                executed.cause,
                requests,
                executed.what_follows,
            )

    def _level(self, cause: FailureCause) -> int:
        """The level of the line about a failed batch: a backend that refuses all says so now and then."""
        if cause not in UNTOLD:
            return logging.WARNING
        now_ns = self._clock()
        if now_ns < self._quiet_until_ns:
            return logging.DEBUG
        self._quiet_until_ns = now_ns + REFUSALS_LOGGED_NS
        return logging.WARNING

    def count(
        self, executed: ExecutedBatch, slices: Sequence[Slice], layout: Layout, max_rows: int
    ) -> None:
        """Count a batch whose results were handed on."""
        if executed.result is None and executed.cause in UNTOLD:
            self._telemetry.batch_unfinished(executed.cause)
            return  # nothing was executed, or not for anyone
        own, filled = count_elements(slices, layout)
        self._telemetry.batch_finished(
            rows=sum(s.stop - s.start for s in slices),
            requests=len(slices),
            max_batch_size=max_rows,
            # A pipelined batch has waited for its device between the two.
            started_ns=executed.execute_start_ns - executed.input_ns,
            execute_start_ns=executed.execute_start_ns,
            execute_end_ns=executed.execute_end_ns,
            scattered_ns=self._clock(),
            failed=executed.result is None,
            device=self._device,
            elements=own,
            padding=filled,
        )
