"""The live steps of sequences: of each sequence one is queued or runs, the later ones are held behind it.

A step is released when the one before it has ended, however that ended. Only the order is kept here; the
state of a sequence is not the scheduler's.
"""

from __future__ import annotations

from typing import TypeAlias

from batcher.core.queueing.request import LiveRequest

SequenceKey: TypeAlias = tuple[str, int | str | None]
"""A model and one of its sequences."""


def _key(request: LiveRequest) -> SequenceKey:
    return request.arrived.model, request.arrived.sequence


class SequenceSteps:
    """The live steps of each sequence that has any, in order of arrival: all but the first are held.

    `released` are those whose predecessors have ended in this step; the decision puts them into their queues.
    """

    __slots__ = ("released", "steps")

    def __init__(self) -> None:
        self.steps: dict[SequenceKey, list[LiveRequest]] = {}
        self.released: list[LiveRequest] = []

    def add(self, request: LiveRequest) -> bool:
        """Take in a step that has arrived; returns whether it is held."""
        steps = self.steps.setdefault(_key(request), [])
        steps.append(request)
        return len(steps) > 1

    def ended(self, request: LiveRequest) -> None:
        """Forget a step that has ended, and release the next one if it was not held."""
        key = _key(request)
        steps = self.steps[key]
        was_first = steps[0] is request
        steps.remove(request)
        if not steps:
            del self.steps[key]
        elif was_first:
            self.released.append(steps[0])

    def take_released(self) -> list[LiveRequest]:
        """Returns the released steps that have not ended since, and forgets them."""
        released, self.released = self.released, []
        return [each for each in released if each.held and self._first(each)]

    def _first(self, request: LiveRequest) -> bool:
        steps = self.steps.get(_key(request))
        return steps is not None and steps[0] is request
