"""What a child writes to its stdout and stderr, as lines."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Final

from batcher.errors import on_one_line

MAX_LINE: Final = 4096
"""Bytes of a line; a longer one is cut in pieces."""

LAST_LINES: Final = 20
"""Lines that are kept to say why a child ended: a fault handler's message with its frames."""

MAX_LINES: Final = 200
"""Lines of one read that are looked at; of more, the first and the last. A pipe full of short lines would
else hold up the event loop for 0.1 s, again and again."""

_READ: Final = 64 * 1024
"""Bytes read in one iteration of the event loop: what fits a pipe."""


class OutputLines:
    """Reads a pipe on the event loop until its end, or until `close`. `line` gets each line."""

    def __init__(
        self, fd: int, loop: asyncio.AbstractEventLoop, line: Callable[[str], None]
    ) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = loop
        self._line = line
        self._rest = b""
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        """The last lines that are not empty."""
        loop.add_reader(fd, self._read)

    def close(self) -> None:
        """Take what is there, and close the pipe."""
        for _ in range(2):  # a pipe holds one read; another process that has it may write for ever
            if self._fd < 0 or not self._read():
                break
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            if self._rest:
                self._tell(self._rest)
                self._rest = b""

    def _read(self) -> bool:
        """Take what has arrived; returns whether there was something."""
        try:
            data = os.read(self._fd, _READ)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._close()
            return False
        *lines, rest = (self._rest + data).split(b"\n")
        if len(lines) > MAX_LINES:
            more = len(lines) - MAX_LINES
            left_out = b"(%d lines left out)" % more
            lines[MAX_LINES - LAST_LINES : -LAST_LINES] = [left_out]
        for each in lines:
            self._tell(each)
        if len(rest) > MAX_LINE:
            whole = len(rest) - len(rest) % MAX_LINE
            self._tell(rest[:whole])
            rest = rest[whole:]
        self._rest = rest
        return True

    def _tell(self, line: bytes) -> None:
        for start in range(0, len(line), MAX_LINE):
            text = line[start : start + MAX_LINE].decode(errors="backslashreplace").rstrip()
            if text:
                self.last.append(on_one_line(text))
                self._line(text)
