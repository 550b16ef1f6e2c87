"""What an instance has to do with its child process: why it was lost, and what it writes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from batcher.clock import SECOND, Clock
from batcher.executors.isolated.hosted import ChildEnd

log = logging.getLogger(__name__)

LINES_PER_SECOND: Final = 20
"""Lines of a child that reach the log, on average. What it writes beyond that is counted, not kept: a
child that writes without end must not fill the log, or cost the event loop more than the reading."""

BURST_LINES: Final = 200
"""Lines that it may write at once, such as a traceback."""

_WRITTEN_AS_IS: Final = frozenset({"\t"})


@runtime_checkable
class ChildWorker(Protocol):
    """A worker whose executor is in a child process."""

    lost: Callable[[ChildEnd], None] | None
    """Called once when the child has ended by itself."""
    line: Callable[[str, str], None]
    """Called with `stdout` or `stderr`, and a line that the child has written there."""


class ChildOutput:
    """Logs what the child of one instance writes, line by line, and not more than the log can take."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._lines = float(BURST_LINES)
        self._at_ns = clock()
        self._dropped = 0

    def line(self, stream: str, text: str) -> None:
        """Log a line of `stdout` or `stderr`."""
        now_ns = self._clock()
        gained = (now_ns - self._at_ns) / SECOND * LINES_PER_SECOND
        self._lines = min(self._lines + gained, BURST_LINES)
        self._at_ns = now_ns
        if self._lines < 1.0:
            self._dropped += 1
            return
        self._lines -= 1.0
        self.tell_dropped()
        log.info("%s: %s: %s", self._name, stream, escaped(text))

    def tell_dropped(self) -> None:
        """Log how many lines were left out since the last one, if any were."""
        dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning(
                "%s: %d lines of its child process are left out: more than %d a second",
                self._name,
                dropped,
                LINES_PER_SECOND,
            )


def escaped(text: str) -> str:
    """The text with what is not printable shown as escapes, so that it cannot forge or hide lines of a log."""
    if text.isprintable():
        return text
    return "".join(
        each
        if each.isprintable() or each in _WRITTEN_AS_IS
        else each.encode("unicode_escape", "surrogatepass").decode("ascii")
        for each in text
    )
