"""The head sampling: whether a request is traced, decided before anything is known of its end."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from batcher.telemetry.tracing.context import PARENT, Metadata, TraceContext, caller_context

_HALF: Final = 1 << 64


class Sampler:
    """Makes trace contexts. The caller's decision counts; else the ratio decides by the trace id.

    By the trace id as OpenTelemetry's `TraceIdRatioBased` in Python does: its low 64 bits are below
    the ratio of 2**64. Servers with the same ratio decide alike.
    """

    def __init__(self, ratio: float, bits: Callable[[int], int] | None = None) -> None:
        """`bits` returns so many random bits."""
        self.bound = round(ratio * _HALF)
        self.bits = Random().getrandbits if bits is None else bits  # noqa: S311 - no secrets
        """So many random bits. 64 of them are the low half of a new trace id, which is sampled if they are
        below `bound`."""

    def new(self, low_half: int) -> TraceContext:
        """The context of a request without one of its caller; `low_half` is that of its trace id."""
        # An id of 0 is none.
        trace_id = (self.bits(64) << 64 | low_half) or 1
        return TraceContext(trace_id, self.span_id(), self.span_id(), sampled=low_half < self.bound)

    def context(self, metadata: Metadata) -> TraceContext:
        """The context of a request with this metadata."""
        for name, _ in metadata:
            if name == PARENT:
                caller = caller_context(metadata)
                if caller is not None:
                    trace_id, parent_id, sampled, state = caller
                    return TraceContext(
                        trace_id,
                        self.span_id(),
                        self.span_id(),
                        parent_id=parent_id,
                        sampled=sampled,
                        state=state,
                    )
                break
        return self.new(self.bits(64))

    def span_id(self) -> int:
        """The id of a new span."""
        return self.bits(64) or 1
