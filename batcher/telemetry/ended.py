"""What is known of a request when it has ended, and who is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

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
    trace: Any = None
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


class Ending(Protocol):
    """What a hook may look at of an admitted request that has ended, before its record is made."""

    outcome: Outcome | None
    stamps: Stamps
    batches: tuple[int, ...]
    trace: Any
    """Its trace context, where there is one already; a hook may set it."""

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """The metadata of its call."""
        ...


EndHook: TypeAlias = Callable[[EndedRequest], None]
"""Is told of requests that have ended, on the event loop; it must be quick."""

Wants: TypeAlias = Callable[[Ending, int | None], bool]
"""Whether a hook is to be told of this request; with when its answer is late, None without a target. Asked
once, of those that were admitted."""


class EndHooks:
    """Tells hooks of each request that has ended, once. One that raises keeps none from being told.

    A record costs more than most requests are worth: `wanting` says whether one is to be made.
    """

    __slots__ = ("_failed", "_hooks")

    def __init__(self) -> None:
        self._hooks: list[tuple[Wants | None, EndHook]] = []
        self._failed: set[int] = set()

    def __bool__(self) -> bool:
        """Whether there is a hook."""
        return bool(self._hooks)

    def add(self, hook: EndHook, wants: Wants | None = None) -> None:
        """Tell this hook, too: of the requests that it wants, or of every one."""
        self._hooks.append((wants, hook))

    def wanting(self, ending: Ending, due_ns: int | None) -> Sequence[EndHook]:
        """The hooks that want the record of an admitted request, for `tell`. Never raises."""
        wanting: Sequence[EndHook] = ()  # of most requests nothing is wanted
        for wants, hook in self._hooks:
            try:
                if wants is None or wants(ending, due_ns):
                    wanting = (*wanting, hook)
            except Exception as error:  # noqa: BLE001 - logged with its traceback
                self._raised(hook, error)
        return wanting

    def tell(self, ended: EndedRequest, hooks: Sequence[EndHook] | None = None) -> None:
        """Tell these hooks, or every one. Never raises; what a hook raises is logged, the first time."""
        for hook in [hook for _, hook in self._hooks] if hooks is None else hooks:
            try:
                hook(ended)
            except Exception as error:  # noqa: BLE001 - logged with its traceback
                self._raised(hook, error)

    def _raised(self, hook: EndHook, error: Exception) -> None:
        if hash(hook) not in self._failed:
            self._failed.add(hash(hook))
            what = "internal error: a hook for ended requests raises; logged once"
            log.error(what, exc_info=error)
