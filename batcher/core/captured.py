"""`Captured`: what an object has learned as one plain value, and back."""

from __future__ import annotations

from collections import deque
from typing import ClassVar


class Captured:
    """Its `STATE` names the attributes that decide what it does next; by default, all of its slots.

    They are numbers, text, None, other captured objects, or lists, deques and dicts of these and of tuples.
    """

    __slots__ = ()
    STATE: ClassVar[tuple[str, ...]] = ()

    def capture(self) -> tuple[object, ...]:
        """The state as a plain value, for `restore`."""
        return tuple([_plain(getattr(self, name)) for name in self._names()])

    def restore(self, state: tuple[object, ...]) -> None:
        """Continue from what `capture` returned; settings stay as they are."""
        for name, value in zip(self._names(), state, strict=True):
            now = getattr(self, name)
            if isinstance(now, Captured):
                assert isinstance(value, tuple)
                now.restore(value)
            elif isinstance(now, list | deque | dict):
                assert isinstance(value, tuple)
                setattr(self, name, type(now)(value))
            else:
                setattr(self, name, value)
        self._derive()

    def _derive(self) -> None:
        """Compute what follows from the state."""

    def _names(self) -> tuple[str, ...]:
        names: tuple[str, ...] = self.STATE or self.__slots__
        return names


def _plain(value: object) -> object:
    if isinstance(value, Captured):
        return value.capture()
    if isinstance(value, dict):
        return tuple([(key, _plain(each)) for key, each in value.items()])
    if isinstance(value, list | deque):
        return tuple([_plain(each) for each in value])
    return value
