"""Tracing with OpenTelemetry: a span for each traced request, its stages and its batches.

- Context: `context` reads and writes W3C trace contexts, `sampling` decides by them or by ratio.
- Recording: `tracer` is told of ended requests and batches on the event loop, decides what is traced,
  and makes `records` of that.
- Sending: `sender` is the bounded queue and the thread; `exporters` and `spans`, which alone import
  OpenTelemetry, make spans of records and send them as OTLP. `epoch` turns moments into Unix time.

Spans are made after the end, from the stamps that metrics have, too: so what was late, failed or was
refused can be kept whatever was decided at its beginning. `setup` puts the parts together; without the
section `tracing` it is not called, and nothing here runs.
"""

from batcher.telemetry.tracing.context import Metadata, TraceContext
from batcher.telemetry.tracing.records import TracedBatch
from batcher.telemetry.tracing.setup import Tracing, missing_packages, switched_off
from batcher.telemetry.tracing.tracer import Tracer

__all__ = [
    "Metadata",
    "TraceContext",
    "TracedBatch",
    "Tracer",
    "Tracing",
    "missing_packages",
    "switched_off",
]
