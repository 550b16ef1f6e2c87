"""What happened lately, and `InvalidTransition`, whose text tells it.

A state machine that broke is mended from the history of the request that broke it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from batcher.core import events as kinds
from batcher.core.commands import Command, Dispatch, Settle
from batcher.core.events import Event, RequestArrived

Step: TypeAlias = tuple[int, Sequence[Event], Sequence[Command]]
"""One call of `Scheduler.handle`: its time in nanoseconds, its events and its commands."""

KEPT_STEPS: Final = 64
"""Steps that are remembered, and of one step its last events: some tens of milliseconds under load. With fewer, the history of a request
that ran for long lacks its beginning. With more, every step costs more, because memory comes back to
use later: 256 cost 2 % of the simulator's speed, 2048 cost 15 %."""

LONGEST_LINE: Final = 400
"""Characters of one event or command in a history: a large batch names thousands of requests."""


class InvalidTransition(Exception):
    """A request cannot do what it is told to in the state that it is in: a defect, not a refusal.

    The scheduler's contents cannot be trusted after it. Its text says which request, what was
    wrong, and, once the scheduler has added it, what touched the request lately.
    """

    def __init__(self, request_id: int, problem: str) -> None:
        super().__init__(f"request {request_id} {problem}")
        self.request_id = request_id

    def add_history(self, state: str, lines: Sequence[str]) -> None:
        """Put the request's state and what touched it into the text, a line for each of `lines`."""
        text = f"{self.args[0]}; its state is {state}; what touched it lately:"
        self.args = ("\n  ".join([text, *(lines or ["nothing that is remembered"])]),)


class History:
    """The last steps of a scheduler, by reference; events carry no payloads.

    A caller must not change a list of events after it was handled.
    """

    __slots__ = ("_steps", "add")

    def __init__(self) -> None:
        self._steps: deque[Step] = deque(maxlen=KEPT_STEPS)
        self.add = self._steps.append
        """Remember a step and forget the oldest. The method itself, since it is called in each step."""

    def __len__(self) -> int:
        return len(self._steps)

    def of(self, request_id: int) -> list[str]:
        """The events and commands that touched a request, oldest first, one line each.

        Those of its batches, of the instances that ran them and of its model are among them.
        """
        batches: set[int] = set()
        names: set[str] = set()
        for _, events, commands in self._steps:
            for event in events:
                if isinstance(event, RequestArrived) and event.id == request_id:
                    names.add(event.model)
            for command in commands:
                if isinstance(command, Dispatch) and _runs(command, request_id):
                    batches.add(command.batch_id)
                    names |= {command.model, command.instance}
        return [
            f"{now_ns} ns: {each}"[:LONGEST_LINE]
            for now_ns, events, commands in self._steps
            for each in (*events, *commands)
            if _touches(each, request_id, batches, names)
        ]


def _runs(dispatch: Dispatch, request_id: int) -> bool:
    return any(part.id == request_id for part in dispatch.parts)


def _touches(each: Event | Command, request_id: int, batches: set[int], names: set[str]) -> bool:
    match each:
        case RequestArrived() | kinds.RequestCancelled():
            return each.id == request_id
        case kinds.BatchProgress() | Dispatch():
            return each.batch_id in batches
        case Settle():
            return request_id in each.ids
        case kinds.InstanceUp() | kinds.InstanceDraining() | kinds.InstanceDown():
            return each.instance in names
        case kinds.ModelConfigured() | kinds.ModelRemoved() | kinds.InstancesFailed():
            return each.model in names
        case _:
            return False
