"""Decides what is traced, and hands it to the sender. Everything here runs on the event loop.

Nothing is done when a request arrives: its span is made of its stamps when it has ended. Only what has
to be known before is made before: the context that a batch's executor sends on, and that of log
records. A batch is handed on when its last request has ended: only then is it known which of them are
traced, because that can depend on how they ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from batcher.clock import MILLISECOND
from batcher.core.commands import Outcome
from batcher.telemetry.budget import Hop
from batcher.telemetry.ended import EndedRequest, Ending
from batcher.telemetry.stamps import Stamps
from batcher.telemetry.tracing.context import PARENT, Metadata, TraceContext
from batcher.telemetry.tracing.log_fields import fields
from batcher.telemetry.tracing.records import (
    MAX_ID,
    MAX_LINKS,
    SpanId,
    Traced,
    TracedBatch,
    TracedRequest,
)
from batcher.telemetry.tracing.sampling import Sampler

log = logging.getLogger(__name__)

MOST_BATCHES: Final = 8192
"""Batches of which requests have not ended, such as those whose callers do not read. Beyond it the oldest
get no span."""

_KEPT: Final = {
    "failed": (Outcome.FAILED,),
    "refused": (Outcome.REJECTED,),
    "late": (Outcome.EXPIRED,),
}
"""What `tracing.always` keeps -> outcomes. `late` keeps answers after the target, too."""

_LOGGED: Final = (Outcome.FAILED, Outcome.EXPIRED)
"""Ends of traced requests that are logged, beside late answers."""


class Put(Protocol):
    """Takes a record to be sent; `spans` says how many spans it has."""

    def __call__(self, record: Traced, spans: Callable[[], int]) -> None:
        """Take it, or count what is dropped."""
        ...


class Tracer:
    """The hooks of tracing. `put` takes what is to be sent, `status_of` names the gRPC status of a reason.

    `always` are names of `tracing.always`. `kept` is called with each request that is traced.
    """

    def __init__(
        self,
        sampler: Sampler,
        put: Put,
        status_of: Callable[[str], str],
        *,
        always: Collection[str] = (),
        kept: Callable[[EndedRequest, TraceContext], None] = lambda _ended, _context: None,
    ) -> None:
        self._sampler = sampler
        self._put = put
        self._status_of = status_of
        self._always = frozenset(outcome for name in always for outcome in _KEPT[name])
        self._always_late = "late" in always
        self._any_always = bool(always)
        self._bits, self._bound = sampler.bits, sampler.bound
        self._kept = kept
        self._batches: dict[int, TracedBatch] = {}

    # Requests

    def wants(self, ending: Ending, due_ns: int | None) -> bool:
        """Whether a request that has ended is traced. Of one that is not, nothing more is heard."""
        context: TraceContext | None = ending.trace
        low_half = 0
        if context is None:
            metadata = ending.metadata
            for name, _ in metadata:
                if name == PARENT:
                    context = ending.trace = self._sampler.context(metadata)
                    break
        if context is not None:
            sampled = context.sampled
        else:
            # The usual case: of most requests no more than half an id is made.
            low_half = self._bits(64)
            sampled = low_half < self._bound
        if sampled or (self._any_always and self._keeps(ending.outcome, ending.stamps, due_ns)):
            if context is None:
                ending.trace = self._sampler.new(low_half)
            return True
        for batch_id in ending.batches:
            batch = self._batches.get(batch_id)
            if batch is not None:
                batch.left -= 1
                if not batch.left:
                    self._all_ended(batch)
        return False

    def ended(self, ended: EndedRequest) -> None:
        """Trace a request that has ended: one that `wants` wants, or that was refused before admission."""
        context = ended.trace
        if context is None:
            context = self._sampler.context(ended.metadata)
        assert isinstance(context, TraceContext)  # noqa: S101 - nothing else is put there
        late = self._always_late and ended.late_hop is not None
        if late or context.sampled or self._keeps(ended.outcome, ended.stamps, ended.due_ns):
            self._trace(ended, context)

    def _keeps(self, outcome: Outcome | None, stamps: Stamps, due_ns: int | None) -> bool:
        """Whether `always` keeps a request that ended so."""
        if outcome is Outcome.OK:
            return self._always_late and due_ns is not None and stamps.replied_ns > due_ns
        return outcome in self._always

    def _trace(self, ended: EndedRequest, context: TraceContext) -> None:
        links: list[SpanId] = []
        batches = [batch for each in ended.batches if (batch := self._batches.get(each))]
        for batch in batches:
            own = batch.context
            if own is None:
                own = batch.context = self._below(context)
            if own.parent_id == context.execute_id:
                batch.has_parent = True
            if len(batch.links) < MAX_LINKS:
                batch.links.append((context.trace_id, context.span_id))
            links.append((own.trace_id, own.span_id))
        # Of late answers, and of no others. What a caller has spent counts where the budget says so.
        late_hop = ended.late_hop
        self._put_request(ended, context, tuple(links), late_hop)
        for batch in batches:
            self._leave(batch)
        self._kept(ended, context)
        # Refusals come in floods, and their callers were told at once.
        if late_hop is not None or ended.outcome in _LOGGED:
            _log(ended, context, late_hop)

    def _put_request(
        self,
        ended: EndedRequest,
        context: TraceContext,
        links: tuple[SpanId, ...],
        late_hop: Hop | None,
    ) -> None:
        due_ns, stamps = ended.due_ns, ended.stamps
        target_ns = late = None
        if due_ns is not None:
            target_ns = due_ns - stamps.arrival_ns
            if ended.outcome is Outcome.OK:
                late = late_hop is not None
        record = TracedRequest(
            context,
            ended.model,
            ended.version,
            ended.outcome,
            str(ended.reason),
            self._status_of(ended.reason),
            ended.rows,
            stamps,
            target_ns,
            late,
            late_hop or "",
            ended.upstream_ns,
            ended.blame,
            ended.id[:MAX_ID],
            links,
            len(ended.batches),
            stream=ended.stream,
            tenant=ended.tenant[:MAX_ID],
        )
        self._put(record, record.count_spans)

    # Batches

    def batch_began(self, batch: TracedBatch) -> None:
        """A batch was dispatched. `batch_ended` or `batch_lost` must follow, and the ends of its requests."""
        self._batches[batch.id] = batch
        if len(self._batches) > MOST_BATCHES:
            del self._batches[next(iter(self._batches))]

    def batch_ended(
        self,
        batch_id: int,
        started_ns: int,
        execute_start_ns: int,
        execute_end_ns: int,
        ended_ns: int,
        failure: str,
    ) -> None:
        """A batch has ended; moments are 0 where it did not get so far. `failure` says why it failed."""
        batch = self._batches.get(batch_id)
        if batch is not None:
            batch.started_ns = started_ns
            batch.execute_start_ns = execute_start_ns
            batch.execute_end_ns = execute_end_ns
            batch.ended_ns = ended_ns or execute_end_ns
            batch.failure = failure
            self._leave(batch)

    def batch_lost(self, batch_id: int, now_ns: int, failure: str) -> None:
        """A batch will not report, because its instance went down, or could not be started."""
        self.batch_ended(batch_id, 0, 0, 0, now_ns, failure)

    def send_on(self, batch: TracedBatch, contexts: Sequence[TraceContext]) -> TraceContext:
        """The context of a batch that its executor sends on: below its first sampled request.

        `contexts` are those of its requests, in order.
        """
        chosen = next((each for each in contexts if each.sampled), contexts[0])
        batch.context = self._below(chosen)
        return batch.context

    def context(self, metadata: Metadata) -> TraceContext:
        """The context of a request with this metadata, where it must be known before the request ends."""
        return self._sampler.context(metadata)

    def _below(self, parent: TraceContext) -> TraceContext:
        """A context for the span of a batch, as a child of a request's stage `execute`."""
        return TraceContext(
            parent.trace_id,
            self._sampler.span_id(),
            0,
            parent_id=parent.execute_id,
            sampled=parent.sampled,
            state=parent.state,
        )

    def _leave(self, batch: TracedBatch) -> None:
        """The batch itself, or one of its requests, has ended."""
        batch.left -= 1
        if not batch.left:
            self._all_ended(batch)

    def _all_ended(self, batch: TracedBatch) -> None:
        self._batches.pop(batch.id, None)
        if batch.links:
            self._put(batch, _one)


def _log(ended: EndedRequest, context: TraceContext, late_hop: Hop | None) -> None:
    """Say of a traced request that it was not answered in time, or at all, and which trace it is."""
    milliseconds = ended.duration_ns / MILLISECOND
    if ended.outcome is Outcome.OK:
        log.info(
            "%s: a request was answered late, after %.3g ms; most of that was %s",
            ended.model,
            milliseconds,
            late_hop,
            extra=fields(context),
        )
    else:
        log.log(
            logging.WARNING if ended.outcome is Outcome.FAILED else logging.INFO,
            "%s: a request ended %s (%s), after %.3g ms",
            ended.model or "no model",
            ended.outcome,
            ended.reason,
            milliseconds,
            extra=fields(context),
        )


def _one() -> int:
    return 1
