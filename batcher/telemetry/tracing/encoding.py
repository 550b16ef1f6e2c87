"""What was traced -> OTLP, after the end. Needs the extra `tracing`.

Spans are made in the message that is sent, not of the library's own classes: those and their encoder take ten
times as long. What is the same from span to span is serialized once and merged. A test compares the message
with what the library makes of the same requests. Names and attributes of requests follow the semantic
conventions for RPC servers (https://opentelemetry.io/docs/specs/semconv/rpc/); what is batcher's own begins
with `batcher.`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc_exporter
from opentelemetry.exporter.otlp.proto.http import trace_exporter as http_exporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from batcher import __version__
from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome
from batcher.telemetry.families import Stage
from batcher.telemetry.tracing.records import SpanId, Traced, TracedBatch, TracedRequest

log = logging.getLogger(__name__)

METHODS: Final = {
    False: "inference.GRPCInferenceService/ModelInfer",
    True: "inference.GRPCInferenceService/ModelStreamInfer",
}
"""Whether a request came on a stream -> its RPC."""

BATCH: Final = "batch"
"""The name of a batch's span."""

SERVER_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Status codes that are errors of a server, as the semantic conventions for gRPC say; with others the
caller has made a mistake, or may come back later."""

_HERE: Final = 0x100
"""`SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`: whether the parent is of another process is known."""
_REMOTE: Final = 0x300
"""The same, and it is."""


class Encoded:
    """A message that is ready to be sent, in place of the spans that an exporter of the library encodes."""

    def __init__(self, message: ExportTraceServiceRequest, spans: int) -> None:
        self.message = message
        self._spans = spans

    def __len__(self) -> int:
        """How many spans it has."""
        return self._spans


def message_of(spans: Encoded | Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """What is ready is sent as it is; spans of the library, by other code of this process, as the library does."""
    return spans.message if isinstance(spans, Encoded) else encode_spans(spans)


_EXPORTERS: Final[tuple[Any, ...]] = (grpc_exporter, http_exporter)
for _module in _EXPORTERS:
    # They have no parameter for it.
    _module.encode_spans = message_of


class SpanEncoder:
    """Makes messages. `span_id` returns new ids."""

    def __init__(self, resource: Resource, span_id: Callable[[], int]) -> None:
        self._span_id = span_id
        # What all messages have in common, as the library encodes it.
        any_span = ReadableSpan(
            "",
            SpanContext(1, 1, is_remote=False),
            resource=resource,
            instrumentation_scope=InstrumentationScope("batcher", __version__),
        )
        self._head = encode_spans([any_span])
        del self._head.resource_spans[0].scope_spans[0].spans[:]

    def encoded(self, records: Iterable[Traced], offset_ns: int) -> Encoded:
        """The spans of requests and batches. `offset_ns` makes Unix time of their moments."""
        message = ExportTraceServiceRequest()
        message.CopyFrom(self._head)
        spans = message.resource_spans[0].scope_spans[0].spans
        for record in records:
            before = len(spans)
            try:
                if isinstance(record, TracedBatch):
                    _add_batch(spans, record, offset_ns)
                else:
                    self._add_request(spans, record, offset_ns)
            except Exception:
                log.exception("internal error: the spans of a traced request could not be made")
                del spans[before:]
        return Encoded(message, len(spans))

    def _add_request(self, spans: Any, request: TracedRequest, offset_ns: int) -> None:
        context = request.context
        trace_id, own = _trace(context.trace_id), _span(context.span_id)
        parent_id = context.parent_id
        spans.add(
            trace_id=trace_id,
            span_id=own,
            trace_state=context.state,
            parent_span_id=_span(parent_id) if parent_id else b"",
            start_time_unix_nano=request.stamps.arrival_ns + offset_ns,
            end_time_unix_nano=request.end_ns + offset_ns,
            flags=_REMOTE if parent_id else _HERE,
        ).MergeFromString(b"".join(_of_request(request)))
        stages = list(request.stages())
        # What it did when its batches ran: to execute, or to wait for it if it never came so far.
        reached = [stage for stage, _, _ in stages]
        gave_up = Stage.GATHER in reached and Stage.EXECUTE not in reached
        ran = Stage.GATHER if gave_up else Stage.EXECUTE
        for stage, began_ns, ended_ns in stages:
            running = stage is ran
            span = spans.add(
                trace_id=trace_id,
                span_id=_span(context.execute_id if running else self._span_id()),
                trace_state=context.state,
                parent_span_id=own,
                start_time_unix_nano=began_ns + offset_ns,
                end_time_unix_nano=ended_ns + offset_ns,
                flags=_HERE,
            )
            span.MergeFromString(_STAGES[stage])
            if running:
                _link(span, request.batches)


def _add_batch(spans: Any, batch: TracedBatch, offset_ns: int) -> None:
    context = batch.context
    assert context is not None  # noqa: S101 - a batch without one is not sent
    span = spans.add(
        trace_id=_trace(context.trace_id),
        span_id=_span(context.span_id),
        trace_state=context.state,
        parent_span_id=_span(context.parent_id) if batch.has_parent else b"",
        start_time_unix_nano=batch.dispatched_ns + offset_ns,
        end_time_unix_nano=batch.ended_ns + offset_ns,
        flags=_HERE,
    )
    span.MergeFromString(b"".join(_of_batch(batch)))
    for name, moment_ns in (
        ("gathering", batch.started_ns),
        ("executing", batch.execute_start_ns),
        ("executed", batch.execute_end_ns if batch.execute_start_ns else 0),
    ):
        if moment_ns:
            span.events.add(name=name, time_unix_nano=moment_ns + offset_ns)
    _link(span, batch.links)


def _link(span: Span, others: Iterable[SpanId]) -> None:
    for trace_id, span_id in others:
        span.links.add(trace_id=_trace(trace_id), span_id=_span(span_id), flags=_HERE)


def _of_request(request: TracedRequest) -> list[bytes]:
    """Its name, kind, status and attributes; each of these a part of a serialized span."""
    parts = [
        _request_head(
            request.stream,
            request.status,
            request.model,
            request.version,
            request.outcome,
            request.reason,
        ),
    ]
    if request.rows:  # of a request that could not be read they are not known
        parts.append(_attribute("batcher.rows", request.rows))
    if request.stamps.batch_rows:
        parts.append(_attribute("batcher.batch.rows", request.stamps.batch_rows))
        parts.append(_attribute("batcher.attempts", request.attempts))
    if request.target_ns is not None:
        parts.append(_attribute("batcher.target_ms", request.target_ns / MILLISECOND))
    if request.late is not None:
        parts.append(_attribute("batcher.late", request.late))
    if request.late_hop:
        parts.append(_attribute("batcher.late_hop", request.late_hop))
    if request.upstream_ns is not None:
        parts.append(_serialized("batcher.upstream_spent_ms", request.upstream_ns / MILLISECOND))
    if request.blame is not None:
        late_by_ms = request.blame.late_by_ns / MILLISECOND
        parts.append(_attribute("batcher.refusal.cause", request.blame.cause.value))
        parts.append(_serialized("batcher.refusal.late_by_ms", late_by_ms))
    if request.id:
        parts.append(_serialized("batcher.request.id", request.id))
    if request.tenant:
        parts.append(_serialized("batcher.tenant", request.tenant))
    return parts


@lru_cache(maxsize=256)
def _request_head(
    stream: bool, status: str, model: str, version: str, outcome: Outcome, reason: str
) -> bytes:
    values: dict[str, str] = {
        "rpc.system.name": "grpc",
        "rpc.method": METHODS[stream],
        "rpc.response.status_code": status,
        "batcher.model": model,
        "batcher.version": version,
        "batcher.outcome": outcome.value,
    }
    failed = status in SERVER_ERRORS
    if failed:
        values["error.type"] = status
    if outcome is not Outcome.OK:
        values["batcher.reason"] = reason
    return Span(
        name=METHODS[stream],
        kind=Span.SPAN_KIND_SERVER,
        status=Status(code=Status.STATUS_CODE_ERROR, message=reason) if failed else Status(),
        attributes=[KeyValue(key=key, value=_value(value)) for key, value in values.items()],
    ).SerializeToString()


def _of_batch(batch: TracedBatch) -> tuple[bytes, ...]:
    """The same of a batch."""
    return (
        _batch_head(
            batch.model, batch.version, batch.instance, batch.device, batch.bucket, batch.failure
        ),
        _serialized("batcher.batch.id", batch.id),
        _attribute("batcher.batch.rows", batch.rows),
        _attribute("batcher.batch.requests", batch.requests),
        _attribute("batcher.batch.attempt", batch.attempt),
    )


@lru_cache(maxsize=256)
def _batch_head(
    model: str, version: str, instance: str, device: str, bucket: str, failure: str
) -> bytes:
    values: dict[str, str | bool] = {
        "batcher.model": model,
        "batcher.version": version,
        "batcher.instance": instance,
        "batcher.device": device,
        "batcher.batch.failed": bool(failure),
    }
    if bucket:
        values["batcher.batch.bucket"] = bucket
    if failure:
        values["error.type"] = failure
    return Span(
        name=BATCH,
        kind=Span.SPAN_KIND_INTERNAL,
        status=Status(code=Status.STATUS_CODE_ERROR, message=failure) if failure else Status(),
        attributes=[KeyValue(key=key, value=_value(value)) for key, value in values.items()],
    ).SerializeToString()


def _serialized(key: str, value: str | float) -> bytes:
    """A span with this attribute alone."""
    return Span(attributes=[KeyValue(key=key, value=_value(value))]).SerializeToString()


_attribute = lru_cache(maxsize=1024, typed=True)(_serialized)
"""The same, for values that many spans have."""


def _value(value: str | float) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value)


def _trace(trace_id: int) -> bytes:
    return trace_id.to_bytes(16, "big")


def _span(span_id: int) -> bytes:
    return span_id.to_bytes(8, "big")


_STAGES: Final = {
    stage: Span(name=stage.value, kind=Span.SPAN_KIND_INTERNAL, status=Status()).SerializeToString()
    for stage in Stage
}
"""Stage -> what its spans have in common, serialized."""
