"""What is known of a request when it has ended, and who is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from batcher.core.commands import Blame, Outcome
from batcher.telemetry.budget import Budget, Hop, hops_of
from batcher.telemetry.reasons import EndReason, UnreadReason
from batcher.telemetry.stamps import Stamps

log = logging.getLogger(__name__)


@dataclass(slots=True)
class EndedRequest:
    """A request of which nothing goes on any more. Must not be changed."""

    model: str
    """Its configured name; empty where no model of the name that it asked for is served."""
    version: str
    outcome: Outcome
    """What the caller saw."""
    reason: EndReason | UnreadReason
    rows: int
    """0 where it was refused before they were counted."""
    stamps: Stamps
    """`replied_ns` is when its last byte was handed to the transport, or was given up."""
    due_ns: int | None = None
    """Arrival plus the latency target at admission; None without one."""
    id: str = ""
    """What the caller calls it."""
    batches: tuple[int, ...] = ()
    """The ids of the batches that it was dispatched in, in order."""
    upstream_ns: int | None = None
    """What the caller says was spent before the arrival."""
    blame: Blame | None = None
    """Why a prediction refused it."""
    budget: Budget | None = None
    """How the target was split; None for a model without a target."""
    metadata: Sequence[tuple[str, str | bytes]] = ()
    """The metadata of its call; all requests of a stream have the same."""
    trace: object | None = None
    """Its trace context, where tracing had to know that before its end."""
    tenant: str = ""
    """As its caller says."""
    stream: bool = False
    """Whether it came on a stream."""

    @property
    def duration_ns(self) -> int:
        """From its arrival to its end; the sum of `stages_ns`."""
        stamps = self.stamps
        return (stamps.replied_ns or stamps.settled_ns) - stamps.arrival_ns

    @property
    def stages_ns(self) -> tuple[int, ...]:
        """What it spent in admission, queue, gather, execute, scatter and reply."""
        return self.stamps.stages_ns()

    @property
    def late_hop(self) -> Hop | None:
        """The hop that made an answer late; None for an answer in time, and without an answer."""
        if self.budget is None or self.outcome is not Outcome.OK:
            return None
        return self.budget.late_hop(hops_of(self.stages_ns, self.upstream_ns))


EndHook: TypeAlias = Callable[[EndedRequest], None]
"""Is told of every request that has ended, on the event loop; it must be quick."""


class EndHooks:
    """Tells every hook of each request that has ended, once. One that raises keeps none from being told."""

    __slots__ = ("_failed", "_hooks")

    def __init__(self) -> None:
        self._hooks: list[EndHook] = []
        self._failed: set[int] = set()

    def __bool__(self) -> bool:
        """Whether there is a hook."""
        return bool(self._hooks)

    def add(self, hook: EndHook) -> None:
        """Tell this hook, too."""
        self._hooks.append(hook)

    def tell(self, ended: EndedRequest) -> None:
        """Tell every hook. Never raises; what a hook raises is logged, the first time."""
        for place, hook in enumerate(self._hooks):
            try:
                hook(ended)
            except Exception:
                if place not in self._failed:
                    self._failed.add(place)
                    log.exception("internal error: a hook for ended requests raises; logged once")
