"""What user code prints goes to the log, and not to the standard output of the server or a command.

Where nothing is logged it goes to standard error. `sys.stdout` is replaced once by a stream that looks
at a context variable: within `printing_as(name)`, in that thread or task, text becomes lines of the
log, and everywhere else it is passed on.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TextIO, cast

from batcher.errors import on_one_line

__all__ = ["printing_as"]

log = logging.getLogger(__name__)

MAX_PENDING: Final = 8192
"""Characters without an end of line that are kept for the next piece; then they become a line."""

_printer: ContextVar[_Lines | None] = ContextVar("batcher_python_printer", default=None)
_guard = threading.Lock()


class _Lines:
    """Cuts what one call prints into lines of the log."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._pending = ""

    def write(self, text: str) -> None:
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._say(line)
        if len(self._pending) > MAX_PENDING:
            self.end()

    def end(self) -> None:
        if self._pending:
            self._say(self._pending)
            self._pending = ""

    def _say(self, line: str) -> None:
        if not line.strip():
            return
        if log.hasHandlers():
            log.info("%s printed: %s", self._model, on_one_line(line))
        else:
            # A command, or a child process, whose standard error the server logs.
            print(line, file=sys.stderr)  # noqa: T201


class _Stdout:
    """The stream in place of `sys.stdout`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        lines = _printer.get()
        if lines is None:
            return self._stream.write(text)
        lines.write(text)
        return len(text)

    def writelines(self, pieces: Iterable[str]) -> None:
        for piece in pieces:
            self.write(piece)

    def flush(self) -> None:
        if _printer.get() is None:
            self._stream.flush()

    def close(self) -> None:
        """Leave it open: it is the server's, and not that of the code that prints."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printing_as(model: str) -> Iterator[None]:
    """Within this, what this thread or task prints becomes lines of the log that name the model."""
    _replace()
    lines = _Lines(model)
    token = _printer.set(lines)
    try:
        yield
    finally:
        _printer.reset(token)
        lines.end()


def _replace() -> None:
    if not isinstance(sys.stdout, _Stdout):
        with _guard:
            stream: object = sys.stdout
            # Without a terminal or file there is none, and `print` does nothing.
            if stream is not None and not isinstance(stream, _Stdout):
                sys.stdout = cast("TextIO", _Stdout(cast("TextIO", stream)))
