"""What is traced as spans of OpenTelemetry's own classes: what the encoder is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Final

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode
from opentelemetry.util.types import AttributeValue

from batcher import __version__
from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome
from batcher.telemetry.families import Stage
from batcher.telemetry.tracing.encoding import BATCH, METHODS, SERVER_ERRORS
from batcher.telemetry.tracing.records import SpanId, Traced, TracedBatch, TracedRequest

_SCOPE: Final = InstrumentationScope("batcher", __version__)
_KEPT: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status()
_NO_STATE: Final = TraceState()


@pytest.fixture
def library():
    """`SpanMaker`."""
    return SpanMaker


class SpanMaker:
    """Makes spans. `span_id` returns new ids."""

    def __init__(self, resource: Resource, span_id: Callable[[], int]) -> None:
        self._resource = resource
        self._span_id = span_id

    def spans(self, record: Traced, offset_ns: int) -> Iterator[ReadableSpan]:
        """The spans of a request or a batch. `offset_ns` makes Unix time of its moments."""
        if isinstance(record, TracedBatch):
            yield self._batch(record, offset_ns)
        else:
            yield from self._request(record, offset_ns)

    def _request(self, request: TracedRequest, offset_ns: int) -> Iterator[ReadableSpan]:
        context = request.context
        state = _state(context.state)
        own = _context(context.trace_id, context.span_id, state)
        parent = None
        if context.parent_id:
            parent = _context(context.trace_id, context.parent_id, state, remote=True)
        status = _UNSET
        if request.status in SERVER_ERRORS:
            status = Status(StatusCode.ERROR, request.reason)
        yield self._span(
            METHODS[request.stream],
            own,
            parent,
            request.stamps.arrival_ns + offset_ns,
            request.end_ns + offset_ns,
            attributes=_of_request(request),
            kind=SpanKind.SERVER,
            status=status,
        )
        stages = list(request.stages())
        # What it did when its batches ran: to execute, or to wait for it if it never came so far.
        ran = max(
            (stage for stage, _, _ in stages if stage in _RAN),
            key=_RAN.index,
            default=Stage.EXECUTE,
        )
        for stage, began_ns, ended_ns in stages:
            running = stage is ran
            yield self._span(
                stage.value,
                _context(
                    context.trace_id, context.execute_id if running else self._span_id(), state
                ),
                own,
                began_ns + offset_ns,
                ended_ns + offset_ns,
                links=_links(request.batches) if running else (),
            )

    def _batch(self, batch: TracedBatch, offset_ns: int) -> ReadableSpan:
        context = batch.context
        assert context is not None
        state = _state(context.state)
        return self._span(
            BATCH,
            _context(context.trace_id, context.span_id, state),
            _context(context.trace_id, context.parent_id, state) if batch.has_parent else None,
            batch.dispatched_ns + offset_ns,
            batch.ended_ns + offset_ns,
            attributes=_of_batch(batch),
            links=_links(batch.links),
            events=tuple(
                Event(name, timestamp=moment_ns + offset_ns)
                for name, moment_ns in (
                    ("gathering", batch.started_ns),
                    ("executing", batch.execute_start_ns),
                    ("executed", batch.execute_end_ns if batch.execute_start_ns else 0),
                )
                if moment_ns
            ),
            status=Status(StatusCode.ERROR, batch.failure) if batch.failure else _UNSET,
        )

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        start_ns: int,
        end_ns: int,
        *,
        attributes: Mapping[str, AttributeValue] | None = None,
        events: tuple[Event, ...] = (),
        links: tuple[Link, ...] = (),
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = _UNSET,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes,
            events,
            links,
            kind,
            status=status,
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=_SCOPE,
        )


_RAN: Final = (Stage.GATHER, Stage.EXECUTE)


def _of_request(request: TracedRequest) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "rpc.system.name": "grpc",
        "rpc.method": METHODS[request.stream],
        "rpc.response.status_code": request.status,
        "batcher.model": request.model,
        "batcher.version": request.version,
        "batcher.outcome": request.outcome.value,
    }
    if request.rows:
        attributes["batcher.rows"] = request.rows
    if request.status in SERVER_ERRORS:
        attributes["error.type"] = request.status
    if request.outcome is not Outcome.OK:
        attributes["batcher.reason"] = request.reason
    if request.stamps.batch_rows:
        attributes["batcher.batch.rows"] = request.stamps.batch_rows
        attributes["batcher.attempts"] = request.attempts
    if request.target_ns is not None:
        attributes["batcher.target_ms"] = request.target_ns / MILLISECOND
    if request.late is not None:
        attributes["batcher.late"] = request.late
    if request.late_hop:
        attributes["batcher.late_hop"] = request.late_hop
    if request.upstream_ns is not None:
        attributes["batcher.upstream_spent_ms"] = request.upstream_ns / MILLISECOND
    if request.blame is not None:
        attributes["batcher.refusal.cause"] = request.blame.cause.value
        attributes["batcher.refusal.late_by_ms"] = request.blame.late_by_ns / MILLISECOND
    if request.id:
        attributes["batcher.request.id"] = request.id
    if request.tenant:
        attributes["batcher.tenant"] = request.tenant
    return attributes


def _of_batch(batch: TracedBatch) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "batcher.model": batch.model,
        "batcher.version": batch.version,
        "batcher.batch.id": batch.id,
        "batcher.batch.rows": batch.rows,
        "batcher.batch.requests": batch.requests,
        "batcher.batch.attempt": batch.attempt,
        "batcher.batch.failed": bool(batch.failure),
        "batcher.instance": batch.instance,
        "batcher.device": batch.device,
    }
    if batch.bucket:
        attributes["batcher.batch.bucket"] = batch.bucket
    if batch.failure:
        attributes["error.type"] = batch.failure
    return attributes


def _context(
    trace_id: int, span_id: int, state: TraceState = _NO_STATE, *, remote: bool = False
) -> SpanContext:
    return SpanContext(trace_id, span_id, remote, _KEPT, state)


def _links(spans: tuple[SpanId, ...] | list[SpanId]) -> tuple[Link, ...]:
    return tuple(Link(_context(trace_id, span_id)) for trace_id, span_id in spans)


@lru_cache(maxsize=64)
def _state(text: str) -> TraceState:
    return TraceState.from_header([text]) if text else _NO_STATE
