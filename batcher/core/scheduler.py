"""The scheduler: events in, commands out.

`handle` ends what has expired, takes in all events and then decides once, so a burst that
arrives together is batched together: batches are formed while instances are free and policies want
to. A request that has expired takes no room in a queue and is never dispatched; one that cannot
be answered within its limit is refused at once. Time is what the caller says it is, and never goes back. The caller must carry out every
command once, and call `handle` again, with or without events, at `next_wakeup_ns()` at the latest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Never

from batcher.core import events as kinds
from batcher.core.commands import Command
from batcher.core.contents import Contents
from batcher.core.events import Event, RequestArrived
from batcher.core.handlers import batches, instances, models
from batcher.core.handlers.decision import decide
from batcher.core.handlers.memory import raise_ceilings
from batcher.core.handlers.requests import arrive, cancel, end_at_limit, expire
from batcher.core.history import KEPT_STEPS, History, InvalidTransition
from batcher.core.lifecycle import request_state
from batcher.core.observation import Observation
from batcher.core.observe import observe
from batcher.core.policies import PolicyFactory, make_policy
from batcher.core.restore import restore
from batcher.core.snapshot import capture
from batcher.core.state import State
from batcher.core.times import LATELY_NS, NEVER_NS


class Scheduler:
    """All models' queues, all instances, one decision at a time. Equal input, equal output."""

    def __init__(self, policies: PolicyFactory = make_policy) -> None:
        self.contents = contents = Contents(policies)
        self.now_ns = 0
        """The time of the last step. Kept here as well: drivers read it at each step."""
        self.models, self.fleet, self.live = contents.models, contents.fleet, contents.live
        self._refresh_ns = LATELY_NS
        self._history = History()
        self._remember = self._history.add

    def handle(  # noqa: C901, PLR0912 - further calls would cost more than what they do
        self, events: Sequence[Event], now_ns: int
    ) -> list[Command]:
        """Take in all `events`, then decide once. Returns the commands, in order.

        `now_ns` is the caller's monotonic clock. The list of events must not change afterwards.
        Raises `InvalidTransition` where an event cannot happen to a request in the state that it is
        in; then the scheduler must not be used any more.
        """
        contents = self.contents
        if now_ns < self.now_ns:  # noqa: PLR1730 - for each request
            now_ns = self.now_ns
        if now_ns >= self._refresh_ns:
            # Predictions are as of now, to a second: they forget also while nothing runs.
            self._refresh_ns = (now_ns // LATELY_NS + 1) * LATELY_NS
            for model in self.models.values():
                model.refresh(now_ns, self.fleet.slots(model.name))
        self.now_ns = contents.now_ns = now_ns
        if contents.raise_at_ns <= now_ns:
            raise_ceilings(contents)
        try:
            # First of all, so that nothing is refused for the sake of a request that is over.
            if contents.expiry.heap:
                expire(contents, now_ns)
            if contents.next_limit_ns <= now_ns:
                end_at_limit(contents, now_ns)
            for event in events:
                if type(event) is RequestArrived:
                    arrive(contents, event)
                else:
                    _take_in(contents, event)
            again_ns = contents.ask_again_ns
            due = again_ns is not None and again_ns <= now_ns
            if contents.undecided or due or contents.policy_errors:
                decide(contents, now_ns)
        except InvalidTransition as error:
            self._history.add((now_ns, events, contents.ledger.take_commands()))
            error.add_history(self._state_of(error.request_id), self._history.of(error.request_id))
            raise
        if len(events) > KEPT_STEPS:
            events = events[-KEPT_STEPS:]
        ledger = contents.ledger
        commands = ledger.commands
        if commands:
            ledger.commands = []
            self._remember((now_ns, events, commands))
            return commands
        if events:
            self._remember((now_ns, events, ()))
        return []

    def next_wakeup_ns(self) -> int | None:
        """When `handle` must be called again at the latest; None while only events matter."""
        contents = self.contents
        expires_ns = contents.expiry.next_ns() if contents.expiry.heap else None
        wakeup_ns = contents.next_limit_ns if contents.live else NEVER_NS
        if contents.raise_at_ns < wakeup_ns:  # noqa: PLR1730 - for each request
            wakeup_ns = contents.raise_at_ns
        if contents.ask_again_ns is not None and contents.ask_again_ns < wakeup_ns:
            wakeup_ns = contents.ask_again_ns
        if expires_ns is not None and expires_ns < wakeup_ns:
            wakeup_ns = expires_ns
        return wakeup_ns if wakeup_ns < NEVER_NS else None

    def observe(self, now_ns: int) -> Observation:
        """Depths and live ages at `now_ns`; changes nothing."""
        return observe(self.models, self.fleet, self.live, max(now_ns, self.now_ns))

    def snapshot(self) -> State:
        """The whole state as a value; `restore` makes an equal scheduler of it."""
        return capture(self.contents)

    @classmethod
    def restore(cls, state: State, policies: PolicyFactory = make_policy) -> Scheduler:
        """A scheduler that will do exactly what the one that gave `state` would do."""
        scheduler = cls(policies)
        restore(scheduler.contents, state)
        scheduler.now_ns = scheduler.contents.now_ns
        scheduler._refresh_ns = (scheduler.now_ns // LATELY_NS + 1) * LATELY_NS
        return scheduler

    def _state_of(self, request_id: int) -> str:
        """A request's state for a message, also where the contents are broken."""
        try:
            return request_state(self.live[request_id], self.fleet)
        except KeyError:
            return "unknown"


def _take_in(contents: Contents, event: Event) -> None:
    kind = type(event)
    if kind not in _BLOCKED:
        contents.unblock()
    _HANDLERS[kind](contents, event)  # type: ignore[arg-type]  # its own kind
    contents.undecided = True


_HANDLERS: Final[dict[type[Event], Callable[[Contents, Never], None]]] = {
    kinds.BatchProgress: batches.progress,
    kinds.RequestCancelled: cancel,
    kinds.RepliesTook: batches.replies_took,
    kinds.InstanceUp: instances.instance_up,
    kinds.InstanceDraining: instances.instance_draining,
    kinds.InstanceDown: instances.instance_down,
    kinds.InstancesFailed: models.instances_failed,
    kinds.DeviceConfigured: instances.device_configured,
    kinds.ModelConfigured: models.configure,
    kinds.ModelRemoved: models.remove,
}

_BLOCKED: Final = {kinds.BatchProgress, kinds.RequestCancelled, kinds.RepliesTook}
"""Events by which no instance becomes free, or which see to that themselves."""
