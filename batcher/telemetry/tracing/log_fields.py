"""The ids of a request's span, for log records that a traced request caused.

Logging belongs to the process, and so does this: the last `Tracing` that was set up says which requests
are traced. Without any, records have no ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from batcher.telemetry.tracing.context import Metadata, TraceContext


class Owner(Protocol):
    """A request that a log record is about."""

    trace: Any
    """Its `TraceContext`, if it has one already."""

    @property
    def metadata(self) -> Metadata:
        """The metadata of its call."""
        ...


class Contexts:
    """Makes trace contexts; `keeps_failed` says that whatever failed is traced."""

    def __init__(self, make: Callable[[Metadata], TraceContext], *, keeps_failed: bool) -> None:
        self.make = make
        self.keeps_failed = keeps_failed


_now: list[Contexts] = []


def use(contexts: Contexts) -> None:
    """From now on, traced requests are those that have contexts of these."""
    _now.append(contexts)


def unuse(contexts: Contexts) -> None:
    """These make no more."""
    if contexts in _now:
        _now.remove(contexts)


def fields(context: TraceContext) -> dict[str, Any]:
    """The argument `extra` of a log call."""
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def failed_fields(owner: Owner | None) -> dict[str, Any]:
    """The same for a request that fails; empty if it is not traced."""
    if not _now or owner is None:
        return {}
    context: TraceContext | None = owner.trace
    if context is None:
        context = owner.trace = _now[-1].make(owner.metadata)
    return fields(context) if context.sampled or _now[-1].keeps_failed else {}
