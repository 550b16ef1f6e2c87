"""Keys of the terminal, resizes and news from a thread, in one wait."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Final

_ENDS: Final = frozenset(b"qQ\x03\x1b")


class Waker:
    """Ends a wait from another thread, or from a signal handler."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None

    def wake(self, *_: object) -> None:
        """Have `wait` return. Where many wakes are pending, one more changes nothing."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b".")

    def wait(self, seconds: float) -> bool:
        """Wait for a wake, a key or the time; False if a key asks for the end."""
        sources = [self._read] if self._keyboard is None else [self._read, self._keyboard]
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._read in ready:
            os.read(self._read, 4096)
        if self._keyboard in ready:
            pressed = os.read(self._keyboard, 64)
            if not pressed:
                self._keyboard = None  # the terminal is gone
                return False
            # Arrows and the like begin with an escape, too: only a lone one ends.
            return not (_ENDS & set(pressed[:1]) and (pressed[0] != 0x1B or len(pressed) == 1))
        return True


@contextlib.contextmanager
def listening(waker: Waker) -> Iterator[None]:
    """Keys come at once and are not shown, and a resize wakes; as before afterwards."""
    before = signal.signal(signal.SIGWINCH, waker.wake)
    try:
        with _keys_at_once():
            yield
    finally:
        signal.signal(signal.SIGWINCH, before)


@contextlib.contextmanager
def _keys_at_once() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    settings = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
