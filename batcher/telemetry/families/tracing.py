"""Tracing."""

from __future__ import annotations

from batcher.telemetry.families.family import Family, one_of

RESULTS = ("exported", "failed", "dropped")
"""What can become of a span."""

TRACE_SPANS = Family(
    "batcher_trace_spans",
    "counter",
    "spans",
    ("result",),
    "Spans of traced requests and batches, by what became of them: sent (exported), not taken by the "
    "collector in time (failed), or dropped because tracing.queue_size was reached. Absent without "
    "tracing.",
    values={"result": one_of(*RESULTS)},
)

FAMILIES = (TRACE_SPANS,)
